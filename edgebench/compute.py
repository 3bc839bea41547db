"""How much a cell computes a second, and how near that is to what its device can do (the roofline model of Williams,
Waterman and Patterson, "Roofline", CACM 52(4), 2009)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgebench.agent.roofline import Roofline
from edgebench.agent.runtimes import on_gpu
from edgebench.scenarios import parse_scenario, streams_of
from edgebench.stats import Interval
from edgebench.types import Cell, Costs, Run

__all__ = ["Compute", "compute_of", "peak_of"]


@dataclass(frozen=True)
class Compute:
    """Two operations for each MAC, over p50 (or what a tool tells in its place) with its 95 % interval.

    `share` is of the peak that was measured in the same arithmetic with as many threads, above 1 where a runtime needs
    fewer multiplications than the MACs say (Winograd) or the peak was measured badly. `intensity` is operations for
    each byte, if weights are read once and every result is written and read once; `bound` is which of the two
    limits is the lower one then. Each is None where it cannot be told.
    """

    ops_per_s: float
    ci: Interval | None
    share: float | None
    intensity: float | None
    bound: Literal["compute", "memory"] | None


def compute_of(run: Run, cell: Cell, ms: float | None, ci_ms: Interval | None) -> Compute | None:
    """The figures of a cell whose inferences take `ms`; None where its MACs or its times are not known, or its times
    are of more than the inference, or of an emulator."""
    costs = cell.costs
    # A frame's time has its wait in it, and pixels' their preprocessing.
    inference_alone = parse_scenario(cell.scenario).kind in ("single-stream", "offline", "multi-stream")
    if costs is None or not costs.macs or not ms or not inference_alone or run.is_emulated(cell):
        return None
    operations = 2 * costs.macs * streams_of(cell.scenario)
    ci = None if ci_ms is None else (1e3 * operations / ci_ms[1], 1e3 * operations / ci_ms[0])
    rate, intensity = 1e3 * operations / ms, _intensity(costs)
    found = peak_of(run, cell)
    if found is None:
        return Compute(rate, ci, None, intensity, None)
    roofline, peak = found
    bound: Literal["compute", "memory"] | None = None
    if intensity is not None:
        bound = "memory" if intensity * roofline.bytes_per_s < peak else "compute"
    return Compute(rate, ci, rate / peak, intensity, bound)


def peak_of(run: Run, cell: Cell) -> tuple[Roofline, int] | None:
    """The roofline for as many threads as the cell has, and its peak for the cell's arithmetic; None where there is
    none: an int8 network is not set against a peak of float32."""
    rooflines = run.device(cell.device).rooflines
    found = next((item for item in rooflines if item.threads == cell.threads), None)
    if found is None or on_gpu(cell.runtime):
        return None
    peak = {"fp32": found.flops_per_s, "int8": found.int8_ops_per_s}.get(cell.artifact.precision or "")
    return None if peak is None else (found, peak)


def _intensity(costs: Costs) -> float | None:
    if costs.activation_bytes is None:
        return None
    return 2 * costs.macs / (costs.weight_bytes + 2 * costs.activation_bytes)
