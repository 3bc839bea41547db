"""A run as a table: every figure with how sure it is, what it is compared with, and why a cell is empty."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Column, Table
from rich.text import Text

from edgebench.errors import UsageError
from edgebench.figures import Figures, figures, is_precise
from edgebench.report.units import MISSING, megabytes, milliseconds, percent, plain, with_interval
from edgebench.stats import Percentile
from edgebench.types import NOT_MEASURED, Cell, Run
from edgebench.verdict import Verdict

__all__ = ["render", "render_list"]

# Those that ask for a word with the reader.
_VERDICT_STYLES = {"drifting": "yellow", "polluted": "yellow", "throttled": "red"}


def render(run: Run) -> RenderableType:
    """The tables of one run: how fast each artifact is, what starting and holding it takes, how accurate it is."""
    with_device = len(run.devices) > 1
    with_threads = len({cell.threads for cell in run.cells}) > 1
    tail = [percent for percent in run.settings.percentiles if percent != 50.0]
    labels = ["artifact", *["device"] * with_device, *["threads"] * with_threads]
    speeds = _table(labels, ["p50 ms", "× baseline", *(f"p{percent:g} ms" for percent in tail), "verdict"])
    counted = any(cell.instructions is not None for cell in run.cells)
    metered = any(entry.idle_microwatts is not None for entry in run.ledger)
    headings = ["cold ms", "load ms", "first ms", "peak +MB", "MB (zip)"]
    costs = _table(labels, [*headings, *["mJ"] * metered, *["M instructions"] * counted])
    accuracies = _table(labels, ["top-1 %", "drop [95 %]", "agrees"])
    doubts: list[Text] = []
    for cell in run.cells:
        found = figures(run, cell)
        where = [cell.device] * with_device + [str(cell.threads)] * with_threads
        label: list[RenderableType] = [_name(cell), *where]
        speeds.add_row(*label, *_speed(run, cell, found, tail))
        costs.add_row(
            *label, *_costs(cell, found), *[_energy(found)] * metered, *[_millions(found.instructions)] * counted
        )
        accuracies.add_row(*label, *_accuracy(run, cell, found))
        if found.verdict.word in _VERDICT_STYLES:
            named = (
                cell.artifact.name
                + f" with {cell.threads} thread{'s' * (cell.threads > 1)}" * with_threads
                + f" on {cell.device}" * with_device
            )
            doubts.append(_doubt(named, found.verdict))
    tables = [speeds, costs]
    if any(cell.accuracy is not None for cell in run.cells):
        tables.append(accuracies)
    return Group(Text(f"run {run.id}", style="bold"), *tables, _legend(run), *doubts, *_reasons(run))


def _table(labels: Sequence[str], headings: Sequence[str]) -> Table:
    columns = [Column(heading, overflow="fold") for heading in labels]
    columns += [Column(heading, justify="right", overflow="fold") for heading in headings]
    return Table(*columns, box=SIMPLE_HEAD)


def render_list(runs: Iterable[tuple[str, Run | UsageError]]) -> RenderableType:
    """One line per stored run, also for one that cannot be read."""
    rest = (Column(heading, overflow="fold") for heading in ("started", "devices", "cells", "command"))
    table = Table(Column("run", no_wrap=True), *rest, box=SIMPLE_HEAD)
    for identifier, run in runs:
        if isinstance(run, UsageError):
            table.add_row(identifier, MISSING, MISSING, MISSING, Text(f"cannot be read: {run}", style="red"))
            continue
        measured = sum(cell.status == "ok" for cell in run.cells)
        devices = ", ".join(device.name for device in run.devices)
        # As text: brackets in a path are not markup.
        cells = f"{measured}/{len(run.cells)}" + ("" if _is_complete(run) else ", interrupted")
        table.add_row(identifier, run.started_at, devices, cells, Text(" ".join(run.command)))
    return table if table.row_count else Text("no runs are stored yet: edgebench bench BUNDLE makes one")


def _is_complete(run: Run) -> bool:
    counts = [len(cell.measurements) for cell in run.cells if cell.status == "ok" or cell.reason == NOT_MEASURED]
    return all(count >= run.settings.processes for count in counts)


def _name(cell: Cell) -> Text:
    style = {"ok": "green", "failed": "red", "unsupported": "yellow", "skipped": "yellow"}[cell.status]
    return Text(cell.artifact.name, style=style)


def _speed(run: Run, cell: Cell, found: Figures, tail: Sequence[float]) -> tuple[RenderableType, ...]:
    latency = found.latency
    if latency is None:
        return (cell.status, *[MISSING] * (len(tail) + 2))
    relative = MISSING
    if cell.artifact.name == run.baseline:
        relative = "baseline"
    elif found.relative is not None:
        relative = with_interval(found.relative.ratio, found.relative.ci)
    word = found.verdict.word
    return (
        with_interval(latency.p50_ms, latency.p50_ci_ms),
        relative,
        *(_percentile(latency.tail[percent]) for percent in tail),
        MISSING if word is None else Text(word, style=_VERDICT_STYLES.get(word, "green")),
    )


def _percentile(found: Percentile) -> str:
    if found.value_ms is None:
        return f"needs {found.required}"
    if found.ci_ms is None:
        return milliseconds(found.value_ms)
    low, high = found.ci_ms
    if high is None:
        return f"{milliseconds(found.value_ms)} (≥ {milliseconds(low)})"
    return f"{milliseconds(found.value_ms)} [{milliseconds(low)}, {milliseconds(high)}]"


def _doubt(named: str, verdict: Verdict) -> Text:
    text = Text(f"{named}: {verdict.word}: {'; '.join(verdict.evidence)}", style="yellow")
    text.append(f". Next: {verdict.remedy}", style="bold")
    return text


def _energy(found: Figures) -> str:
    return MISSING if found.energy is None else with_interval(found.energy.millijoules, found.energy.ci)


def _millions(count: float | None) -> str:
    return MISSING if count is None else f"{count / 1e6:.3f}"


def _costs(cell: Cell, found: Figures) -> tuple[str, ...]:
    memory, size = found.memory, cell.size
    return (
        milliseconds(found.cold_ms),
        milliseconds(found.load_ms),
        milliseconds(found.first_ms),
        MISSING if memory is None else megabytes(memory.peak_bytes - memory.baseline_bytes),
        MISSING if size is None else f"{megabytes(size.bytes)} ({megabytes(size.compressed_bytes)})",
    )


def _accuracy(run: Run, cell: Cell, found: Figures) -> tuple[str, ...]:
    accuracy, drop = cell.accuracy, found.drop
    top1 = MISSING if accuracy is None else plain(accuracy.top1, 2)
    if drop is None or cell.artifact.name == run.baseline:
        return (top1, MISSING, MISSING)
    low, high = drop.ci
    return (top1, f"{drop.drop_points:+.2f} [{low:+.2f}, {high:+.2f}]", percent(drop.agreement))


def _legend(run: Run) -> Text:
    versions = {(cell.runtime, item.runtime_version) for cell in run.cells for item in cell.measurements}
    lines = [", ".join(f"{runtime} {version}" for runtime, version in sorted(versions)), f"fed with {run.inputs}"]
    threads = ", ".join(map(str, sorted({cell.threads for cell in run.cells})))
    for device in run.devices:
        seen = device.fingerprint
        processor = seen.get("cpu", seen.get("machine"))
        lines.append(f"{device.name}: {processor}, {seen.get('usable_cpus')} CPUs; threads per inference: {threads}")
    batches = sorted({cell.batch_size for cell in run.cells} - {1})
    if batches:
        lines.append(f"times are per batch of {', '.join(map(str, batches))}")
    measured = [cell for cell in run.cells if cell.measurements]
    if measured:
        processes = max(len(cell.measurements) for cell in measured)
        samples = max(sum(len(item.samples_ns) for item in cell.measurements) for cell in measured)
        enough = f"95 % intervals over {processes} processes, measured in alternation"
        over = enough if processes > 2 else f"over {processes} processes, an interval needs 3"
        lines.append(f"p50, × baseline: {over}, {samples} timed runs a cell")
        methods = sorted({item.memory.method for cell in measured for item in cell.measurements if item.memory})
        lines.append("cold: process start to first result; cold, load, first, memory: medians over processes")
        lines.extend(f"peak +MB: above the process with its runtime loaded, by {method}" for method in methods)
    methods = sorted({cell.instructions.method for cell in run.cells if cell.instructions is not None})
    lines.extend(
        f"instructions: of one warm inference with 1 thread, a count and no time, by {name}" for name in methods
    )
    meters = sorted({entry.energy_method for entry in run.ledger if entry.energy_method is not None})
    lines.extend(f"mJ: of one inference, the whole device above its idle power, by {name}" for name in meters)
    lines.extend(_notes(run))
    lines.extend(_precision(run))
    accuracies = [cell.accuracy for cell in run.cells if cell.accuracy is not None]
    lines.extend(
        f"accuracy over {count} images of {data}, {prepared}; a drop whose interval holds 0 may be chance"
        for count, data, prepared in sorted(
            {(item.samples, item.data, f"prepared as {item.preprocess or 'they are'}") for item in accuracies}
        )
    )
    return Text("\n".join(line for line in lines if line), style="dim")


def _notes(run: Run) -> list[str]:
    """What did not go as asked, the latest for all."""
    noted = [entry for entry in run.ledger if entry.notes]
    return [f"in {len(noted)} of {len(run.ledger)} rounds: {'; '.join(noted[-1].notes)}"] if noted else []


def _precision(run: Run) -> list[str]:
    """What was asked for and what was not reached."""
    asked = run.settings.precision
    if asked is None:
        return []
    short = [cell.artifact.name for cell in run.cells if cell.status == "ok" and not is_precise(run, cell, asked)]
    reached = f"not reached in time: {', '.join(short)}; give more with --max-time" if short else "reached"
    return [f"precision asked for: ± {asked:g} % of p50 and of its ratio; {reached}"]


def _reasons(run: Run) -> list[Text]:
    return [
        Text(f"{cell.artifact.name}: {cell.status}: {cell.reason}", style="yellow") for cell in run.cells if cell.reason
    ]
