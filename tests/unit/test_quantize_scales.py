"""Scales, zero points and integers, against the arithmetic of ONNX's QuantizeLinear done by hand."""

from __future__ import annotations

import numpy as np
import pytest

from edgebench.quantize.scales import activation_scale, bias_integers, least_weight_scale, weight_integers


def test_an_activation_scale_covers_the_range_with_zero_as_an_integer() -> None:
    # 255 steps of 4 / 255 from -1 on; zero lies 63.75 steps above the least, which rounds to 64.
    scale = activation_scale(-1, 3, "uint8", symmetric=False)
    assert scale.scale == pytest.approx(4 / 255)
    assert (scale.zero_point, scale.dtype) == (64, "uint8")


def test_what_is_never_negative_uses_all_levels() -> None:
    assert activation_scale(0, 6, "uint8", symmetric=False).zero_point == 0
    assert activation_scale(0, 6, "int8", symmetric=False).zero_point == -128
    assert activation_scale(0, 65.535, "uint16", symmetric=False).scale == pytest.approx(0.001)


def test_a_symmetric_scale_has_its_zero_point_in_the_middle() -> None:
    signed = activation_scale(-1, 3, "int8", symmetric=True)
    assert (signed.zero_point, signed.scale) == (0, pytest.approx(3 / 127))
    assert activation_scale(-1, 3, "uint8", symmetric=True).zero_point == 128


def test_a_range_without_zero_is_refused() -> None:
    with pytest.raises(ValueError, match=r"zero is not within 1\.\.3"):
        activation_scale(1, 3, "uint8", symmetric=False)


def test_a_tensor_that_is_always_zero_has_a_usable_scale() -> None:
    assert activation_scale(0, 0, "uint8", symmetric=False).scale == 1


def test_weights_have_a_scale_for_each_channel() -> None:
    weights = np.array([[1.27, -0.632], [0.012, 0.02]], np.float32)
    integers, scales, zero_point = weight_integers(weights, 0, "int8", bits=8, least_scale=None)
    assert scales == pytest.approx([0.01, 0.02 / 127])
    # -63.2 and 76.2 before rounding.
    assert integers.tolist() == [[127, -63], [76, 127]]
    assert zero_point == 0


def test_seven_bits_of_a_weight_leave_room_for_a_sum_of_two_products() -> None:
    weights = np.array([[1.0, -1.0]], np.float32)
    integers, _, _ = weight_integers(weights, 0, "int8", bits=7, least_scale=None)
    assert np.abs(integers).max() == 63
    # What x86 without VNNI adds in 16 bits.
    assert 2 * 255 * int(np.abs(integers).max()) <= np.iinfo(np.int16).max


def test_unsigned_weights_are_symmetric_around_128() -> None:
    integers, _, zero_point = weight_integers(
        np.array([[-1.0, 0, 1]], np.float32), 0, "uint8", bits=8, least_scale=None
    )
    assert (integers.tolist(), zero_point) == ([[1, 128, 255]], 128)


def test_the_bias_of_a_filter_that_was_pruned_away_stays_exact() -> None:
    weights, bias, data_scale = np.zeros((1, 4), np.float32), np.array([0.3], np.float32), np.float32(0.02)
    least = least_weight_scale(bias, data_scale)
    _, scales, _ = weight_integers(weights, 0, "int8", bits=8, least_scale=least)
    assert bias_integers(bias, data_scale * scales) * data_scale * scales == pytest.approx(bias, rel=1e-6)


def test_a_large_bias_beside_small_weights_does_not_leave_int32() -> None:
    weights, bias, data_scale = np.full((1, 2), 1e-9, np.float32), np.array([50.0], np.float32), np.float32(0.01)
    _, scales, _ = weight_integers(weights, 0, "int8", bits=8, least_scale=least_weight_scale(bias, data_scale))
    assert bias_integers(bias, data_scale * scales) * data_scale * scales == pytest.approx(bias, rel=1e-6)
