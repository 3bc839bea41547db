"""What the demo was for: fp32 against int8, ReLU against ReLU6."""

from __future__ import annotations

from rich.table import Table

from edgebench.demo import quantized_variants
from edgebench.report.units import MISSING, megabytes, percent
from edgebench.stats import ratio
from edgebench.types import Cell, Run

__all__ = ["render"]


def render(run: Run) -> Table:
    """One row per activation; the speed is int8's over fp32's, paired by round, with its 95 % interval."""
    table = Table(title="fp32 against int8 (ONNX)", title_justify="left", title_style="bold")
    table.add_column("activation")
    for heading in ("MB fp32 → int8", "top-1 % fp32 → int8", "relative degradation", "int8 latency × fp32"):
        table.add_column(heading, justify="right")
    for row in quantized_variants(run):
        assert row.fp32.accuracy is not None and row.int8.accuracy is not None
        table.add_row(
            row.activation,
            f"{_size(row.fp32)} → {_size(row.int8)}",
            f"{row.fp32.accuracy.top1:.2f} → {row.int8.accuracy.top1:.2f}",
            percent(row.relative_degradation, 2),
            _speed(row.fp32, row.int8),
        )
    return table


def _size(cell: Cell) -> str:
    return MISSING if cell.size is None else megabytes(cell.size.bytes)


def _speed(fp32: Cell, int8: Cell) -> str:
    found = ratio(
        [item.samples_ns for item in fp32.measurements], [item.samples_ns for item in int8.measurements]
    )
    if found is None:
        return MISSING
    return f"{found.ratio:.2f}" + ("" if found.ci is None else f" [{found.ci[0]:.2f}, {found.ci[1]:.2f}]")
