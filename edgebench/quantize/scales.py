"""From ranges to scales and zero points, and from float constants to integers.

The scheme is that of ONNX's QuantizeLinear: `x = (q - zero_point) * scale` (operator set 13 and up), as in Jacob et
al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference" (2018). Weights are
symmetric, activations have a zero point.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Scale", "activation_scale", "bias_integers", "least_weight_scale", "weight_integers"]

_LIMITS = {"uint8": (0, 255), "int8": (-128, 127), "uint16": (0, 65535), "int16": (-32768, 32767)}
# A scale below this is no normal number once it is multiplied by that of weights.
_LEAST_SCALE = np.float32(1e-18)
_LARGEST_BIAS = 2.0**30


@dataclass(frozen=True)
class Scale:
    """How a tensor of activations is quantized: `(q - zero_point) * scale`, with `q` of `dtype`."""

    scale: np.float32
    zero_point: int
    dtype: str


def activation_scale(low: float, high: float, dtype: str, *, symmetric: bool) -> Scale:
    """The scale for values from `low` to `high`, between which zero must lie; a `symmetric` one has its zero point in
    the middle.

    Raises:
        ValueError: zero is not between them.
    """
    if not low <= 0 <= high:
        raise ValueError(f"zero is not within {low}..{high}")
    least, most = _LIMITS[dtype]
    if symmetric:
        middle = (least + most + 1) // 2
        return Scale(_one(max(-low, high) / (most - middle)), middle, dtype)
    scale = _one((high - low) / (most - least))
    return Scale(scale, int(np.clip(np.rint(least - low / scale), least, most)), dtype)


def weight_integers(
    weights: NDArray[np.float32], axis: int | None, dtype: str, *, bits: int, least_scale: NDArray[np.float32] | None
) -> tuple[NDArray[np.int8] | NDArray[np.uint8], NDArray[np.float32], int]:
    """(integers, scales, zero point) of symmetric weights, one scale per index of `axis`, or one for all (None).

    bits: how many of them are used: 7 leaves room in the 16-bit sums of processors that add products in pairs.
    least_scale: as many as there are scales, which become no smaller.
    """
    values = np.asarray(weights)
    largest = 2 ** (bits - 1) - 1
    others = tuple(index for index in range(values.ndim) if index != axis)
    peaks = np.abs(values).max(axis=others if axis is not None else None, initial=0.0)
    scales = np.asarray(peaks / largest, np.float32)
    if least_scale is not None:
        # A filter that was pruned away has a bias all the same, and this scale is fine enough for it.
        scales = np.maximum(scales, least_scale)
    scales = np.asarray(_safe(scales), np.float32)
    shaped = scales if axis is None else scales.reshape([-1 if index == axis else 1 for index in range(values.ndim)])
    integers = np.clip(np.rint(values / shaped), -largest, largest)
    zero_point = 128 if dtype == "uint8" else 0
    return (integers + zero_point).astype(dtype), scales, zero_point


def bias_integers(bias: NDArray[np.float32], scales: NDArray[np.float32]) -> NDArray[np.int32]:
    """A bias `[N]` in the scale of what it is added to: the product of that of data and weights, one or `[N]`."""
    limit = np.iinfo(np.int32).max
    return np.clip(np.rint(bias.astype(np.float64) / scales), -limit, limit).astype(np.int32)


def least_weight_scale(bias: NDArray[np.float32], data_scale: np.float32) -> NDArray[np.float32]:
    """What the scales of weights `[N]` must be at least, so that the `bias` `[N]` does not leave int32."""
    return (np.abs(bias) / (float(data_scale) * _LARGEST_BIAS)).astype(np.float32)


def _one(scale: float) -> np.float32:
    return np.float32(_safe(np.array(scale, np.float32)))


def _safe(scales: NDArray[np.float32]) -> NDArray[np.float32]:
    # A tensor that is always zero has no scale; any will do.
    return np.where(scales < _LEAST_SCALE, np.float32(1), scales)
