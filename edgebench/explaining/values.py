"""What the values of a tensor say: how its range is used, and how far they are from the float model's.

Sums are updated while the inputs go by, so that memory does not grow with their number. SQNR is the power of the float
model's values over that of the difference, `10 log10(sum f^2 / sum (f - q)^2)`.

Equalisation scales channels, so that values differ by a factor for each channel though nothing is lost. Where such
factors alone make a tensor agree, the noise is what remains after the best ones (least squares), in the float model's
scale, and the tensor counts as rescaled.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgebench.explaining.scheme import Quantization

__all__ = ["Observed", "Observer", "sqnr_of"]

# Factors fit anything where a channel has few values.
_LEAST_VALUES = 16
# What factors must gain, and reach, before a tensor counts as rescaled; clipping gains little by them.
_RESCALED_GAIN_DB = 10.0
_RESCALED_DB = 15.0


@dataclass(frozen=True)
class Observed:
    """One tensor over all inputs.

    `below` and `above` are the shares of real values beyond the quantized range by more than half a step, `at_ends`
    that of values other than zero on its first or last integer; `used` is the share of the integers from the least to the greatest that
    occurred. These are None for a tensor without a scale, the former two also where the real values are not known.
    `low` and `high` are the extreme real values, `channels` the largest magnitude of each channel.
    `noise` is the power of the difference to the float model over that of the signal, `noise_before` the same before
    the tensor was rounded; None where the float model has no such tensor.
    """

    count: int
    low: float | None
    high: float | None
    below: float | None
    above: float | None
    at_ends: float | None
    used: float | None
    channels: tuple[float, ...]
    noise: float | None
    noise_before: float | None
    rescaled: bool

    @property
    def sqnr_db(self) -> float | None:
        """Infinite where the values are the same."""
        return sqnr_of(self.noise)

    @property
    def clipped(self) -> float | None:
        """The share of real values beyond the range."""
        return None if self.below is None or self.above is None else self.below + self.above


def sqnr_of(noise: float | None) -> float | None:
    """In dB, of noise power over signal power."""
    if noise is None:
        return None
    return -10 * math.log10(noise) if noise > 0 else math.inf


class Observer:
    """Gathers what is to be known of one tensor. `how` is its quantization, None for a tensor that stays float."""

    def __init__(self, how: Quantization | None) -> None:
        self._how = how
        self._count = 0
        self._real_count = self._below = self._above = self._ends = 0
        self._low, self._high = math.inf, -math.inf
        self._least, self._most = math.inf, -math.inf
        self._channels: NDArray[np.float64] | None = None
        self._sums: NDArray[np.float64] | None = None
        self._sums_before: NDArray[np.float64] | None = None
        self._per_channel = 0

    def see(
        self, value: NDArray[Any], real: NDArray[Any] | None, expected: NDArray[Any] | None, *, one_sided: bool = False
    ) -> None:
        """One inference's values.

        Args:
            value: the integers, or the floats of a tensor without a scale.
            real: what was rounded to them, None where that is not known.
            expected: the float model's.
            one_sided: the range begins at zero because it replaces a ReLU: below it nothing is clipped.
        """
        self._count += value.size
        read = value.astype(np.float64)
        if self._how is not None:
            self._see_integers(value)
            read = self._how.real(value).astype(np.float64)
        if real is not None:
            self._see_range(real, one_sided)
        shown = read if real is None else real
        magnitudes = _by_channel(np.abs(shown)).max(axis=1) if shown.size else np.zeros(0)
        self._channels = magnitudes if self._channels is None else np.maximum(self._channels, magnitudes)
        if expected is not None and expected.shape == read.shape:
            sums = _powers(expected.astype(np.float64), read)
            self._sums = sums if self._sums is None else self._sums + sums
            self._per_channel += read.size // len(magnitudes)
            if real is not None:
                before = _powers(expected.astype(np.float64), real.astype(np.float64))
                self._sums_before = before if self._sums_before is None else self._sums_before + before

    def _see_integers(self, value: NDArray[Any]) -> None:
        assert self._how is not None
        least, most = self._how.levels
        # A range may well begin at zero.
        ends = {least, most} - set(self._how.zero_point.reshape(-1).tolist())
        self._ends += sum(int(np.count_nonzero(value == end)) for end in ends)
        self._least = min(self._least, int(value.min(initial=most)))
        self._most = max(self._most, int(value.max(initial=least)))

    def _see_range(self, real: NDArray[Any], one_sided: bool) -> None:
        self._low = min(self._low, float(real.min(initial=math.inf)))
        self._high = max(self._high, float(real.max(initial=-math.inf)))
        if self._how is None or self._how.scale.size > 1:
            return
        low, high = self._how.range
        half = float(self._how.scale.reshape(-1)[0]) / 2
        self._real_count += real.size
        self._above += int(np.count_nonzero(real > high + half))
        if not one_sided:
            self._below += int(np.count_nonzero(real < low - half))

    def found(self) -> Observed:
        """What was seen."""
        used = None
        if self._how is not None and self._most >= self._least:
            least, most = self._how.levels
            used = (self._most - self._least + 1) / (most - least + 1)
        noise, rescaled = _noise(self._sums, self._per_channel)
        before, _ = _noise(self._sums_before, self._per_channel)
        known = self._real_count > 0
        return Observed(
            count=self._count,
            low=self._low if math.isfinite(self._low) else None,
            high=self._high if math.isfinite(self._high) else None,
            below=self._below / self._real_count if known else None,
            above=self._above / self._real_count if known else None,
            at_ends=None if self._how is None or not self._count else self._ends / self._count,
            used=used,
            channels=() if self._channels is None else tuple(map(float, self._channels)),
            noise=noise,
            noise_before=before,
            rescaled=rescaled,
        )


def _by_channel(values: NDArray[Any]) -> NDArray[Any]:
    """`[C, ...]`: channels are second in images, last in rows of tokens; anything else is one channel."""
    if values.ndim >= 4:
        return np.moveaxis(values, 1, 0).reshape(values.shape[1], -1)
    return np.moveaxis(values, -1, 0).reshape(values.shape[-1], -1) if values.ndim == 3 else values.reshape(1, -1)


def _powers(expected: NDArray[np.float64], read: NDArray[np.float64]) -> NDArray[np.float64]:
    """`[4, C]`: the sums of f^2, f q, q^2 and (f - q)^2."""
    f, q = _by_channel(expected), _by_channel(read)
    return np.stack([(f * f).sum(axis=1), (f * q).sum(axis=1), (q * q).sum(axis=1), ((f - q) ** 2).sum(axis=1)])


def _noise(sums: NDArray[np.float64] | None, per_channel: int) -> tuple[float | None, bool]:
    if sums is None:
        return None, False
    ff, fq, qq, difference = sums
    signal = float(ff.sum())
    if signal == 0:
        return None, False
    noise = float(difference.sum()) / signal
    alive = (ff > 0) & (fq > 0)
    if per_channel >= _LEAST_VALUES and noise > 0 and alive.any():
        factors = np.where(alive, fq / np.where(alive, ff, 1), 1)
        left = np.where(alive, np.maximum(qq - factors * fq, 0) / factors**2, difference)
        fitted = float(left.sum()) / signal
        gained = 10 * math.log10(noise / max(fitted, 1e-30))
        if gained >= _RESCALED_GAIN_DB and fitted <= 10 ** (-_RESCALED_DB / 10):
            return fitted, True
    return noise, False
