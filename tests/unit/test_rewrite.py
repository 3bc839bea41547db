"""Rewriting for int8: the same function in other operators."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgebench.quantize.rewrite import rewritten, without_scalings

X = np.linspace(-5, 5, 2 * 3 * 4 * 4, dtype=np.float32).reshape(2, 3, 4, 4)


def _model(
    nodes: list[Any], constants: dict[str, NDArray[Any]] | None = None, *, shape: tuple[int, ...] = X.shape
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    return onnx.shape_inference.infer_shapes(model)


def _run(model: onnx.ModelProto, x: NDArray[Any] = X) -> NDArray[Any]:
    onnx.checker.check_model(model)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model.SerializeToString(), options).run(None, {"x": x})[0]


def _kinds(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


@pytest.mark.parametrize(("axes", "keepdims"), [([2, 3], 1), ([-1, -2], 1), ([2, 3], 0)])
def test_a_mean_over_an_image_becomes_a_pool(axes: list[int], keepdims: int) -> None:
    model = _model([helper.make_node("ReduceMean", ["x", "axes"], ["y"], keepdims=keepdims)], {"axes": np.array(axes)})

    said = rewritten(model)

    assert said == ("1 means over an image are GlobalAveragePool",)
    assert "ReduceMean" not in _kinds(model)
    np.testing.assert_allclose(_run(model), X.mean(axis=(2, 3), keepdims=bool(keepdims)), rtol=1e-6)


@pytest.mark.parametrize(("shape", "axes"), [((2, 3, 4, 4), [1]), ((2, 3, 4, 4), [1, 2]), ((2, 3, 4, 4, 2), [2, 3])])
def test_another_mean_stays(shape: tuple[int, ...], axes: list[int]) -> None:
    model = _model([helper.make_node("ReduceMean", ["x", "axes"], ["y"])], {"axes": np.array(axes)}, shape=shape)

    assert rewritten(model) == ()
    assert _kinds(model) == {"ReduceMean": 1}


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        # The definitions of ONNX's operators.
        (helper.make_node("HardSwish", ["x"], ["y"], "n"), X * np.clip(X / 6 + 0.5, 0, 1)),
        (helper.make_node("HardSigmoid", ["x"], ["y"], "n"), np.clip(0.2 * X + 0.5, 0, 1)),
        (helper.make_node("HardSigmoid", ["x"], ["y"], "n", alpha=0.5, beta=0.25), np.clip(0.5 * X + 0.25, 0, 1)),
    ],
)
def test_a_hard_activation_becomes_sums_and_products_of_the_same_value(node: Any, expected: NDArray[Any]) -> None:
    model = _model([node])

    assert rewritten(model) == ("1 HardSwish and HardSigmoid are sums and products",)
    assert set(_kinds(model)) == {"Mul", "Add", "Clip"}
    np.testing.assert_allclose(_run(model), expected, atol=1e-6)


def _scaling(factor: list[str] | None = None, *, results: int = 1) -> onnx.ModelProto:
    """x in uint8 at 0.25 around 128, times 0.5, in uint8 at 0.125 around 128."""
    nodes = [
        helper.make_node("DequantizeLinear", ["halfq", "halfs", "zero"], ["halfd"]),
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "s", "z"], ["xd"]),
        helper.make_node("Mul", factor or ["xd", "half"], ["m"]),
        helper.make_node("QuantizeLinear", ["m", "s2", "z"], ["mq"]),
        *(helper.make_node("DequantizeLinear", ["mq", "s2", "z"], [f"md{index}"]) for index in range(results)),
        helper.make_node("Sum", ["xd", *(f"md{index}" for index in range(results))], ["y"]),
    ]
    constants: dict[str, NDArray[Any]] = {
        "s": np.array(0.25, np.float32),
        "s2": np.array(0.125, np.float32),
        "z": np.array(128, np.uint8),
        "half": np.array(0.5, np.float32),
        "minus": np.array(-0.5, np.float32),
        "halfq": np.array(255, np.uint8),
        "halfs": np.array(0.5 / 255, np.float32),
        "zero": np.array(0, np.uint8),
    }
    return _model(nodes, constants)


@pytest.mark.parametrize("results", [1, 2])
def test_a_scaling_between_two_scales_is_taken_out(results: int) -> None:
    model = _scaling(results=results)
    expected = _run(model)

    assert without_scalings(model) == 1
    assert _kinds(model)["Mul"] == 0
    assert _kinds(model)["QuantizeLinear"] == 1
    # Halves of multiples of 0.25 are multiples of 0.125: the same to the last bit.
    np.testing.assert_array_equal(_run(model), expected)


def test_a_scaling_by_a_dequantized_constant_is_taken_out() -> None:
    model = _scaling(["halfd", "xd"])
    expected = _run(model)

    assert without_scalings(model) == 1
    np.testing.assert_allclose(_run(model), expected, atol=1e-5)


def test_a_product_that_is_no_positive_scaling_stays() -> None:
    for factor in (["xd", "xd"], ["xd", "minus"]):
        model = _scaling(factor)

        assert without_scalings(model) == 0
        assert _kinds(model)["Mul"] == 1


def test_a_scaling_whose_result_is_read_in_float_too_stays() -> None:
    model = _scaling()
    model.graph.node[-1].input.append("m")

    assert without_scalings(model) == 0
