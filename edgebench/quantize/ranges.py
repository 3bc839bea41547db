"""Which range of values a tensor's integers cover, chosen by one of five methods from what `statistics.py` gathered.

minmax: the extremes of all inputs; nothing is clipped.
moving-average: the moving average of each input's extremes (Jacob et al. 2018, "Quantization and training of neural
    networks for efficient integer-arithmetic-only inference", section 3.1).
percentile: leaves out the outermost share of the values, half of it at each end.
entropy: the range whose quantized distribution diverges least from the real one, in the sense of Kullback and Leibler
    (Migacz 2017, "8-bit inference with TensorRT"), of those that end equally far on both sides of zero.
mse: the range of least expected squared error by clipping and rounding; both ends are searched.

The last three read the histogram, and are as fine as its bins: between 1,024 and 2,048 from zero to the extreme. None
reaches beyond the exact extremes, and zero is within all of them: padding and Relu make it, so it is to be exact.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from edgebench.quantize.settings import RANGE_METHODS
from edgebench.quantize.statistics import BINS, Statistics, TensorStatistics

__all__ = ["HISTOGRAM_METHODS", "ranges"]

HISTOGRAM_METHODS = frozenset({"percentile", "entropy", "mse"})

_Ends = tuple[float, float]

# Thresholds that are tried: every so many bins. A bin is about an eighth of a level.
_ENTROPY_STRIDE = 8
# Ends that are tried on each side, and how often the sides take turns.
_MSE_ENDS, _MSE_TURNS = 128, 8


def ranges(
    statistics: Statistics, method: str, *, symmetric: bool, levels: int = 256, percentile: float = 99.99
) -> dict[str, tuple[np.float32, np.float32]]:
    """The least and the greatest value that each tensor's integers stand for.

    Args:
        symmetric: both are equally far from zero.
        levels: how many integers there are.
        percentile: how many percent of the values `percentile` keeps.

    Raises:
        ValueError: an unknown method, a percentile outside of (0, 100], or no histograms for a method that reads them.
    """
    if method not in RANGE_METHODS:
        raise ValueError(f"unknown calibration method `{method}`; there are: {', '.join(RANGE_METHODS)}")
    if not 0 < percentile <= 100:
        raise ValueError(f"percentile {percentile} is not between 0 and 100")
    choose: dict[str, Callable[[TensorStatistics], _Ends]] = {
        "minmax": lambda item: (item.low, item.high),
        "moving-average": lambda item: (item.average_low, item.average_high),
        "percentile": lambda item: _percentile(item, percentile, symmetric=symmetric),
        "entropy": lambda item: _entropy(item, levels, symmetric=symmetric),
        "mse": lambda item: _mse(item, levels, symmetric=symmetric),
    }
    found = {}
    for name, item in statistics.tensors.items():
        if method in HISTOGRAM_METHODS and not item.counts.size:
            raise ValueError(f"`{method}` needs histograms, and the statistics of {name} have none")
        low, high = choose[method](item)
        # Not the negative zero.
        low, high = min(low, 0.0) + 0.0, max(high, 0.0) + 0.0
        if symmetric:
            high = max(-low, high) + 0.0
            low = 0.0 - high
        found[name] = (np.float32(low), np.float32(high))
    return found


def _percentile(item: TensorStatistics, percentile: float, *, symmetric: bool) -> _Ends:
    """The innermost edges of bins beyond which no more than that share lies."""
    outside = (100 - percentile) / 100 * item.counts.sum()
    if symmetric:
        magnitudes = item.counts[BINS:] + item.counts[BINS - 1 :: -1]
        high = _bins_kept(magnitudes, outside) * item.bin_width
        return _within(item, -high, high)
    negative = _bins_kept(item.counts[BINS - 1 :: -1], outside / 2)
    positive = _bins_kept(item.counts[BINS:], outside / 2)
    return _within(item, -negative * item.bin_width, positive * item.bin_width)


def _bins_kept(counts: NDArray[np.int64], outside: float) -> int:
    """How many of the bins, from zero outwards, leave at most `outside` values beyond them."""
    beyond = np.cumsum(counts[::-1])
    return len(counts) - int(np.searchsorted(beyond, outside, side="right"))


def _within(item: TensorStatistics, low: float, high: float) -> _Ends:
    return max(low, item.low), min(high, item.high)


def _entropy(item: TensorStatistics, levels: int, *, symmetric: bool) -> _Ends:
    """Of all thresholds, the one of least divergence.

    What lies outside a threshold counts as its outermost bins in the real distribution, and is not in the quantized
    one, where each level's mass is spread over those of its bins that hold any. As in NVIDIA's pytorch-quantization the
    bin that holds the exact zeros takes its neighbour's count: they are exact in every range, and there are so many of
    them after a Relu that nothing else would count.
    """
    if not item.bin_width:
        return item.low, item.high
    counts = item.counts.astype(np.float64)
    counts[BINS] = counts[BINS + 1]
    below, above = math.ceil(max(-item.low, 0) / item.bin_width), math.ceil(max(item.high, 0) / item.bin_width)
    largest = max(below, above)
    if symmetric:
        below = above = largest
    # With fewer bins than levels nothing would be lost inside, whatever is cut off.
    smallest = next((bins for bins in range(1, largest) if min(below, bins) + min(above, bins) >= levels), largest)
    # The widest first: of equals it is taken.
    tried = [*range(largest, smallest, -_ENTROPY_STRIDE), smallest]
    divergences = [_divergence(counts, BINS - min(below, bins), BINS + min(above, bins), levels) for bins in tried]
    threshold = tried[int(np.argmin(divergences))] * item.bin_width
    return _within(item, -threshold, threshold)


def _divergence(counts: NDArray[np.float64], first: int, last: int, levels: int) -> float:
    """KL(P || Q) in nats for the range of the bins from `first` up to `last`; infinite where Q lacks a part of P."""
    inside = counts[first:last]
    real = inside.copy()
    real[0] += counts[:first].sum()
    real[-1] += counts[last:].sum()
    levels = min(levels, len(inside))
    edges = np.arange(levels) * len(inside) // levels
    filled = np.add.reduceat(inside > 0, edges, dtype=np.int64)
    means = np.add.reduceat(inside, edges) / np.maximum(filled, 1)
    quantized = np.repeat(means, np.diff(edges, append=len(inside))) * (inside > 0)
    held = real > 0
    if not held.any() or not quantized[held].all():
        return math.inf
    p, q = real[held] / real.sum(), quantized[held] / quantized.sum()
    return float((p * np.log(p / q)).sum())


def _mse(item: TensorStatistics, levels: int, *, symmetric: bool) -> _Ends:
    """The ends of least expected squared error.

    They take turns: an end is searched while the other one stays. What clipping costs is convex in each end and what
    rounding costs in their distance, so that this finds the least of all, but for the grid's ripples.
    """
    held = np.flatnonzero(item.counts)
    values = (held - BINS + 0.5) * item.bin_width
    # The exact zeros of a Relu are most of their bin, and have no error.
    values[held == BINS] = 0
    share = item.counts[held] / max(1, item.counts.sum())
    tried = np.linspace(1, 1 / _MSE_ENDS, _MSE_ENDS)
    low, high = min(item.low, 0.0), max(item.high, 0.0)
    if symmetric:
        ends = max(-low, high) * tried
        best = ends[np.argmin(_errors(values, share, -ends, ends, levels))]
        return -float(best), float(best)
    lows, highs = low * tried, high * tried
    for _ in range(_MSE_TURNS):
        before = low, high
        low = float(lows[np.argmin(_errors(values, share, lows, np.full_like(lows, high), levels))])
        high = float(highs[np.argmin(_errors(values, share, np.full_like(highs, low), highs, levels))])
        if (low, high) == before:
            break
    return low, high


def _errors(
    values: NDArray[np.floating],
    share: NDArray[np.floating],
    lows: NDArray[np.floating],
    highs: NDArray[np.floating],
    levels: int,
) -> NDArray[np.floating]:
    """The expected squared error of each range: a uniform quantizer of `levels` whose zero is one of them."""
    steps = (highs - lows) / (levels - 1)
    steps = np.where(steps > 0, steps, 1.0)[:, None]
    zeros = np.rint(-lows[:, None] / steps)
    quantized = np.clip(np.rint(values / steps), -zeros, levels - 1 - zeros) * steps
    errors: NDArray[np.floating] = (quantized - values) ** 2 @ share
    return errors
