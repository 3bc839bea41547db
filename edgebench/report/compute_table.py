"""The part of a run's table that says what an inference takes by its structure, and how well the device is used."""

from __future__ import annotations

from edgebench.figures import Figures
from edgebench.report.units import MISSING, megabytes, milliseconds, percent, with_interval
from edgebench.types import Cell, Device, Run

__all__ = ["HEADINGS", "compute_row", "legend"]

HEADINGS = ("GMAC", "M params", "act. MB", "GOP/s", "% of peak", "OP/byte", "bound")


def compute_row(cell: Cell, found: Figures) -> tuple[str, ...]:
    """One cell's."""
    costs, compute = cell.costs, found.compute
    if costs is None:
        return (MISSING,) * len(HEADINGS)
    least = "≥ " * bool(costs.not_counted)
    structure = (
        least + milliseconds(costs.macs / 1e9),
        milliseconds(costs.parameters / 1e6),
        megabytes(costs.peak_activation_bytes),
    )
    if compute is None:
        return (*structure, *[MISSING] * 4)
    ci = None if compute.ci is None else (compute.ci[0] / 1e9, compute.ci[1] / 1e9)
    return (
        *structure,
        least + with_interval(compute.ops_per_s / 1e9, ci),
        MISSING if compute.share is None else least + percent(compute.share, 0 if compute.share >= 0.1 else 1),
        milliseconds(compute.intensity),
        compute.bound or MISSING,
    )


def legend(run: Run) -> list[str]:
    """What the columns are, the peaks that were measured, and what was not counted."""
    counted = [cell for cell in run.cells if cell.costs is not None]
    if not counted:
        return []
    lines = [
        "GMAC: 10⁹ multiplications with their sum, by the network's structure; GOP/s: two for each, over p50; act. MB: "
        "the largest sum of results alive at once, operator by operator",
    ]
    for device in run.devices:
        lines.extend(_peaks(device))
    if any(device.rooflines for device in run.devices):
        lines.append(
            "% of peak: of the same arithmetic; a convolution by Winograd's way needs fewer multiplications and may "
            "exceed it; bound: the lower limit, if weights are read from memory once and "
            "results written and read once; what stays in caches makes memory count less"
        )
    missing = {name: cell.artifact.name for cell in counted if cell.costs for name in cell.costs.not_counted}
    lines.extend(f"≥: of {artifact} {operator} is not counted" for operator, artifact in missing.items())
    return lines


def _peaks(device: Device) -> list[str]:
    lines = []
    for item in device.rooflines:
        int8 = "" if item.int8_ops_per_s is None else f", {milliseconds(item.int8_ops_per_s / 1e9)} GOP/s int8"
        threads = "1 thread" if item.threads == 1 else f"{item.threads} threads"
        lines.append(
            f"peak of {device.name} with {threads}: {milliseconds(item.flops_per_s / 1e9)} GFLOP/s float32{int8}, "
            f"{milliseconds(item.bytes_per_s / 1e9)} GB/s copied; the best of many tries ({item.method})"
        )
    if device.no_roofline is not None:
        lines.append(f"no peak of {device.name}: {device.no_roofline}")
    return lines
