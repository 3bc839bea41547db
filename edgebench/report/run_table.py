"""A run as a table: every figure with how sure it is, what it is compared with, and why a cell is empty."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from edgebench.figures import Figures, figures
from edgebench.report.units import MISSING, megabytes, milliseconds, percent, plain, with_interval
from edgebench.types import Cell, Run

__all__ = ["render", "render_list"]


def render(run: Run) -> RenderableType:
    """The table of one run."""
    several_devices = len(run.devices) > 1
    with_accuracy = any(cell.accuracy is not None for cell in run.cells)
    table = Table(title=f"run {run.id}", title_justify="left", title_style="bold", padding=(0, 1))
    table.add_column("artifact")
    if several_devices:
        table.add_column("device")
    for heading in ("thr", "p50 ms", "× baseline", "p95 ms", "load ms", "first ms", "peak +MB", "MB (zip)"):
        table.add_column(heading, justify="right")
    if with_accuracy:
        for heading in ("top-1 %", "drop [95 %]", "agrees"):
            table.add_column(heading, justify="right")
    for cell in run.cells:
        found = figures(run, cell)
        row: list[RenderableType] = [_name(run, cell)]
        if several_devices:
            row.append(cell.device)
        row.extend((str(cell.threads), *_speed(run, cell, found), *_sizes(cell, found)))
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
    relative = MISSING
    if cell.artifact.name == run.baseline:
        relative = "1"
    elif found.relative is not None:
        relative = with_interval(found.relative.ratio, found.relative.ci)
    return (
        with_interval(latency.p50_ms, latency.p50_ci_ms),
        relative,
        milliseconds(latency.p95_ms),
        milliseconds(found.load_ms),
        milliseconds(found.first_ms),
    )


def _sizes(cell: Cell, found: Figures) -> tuple[str, str]:
    memory, size = found.memory, cell.size
    return (
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
    for device in run.devices:
        seen = device.fingerprint
        lines.append(f"{device.name}: {seen.get('cpu', seen.get('machine'))}, {seen.get('usable_cpus')} CPUs")
    latencies = [found.latency for cell in run.cells if (found := figures(run, cell)).latency is not None]
    if latencies:
        processes = max(latency.processes for latency in latencies if latency)
        samples = max(latency.samples for latency in latencies if latency)
        lines.append(f"p50, × baseline: 95 % intervals over {processes} processes in turn, {samples} timed runs a cell")
        lines.append("peak +MB: VmHWM above the process with its runtime loaded; load, first, memory: medians")
    accuracies = {(cell.accuracy.samples, cell.accuracy.data) for cell in run.cells if cell.accuracy is not None}
    lines.extend(
        f"accuracy over {count} images of {data}; a drop whose interval holds 0 may be chance"
        for count, data in sorted(accuracies)
    )
    return Text("\n".join(line for line in lines if line), style="dim")


def _reasons(run: Run) -> list[Text]:
    return [
        Text(f"{cell.artifact.name}: {cell.status}: {cell.reason}", style="yellow") for cell in run.cells if cell.reason
    ]
