"""What is read off quantized files and off values; expected numbers are worked out in the comments."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from edgebench.explaining.instructions import instructions, may_saturate
from edgebench.explaining.layers import Counterpart, counterparts
from edgebench.explaining.scheme import Quantization, read_file
from edgebench.explaining.values import Observed, Observer
from tests.unit.quantized_files import SCALES, float_net, qdq_net, save

VNNI = {"machine": "x86_64", "cpu": "a CPU", "isa": ["avx2", "avx512f", "avx512_vnni"]}
AVX2 = {"machine": "x86_64", "cpu": "a CPU", "isa": ["avx2"]}


def _scale(scale: float, zero: int, dtype: str = "uint8") -> Quantization:
    return Quantization("x", "q", dtype, np.array(scale, np.float32), np.array(zero), None)


def _seen(values: list[float], how: Quantization, **others: object) -> Observed:
    reals = np.array([values], np.float32)
    observer = Observer(how)
    observer.see(how.rounded(reals), before=reals, **others)  # type: ignore[arg-type]
    return observer.found()


def test_a_qdq_file_is_read_with_its_scales(tmp_path: Path) -> None:
    file = read_file(qdq_net(tmp_path / "net.onnx"))
    assert file.form == "QDQ"
    assert {how.tensor: float(how.scale) for how in file.activations.values()} == {
        **{name: scale for name, scale in SCALES.items() if name != "y"},
        "y_QuantizeLinear_Input": SCALES["y"],
    }
    assert file.scheme.activations == (("uint8", 5),)
    assert file.scheme.weights == (("int8", True, 2),)
    assert [weight.node.name for weight in file.weights] == ["conv1", "conv2"]
    # 0 is the 128th of 256 steps of 1/32.
    assert file.activations["x_q"].range == (-4.0, 127 / 32)


def test_a_qoperator_file_is_read_with_the_scales_that_its_operators_take(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "xs", "xz"], ["x_quantized"], "q"),
        helper.make_node(
            "QLinearConv", ["x_quantized", "xs", "xz", "w", "ws", "wz", "ys", "yz"], ["y_quantized"], "conv"
        ),
        helper.make_node("DequantizeLinear", ["y_quantized", "ys", "yz"], ["y"], "dq"),
    ]
    constants = {
        "xs": np.array(0.5, np.float32),
        "xz": np.array(0, np.uint8),
        "w": np.full((2, 2, 1, 1), 64, np.int8),
        "ws": np.array([0.1, 0.2], np.float32),
        "wz": np.zeros(2, np.int8),
        "ys": np.array(0.25, np.float32),
        "yz": np.array(10, np.uint8),
    }
    path = save(tmp_path / "net.onnx", nodes, constants, (1, 2, 4, 4))
    file = read_file(path)
    assert file.form == "QOperator"
    assert {name: float(how.scale) for name, how in file.activations.items()} == {
        "x_quantized": 0.5,
        "y_quantized": 0.25,
    }
    (weight,) = file.weights
    assert weight.node.name == "conv"
    assert weight.seven_bits
    # Output channels come first: 64 * 0.1 and 64 * 0.2.
    assert weight.real[:, 0, 0, 0].tolist() == pytest.approx([6.4, 12.8])


def test_weights_may_have_a_scale_for_each_block(tmp_path: Path) -> None:
    # Blocks of 2 along the first axis: 2 rows of scales for 4 of weights.
    scales = np.array([[1.0, 2.0, 3.0, 4.0], [10.0, 20.0, 30.0, 40.0]], np.float32)
    constants = {"w": np.ones((4, 4), np.int8), "s": scales, "z": np.zeros((2, 4), np.int8)}
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s", "z"], ["wd"], "wd", axis=0, block_size=2),
        helper.make_node("MatMul", ["x", "wd"], ["y"], "product"),
    ]
    (weight,) = read_file(save(tmp_path / "net.onnx", nodes, constants, (4, 4), opset=21)).weights
    assert weight.real[:, 0].tolist() == [1.0, 1.0, 10.0, 10.0]
    assert weight.node.name == "product"


@pytest.mark.parametrize(
    ("operator", "form"),
    [("ConvInteger", "dynamic"), ("DequantizeLinear", "weight-only"), ("Relu", "float")],
)
def test_other_forms_are_told_by_their_operators(operator: str, form: str, tmp_path: Path) -> None:
    constants = {"w": np.ones((4, 4), np.int8), "s": np.asarray(0.5, np.float32), "z": np.asarray(0, np.int8)}
    read = {
        "ConvInteger": ["x", "w"],
        "DequantizeLinear": ["w", "s", "z"],
        "Relu": ["x"],
    }[operator]
    nodes = [helper.make_node(operator, read, ["made"], "first"), helper.make_node("Neg", ["x"], ["y"], "second")]
    assert read_file(save(tmp_path / "net.onnx", nodes, constants, (4, 4))).form == form


def test_tensors_are_matched_with_the_float_model_by_name_past_what_the_quantizer_did(tmp_path: Path) -> None:
    file, parent = read_file(qdq_net(tmp_path / "int8.onnx")), read_file(float_net(tmp_path / "float.onnx"))
    assert {tensor: other for tensor, other in counterparts(file, parent).items() if tensor.endswith("_q")} == {
        "x_q": Counterpart("x"),
        # The convolution's result is called as the float model's Relu calls its own.
        "relu_q": Counterpart("relu", absorbed="Relu"),
        "conv2_q": Counterpart("conv2"),
        "sum_q": Counterpart("sum"),
        # The quantizer moved the output's name behind the pair.
        "y_q": Counterpart("y"),
    }


def test_values_beyond_the_range_and_levels_in_use_are_counted() -> None:
    # The range is -1 to 1.55 in steps of 0.01; 2 and -3 are beyond it, 1.554 is within half a step of its end.
    found = _seen([2.0, -3.0, 0.0, 0.5, 1.554, 0.0, 0.0, 0.0], _scale(0.01, 100))
    assert (found.below, found.above) == (1 / 8, 1 / 8)
    # -3 on the first integer, 2 and 1.554 on the last.
    assert found.at_ends == 3 / 8
    assert found.used == 1.0
    assert (found.low, found.high) == (-3.0, 2.0)


def test_a_range_that_is_too_wide_uses_few_levels() -> None:
    # 0 to 0.5 are the integers 0 to 50 of 256.
    assert _seen([0.0, 0.25, 0.5], _scale(0.01, 0)).used == 51 / 256


def test_what_a_relu_cuts_off_is_not_clipped() -> None:
    how = _scale(0.01, 0)
    assert _seen([-1.0, 1.0], how).below == 1 / 2
    assert _seen([-1.0, 1.0], how, one_sided=True).below == 0.0


def test_noise_is_the_power_of_the_difference_over_that_of_the_float_model() -> None:
    observer = Observer(_scale(0.5, 0))
    expected = np.array([[3.0, 4.0]], np.float32)
    # 3.1 and 4.3 before they are rounded to 3 (6 steps) and 4.5 (9 steps); signal 9 + 16.
    observer.see(np.array([[6, 9]]), expected=expected, before=np.array([[3.1, 4.3]], np.float32))
    found = observer.found()
    assert found.noise == pytest.approx(0.5**2 / 25)
    assert found.noise_before == pytest.approx((0.1**2 + 0.3**2) / 25)
    # 10 log10(25 / 0.25) = 20 dB.
    assert found.sqnr_db == pytest.approx(20.0)


def test_equal_values_have_an_infinite_sqnr() -> None:
    observer = Observer(None)
    observer.see(np.ones((1, 4)), expected=np.ones((1, 4)))
    assert observer.found().sqnr_db == math.inf


def test_channels_that_only_differ_by_a_factor_count_as_rescaled() -> None:
    random = np.random.default_rng(0)
    expected = random.standard_normal((1, 3, 8, 8)).astype(np.float32)
    factors = np.array([0.2, 1.0, 5.0], np.float32).reshape(1, 3, 1, 1)
    noise = random.standard_normal((1, 3, 8, 8)).astype(np.float32) * 0.01
    observer = Observer(None)
    observer.see((expected + noise) * factors, expected=expected)
    found = observer.found()
    assert found.rescaled
    # Noise of 1 % of the signal's deviation, in the float model's scale: 40 dB.
    assert found.sqnr_db == pytest.approx(40, abs=1)


def test_the_factors_of_a_rescaled_tensor_are_those_before_it_was_rounded() -> None:
    expected = np.random.default_rng(0).standard_normal((1, 2, 16, 16)).astype(np.float32)
    # In steps of 1 the first channel is 0 but for a few values, the second is 100 times as large as it was.
    before = expected * np.array([0.3, 100.0], np.float32).reshape(1, 2, 1, 1)
    observer = Observer(_scale(1.0, 0, "int16"))
    observer.see(np.rint(before).astype(np.int32), expected=expected, before=before)
    found = observer.found()
    assert found.rescaled
    rounded = np.rint(before) / np.array([0.3, 100.0]).reshape(1, 2, 1, 1)
    assert found.noise == pytest.approx(float(((rounded - expected) ** 2).sum() / (expected**2).sum()), rel=1e-3)
    assert found.noise_before == pytest.approx(0.0, abs=1e-9)


def test_clipping_is_not_taken_for_a_factor() -> None:
    expected = np.random.default_rng(0).standard_normal((1, 3, 8, 8)).astype(np.float32)
    observer = Observer(None)
    observer.see(np.clip(expected, -0.2, 0.2), expected=expected)
    found = observer.found()
    assert not found.rescaled
    assert found.noise == pytest.approx(
        float(((expected - np.clip(expected, -0.2, 0.2)) ** 2).sum() / (expected**2).sum()), rel=1e-4
    )


def test_a_channel_has_its_own_range_and_noise() -> None:
    expected = np.stack([np.full((4, 4), 100.0), np.full((4, 4), 0.2)])[None].astype(np.float32)
    observer = Observer(_scale(1.0, 0))
    observer.see(np.rint(expected).astype(np.int32), expected=expected, before=expected)
    found = observer.found()
    assert found.channels == pytest.approx((100.0, 0.2))
    # 0.2 is rounded to 0: all of it is lost.
    assert found.channel_noise == pytest.approx((0.0, 1.0))


@pytest.mark.parametrize(
    ("fingerprint", "known", "products", "saturates"),
    [
        (VNNI, True, ("AVX-512 VNNI",), False),
        (AVX2, True, (), True),
        ({"machine": "aarch64", "isa": ["asimddp", "i8mm"]}, True, ("I8MM", "ASIMD dot product"), False),
        ({"machine": "aarch64", "isa": []}, True, (), False),
        ({"machine": "x86_64"}, False, (), False),
        ({}, False, (), False),
    ],
)
def test_a_cpu_is_known_by_its_flags(
    fingerprint: dict[str, object], known: bool, products: tuple[str, ...], saturates: bool
) -> None:
    found = instructions(fingerprint)
    assert (found.known, found.dot_products, found.saturates) == (known, products, saturates)


def test_unsigned_times_signed_saturates_without_vnni_unless_the_weights_have_7_bits(tmp_path: Path) -> None:
    # The weights of the net are within 40 steps of zero; those of the other reach 127.
    seven = read_file(qdq_net(tmp_path / "seven.onnx"))
    assert not may_saturate(seven, instructions(AVX2))
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], "q"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"], "d"),
        helper.make_node("DequantizeLinear", ["w", "s", "wz"], ["wd"], "wd"),
        helper.make_node("MatMul", ["d", "wd"], ["y"], "product"),
    ]
    constants = {"s": np.asarray(0.1, np.float32), "z": np.asarray(0, np.uint8), "wz": np.asarray(0, np.int8)}
    eight = read_file(save(tmp_path / "eight.onnx", nodes, {**constants, "w": np.full((4, 4), 127, np.int8)}, (4, 4)))
    assert may_saturate(eight, instructions(AVX2))
    assert not may_saturate(eight, instructions(VNNI))
