"""Figures from raw samples, checked against scipy and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from edgebench.stats import (
    Percentile,
    interval,
    log_interval,
    percentile,
    ratio,
    required_samples,
    summarise,
    t_quantile,
)


@pytest.mark.parametrize("degrees", [1, 2, 4, 9, 30])
def test_t_quantiles_are_those_of_scipy(degrees: int) -> None:
    assert t_quantile(degrees) == pytest.approx(scipy.stats.t.ppf(0.975, degrees), abs=1e-3)


def test_more_processes_than_the_table_has_never_narrow_the_interval_too_far() -> None:
    assert t_quantile(1000) >= scipy.stats.t.ppf(0.975, 1000)


def test_p50_and_its_interval_are_taken_over_processes() -> None:
    medians = [1_000_000, 2_000_000, 4_000_000]
    found = summarise([[value] * 7 for value in medians])
    assert found is not None
    logs = np.log(medians)
    low, high = scipy.stats.t.interval(0.95, 2, logs.mean(), scipy.stats.sem(logs))
    assert found.p50_ms == pytest.approx(2.0)
    assert found.p50_ci_ms == pytest.approx((math.exp(low) / 1e6, math.exp(high) / 1e6), rel=1e-3)
    assert found.samples == 21
    assert found.processes == 3


@pytest.mark.parametrize(("count", "trimmed"), [(8, 1), (15, 1), (16, 2), (40, 5)])
def test_from_eight_values_on_an_eighth_is_trimmed_at_each_end(count: int, trimmed: int) -> None:
    ordered = [*np.linspace(1.0, 1.1, count - 1), 5.0]
    # Large and small in turn: neighbours that resemble each other would widen the interval.
    values = [float(ordered[index // 2 if index % 2 else count - 1 - index // 2]) for index in range(count)]
    centre, bounds = interval(values)
    share = trimmed / count
    assert centre == pytest.approx(float(scipy.stats.trim_mean(values, share)))
    expected = scipy.stats.mstats.trimmed_mean_ci(values, limits=(share, share))
    assert bounds == pytest.approx(tuple(float(bound) for bound in expected), rel=2e-3)


def test_many_iterations_of_one_process_give_no_interval() -> None:
    found = summarise([list(range(1_000_000, 1_001_000))])
    assert found is not None
    assert found.p50_ci_ms is None


def test_two_processes_give_no_interval() -> None:
    found = summarise([[1_000_000], [1_100_000]])
    assert found is not None
    assert found.p50_ci_ms is None


def test_nothing_measured_has_no_figures() -> None:
    assert summarise([]) is None
    assert summarise([[], []]) is None
    assert ratio([]) is None
    assert ratio([({0: (1,)}, {})]) is None


@pytest.mark.parametrize(("percent", "needed"), [(90.0, 64), (95.0, 130), (99.0, 662), (99.9, 6636)])
def test_a_percentile_needs_the_samples_of_mlperfs_rule(percent: float, needed: int) -> None:
    assert required_samples(percent) == needed


def test_a_percentile_is_blank_below_the_samples_it_needs() -> None:
    assert percentile([[1] * 129], 95.0) == Percentile(None, None, 130)
    assert percentile([[1_000_000] * 130], 95.0) == Percentile(1.0, None, 130)


@given(st.lists(st.integers(1, 10**9), min_size=64, max_size=200))
def test_a_percentile_is_numpys(samples: list[int]) -> None:
    assert percentile([samples], 90.0).value_ms == pytest.approx(np.percentile(samples, 90) / 1e6)


def test_the_bounds_of_a_percentile_hold_the_true_one() -> None:
    # Exponential times in 5 processes of 100: the true p90 is -ln(0.1) = 2.303 means.
    generator = np.random.default_rng(0)
    held = 0
    for _ in range(300):
        processes = [[int(value) for value in generator.exponential(1e6, 100)] for _ in range(5)]
        low, high = percentile(processes, 90.0).ci_ms or (0.0, 0.0)
        held += low <= -math.log(0.1) <= (math.inf if high is None else high)
    # 95 % of 300 is 285; below 275 has a probability of 0.4 % if they hold 95 %.
    assert held >= 275


def test_processes_that_differ_widen_the_bounds_of_a_percentile_until_no_sample_bounds_it() -> None:
    alike = [list(range(1_000_000, 1_000_100))] * 5
    apart = [[sample + 1000 * number for sample in samples] for number, samples in enumerate(alike)]
    narrow, wide = percentile(alike, 90.0).ci_ms, percentile(apart, 90.0).ci_ms
    assert narrow is not None
    assert wide is not None
    assert wide[1] is None
    assert wide[0] / 1.0 <= 1.01


def test_a_ratio_of_pairs_is_untouched_by_drift_that_falls_on_both() -> None:
    drift = [1.0, 1.5, 3.0, 2.0]
    found = ratio([({0: [int(1e6 * factor)]}, {0: [int(2e6 * factor)]}) for factor in drift])
    assert found is not None
    assert found.ratio == pytest.approx(2.0)
    assert found.ci == pytest.approx((2.0, 2.0))


def test_drift_within_a_round_falls_on_the_turns_of_one_lap_alike() -> None:
    factors = [1.0, 1.5, 3.0, 2.0, 9.0]
    baseline = {lap: [int(1e6 * factor)] for lap, factor in enumerate(factors)}
    # The candidate missed the slowest lap, so its plain median would be 1.75 and not 2 times 1.1.
    candidate = {lap: [int(1.1e6 * factor)] for lap, factor in enumerate(factors[:4])}
    found = ratio([(baseline, candidate)])
    assert found is not None
    assert found.ratio == pytest.approx(1.1)


def test_a_load_that_came_and_went_spoils_laps_and_not_the_ratio() -> None:
    quiet = {lap: [1_000_000] for lap in range(9)}
    found = ratio([(quiet, {**quiet, 3: [5_000_000], 4: [7_000_000]})])
    assert found is not None
    assert found.ratio == pytest.approx(1.0)


def test_processes_that_were_not_loaded_together_are_paired_by_their_medians() -> None:
    found = ratio([({0: [1_000_000], 1: [1_200_000]}, {10: [2_000_000], 11: [2_400_000]})])
    assert found is not None
    assert found.ratio == pytest.approx(2.0)


def test_values_that_follow_each_other_widen_the_interval() -> None:
    shuffled = [1.0, 1.5, 1.1, 1.4, 1.2, 1.3, 1.05, 1.45]
    mixed, ordered = log_interval(shuffled)[1], log_interval(sorted(shuffled))[1]
    assert mixed is not None
    assert ordered is not None
    assert ordered[1] / ordered[0] > 1.5 * (mixed[1] / mixed[0] - 1) + 1


def test_throughput_counts_inputs_not_batches() -> None:
    found = summarise([[10_000_000] * 3, [10_000_000] * 3], batch_size=8)
    assert found is not None
    assert found.throughput_per_s == pytest.approx(800.0)


def test_throughput_counts_the_slow_runs_too() -> None:
    found = summarise([[1_000_000] * 9 + [91_000_000]])
    assert found is not None
    assert found.throughput_per_s == pytest.approx(100.0)  # ten runs in 0.1 s
