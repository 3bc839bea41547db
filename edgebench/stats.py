"""From raw samples to figures that say how sure they are. Pure functions of integer nanoseconds.

The process, not the iteration, is the independent sample: iterations within one process share its memory layout and its
moment, so an interval over thousands of them is narrow and wrong. Every interval here is Student's t over one value per
process, on logarithms where it is a time or a ratio, because times spread by factors (Kalibera and Jones, "Rigorous
benchmarking in reasonable time", 2013). Where values of successive processes resemble each other, because the machine
drifts, it is widened by what their first autocorrelation takes away.
"""

from __future__ import annotations

import functools
import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

__all__ = [
    "Interval",
    "Latency",
    "Percentile",
    "Ratio",
    "interval",
    "log_interval",
    "paired_ratio",
    "percentile",
    "ratio",
    "required_samples",
    "summarise",
    "t_quantile",
    "unpaired_ratio",
]

# Two-sided 95 % quantiles of Student's t for 1..30 degrees of freedom (NIST handbook of statistics, 1.3.6.7.2).
_T95 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip


_LEAST_FOR_INTERVAL = 3
# Fewer values than this tell nothing of how they follow each other.
_LEAST_FOR_CORRELATION = 5
_MOST_CORRELATION = 0.8
_TRIMMED = 0.125
# A lap's pair is a sound median of differences from so many laps on.
_LEAST_COMMON_LAPS = 3
# MLPerf Inference's early-stopping rule: with this confidence the true percentile is no higher than the observed one.
_PERCENTILE_DOUBT = 0.01

Interval = tuple[float, float]
Laps = Mapping[int, Sequence[int]]


@dataclass(frozen=True)
class Percentile:
    """A percentile in milliseconds with its 95 % bounds (None for fewer than three processes); an upper bound of None
    lies beyond all samples. `value_ms` is None where there are fewer samples than `required`."""

    value_ms: float | None
    ci_ms: tuple[float, float | None] | None
    required: int


@dataclass(frozen=True)
class Latency:
    """Warm latency in milliseconds. `p50_ms` is the geometric mean of the processes' medians, `p50_ci_ms` its 95 %
    interval (None for fewer than three processes). `throughput_per_s` counts inputs, not batches, over all timed runs,
    with its 95 % interval."""

    p50_ms: float
    p50_ci_ms: Interval | None
    tail: Mapping[float, Percentile]
    mean_ms: float
    stdev_ms: float | None
    min_ms: float
    max_ms: float
    samples: int
    processes: int
    throughput_per_s: float
    throughput_ci: Interval | None


@dataclass(frozen=True)
class Ratio:
    """Latency over the baseline's, below 1 is faster; `ci` is its 95 % interval, None for fewer than three rounds."""

    ratio: float
    ci: Interval | None
    rounds: int


def summarise(
    processes: Sequence[Sequence[int]], batch_size: int = 1, percentiles: Sequence[float] = (90.0, 95.0, 99.0)
) -> Latency | None:
    """The figures of one cell from its samples in ns, one sequence per process in their order; None without samples."""
    measured = [samples for samples in processes if samples]
    if not measured:
        return None
    pooled = sorted(sample for samples in measured for sample in samples)
    centre, bounds = log_interval([statistics.median(samples) for samples in measured])
    rate, rates = log_interval([batch_size * len(samples) * 1e9 / sum(samples) for samples in measured])
    return Latency(
        p50_ms=centre / 1e6,
        p50_ci_ms=None if bounds is None else (bounds[0] / 1e6, bounds[1] / 1e6),
        tail={percent: percentile(measured, percent) for percent in percentiles},
        mean_ms=statistics.fmean(pooled) / 1e6,
        stdev_ms=statistics.stdev(pooled) / 1e6 if len(pooled) > 1 else None,
        min_ms=pooled[0] / 1e6,
        max_ms=pooled[-1] / 1e6,
        samples=len(pooled),
        processes=len(measured),
        throughput_per_s=rate,
        throughput_ci=rates,
    )


def ratio(rounds: Sequence[tuple[Laps, Laps]]) -> Ratio | None:
    """Candidate over baseline from (baseline, candidate) of each round: the samples of their processes by lap.

    A round's value is the median over laps of the ratio of the two turns' medians, which were measured directly one
    after the other: drift falls on both alike, and a load that came and went spoils some laps and not the median.
    """
    values = [value for baseline, candidate in rounds if (value := _round_ratio(baseline, candidate)) is not None]
    if not values:
        return None
    return Ratio(*log_interval(values), len(values))


def paired_ratio(pairs: Sequence[tuple[float, float]]) -> Ratio | None:
    """After over before from (before, after) of each round, for figures that a process has one of."""
    if not pairs:
        return None
    return Ratio(*log_interval([after / before for before, after in pairs]), len(pairs))


def unpaired_ratio(before: Sequence[float], after: Sequence[float]) -> Ratio | None:
    """After over before from processes that were not measured in alternation; the interval is Welch's (1947)."""
    logs = [[math.log(value) for value in values] for values in (before, after)]
    if not all(logs):
        return None
    difference = statistics.fmean(logs[1]) - statistics.fmean(logs[0])
    least = min(map(len, logs))
    if least < _LEAST_FOR_INTERVAL:
        return Ratio(math.exp(difference), None, least)
    errors = [_inflation(values) ** 2 * statistics.variance(values) / len(values) for values in logs]
    error = sum(errors)
    freedom = least - 1
    if error > 0:
        # Welch and Satterthwaite's; rounded down, which is the wider interval.
        parts = [part**2 / (len(values) - 1) for part, values in zip(errors, logs, strict=True)]
        freedom = max(freedom, int(error**2 / sum(parts)))
    half = t_quantile(freedom) * math.sqrt(error)
    return Ratio(math.exp(difference), (math.exp(difference - half), math.exp(difference + half)), least)


def _round_ratio(baseline: Laps, candidate: Laps) -> float | None:
    common = [lap for lap in baseline if lap in candidate]
    if len(common) >= _LEAST_COMMON_LAPS:
        return statistics.median(statistics.median(candidate[lap]) / statistics.median(baseline[lap]) for lap in common)
    theirs = [sample for samples in baseline.values() for sample in samples]
    ours = [sample for samples in candidate.values() for sample in samples]
    return statistics.median(ours) / statistics.median(theirs) if theirs and ours else None


def percentile(processes: Sequence[Sequence[int]], percent: float) -> Percentile:
    """A percentile over all samples, interpolated linearly, with bounds.

    The bounds are Woodruff's (1952): the samples at `percent` plus and minus t standard errors of the share of samples
    below it, and that error is the larger of the binomial one and of the one over processes.
    """
    required = required_samples(percent)
    pooled = sorted(sample for samples in processes for sample in samples)
    if len(pooled) < required:
        return Percentile(None, None, required)
    value = _at(pooled, percent / 100)
    share = percent / 100
    if len(processes) < _LEAST_FOR_INTERVAL:
        return Percentile(value / 1e6, None, required)
    below = [sum(sample <= value for sample in samples) / len(samples) for samples in processes]
    spread = statistics.stdev(below) / math.sqrt(len(below))
    binomial = math.sqrt(share * (1 - share) / len(pooled))
    half = max(_T95[-1] * binomial, t_quantile(len(below) - 1) * spread)
    upper = None if share + half > 1 - 1 / len(pooled) else _at(pooled, share + half) / 1e6
    # A process's share is skewed downwards near 1: on the logistic scale the lower bound is the farther one, and holds.
    odds = math.log(share / (1 - share)) - half / (share * (1 - share))
    lower = min(share - half, 1 / (1 + math.exp(-odds)))
    return Percentile(value / 1e6, (_at(pooled, max(0.0, lower)) / 1e6, upper), required)


def _at(ordered: Sequence[int], share: float) -> float:
    position = (len(ordered) - 1) * share
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (position - below) * (ordered[above] - ordered[below])


@functools.cache
def required_samples(percent: float) -> int:
    """How many samples a percentile needs: 64 for p90, 130 for p95, 662 for p99 (MLPerf Inference, early stopping).

    So many that with 99 % confidence two or more of them lie above the true percentile.
    """
    above = 1 - percent / 100
    count = 2
    while (1 - above) ** count + count * above * (1 - above) ** (count - 1) > _PERCENTILE_DOUBT:
        count += 1
    return count


def t_quantile(degrees_of_freedom: int) -> float:
    """The two-sided 95 % quantile of Student's t; above 30 degrees of freedom that of 30, which is the wider."""
    return _T95[min(degrees_of_freedom, len(_T95)) - 1]


def log_interval(values: Sequence[float]) -> tuple[float, Interval | None]:
    """Geometric mean of positive values in the order of their measurement, and its 95 % interval where there are three
    or more: the interval of two spans powers of ten and says nothing."""
    centre, found = interval([math.log(value) for value in values])
    return math.exp(centre), None if found is None else (math.exp(found[0]), math.exp(found[1]))


def interval(values: Sequence[float]) -> tuple[float, Interval | None]:
    """Mean of values in the order of their measurement, and its 95 % interval where there are three or more.

    From eight on an eighth of them is trimmed at each end, and the interval is of winsorised values (Tukey and
    McLaughlin 1963): one process that a burst of load fell on shall not make all of a run unknown.
    """
    count = len(values)
    trimmed = int(count * _TRIMMED)
    ordered = sorted(values)[trimmed : count - trimmed]
    centre = statistics.fmean(ordered)
    if count < _LEAST_FOR_INTERVAL:
        return centre, None
    kept = [min(max(value, ordered[0]), ordered[-1]) for value in values]
    error = _inflation(kept) * statistics.stdev(kept) * math.sqrt(count) / len(ordered)
    half = t_quantile(len(ordered) - 1) * error
    return centre, (centre - half, centre + half)


def _inflation(values: Sequence[float]) -> float:
    """How much wider an interval of the mean is because values resemble their neighbours in time."""
    correlation = _autocorrelation(values)
    return math.sqrt((1 + correlation) / (1 - correlation))


def _autocorrelation(values: Sequence[float]) -> float:
    """Of neighbours in time, in 0..0.8, with Kendall's correction of its bias for short series (1954)."""
    count = len(values)
    centre = statistics.fmean(values)
    total = sum((value - centre) ** 2 for value in values)
    if count < _LEAST_FOR_CORRELATION or total == 0:
        return 0.0
    raw = sum((a - centre) * (b - centre) for a, b in itertools.pairwise(values)) / total
    return min(max(raw + (1 + 3 * raw) / count, 0.0), _MOST_CORRELATION)
