"""What the demo was for: fp32 against int8, for each activation."""

from __future__ import annotations

from collections.abc import Mapping

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from edgebench.figures import accuracy_drop, latency_ratio
from edgebench.report.units import MISSING, megabytes, percent, with_interval
from edgebench.types import Cell, Run

__all__ = ["render"]


def render(run: Run, variants: Mapping[str, str]) -> RenderableType:
    """One row per variant (a bundle's name, and what it is to be called) that has both accuracies.

    The drop has the 95 % interval of a paired difference; "relative" is the share of the fp32 accuracy that was lost;
    the latency is int8's over fp32's, paired by round, with its interval.
    """
    table = Table(box=SIMPLE_HEAD)
    table.add_column("activation")
    headings = ("MB", "top-1 %", "drop in points [95 %]", "relative drop", "latency × fp32")
    for heading in headings:
        table.add_column(heading, justify="right")
    cells = {cell.artifact.name: cell for cell in run.cells}
    for bundle, label in variants.items():
        fp32, int8 = cells.get(f"{bundle}/onnx"), cells.get(f"{bundle}/onnx-int8")
        if fp32 is None or int8 is None or fp32.accuracy is None or int8.accuracy is None:
            continue
        drop = accuracy_drop(fp32, int8)
        if drop is None:
            continue
        before, after = fp32.accuracy.top1, int8.accuracy.top1
        table.add_row(
            label,
            f"{_size(fp32)} → {_size(int8)}",
            f"{before:.2f} → {after:.2f}",
            f"{drop.drop_points:+.2f} [{drop.ci[0]:+.2f}, {drop.ci[1]:+.2f}]",
            percent(drop.drop_points / before, 2) if before else MISSING,
            _speed(fp32, int8),
        )
    return Group(Text("fp32 → int8 (ONNX)", style="bold"), table)


def _size(cell: Cell) -> str:
    return MISSING if cell.size is None else megabytes(cell.size.bytes)


def _speed(fp32: Cell, int8: Cell) -> str:
    found = latency_ratio(fp32, int8)
    return MISSING if found is None else with_interval(found.ratio, found.ci)
