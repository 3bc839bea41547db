"""Whether a cell's figures can be trusted, with the evidence in words and what to do about it.

A verdict is about the machine and the moment: a figure with a wide interval may be stable, and a narrow one polluted.
The bounds below are judgement: so much disturbance moves a median by about the 1 to 2 % that edgebench is asked for.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from edgebench.agent.wire import Measurement
from edgebench.conditions import Conditions
from edgebench.stats import log_interval
from edgebench.types import Cell

__all__ = ["Verdict", "judge"]

Word = Literal["stable", "drifting", "throttled", "polluted"]

# With fewer processes there is nothing to see a trend or a second mode in.
_LEAST_PROCESSES = 3
_STEAL_SHARE = 0.02
_WAITED_SHARE = 0.05
_OTHER_CPUS = 0.25
_SLOWED_SHARE = 0.1
_QUOTA_S = 0.05
_SWAP_BYTES = 10_000_000
# A rise or fall of so much from the first to the last process, or within each of them.
_TREND = 0.03
# The slowest process over the fastest.
_SPREAD = 1.2
# An interval of p50 wider than this to either side has a cause, seen or not.
_WIDE = 0.1
# Two modes: so far apart, each with so many of the samples, and so clearly apart. A normal distribution cut in two at
# its mean has a separation of 2.6, a uniform one of 3.5 (Ashman, Bird and Zepf 1994 give the measure).
_MODE_RATIO = 1.1
_MODE_SHARE = 0.1
_MODE_SEPARATION = 4.5


@dataclass(frozen=True)
class Verdict:
    """`word` None: not judged, for fewer than three processes. `evidence`: one sentence each. `remedy`: for the worst
    of them."""

    word: Word | None
    evidence: tuple[str, ...] = ()
    remedy: str | None = None


@dataclass(frozen=True)
class _Finding:
    word: Word
    evidence: str
    remedy: str


def judge(cell: Cell, met: Conditions) -> Verdict:
    """The verdict on `cell`, which was measured under the conditions `met`; the worst finding decides."""
    measured = [item for item in cell.measurements if item.samples_ns]
    if len(measured) < _LEAST_PROCESSES:
        return Verdict(None, ("fewer than three processes were measured",), "--processes 5")
    findings = [*_throttled(met), *_polluted(met), *_modes(measured), *_drifting(measured), *_spread(measured)]
    if not findings:
        findings.extend(_wide(measured))
    if not findings:
        return Verdict("stable")
    return Verdict(findings[0].word, tuple(finding.evidence for finding in findings), findings[0].remedy)


def _throttled(met: Conditions) -> Iterator[_Finding]:
    cool = "cool the device, or wait for it: --cooldown 50"
    if met.throttle_events:
        yield _Finding("throttled", f"the CPU throttled itself {met.throttle_events} times for its temperature", cool)
    if met.throttle_flags:
        words = [name for bit, name in enumerate(_FLAGS) if met.throttle_flags & (1 << bit | 1 << (bit + 16))]
        remedy = "use a stronger power supply" if words[:1] == ["under-voltage"] else cool
        yield _Finding("throttled", f"the firmware reports {', '.join(words)}", remedy)
    if met.thermal_status:
        yield _Finding("throttled", f"Android says that the device is hot (thermal status {met.thermal_status})", cool)
    if met.slowed_share is not None and met.slowed_share > _SLOWED_SHARE:
        yield _Finding("throttled", f"the CPUs' frequency fell by {met.slowed_share:.0%} during a round", cool)
    if met.quota_s is not None and met.quota_s > _QUOTA_S:
        evidence = f"the container's CPU quota held it back for {met.quota_s:.1f} s"
        yield _Finding("throttled", evidence, "raise the quota, or use as many --threads as it gives CPUs")


_FLAGS = ("under-voltage", "a capped frequency", "throttling", "the soft temperature limit")


def _polluted(met: Conditions) -> Iterator[_Finding]:
    if met.steal_share is not None and met.steal_share > _STEAL_SHARE:
        yield _Finding(
            "polluted",
            f"the host of this virtual machine took {met.steal_share:.0%} of the time",
            "trust the ratios, which are of pairs, and take times on a machine of your own",
        )
    quiet = "close other programs, or give them time to end: --max-wait 60"
    if met.waited_share is not None and met.waited_share > _WAITED_SHARE:
        evidence = f"its threads stood waiting for a CPU {met.waited_share:.0%} of the time that they wanted one"
        yield _Finding("polluted", evidence, f"{quiet}; or use fewer --threads")
    if met.other_cpus is not None and met.other_cpus > _OTHER_CPUS:
        yield _Finding("polluted", f"other processes used {met.other_cpus:.1f} CPUs meanwhile", quiet)
    if met.swap_grew_bytes is not None and met.swap_grew_bytes > _SWAP_BYTES:
        evidence = f"memory was short: {met.swap_grew_bytes / 1e6:.0f} MB went to swap"
        yield _Finding("polluted", evidence, "free memory, or measure fewer artifacts at once")


def _modes(measured: Sequence[Measurement]) -> Iterator[_Finding]:
    """Samples that fall into two groups: something switches, and the median says which was there more often."""
    logs = sorted(math.log(sample) for item in measured for sample in item.samples_ns if sample > 0)
    cut = _best_cut(logs)
    low, high = logs[:cut], logs[cut:]
    if min(len(low), len(high)) < max(2, _MODE_SHARE * len(logs)):
        return
    apart = statistics.fmean(high) - statistics.fmean(low)
    within = math.sqrt((statistics.pvariance(low) + statistics.pvariance(high)) / 2)
    if apart > math.log(_MODE_RATIO) and apart > _MODE_SEPARATION * within:
        slow = len(high) / len(logs)
        yield _Finding(
            "polluted",
            f"there are two modes: {slow:.0%} of the runs took {math.exp(apart):.2f} times as long as the others",
            "look for what switches (other load, frequency, thread placement): the raw samples are in --json",
        )


def _best_cut(ordered: Sequence[float]) -> int:
    """Where two groups differ most: Otsu's method (1979), on sorted values."""
    total, count = sum(ordered), len(ordered)
    best, cut, below = -1.0, 1, 0.0
    for index in range(1, count):
        below += ordered[index - 1]
        between = index * (count - index) * (below / index - (total - below) / (count - index)) ** 2
        if between > best:
            best, cut = between, index
    return cut


def _drifting(measured: Sequence[Measurement]) -> Iterator[_Finding]:
    medians = [math.log(statistics.median(item.samples_ns)) for item in measured]
    change = _trend(medians)
    if change is not None and abs(change) > _TREND:
        yield _Finding(
            "drifting",
            f"processes became {_times(change)} from the first to the last",
            f"more of them show whether it settles: {_more(measured)}; for heat: --cooldown 50",
        )
    within = [change for item in measured if (change := _within(item)) is not None]
    if len(within) >= _LEAST_PROCESSES and abs(statistics.median(within)) > _TREND and len(_signs(within)) == 1:
        evidence = f"each process became {_times(statistics.median(within))} while it ran"
        yield _Finding("drifting", evidence, "warm up for longer: --warmup 50; for heat: --cooldown 50")
    restless = sum(item.warm_up is not None and not item.warm_up.steady for item in measured)
    if restless > len(measured) / 2:
        evidence = f"{restless} of {len(measured)} processes were still getting faster when their warm-up ended"
        yield _Finding("drifting", evidence, "warm up for longer: --warmup 50")


def _spread(measured: Sequence[Measurement]) -> Iterator[_Finding]:
    medians = [statistics.median(item.samples_ns) for item in measured]
    spread = max(medians) / min(medians)
    if spread > _SPREAD:
        yield _Finding(
            "polluted",
            f"its processes differ: the slowest took {spread:.2f} times as long as the fastest",
            f"more of them narrow the interval: {_more(measured)}; the cause is often where memory and threads lie",
        )


def _wide(measured: Sequence[Measurement]) -> Iterator[_Finding]:
    _, bounds = log_interval([statistics.median(item.samples_ns) for item in measured])
    if bounds is not None and math.sqrt(bounds[1] / bounds[0]) - 1 > _WIDE:
        yield _Finding(
            "drifting",
            f"its processes wander: p50 is known to ± {math.sqrt(bounds[1] / bounds[0]) - 1:.0%} only",
            f"more of them narrow the interval: {_more(measured)}, or --precision 2%; the ratios are of pairs",
        )


def _more(measured: Sequence[Measurement]) -> str:
    return f"--processes {3 * len(measured)}"


def _trend(values: Sequence[float]) -> float | None:
    """The change from first to last by Theil and Sen's slope where Mann and Kendall's test finds a trend at 95 %."""
    count = len(values)
    pairs = [(i, j) for i in range(count) for j in range(i + 1, count)]
    score = sum((values[j] > values[i]) - (values[j] < values[i]) for i, j in pairs)
    deviation = math.sqrt(count * (count - 1) * (2 * count + 5) / 18)
    if count < 5 or (abs(score) - 1) / deviation < 1.96:
        return None
    return statistics.median((values[j] - values[i]) / (j - i) for i, j in pairs) * (count - 1)


def _within(item: Measurement) -> float | None:
    half = len(item.turns) // 2
    if not half:
        return None
    first = [sample for turn in item.turns[:half] for sample in turn.samples_ns]
    last = [sample for turn in item.turns[-half:] for sample in turn.samples_ns]
    return math.log(statistics.median(last) / statistics.median(first))


def _signs(values: Sequence[float]) -> set[bool]:
    return {value > 0 for value in values}


def _times(change: float) -> str:
    return f"{abs(math.expm1(change)):.0%} {'slower' if change > 0 else 'faster'}"
