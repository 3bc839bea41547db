"""From raw samples to figures that say how sure they are. Pure functions of integer nanoseconds.

The process, not the iteration, is the independent sample: iterations within one process share its memory layout and its
moment, so an interval over thousands of them is narrow and wrong. Every interval here is Student's t over one value per
process, on logarithms, because times spread by factors (Kalibera and Jones, "Rigorous benchmarking in reasonable time",
2013).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Latency", "Ratio", "percentile_ms", "ratio", "summarise", "t_quantile"]

# Samples for a percentile at 99 % confidence: MLPerf Inference's early-stopping rule.
REQUIRED_SAMPLES = {90.0: 64, 95.0: 130, 99.0: 662, 99.9: 6636}

# Two-sided 95 % quantiles of Student's t for 1..30 degrees of freedom (NIST handbook of statistics, 1.3.6.7.2).
_T95 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip


_LEAST_FOR_INTERVAL = 3


@dataclass(frozen=True)
class Latency:
    """Warm latency in milliseconds. `p50_ms` is the geometric mean of the processes' medians, `p50_ci_ms` its 95 %
    interval (None for fewer than three processes). A percentile that the sample count cannot carry is None.
    `throughput_per_s` counts inputs, not batches, over the whole measured time."""

    p50_ms: float
    p50_ci_ms: tuple[float, float] | None
    p90_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    mean_ms: float
    stdev_ms: float | None
    min_ms: float
    max_ms: float
    samples: int
    processes: int
    throughput_per_s: float


@dataclass(frozen=True)
class Ratio:
    """Latency over the baseline's, below 1 is faster; `ci` is its 95 % interval, None for fewer than three rounds."""

    ratio: float
    ci: tuple[float, float] | None


def summarise(processes: Sequence[Sequence[int]], batch_size: int = 1) -> Latency | None:
    """The figures of one cell from its samples in ns, one sequence per process; None without samples."""
    measured = [samples for samples in processes if samples]
    if not measured:
        return None
    pooled = sorted(sample for samples in measured for sample in samples)
    centre, interval = _log_interval([statistics.median(samples) for samples in measured])
    return Latency(
        p50_ms=centre / 1e6,
        p50_ci_ms=None if interval is None else (interval[0] / 1e6, interval[1] / 1e6),
        p90_ms=percentile_ms(pooled, 90.0),
        p95_ms=percentile_ms(pooled, 95.0),
        p99_ms=percentile_ms(pooled, 99.0),
        mean_ms=statistics.fmean(pooled) / 1e6,
        stdev_ms=statistics.stdev(pooled) / 1e6 if len(pooled) > 1 else None,
        min_ms=pooled[0] / 1e6,
        max_ms=pooled[-1] / 1e6,
        samples=len(pooled),
        processes=len(measured),
        throughput_per_s=batch_size * len(pooled) * 1e9 / sum(pooled),
    )


def ratio(baseline: Sequence[Sequence[int]], candidate: Sequence[Sequence[int]]) -> Ratio | None:
    """Candidate over baseline, from pairs: process i of both ran in one round, so that drift falls on both alike."""
    pairs = [
        statistics.median(ours) / statistics.median(theirs)
        for theirs, ours in zip(baseline, candidate, strict=False)
        if theirs and ours
    ]
    if not pairs:
        return None
    centre, interval = _log_interval(pairs)
    return Ratio(centre, interval)


def percentile_ms(pooled: Sequence[int], percent: float) -> float | None:
    """A percentile of sorted ns in ms, interpolated linearly; None below the samples that it needs."""
    if len(pooled) < REQUIRED_SAMPLES[percent]:
        return None
    position = (len(pooled) - 1) * percent / 100
    below = math.floor(position)
    above = min(below + 1, len(pooled) - 1)
    return (pooled[below] + (position - below) * (pooled[above] - pooled[below])) / 1e6


def t_quantile(degrees_of_freedom: int) -> float:
    """The two-sided 95 % quantile of Student's t; above 30 degrees of freedom that of 30, which is the wider."""
    return _T95[min(degrees_of_freedom, len(_T95)) - 1]


def _log_interval(values: Sequence[float]) -> tuple[float, tuple[float, float] | None]:
    """Geometric mean of positive values, and its 95 % interval where there are three or more: the interval of two spans
    powers of ten and says nothing."""
    logs = [math.log(value) for value in values]
    centre = statistics.fmean(logs)
    if len(logs) < _LEAST_FOR_INTERVAL:
        return math.exp(centre), None
    half = t_quantile(len(logs) - 1) * statistics.stdev(logs) / math.sqrt(len(logs))
    return math.exp(centre), (math.exp(centre - half), math.exp(centre + half))
