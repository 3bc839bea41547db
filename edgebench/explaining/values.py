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
# What factors must gain, and reach, before a tensor counts as rescaled. Clipping makes values smaller, so that the
# noise is the signal at most, and what the best factors leave of it is far above a tenth.
_RESCALED_GAIN_DB = 10.0
# Factors of a tenth make so much; rounding alone makes small ones too.
_RESCALED_NOISE = 0.01
_RESCALED_DB = 3.0


@dataclass(frozen=True)
class Observed:
    """One tensor over all inputs.

    low, high: the extreme real values.
    below, above: the shares of real values beyond the quantized range by more than half a step.
    at_ends: the share of values other than zero on the first or the last integer.
    used: the share of the integers from the least to the greatest that occurred.
    channels: the largest magnitude of each channel; channel_noise: as noise, of each by itself.
    noise: the power of the difference to the float model over that of the signal; noise_before: the same before the
        tensor was rounded.
    rescaled: it agrees with the float model but for a factor for each channel.

    None is what is not known: of a tensor without a scale, or without a counterpart.
    """

    count: int
    low: float | None
    high: float | None
    below: float | None
    above: float | None
    at_ends: float | None
    used: float | None
    channels: tuple[float, ...]
    channel_noise: tuple[float, ...]
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
        self,
        value: NDArray[Any],
        *,
        expected: NDArray[Any] | None = None,
        before: NDArray[Any] | None = None,
        one_sided: bool = False,
    ) -> None:
        """One inference's values.

        Args:
            value: the integers, or the floats of a tensor without a scale.
            expected: the float model's.
            before: what was rounded to `value`; without it the float model's values stand for what the range must hold.
            one_sided: the range begins at zero because it replaces a ReLU: below it nothing is clipped.
        """
        self._count += value.size
        read = value.astype(np.float64)
        if self._how is not None:
            self._see_integers(value)
            read = self._how.real(value).astype(np.float64)
        real = expected if before is None else before
        if real is not None and real.shape == read.shape:
            self._see_range(real, one_sided)
        magnitudes = _by_channel(np.abs(read if real is None else real)).max(axis=1, initial=0)
        self._channels = magnitudes if self._channels is None else np.maximum(self._channels, magnitudes)
        if expected is None or expected.shape != read.shape:
            return
        self._sums = _added(self._sums, expected, read)
        self._per_channel += read.size // len(magnitudes)
        if before is not None:
            self._sums_before = _added(self._sums_before, expected, before)

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
        before = _noise(self._sums_before, self._per_channel)
        # Before they are rounded the values tell the factors better.
        noise = _noise(self._sums, self._per_channel, before.factors)
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
            channel_noise=noise.channels,
            noise=noise.whole,
            noise_before=before.whole,
            rescaled=noise.factors is not None,
        )


def _by_channel(values: NDArray[Any]) -> NDArray[Any]:
    """`[C, ...]`: channels are second in images, last in rows of tokens; anything else is one channel."""
    if values.ndim >= 4:
        return np.moveaxis(values, 1, 0).reshape(values.shape[1], -1)
    return np.moveaxis(values, -1, 0).reshape(values.shape[-1], -1) if values.ndim == 3 else values.reshape(1, -1)


def _added(sums: NDArray[np.float64] | None, expected: NDArray[Any], read: NDArray[Any]) -> NDArray[np.float64]:
    """`[4, C]`: the sums of f^2, f q, q^2 and (f - q)^2 of each channel, with those of one inference more."""
    f, q = _by_channel(expected.astype(np.float64)), _by_channel(read.astype(np.float64))
    found = np.stack([(f * f).sum(axis=1), (f * q).sum(axis=1), (q * q).sum(axis=1), ((f - q) ** 2).sum(axis=1)])
    return found if sums is None else sums + found


@dataclass(frozen=True)
class _Noise:
    """Of all channels together, and of each; `factors` are those that were taken back, None where none were."""

    whole: float | None
    channels: tuple[float, ...] = ()
    factors: NDArray[np.float64] | None = None


def _noise(sums: NDArray[np.float64] | None, per_channel: int, factors: NDArray[np.float64] | None = None) -> _Noise:
    """The noise over the signal, after `factors` are taken back, or else those that make the channels agree."""
    if sums is None or not np.isfinite(sums).all() or not sums[0].sum() > 0:
        return _Noise(None)
    ff, fq, qq, difference = sums
    signal = np.where(ff > 0, ff, 1)
    if factors is None and per_channel >= _LEAST_VALUES and difference.sum() > ff.sum() * _RESCALED_NOISE:
        best = np.where((ff > 0) & (fq > 0), fq / signal, 1)
        left = np.maximum(qq / best**2 - 2 * fq / best + ff, 0).sum()
        gained_db = 10 * math.log10(difference.sum() / max(left, 1e-30))
        if gained_db >= _RESCALED_GAIN_DB and left <= ff.sum() * 10 ** (-_RESCALED_DB / 10):
            factors = best
    noise = difference if factors is None else np.maximum(qq / factors**2 - 2 * fq / factors + ff, 0)
    own = np.where(ff > 0, noise / signal, 0)
    return _Noise(float(noise.sum() / ff.sum()), tuple(map(float, own)), factors)
