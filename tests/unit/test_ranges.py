"""Ranges from statistics, against hand calculations, scipy, and searches of all there is."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import ArrayLike, NDArray

from edgebench.quantize.ranges import ranges
from edgebench.quantize.settings import RANGE_METHODS as METHODS
from edgebench.quantize.statistics import BINS, Accumulator, Statistics, TensorStatistics

GENERATOR = np.random.default_rng(7)
NORMAL = GENERATOR.normal(0, 1, 20_000)
TENSORS = {
    "normal": NORMAL,
    "one-sided": np.maximum(GENERATOR.normal(0, 1, 20_000), 0),
    "bimodal": np.concatenate([GENERATOR.normal(-1, 0.1, 10_000), GENERATOR.normal(5, 0.2, 10_000)]),
    "heavy tails": GENERATOR.standard_t(3, 20_000),
    "negative": -np.abs(GENERATOR.normal(0, 1, 20_000)),
}


def _statistics(**tensors: ArrayLike) -> Statistics:
    found = {}
    for name, values in tensors.items():
        array = np.asarray(values, np.float32)
        accumulator = Accumulator()
        accumulator.update(array.min(), array.max(), array)
        found[name] = accumulator.result()
    return Statistics(found, 1)


def _range(values: ArrayLike, method: str, *, symmetric: bool = False, **options: float) -> tuple[float, float]:
    low, high = ranges(_statistics(x=values), method, symmetric=symmetric, **options)["x"]  # type: ignore[arg-type]
    return float(low), float(high)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("values", [*TENSORS.values(), [0.0] * 9, [3.0] * 9, [-3.0] * 9], ids=str)
def test_zero_is_within_and_no_extreme_is_exceeded(values: NDArray[np.float64], method: str, symmetric: bool) -> None:
    low, high = _range(values, method, symmetric=symmetric)
    least, greatest = np.float32(np.min(values)), np.float32(np.max(values))
    if symmetric:
        assert low == -high
        assert 0 <= high <= max(-least, greatest)
    else:
        assert min(least, 0) <= low <= 0 <= high <= max(greatest, 0)
    # The only values that there are, are not cut off.
    if len(values) == 9:
        assert max(-low, high) == max(-least, greatest)
    assert math.copysign(1, high) == 1


def test_minmax_keeps_the_extremes_of_all_inputs() -> None:
    accumulator = Accumulator()
    for low, high in ((-1, 2), (-4, 1), (0, 3)):
        accumulator.update(low, high)
    statistics = Statistics({"x": accumulator.result()}, 3)
    assert ranges(statistics, "minmax", symmetric=False) == {"x": (-4, 3)}
    assert ranges(statistics, "minmax", symmetric=True) == {"x": (-4, 4)}
    # (-1 - 4 + 0) / 3 and (2 + 1 + 3) / 3.
    assert ranges(statistics, "moving-average", symmetric=False)["x"] == pytest.approx((-5 / 3, 2))


@pytest.mark.parametrize("percentile", [99.0, 90.0])
def test_a_percentile_is_numpys_to_a_bin(percentile: float) -> None:
    for values in TENSORS.values():
        low, high = _range(values, "percentile", percentile=percentile)
        outside = (100 - percentile) / 2
        width = _statistics(x=values).tensors["x"].bin_width
        expected = np.percentile(values, [outside, 100 - outside])
        # Zero is within: a tensor of one sign ends there.
        assert low == pytest.approx(min(expected[0], 0), abs=1.01 * width)
        assert high == pytest.approx(max(expected[1], 0), abs=1.01 * width)


def test_a_symmetric_percentile_is_that_of_the_magnitudes() -> None:
    values = TENSORS["bimodal"]
    low, high = _range(values, "percentile", symmetric=True, percentile=99.0)
    assert high == pytest.approx(np.percentile(np.abs(values), 99), abs=0.005)
    assert low == -high


def test_all_of_the_values_are_kept_by_percentile_100() -> None:
    assert _range([-1, 0, 3], "percentile", percentile=100.0) == (-1, 3)


def _levels(low: float, high: float, levels: int) -> NDArray[np.float64]:
    """The numbers that the integers stand for; zero is one of them."""
    step = (high - low) / (levels - 1)
    return step * (np.arange(levels) - round(-low / step))


def _squared_error(values: NDArray[np.float64], low: float, high: float, levels: int) -> float:
    """By looking for the nearest level of each value."""
    numbers = _levels(low, high, levels)
    places = np.clip(np.searchsorted(numbers, values), 1, levels - 1)
    nearest = np.minimum(np.abs(values - numbers[places - 1]), np.abs(values - numbers[places]))
    return float((nearest**2).mean())


@pytest.mark.parametrize("levels", [16, 256])
@pytest.mark.parametrize("name", TENSORS)
def test_mse_is_within_two_percent_of_the_best_of_all_ranges(name: str, levels: int) -> None:
    values = TENSORS[name][:4000]
    low, high = _range(values, "mse", levels=levels)
    shares = np.linspace(0.02, 1, 50)
    least, greatest = min(values.min(), 0), max(values.max(), 0)
    best = min(
        _squared_error(values, least * a, greatest * b, levels)
        for a in (shares if least < 0 else [0])
        for b in (shares if greatest > 0 else [0])
    )
    assert _squared_error(values, low, high, levels) <= 1.02 * best


def test_mse_cuts_off_what_is_rare_and_far() -> None:
    # Values up to 1, and one of 20. Keeping it costs (20 / 255) ** 2 / 12 = 5.1e-4 for each. Cutting at 4 costs
    # (20 - 4) ** 2 / 100,000 = 2.6e-3 where it is one of 100,000, and 8.5e-5 where it is one of 3,000,000.
    values = np.append(GENERATOR.uniform(0, 1, 100_000), 20)
    assert _range(values, "mse")[1] > 15
    assert _range(np.append(GENERATOR.uniform(0, 1, 3_000_000), 20), "mse")[1] < 10


def _divergences(item: TensorStatistics, levels: int) -> dict[float, float]:
    """Of each eighth threshold by scipy's entropy, written out after NVIDIA's description: bins beyond the threshold go
    to the last one in P, and Q spreads each level's mass over its bins that hold any."""
    stats = pytest.importorskip("scipy.stats", reason="needs scipy")
    magnitudes = item.counts[BINS:].astype(float)
    magnitudes[0] = magnitudes[1]
    last = math.ceil(item.high / item.bin_width)
    found = {}
    for kept in range(last, levels, -8):
        p = magnitudes[:kept].copy()
        p[-1] += magnitudes[kept:].sum()
        q = np.zeros(kept)
        for level in range(levels):
            bins = range(level * kept // levels, (level + 1) * kept // levels)
            full = [place for place in bins if magnitudes[place] > 0]
            q[full] = magnitudes[full].sum() / max(1, len(full))
        found[kept * item.bin_width] = float(stats.entropy(p, q))
    return found


@pytest.mark.parametrize("degrees", [2, 3, 6])
def test_entropy_is_the_least_divergence_that_scipy_finds(degrees: int) -> None:
    values = np.abs(np.random.default_rng(degrees).standard_t(degrees, 50_000))
    statistics = _statistics(x=values)
    _, high = ranges(statistics, "entropy", symmetric=False)["x"]
    divergences = _divergences(statistics.tensors["x"], 256)
    assert float(high) == min(divergences, key=divergences.__getitem__)
    assert high < statistics.tensors["x"].high


def test_entropy_keeps_what_has_no_tail() -> None:
    assert _range(GENERATOR.uniform(0, 1, 100_000), "entropy")[1] == pytest.approx(1, abs=0.01)


def test_zeros_of_a_relu_do_not_decide_entropys_range() -> None:
    values = np.abs(GENERATOR.standard_t(3, 20_000))
    with_zeros = np.append(values, np.zeros(200_000))
    assert _range(with_zeros, "entropy") == _range(values, "entropy")


@pytest.mark.parametrize("method", ["percentile", "entropy", "mse"])
def test_a_method_that_reads_histograms_says_that_there_are_none(method: str) -> None:
    accumulator = Accumulator()
    accumulator.update(-1, 1)
    with pytest.raises(ValueError, match="needs histograms"):
        ranges(Statistics({"x": accumulator.result()}, 1), method, symmetric=False)


@pytest.mark.parametrize(("method", "percentile"), [("median", 99.0), ("percentile", 0.0), ("percentile", 101.0)])
def test_what_is_no_method_is_refused(method: str, percentile: float) -> None:
    with pytest.raises(ValueError, match=r"unknown calibration method|not between"):
        ranges(_statistics(x=[1, 2]), method, symmetric=False, percentile=percentile)
