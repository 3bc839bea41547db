"""A run as a table: every figure with how sure it is, what it is compared with, and why a cell is empty."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from edgebench.figures import Figures, figures
from edgebench.report.units import MISSING, digits_for, megabytes, milliseconds, percent, plain
from edgebench.types import Cell, Run

__all__ = ["render", "render_list"]


def render(run: Run) -> RenderableType:
    """The table of one run."""
    several_devices = len(run.devices) > 1
    with_accuracy = any(cell.accuracy is not None for cell in run.cells)
    table = Table(title=f"run {run.id}", title_justify="left", title_style="bold")
    table.add_column("artifact")
    if several_devices:
        table.add_column("device")
    table.add_column("runtime")
    table.add_column("thr", justify="right")
    for heading in ("p50 ms", "× baseline", "p95 ms", "load ms", "first ms", "peak +MB", "MB", "zipped MB"):
        table.add_column(heading, justify="right")
    if with_accuracy:
        for heading in ("top-1 %", "drop [95 %]", "agrees"):
            table.add_column(heading, justify="right")
    for cell in run.cells:
        found = figures(run, cell)
        row: list[RenderableType] = [_name(run, cell)]
        if several_devices:
            row.append(cell.device)
        row.extend((cell.runtime, str(cell.threads), *_speed(run, cell, found), *_sizes(cell, found)))
        if with_accuracy:
            row.extend(_accuracy(run, cell, found))
        table.add_row(*row)
    return Group(table, _legend(run), *_reasons(run))


def render_list(runs: Iterable[Run]) -> RenderableType:
    """One line per stored run."""
    table = Table("run", "started", "devices", "cells", "command")
    for run in runs:
        measured = sum(cell.status == "ok" for cell in run.cells)
        devices = ", ".join(device.name for device in run.devices)
        table.add_row(run.id, run.started_at, devices, f"{measured}/{len(run.cells)}", " ".join(run.command))
    return table if table.row_count else Text("no runs are stored yet: edgebench bench BUNDLE makes one")


def _name(run: Run, cell: Cell) -> Text:
    style = {"ok": "green", "failed": "red", "unsupported": "yellow", "skipped": "yellow"}[cell.status]
    name = Text(cell.artifact.name, style=style)
    if cell.artifact.name == run.baseline:
        name.append(" (baseline)", style="dim")
    return name


def _speed(run: Run, cell: Cell, found: Figures) -> tuple[str, ...]:
    latency = found.latency
    if latency is None:
        return (cell.status, MISSING, MISSING, MISSING, MISSING)
    if latency.p50_ci_ms is None:
        centre = milliseconds(latency.p50_ms)
    else:
        half = (latency.p50_ci_ms[1] - latency.p50_ci_ms[0]) / 2
        digits = digits_for(half)
        centre = f"{latency.p50_ms:.{digits}f} ± {half:.{digits}f}"
    return (
        centre,
        _relative(run, cell, found),
        milliseconds(latency.p95_ms),
        milliseconds(found.load_ms),
        milliseconds(found.first_ms),
    )


def _relative(run: Run, cell: Cell, found: Figures) -> str:
    if found.relative is None:
        return MISSING
    if cell.artifact.name == run.baseline:
        return "1"
    if found.relative.ci is None:
        return f"{found.relative.ratio:.2f}"
    low, high = found.relative.ci
    digits = min(3, digits_for((high - low) / 2))
    return f"{found.relative.ratio:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def _sizes(cell: Cell, found: Figures) -> tuple[str, ...]:
    memory, size = found.memory, cell.size
    return (
        MISSING if memory is None else megabytes(memory.peak_bytes - memory.baseline_bytes),
        MISSING if size is None else megabytes(size.bytes),
        MISSING if size is None else megabytes(size.compressed_bytes),
    )


def _accuracy(run: Run, cell: Cell, found: Figures) -> tuple[str, ...]:
    accuracy, drop = cell.accuracy, found.drop
    top1 = MISSING if accuracy is None else plain(accuracy.top1, 2)
    if drop is None or cell.artifact.name == run.baseline:
        return (top1, MISSING, MISSING)
    low, high = drop.ci
    return (top1, f"{drop.drop_points:+.2f} [{low:+.2f}, {high:+.2f}]", percent(drop.agreement))


def _legend(run: Run) -> Text:
    lines = [f"fed with {run.inputs}"]
    for device in run.devices:
        seen = device.fingerprint
        lines.append(f"{device.name}: {seen.get('cpu', seen.get('machine'))}, {seen.get('usable_cpus')} CPUs")
    processes = max((len(cell.measurements) for cell in run.cells), default=0)
    samples = max((found.samples for cell in run.cells if (found := figures(run, cell).latency)), default=0)
    lines.append(
        f"p50 and × baseline: 95 % intervals over {processes} fresh processes, up to {samples} timed runs a cell, taken "
        "in turn; peak +MB: VmHWM above the process with its runtime loaded; load, first, memory: medians"
    )
    accuracies = {(cell.accuracy.samples, cell.accuracy.data) for cell in run.cells if cell.accuracy is not None}
    lines.extend(
        f"accuracy over {count} images of {data}; a drop whose interval holds 0 may be chance"
        for count, data in sorted(accuracies)
    )
    return Text("\n".join(lines), style="dim")


def _reasons(run: Run) -> list[Text]:
    return [Text(f"{cell.artifact.name}: {cell.status}: {cell.reason}", style="yellow") for cell in run.cells if cell.reason]
