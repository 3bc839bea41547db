"""What changed from one measured cell to another, metric by metric, with how sure that is.

Cells of one run were measured in alternation, so their figures are paired by round. Cells of two runs were not: what
the machine did between the runs is in no interval, unless artifacts that did not change show it.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from edgebench import stats
from edgebench.agent.wire import Measurement
from edgebench.figures import Figures, accuracy_drop, figures, latency_ratio
from edgebench.types import Cell, Run

__all__ = ["AFTER", "BEFORE", "METRICS", "Change", "Comparison", "Pair", "compare_runs", "compare_within"]

Word = Literal["faster", "slower", "same", "not known"]

# What the names of the two sides begin with in a run that measured both.
BEFORE, AFTER, AGAIN = "A", "B", "A again"

_TAIL = {"p90": 90.0, "p95": 95.0, "p99": 99.0}
_PER_PROCESS: Mapping[str, Callable[[Measurement], float | None]] = {
    "cold": lambda item: item.cold_ns,
    "load": lambda item: item.load_ns,
    "first": lambda item: item.first_ns,
    "memory": lambda item: None if item.memory is None else item.memory.peak_bytes - item.memory.baseline_bytes,
}
# Every metric with its unit; all of them are better when lower but for accuracy, of which the loss is told.
METRICS = {
    "p50": "ms", "p90": "ms", "p95": "ms", "p99": "ms", "cold": "ms", "load": "ms", "first": "ms",
    "memory": "MB", "size": "MB", "accuracy": "%", "instructions": "M",
}  # fmt: skip


@dataclass(frozen=True)
class Change:
    """One metric before and after, in its unit. `worse` is the change for the worse: a share (0.05 for 5 % more), or
    points of top-1 lost; `ci` is its 95 % interval. `reason` says why one of them is not known."""

    metric: str
    before: float | None
    after: float | None
    worse: float | None = None
    ci: stats.Interval | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Pair:
    """One artifact before and after."""

    name: str
    before: Cell
    after: Cell
    changes: Mapping[str, Change]

    def widened(self, factor: float) -> Pair:
        """The same with every interval so many times as wide."""
        changes = {
            name: change
            if change.ci is None or change.worse is None
            else replace(
                change,
                ci=(
                    change.worse - factor * (change.worse - change.ci[0]),
                    change.worse + factor * (change.ci[1] - change.worse),
                ),
            )
            for name, change in self.changes.items()
        }
        return replace(self, changes=changes)

    def verdict(self, margin: float) -> Word:
        """Of p50: the same if its interval is within `margin` (a share) to either side; not known if it holds 1 and is
        wider."""
        ci = self.changes["p50"].ci
        if ci is None:
            return "not known"
        low, high = ci
        if -margin <= low and high <= margin:
            return "same"
        if low > 0:
            return "slower"
        return "faster" if high < 0 else "not known"


@dataclass(frozen=True)
class Comparison:
    """`paired`: both sides were measured in alternation. `differs` lists what is not alike besides the artifacts,
    `failed` what could not be measured on one of them, and `missing` what stands on one only. `noise_floor` is how far
    apart (a share) p50 of one and the same artifact may be, from A against A, or from artifacts that did not change
    between two runs."""

    before: Run
    after: Run
    pairs: tuple[Pair, ...]
    paired: bool
    differs: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    noise_floor: float | None = None


def compare_within(run: Run) -> Comparison:
    """The two sides of a run that measured both, named `A/...` and `B/...`, and A once more where it was."""
    sides = {side: _side(run, side) for side in (BEFORE, AFTER, AGAIN)}
    matched, again = (_match(sides[BEFORE], sides[side]) for side in (AFTER, AGAIN))
    pairs = tuple(_pair(run, run, name, before, after, paired=True) for name, before, after in matched.pairs)
    floors = [_pair(run, run, name, before, after, paired=True) for name, before, after in again.pairs]
    differs = tuple(_differences(run, run, pairs))
    return Comparison(run, run, pairs, True, differs, matched.failed, matched.missing, _floor(floors))


def _side(run: Run, side: str) -> dict[tuple[Any, ...], Cell]:
    return {
        _key(cell, cell.artifact.name.removeprefix(f"{side}/")): cell
        for cell in run.cells
        if cell.artifact.name.startswith(f"{side}/")
    }


def compare_runs(before: Run, after: Run) -> Comparison:
    """The cells that two runs have in common. Of a run with one artifact each, the two are compared whatever they are
    called."""
    theirs, ours = ({_key(cell, cell.artifact.name): cell for cell in run.cells} for run in (before, after))
    matched = _match(theirs, ours)
    pairs = [_pair(before, after, name, one, other, paired=False) for name, one, other in matched.pairs]
    unchanged = [pair for pair in pairs if _is_unchanged(pair)]
    floor = _floor(unchanged) if len(unchanged) < len(pairs) else None
    widened = tuple(pair if floor is None or _is_unchanged(pair) else _widened(pair, floor) for pair in pairs)
    differs = tuple(_differences(before, after, pairs))
    return Comparison(before, after, widened, False, differs, matched.failed, matched.missing, floor)


def _is_unchanged(pair: Pair) -> bool:
    return pair.before.artifact.sha256 is not None and pair.before.artifact.sha256 == pair.after.artifact.sha256


def _floor(pairs: Sequence[Pair]) -> float | None:
    """The largest change that the intervals of pairs of the same artifact allow."""
    intervals = [pair.changes["p50"].ci for pair in pairs]
    known = [max(abs(math.log1p(low)), abs(math.log1p(high))) for low, high in filter(None, intervals)]
    return math.expm1(max(known)) if known else None


def _widened(pair: Pair, floor: float) -> Pair:
    """What moved artifacts that did not change may have moved this one as well."""
    times = {
        name: replace(change, ci=((1 + change.ci[0]) / (1 + floor) - 1, (1 + change.ci[1]) * (1 + floor) - 1))
        for name, change in pair.changes.items()
        if change.ci is not None and METRICS[name] == "ms"
    }
    return replace(pair, changes={**pair.changes, **times})


def _key(cell: Cell, name: str) -> tuple[Any, ...]:
    return (name, cell.device, cell.runtime, cell.threads, cell.batch_size, cell.scenario)


@dataclass(frozen=True)
class _Matched:
    """Pairs that were measured on both sides, and in words what was not: `failed` on one of them, or only on one."""

    pairs: tuple[tuple[str, Cell, Cell], ...]
    failed: tuple[str, ...]
    missing: tuple[str, ...]


def _match(before: Mapping[tuple[Any, ...], Cell], after: Mapping[tuple[Any, ...], Cell]) -> _Matched:
    """Cells of the same name and settings; then of the same name, runtime and scenario; and where each side has one
    artifact, whatever the two are called. Never of two scenarios: their latencies are of two kinds."""
    ways: list[Callable[[tuple[Any, ...]], tuple[Any, ...]]] = [lambda key: key, lambda key: (key[0], key[2], key[5])]
    if all(len({key[0] for key in side}) == 1 for side in (before, after)):
        ways += [lambda key: key[1:], lambda key: (key[2], key[5]), lambda key: (key[5],)]
    matched: list[tuple[str, Cell, Cell]] = []
    rest_before, rest_after = dict(before), dict(after)
    for alike in ways:
        for key in list(rest_before):
            found = [other for other in rest_after if alike(other) == alike(key)]
            same = [other for other in rest_before if alike(other) == alike(key)]
            if len(found) == 1 and len(same) == 1:
                one, other = rest_before.pop(key), rest_after.pop(found[0])
                matched.append((key[0] if key[0] == found[0][0] else f"{key[0]} → {found[0][0]}", one, other))
    failed = []
    for name, *cells in matched:
        statuses = {cell.status for cell in cells}
        # What neither side could measure is no difference between them.
        if statuses != {"ok"} and not statuses <= {"skipped", "unsupported"}:
            sides = zip((BEFORE, AFTER), cells, strict=True)
            failed += [f"{name}: {cell.status} in {side}: {cell.reason}" for side, cell in sides if cell.status != "ok"]
    rests = ((BEFORE, rest_before), (AFTER, rest_after))
    return _Matched(
        tuple(item for item in matched if item[1].status == item[2].status == "ok"),
        tuple(failed),
        tuple(f"{key[0]}: only in {side}" for side, rest in rests for key in rest),
    )


def _pair(before_run: Run, after_run: Run, name: str, before: Cell, after: Cell, *, paired: bool) -> Pair:
    theirs, ours = figures(before_run, before), figures(after_run, after)
    p50 = latency_ratio(before, after) if paired else _unpaired(before, after, _median)
    changes = [
        Change("p50", _p50(theirs), _p50(ours), *_worse(p50)),
        *(_tail(name, percent, theirs, ours) for name, percent in _TAIL.items()),
        *(_per_process(name, read, before, after, paired) for name, read in _PER_PROCESS.items()),
        _size(before, after),
        _accuracy(before, after),
        _instructions(before, after, theirs, ours),
    ]
    if before_run.is_emulated(before) or after_run.is_emulated(after):
        changes = [_unranked(change, "the device is emulated") for change in changes]
    elif _tool(before) != _tool(after) or _statistic(theirs) != _statistic(ours):
        reason = f"measured by {_tool(before)} and by {_tool(after)}"
        if _tool(before) == _tool(after):
            reason = f"a {_statistic(theirs)} and a {_statistic(ours)} are told"
        changes = [_unranked(change, reason) for change in changes]
    return Pair(name, before, after, {change.metric: change for change in changes})


def _unranked(change: Change, reason: str) -> Change:
    """The change, less what it says of times and memory."""
    if METRICS[change.metric] != "ms" and change.metric != "memory":
        return change
    return Change(change.metric, change.before, change.after, reason=reason)


def _tool(cell: Cell) -> str:
    return ", ".join(sorted({item.tool or "the agent" for item in cell.measurements}))


def _statistic(found: Figures) -> str | None:
    return None if found.told is None else found.told.statistic


def _p50(found: Figures) -> float | None:
    if found.told is not None:
        return found.told.ms
    return None if found.latency is None else found.latency.p50_ms


def _worse(found: stats.Ratio | None) -> tuple[float | None, stats.Interval | None, str | None]:
    if found is None:
        return None, None, "no round measured both"
    if found.ci is None:
        return found.ratio - 1, None, "an interval needs 3 processes"
    return found.ratio - 1, (found.ci[0] - 1, found.ci[1] - 1), None


def _median(item: Measurement) -> float | None:
    if item.summary is not None:
        return item.summary.p50_ns or item.summary.mean_ns
    return statistics.median(item.samples_ns) if item.samples_ns else None


def _unpaired(before: Cell, after: Cell, read: Callable[[Measurement], float | None]) -> stats.Ratio | None:
    theirs, ours = ([value for item in cell.measurements if (value := read(item))] for cell in (before, after))
    return stats.unpaired_ratio(theirs, ours)


def _per_process(
    name: str, read: Callable[[Measurement], float | None], before: Cell, after: Cell, paired: bool
) -> Change:
    sides = [[value for item in cell.measurements if (value := read(item)) is not None] for cell in (before, after)]
    middles = [statistics.median(values) / 1e6 if values else None for values in sides]
    if None in middles:
        return Change(name, middles[0], middles[1], reason="not measured")
    if min(value for values in sides for value in values) <= 0:
        return Change(name, middles[0], middles[1], reason="too small to be told from none")
    if paired:
        theirs = {item.round: read(item) for item in before.measurements}
        found = stats.paired_ratio(
            [(one, other) for item in after.measurements if (one := theirs.get(item.round)) and (other := read(item))]
        )
    else:
        found = _unpaired(before, after, read)
    return Change(name, middles[0], middles[1], *_worse(found))


def _tail(name: str, percent: float, theirs: Figures, ours: Figures) -> Change:
    found = [None if side.latency is None else side.latency.tail.get(percent) for side in (theirs, ours)]
    values = [None if side is None else side.value_ms for side in found]
    if None in values or None in found:
        needed = stats.required_samples(percent)
        return Change(name, values[0], values[1], reason=f"{name} needs {needed} samples on both sides")
    one, other = found
    assert one is not None and one.value_ms is not None and other is not None and other.value_ms is not None
    worse = other.value_ms / one.value_ms - 1
    if one.ci_ms is None or other.ci_ms is None or one.ci_ms[1] is None:
        return Change(name, one.value_ms, other.value_ms, worse, reason="a bound needs more processes")
    high = math.inf if other.ci_ms[1] is None else other.ci_ms[1] / one.ci_ms[0] - 1
    return Change(name, one.value_ms, other.value_ms, worse, (other.ci_ms[0] / one.ci_ms[1] - 1, high))


def _size(before: Cell, after: Cell) -> Change:
    if before.size is None or after.size is None:
        return Change("size", None, None, reason="not measured")
    worse = after.size.bytes / before.size.bytes - 1
    return Change("size", before.size.bytes / 1e6, after.size.bytes / 1e6, worse, (worse, worse))


def _accuracy(before: Cell, after: Cell) -> Change:
    one, other = (None if cell.accuracy is None else cell.accuracy.top1 for cell in (before, after))
    drop = accuracy_drop(before, after)
    if drop is None:
        missing = one is None or other is None
        reason = "not measured: give --data" if missing else "not scored on the same images"
        return Change("accuracy", one, other, reason=reason)
    return Change("accuracy", one, other, drop.drop_points, drop.ci)


def _instructions(before: Cell, after: Cell, theirs: Figures, ours: Figures) -> Change:
    one, other = before.instructions, after.instructions
    if one is None or other is None or theirs.instructions is None or ours.instructions is None:
        return Change("instructions", None, None, reason="not counted: --count instructions")
    values = (theirs.instructions / 1e6, ours.instructions / 1e6)
    if one.method != other.method:
        return Change("instructions", *values, reason=f"counted by {one.method} and by {other.method}")
    worse = ours.instructions / theirs.instructions - 1
    return Change("instructions", *values, worse, (worse, worse))


def _differences(before: Run, after: Run, pairs: Sequence[Pair]) -> Iterator[str]:
    """What is not alike besides the artifacts, the ones that make times incomparable first."""
    devices = {device.name: device for device in before.devices}
    for pair in pairs:
        for name in ("device", "threads", "batch_size", "scenario", "runtime", "provider"):
            one, other = getattr(pair.before, name), getattr(pair.after, name)
            if one != other:
                yield f"{name.replace('_size', '')}: {one} → {other}"
    for device in after.devices:
        theirs = devices[device.name].fingerprint if device.name in devices else {}
        for key in sorted({*device.fingerprint, *theirs} if theirs else ()):
            one, other = theirs.get(key), device.fingerprint.get(key)
            if one != other:
                kind = "device" if key in _IDENTITY else "environment"
                yield f"{kind}: {device.name}'s {key}: {one} → {other}"
    if before.inputs != after.inputs:
        yield f"inputs: {before.inputs} → {after.inputs}"
    if before.edgebench_version != after.edgebench_version:
        yield f"edgebench: {before.edgebench_version} → {after.edgebench_version}"
    versions = [_versions(run) for run in (before, after)]
    for runtime in sorted({*versions[0]} & {*versions[1]}):
        if versions[0][runtime] != versions[1][runtime]:
            yield f"{runtime}: {versions[0][runtime]} → {versions[1][runtime]}"


# What makes it another device; a newer kernel or Python does not.
_IDENTITY = {"machine", "cpu", "cpus", "usable_cpus", "isa", "model", "memory_bytes", "host", "system"}


def _versions(run: Run) -> dict[str, str]:
    return {
        cell.runtime: ", ".join(sorted({str(item.runtime_version) for item in cell.measurements}))
        for cell in run.cells
        if cell.measurements
    }
