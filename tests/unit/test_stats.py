"""Figures from raw samples, checked against scipy and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from edgebench.stats import percentile_ms, ratio, summarise, t_quantile


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
    assert ratio([[1]], []) is None


@pytest.mark.parametrize(("percent", "needed"), [(90.0, 64), (95.0, 130), (99.0, 662)])
def test_a_percentile_is_blank_below_the_samples_it_needs(percent: float, needed: int) -> None:
    assert percentile_ms([1] * (needed - 1), percent) is None
    assert percentile_ms([1_000_000] * needed, percent) == 1.0


@given(st.lists(st.integers(1, 10**9), min_size=64, max_size=200))
def test_a_percentile_is_numpys(samples: list[int]) -> None:
    ordered = sorted(samples)
    assert percentile_ms(ordered, 90.0) == pytest.approx(np.percentile(ordered, 90) / 1e6)


def test_a_ratio_of_pairs_is_untouched_by_drift_that_falls_on_both() -> None:
    drift = [1.0, 1.5, 3.0, 2.0]
    found = ratio([[int(1e6 * factor)] for factor in drift], [[int(2e6 * factor)] for factor in drift])
    assert found is not None
    assert found.ratio == pytest.approx(2.0)
    assert found.ci == pytest.approx((2.0, 2.0))


def test_throughput_counts_inputs_not_batches() -> None:
    found = summarise([[10_000_000] * 3, [10_000_000] * 3], batch_size=8)
    assert found is not None
    assert found.throughput_per_s == pytest.approx(800.0)


def test_throughput_counts_the_slow_runs_too() -> None:
    found = summarise([[1_000_000] * 9 + [91_000_000]])
    assert found is not None
    assert found.throughput_per_s == pytest.approx(100.0)  # ten runs in 0.1 s
