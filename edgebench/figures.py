"""What a run says about each of its cells: every figure that reports show, computed from the raw measurements."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from edgebench import stats
from edgebench.agent.wire import Measurement, Memory
from edgebench.compute import Compute, compute_of
from edgebench.conditions import Conditions, conditions
from edgebench.evaluation.metrics import drop_interval, mcnemar_exact
from edgebench.scenarios import streams_of
from edgebench.sustained import Curve, curve_of
from edgebench.types import Cell, Run
from edgebench.verdict import Verdict, judge

__all__ = ["AccuracyDrop", "Figures", "accuracy_drop", "baseline_cell", "figures", "is_precise", "latency_ratio"]


@dataclass(frozen=True)
class EnergyPerInference:
    """Millijoules of the whole device above its idle power, mean over processes, with the 95 % interval (None for fewer
    than three). `method` says what was read."""

    millijoules: float
    ci: stats.Interval | None
    method: str


@dataclass(frozen=True)
class Frames:
    """Of a paced cell: how many frames came, and how many were lost or answered after the next one came."""

    offered: int
    missed: int


@dataclass(frozen=True)
class Told:
    """What a tool says of a latency whose single times it keeps to itself: its "p50", or where it tells none its
    "mean"; the geometric mean over processes with its 95 % interval (None for fewer than three)."""

    statistic: str
    ms: float
    ci_ms: stats.Interval | None
    runs: int | None
    processes: int


@dataclass(frozen=True)
class GpuParts:
    """An inference on a GPU in its parts, in ms: medians over processes of their medians. They were taken one by one,
    so that their sum is no latency. `gpu_bytes`: the process's memory on the card, by `gpu_method`."""

    to_device_ms: float | None
    compute_ms: float | None
    to_host_ms: float | None
    method: str | None
    gpu_bytes: int | None
    gpu_method: str | None


# What every run's JSON has, whatever tables show.
_TAIL = (90.0, 95.0, 99.0)


@dataclass(frozen=True)
class AccuracyDrop:
    """Against the baseline, on the same images: `drop_points` of top-1 lost (negative: gained) with its 95 % interval,
    McNemar's exact p, and the share of images (0..1) on which both answer the same class."""

    drop_points: float
    ci: tuple[float, float]
    mcnemar_p: float
    agreement: float


@dataclass(frozen=True)
class Figures:
    """One cell's figures. Cold start, load, first inference and memory are medians over the cell's processes;
    `instructions` is the median of the counted inferences. `told` stands where a tool gave no single times."""

    latency: stats.Latency | None
    told: Told | None
    cold_ms: float | None
    load_ms: float | None
    first_ms: float | None
    memory: Memory | None
    relative: stats.Ratio | None
    drop: AccuracyDrop | None
    instructions: float | None
    energy: EnergyPerInference | None
    frames: Frames | None
    sustained: Curve | None
    gpu: GpuParts | None
    compute: Compute | None
    conditions: Conditions
    verdict: Verdict


def baseline_cell(run: Run, cell: Cell) -> Cell | None:
    """The cell that `cell` is compared with: the run's baseline on the same device with the same threads and batch, by
    the first of its runtimes there."""
    same = (cell.device, cell.threads, cell.batch_size, cell.scenario)
    return next(
        (
            other
            for other in run.cells
            if other.artifact.name == run.baseline
            and (other.device, other.threads, other.batch_size, other.scenario) == same
        ),
        None,
    )


def figures(run: Run, cell: Cell) -> Figures:
    """The figures of one cell of `run`."""
    measured = cell.measurements
    baseline = baseline_cell(run, cell)
    met = conditions(run, cell)
    latency = stats.summarise(
        [item.samples_ns for item in measured],
        cell.batch_size * streams_of(cell.scenario),
        sorted({*_TAIL, *run.settings.percentiles} - {50.0}),
    )
    told = _told(measured)
    ms, ci_ms = (None, None) if told is None else (told.ms, told.ci_ms)
    if latency is not None:
        ms, ci_ms = latency.p50_ms, latency.p50_ci_ms
    return Figures(
        latency=latency,
        told=told,
        cold_ms=_median_ms([item.cold_ns for item in measured]),
        load_ms=_median_ms([item.load_ns for item in measured]),
        first_ms=_median_ms([item.first_ns for item in measured]),
        memory=_median_memory([item.memory for item in measured]),
        relative=None if baseline is None or run.is_emulated(cell) else latency_ratio(baseline, cell),
        drop=None if baseline is None else accuracy_drop(baseline, cell),
        instructions=None if cell.instructions is None else statistics.median(cell.instructions.counts),
        energy=_energy(run, cell),
        frames=_frames(cell),
        sustained=curve_of(cell.sustained),
        gpu=_gpu(measured),
        compute=compute_of(run, cell, ms, ci_ms),
        conditions=met,
        verdict=judge(cell, met),
    )


def _told(measured: Sequence[Measurement]) -> Told | None:
    for statistic in ("p50", "mean"):
        # A zero is a time below what the tool resolves.
        values = [value for item in measured if (value := _said(item, statistic))]
        if values:
            centre, interval = stats.log_interval(values)
            ci = None if interval is None else (interval[0] / 1e6, interval[1] / 1e6)
            runs = [item.summary.runs for item in measured if item.summary is not None and item.summary.runs]
            return Told(statistic, centre / 1e6, ci, sum(runs) or None, len(values))
    return None


def _gpu(measured: Sequence[Measurement]) -> GpuParts | None:
    parts = [item.parts for item in measured if item.parts is not None]
    held = [item for item in measured if item.gpu_memory_bytes is not None]
    if not parts and not held:
        return None

    def median_ms(samples: Sequence[Sequence[int]]) -> float | None:
        return _median_ms([round(statistics.median(values)) if values else None for values in samples])

    return GpuParts(
        to_device_ms=median_ms([item.to_device_ns for item in parts]),
        compute_ms=median_ms([item.compute_ns for item in parts]),
        to_host_ms=median_ms([item.to_host_ns for item in parts]),
        method=parts[0].method if parts else None,
        gpu_bytes=int(statistics.median(item.gpu_memory_bytes or 0 for item in held)) if held else None,
        gpu_method=held[0].gpu_memory_method if held else None,
    )


def _said(item: Measurement, statistic: str) -> int | None:
    """Nanoseconds."""
    value: int | None = None if item.summary is None else getattr(item.summary, f"{statistic}_ns")
    return value


def latency_ratio(baseline: Cell, cell: Cell) -> stats.Ratio | None:
    """The latency of `cell` over the baseline's, from the rounds that both took part in; of tools that give no single
    times, from one and the same statistic of both."""
    theirs = {item.round: item for item in baseline.measurements}
    told = _told(cell.measurements)
    if told is not None:
        pairs = [
            (before, after)
            for item in cell.measurements
            if item.round in theirs
            and (before := _said(theirs[item.round], told.statistic))
            and (after := _said(item, told.statistic))
        ]
        return stats.paired_ratio(pairs)
    return stats.ratio([(_laps(theirs[item.round]), _laps(item)) for item in cell.measurements if item.round in theirs])


def is_precise(run: Run, cell: Cell, percent: float) -> bool:
    """Whether the intervals of p50, and of its ratio to the baseline, are `percent` or less to either side."""
    latency, told = stats.summarise([item.samples_ns for item in cell.measurements]), _told(cell.measurements)
    known = told.ci_ms if told is not None else None if latency is None else latency.p50_ci_ms
    if not _is_narrow(known, percent):
        return False
    baseline = baseline_cell(run, cell)
    if baseline is None or not baseline.measurements or run.is_emulated(cell):
        return True
    relative = latency_ratio(baseline, cell)
    return relative is not None and _is_narrow(relative.ci, percent)


def _is_narrow(interval: stats.Interval | None, percent: float) -> bool:
    return interval is not None and math.sqrt(interval[1] / interval[0]) <= 1 + percent / 100


def _laps(measurement: Measurement) -> dict[int, tuple[int, ...]]:
    return {turn.lap: turn.samples_ns for turn in measurement.turns if turn.samples_ns}


def _frames(cell: Cell) -> Frames | None:
    turns = [turn for item in cell.measurements for turn in item.turns]
    offered = sum(turn.offered or 0 for turn in turns)
    return Frames(offered, sum(turn.missed or 0 for turn in turns)) if offered else None


def _energy(run: Run, cell: Cell) -> EnergyPerInference | None:
    entries = {entry.round: entry for entry in run.ledger if entry.device == cell.device}
    values: list[float] = []
    method = ""
    for item in cell.measurements:
        entry = entries.get(item.round) if item.round is not None else None
        found = [turn.energy for turn in item.turns if turn.energy is not None]
        if entry is None or entry.idle_microwatts is None or not found:
            continue
        # Microwatts times nanoseconds are 1e-15 J.
        idle_uj = entry.idle_microwatts * sum(part.span_ns for part in found) / 1e9
        values.append((sum(part.microjoules for part in found) - idle_uj) / sum(part.runs for part in found) / 1e3)
        method = entry.energy_method or ""
    if not values:
        return None
    centre, interval = stats.interval(values)
    return EnergyPerInference(centre, interval, method)


def _median_ms(values: Sequence[int | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) / 1e6 if known else None


def _median_memory(values: Sequence[Memory | None]) -> Memory | None:
    known = [value for value in values if value is not None]
    if not known:
        return None
    return Memory(
        baseline_bytes=int(statistics.median(value.baseline_bytes for value in known)),
        loaded_bytes=int(statistics.median(value.loaded_bytes for value in known)),
        peak_bytes=int(statistics.median(value.peak_bytes for value in known)),
        method=known[0].method,
    )


def accuracy_drop(baseline: Cell, cell: Cell) -> AccuracyDrop | None:
    """What `cell` loses against `baseline`; None where they were not scored on the same images."""
    ours, theirs = cell.accuracy, baseline.accuracy
    if ours is None or theirs is None or ours.sha256 != theirs.sha256:
        return None
    same = sum(
        a >= 0 and b >= 0 and a - ours.label_offset == b - theirs.label_offset
        for a, b in zip(ours.predictions, theirs.predictions, strict=True)
    )
    return AccuracyDrop(
        drop_points=theirs.top1 - ours.top1,
        ci=drop_interval(theirs.correct, ours.correct),
        mcnemar_p=mcnemar_exact(theirs.correct, ours.correct),
        agreement=same / ours.samples,
    )
