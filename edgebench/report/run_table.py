"""A run as a table: every figure with how sure it is, what it is compared with, and why a cell is empty."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Column, Table
from rich.text import Text

from edgebench.errors import UsageError
from edgebench.figures import Figures, GpuParts, baseline_cell, figures, is_precise
from edgebench.report import compute_table
from edgebench.report.calibration import calibrated_on_nothing
from edgebench.report.runtime_matrix import runtime_matrices
from edgebench.report.units import MISSING, megabytes, milliseconds, percent, plain, with_interval
from edgebench.stats import Percentile
from edgebench.sustained import Curve, flipped
from edgebench.types import NOT_MEASURED, Cell, Measurement, Run
from edgebench.verdict import Verdict

__all__ = ["render", "render_list"]

_BARS = "▁▂▃▄▅▆▇█"
_CURVE_WIDTH = 40
# Those that ask for a word with the reader.
_VERDICT_STYLES = {"drifting": "yellow", "polluted": "yellow", "throttled": "red"}


def render(run: Run) -> RenderableType:
    """The tables of one run: how fast each artifact is, what starting and holding it takes, how accurate it is."""
    tail = [percent for percent in run.settings.percentiles if percent != 50.0]
    kinds = {cell.scenario.partition(":")[0] for cell in run.cells}
    counted = any(cell.instructions is not None for cell in run.cells)
    metered = any(entry.idle_microwatts is not None for entry in run.ledger)
    with_rate, with_frames = bool(kinds & {"offline", "multi-stream"}), "paced" in kinds
    labels = ["artifact", *_dimensions(run)]
    headings = ["p50 ms", "× baseline", *(f"p{percent:g} ms" for percent in tail)]
    speeds = _table(labels, [*headings, *["per s"] * with_rate, *["missed"] * with_frames, "verdict"])
    headings = ["cold ms", "load ms", "first ms", "peak +MB", "MB (zip)"]
    costs = _table(labels, [*headings, *["mJ"] * metered, *["M instructions"] * counted])
    compared = any(cell.accuracy is not None and cell.accuracy.disagreement is not None for cell in run.cells)
    accuracies = _table(labels, ["top-1 %", "drop [95 %]", "agrees", *["≠ here"] * compared])
    cards = _table(labels, ["to GPU ms", "compute ms", "to host ms", "GPU MB"])
    computes = _table(labels, compute_table.HEADINGS)
    curves = _table(labels, ["p50 ms at first", "at last", "slower from", "curve"])
    best = _best_rates(run)
    doubts: list[Text] = []
    shown = [cell for cell in run.cells if cell.status != "unsupported"] or run.cells
    for cell in shown:
        found = figures(run, cell)
        where = list(_dimensions(run, cell).values())
        label: list[RenderableType] = [_name(cell), *where]
        speed = [*_speed(run, cell, found, tail)]
        speed[-1:-1] = [_rate(cell, found, cell in best)] * with_rate + [_missed(found)] * with_frames
        speeds.add_row(*label, *speed)
        costs.add_row(
            *label, *_costs(cell, found), *[_energy(found)] * metered, *[_millions(found.instructions)] * counted
        )
        accuracies.add_row(*label, *_accuracy(run, cell, found), *[_disagreement(cell)] * compared)
        computes.add_row(*label, *compute_table.compute_row(cell, found))
        if found.gpu is not None:
            cards.add_row(*label, *_gpu(found.gpu))
        if found.sustained is not None:
            curves.add_row(*label, *_curve(found.sustained))
        if found.verdict.word in _VERDICT_STYLES and not run.is_emulated(cell):
            doubts.append(_doubt(", ".join([cell.artifact.name, *_described(run, cell)]), found.verdict))
    tables = [*runtime_matrices(run), speeds, costs]
    if any(cell.costs is not None for cell in run.cells):
        tables.append(computes)
    if any(cell.accuracy is not None for cell in run.cells):
        tables.append(accuracies)
    if cards.row_count:
        tables.append(cards)
    if curves.row_count:
        tables.append(curves)
    return Group(Text(f"run {run.id}", style="bold"), *tables, _legend(run), *doubts, *_reasons(run))


def _dimensions(run: Run, cell: Cell | None = None) -> dict[str, str]:
    """What tells cells of one artifact apart in `run`, with the values of `cell`."""
    one = cell or run.cells[0]
    values = {"device": one.device, "scenario": one.scenario, "batch": one.batch_size, "threads": one.threads}
    names = {"device": "device", "scenario": "scenario", "batch": "batch_size", "threads": "threads"}
    # A runtime goes with its format, unless there are several for one.
    if len({(other.artifact.name, other.runtime) for other in run.cells}) > len({o.artifact.name for o in run.cells}):
        values["runtime"], names["runtime"] = one.runtime, "runtime"
    return {
        name: str(value)
        for name, value in values.items()
        if len({getattr(other, names[name]) for other in run.cells}) > 1
    }


def _described(run: Run, cell: Cell) -> list[str]:
    return [f"{name} {value}" for name, value in _dimensions(run, cell).items()]


def _best_rates(run: Run) -> list[Cell]:
    """Of each artifact, device and runtime the offline cell with the largest throughput."""
    best: dict[tuple[str, ...], tuple[float, Cell]] = {}
    for cell in run.cells:
        latency = figures(run, cell).latency
        if cell.scenario == "offline" and latency is not None and not run.is_emulated(cell):
            key = (cell.artifact.name, cell.device, cell.runtime)
            if key not in best or latency.throughput_per_s > best[key][0]:
                best[key] = (latency.throughput_per_s, cell)
    return [cell for _, cell in best.values()]


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
    relative = MISSING
    if baseline_cell(run, cell) is cell:
        relative = "baseline"
    elif found.relative is not None:
        relative = with_interval(found.relative.ratio, found.relative.ci)
    if latency is None and found.told is not None:
        # A mean must not pass for a median.
        figure = with_interval(found.told.ms, found.told.ci_ms)
        words = figure if found.told.statistic == "p50" else f"mean {figure}"
        said = Text("emulated" if run.is_emulated(cell) else "as told", style="yellow")
        return (words, relative, *[MISSING] * len(tail), said)
    if latency is None:
        return (cell.status, *[MISSING] * (len(tail) + 2))
    word = found.verdict.word
    verdict: RenderableType = MISSING if word is None else Text(word, style=_VERDICT_STYLES.get(word, "green"))
    if run.is_emulated(cell):
        verdict = Text("emulated", style="yellow")
    return (
        with_interval(latency.p50_ms, latency.p50_ci_ms),
        relative,
        *(_percentile(latency.tail[percent]) for percent in tail),
        verdict,
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


def _rate(cell: Cell, found: Figures, is_best: bool) -> str:
    if found.latency is None or not cell.scenario.startswith(("offline", "multi-stream")):
        return MISSING
    return with_interval(found.latency.throughput_per_s, found.latency.throughput_ci) + " ← most" * is_best


def _gpu(parts: GpuParts) -> tuple[str, ...]:
    times = (parts.to_device_ms, parts.compute_ms, parts.to_host_ms)
    return (*map(milliseconds, times), MISSING if parts.gpu_bytes is None else megabytes(parts.gpu_bytes))


def _missed(found: Figures) -> str:
    frames = found.frames
    return MISSING if frames is None else f"{frames.missed} of {frames.offered}"


def _curve(curve: Curve) -> tuple[str, ...]:
    low, high = min(curve.p50_ms), max(curve.p50_ms)
    # As many columns as there is room for; each shows the slowest of its windows.
    step = math.ceil(len(curve.p50_ms) / _CURVE_WIDTH)
    parts = [max(curve.p50_ms[start : start + step]) for start in range(0, len(curve.p50_ms), step)]
    heights = [0 if high == low else round((value - low) / (high - low) * (len(_BARS) - 1)) for value in parts]
    # A curve that is flat within noise shall not look like mountains.
    drawn = "".join(_BARS[height] for height in heights) if high > 1.05 * low else _BARS[0] * len(parts)
    after = "no" if curve.throttled_after_s is None else f"{curve.throttled_after_s:.0f} s"
    return (milliseconds(curve.first_ms), milliseconds(curve.last_ms), after, drawn)


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
    if drop is None or baseline_cell(run, cell) is cell:
        return (top1, MISSING, MISSING)
    low, high = drop.ci
    return (top1, f"{drop.drop_points:+.2f} [{low:+.2f}, {high:+.2f}]", percent(drop.agreement))


def _disagreement(cell: Cell) -> str:
    found = None if cell.accuracy is None else cell.accuracy.disagreement
    return MISSING if found is None or cell.accuracy is None else f"{found.classes} of {cell.accuracy.samples}"


def _disagreements(run: Run) -> list[str]:
    """What the column is, and for each artifact that answers otherwise on its device the images to look at."""
    lines = []
    for cell in run.cells:
        found = None if cell.accuracy is None else cell.accuracy.disagreement
        if found is not None and found.classes:
            images = ", ".join(str(item.index) for item in found.worst if item.here != item.there)
            lines.append(
                f"{cell.artifact.name} on {cell.device}: scores differ by up to {found.max_abs_error:.2g} from this "
                f"machine's, another class on images {images}"
            )
    head = "≠ here: images that the device gives another class than this machine, by the same artifact and runtime"
    scored = [cell.accuracy for cell in run.cells if cell.accuracy is not None]
    return [head, *lines] if any(item.disagreement is not None for item in scored) else []


def _legend(run: Run) -> Text:
    versions = {(cell.runtime, item.runtime_version) for cell in run.cells for item in cell.measurements}
    lines = [", ".join(" ".join(filter(None, names)) for names in sorted(versions, key=str)), f"fed with {run.inputs}"]
    threads = ", ".join(map(str, sorted({cell.threads for cell in run.cells})))
    for device in run.devices:
        seen = device.fingerprint
        processor = seen.get("cpu", seen.get("machine"))
        if seen:
            lines.append(
                f"{device.name}: {processor}, {seen.get('usable_cpus')} CPUs; threads per inference: {threads}"
            )
        if device.emulated:
            by = seen.get("emulated_by", "an emulator")
            lines.append(f"{device.name} is emulated ({by}): its answers are real, its times and memory are not")
        if device.background:
            lines.append(f"{device.name}: from adb shell, as a background process; an app in front may be faster")
    batches = sorted({cell.batch_size for cell in run.cells} - {1})
    if batches:
        lines.append(f"times are per batch of {', '.join(map(str, batches))}")
    measured = [cell for cell in run.cells if cell.measurements]
    if measured:
        processes = max(len(cell.measurements) for cell in measured)
        samples = max(sum(_runs(item) for item in cell.measurements) for cell in measured)
        single = all(item.summary is not None for cell in measured for item in cell.measurements)
        way = "one after the other" if single else "in alternation"
        enough = f"95 % intervals over {processes} processes, measured {way}"
        over = enough if processes > 2 else f"over {processes} processes, an interval needs 3"
        lines.append(f"p50, × baseline: {over}, {samples} timed runs a cell")
        methods = sorted({item.memory.method for cell in measured for item in cell.measurements if item.memory})
        lines.append("cold: process start to first result; cold, load, first, memory: medians over processes")
        lines.extend(f"peak +MB: above the process with its runtime loaded, by {method}" for method in methods)
    lines.extend(_tools(measured))
    lines.extend(_cards(run))
    methods = sorted({cell.instructions.method for cell in run.cells if cell.instructions is not None})
    lines.extend(
        f"instructions: of one warm inference with 1 thread, a count and no time, by {name}" for name in methods
    )
    meters = sorted({entry.energy_method for entry in run.ledger if entry.energy_method is not None})
    lines.extend(f"mJ: of one inference, the whole device above its idle power, by {name}" for name in meters)
    lines.extend(compute_table.legend(run))
    lines.extend(flipped(run))
    lines.extend(_notes(run))
    lines.extend(_precision(run))
    accuracies = [cell.accuracy for cell in run.cells if cell.accuracy is not None]
    lines.extend(
        f"accuracy over {count} images of {data}, {prepared}; a drop whose interval holds 0 may be chance"
        for count, data, prepared in sorted(
            {(item.samples, item.data, f"prepared as {item.preprocess or 'they are'}") for item in accuracies}
        )
    )
    lines.extend(_disagreements(run))
    lines.extend(calibrated_on_nothing(cell.artifact for cell in run.cells))
    return Text("\n".join(line for line in lines if line), style="dim")


def _cards(run: Run) -> list[str]:
    found = [gpu for cell in run.cells if (gpu := figures(run, cell).gpu) is not None]
    methods = sorted({gpu.method for gpu in found if gpu.method})
    held = sorted({gpu.gpu_method for gpu in found if gpu.gpu_method})
    lines = [f"to GPU, compute, to host: taken apart, by {name}; their sum is no latency" for name in methods]
    return [*lines, *(f"GPU MB: by {name}" for name in held)]


def _runs(item: Measurement) -> int:
    """Timed runs, the single times of which may not be told."""
    return len(item.samples_ns) or (0 if item.summary is None else item.summary.runs or 0)


def _tools(measured: Sequence[Cell]) -> list[str]:
    """Who measured where there is no Python, and what it does not tell."""
    found: dict[str, tuple[str, ...]] = {}
    for cell in measured:
        found.update({item.tool: item.cannot for item in cell.measurements if item.tool is not None})
    return [
        f"measured by {tool}, not by edgebench's agent. {' '.join(cannot)}".strip() for tool, cannot in found.items()
    ]


def _notes(run: Run) -> list[str]:
    """What did not go as asked, the latest for all."""
    noted = [entry for entry in run.ledger if entry.notes]
    return [f"in {len(noted)} of {len(run.ledger)} rounds: {'; '.join(noted[-1].notes)}"] if noted else []


def _place(cell: Cell) -> tuple[str, str]:
    return (cell.device, cell.runtime)


def _precision(run: Run) -> list[str]:
    """What was asked for and what was not reached."""
    asked = run.settings.precision
    if asked is None:
        return []
    short = [cell.artifact.name for cell in run.cells if cell.status == "ok" and not is_precise(run, cell, asked)]
    reached = f"not reached in time: {', '.join(short)}; give more with --max-time" if short else "reached"
    return [f"precision asked for: ± {asked:g} % of p50 and of its ratio; {reached}"]


def _reasons(run: Run) -> list[Text]:
    """Why a cell is empty; the same reason of many cells once, with the cells that have it. What a device's runtime has
    for every artifact is said of the runtime."""
    having: dict[tuple[str, str], list[str]] = {}
    for cell in run.cells:
        if cell.reason:
            reasons = {other.reason for other in run.cells if _place(other) == _place(cell)}
            whole = cell.status == "unsupported" and len(reasons) == 1 and "runtime" in _dimensions(run)
            device = [f"(device {cell.device})"] * (len(run.devices) > 1)
            other = [cell.artifact.name, *(f"({text})" for text in _described(run, cell))]
            name = " ".join([cell.runtime, *device] if whole else other)
            names = having.setdefault((cell.status, cell.reason), [])
            names.extend([name] * (name not in names))
    return [
        Text(f"{', '.join(cells)}: {status}: {reason}", style="yellow") for (status, reason), cells in having.items()
    ]
