"""ONNX at lower precision without calibration, from graphs of which every number is known."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgebench.errors import StepError
from edgebench.quantize.dynamic import write_dynamic
from edgebench.quantize.float16 import write_float16
from edgebench.quantize.weights import write_int8_weights

CHANNELS = 32
X = np.random.default_rng(0).standard_normal((1, CHANNELS, 6, 6)).astype(np.float32)
Nodes = list[Any]


def _save(path: Path, nodes: Nodes, constants: dict[str, NDArray[Any]], *, opset: int = 20) -> Path:
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, X.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    model = onnx.shape_inference.infer_shapes(model)
    # As dynamo does.
    for name, array in constants.items():
        kind = helper.np_dtype_to_tensor_dtype(array.dtype)
        model.graph.value_info.append(helper.make_tensor_value_info(name, kind, array.shape))
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def _net(path: Path, *, opset: int = 20, gain: float = 1.0) -> Path:
    """A convolution and a dense layer with transposed weights, whose rows differ a hundredfold in size."""
    generator = np.random.default_rng(1)
    sizes = np.geomspace(0.01, 1, 64).astype(np.float32)
    return _save(
        path,
        [
            helper.make_node("Conv", ["x", "w"], ["c"], "conv", pads=[1, 1, 1, 1]),
            helper.make_node("GlobalAveragePool", ["c"], ["p"], "pool"),
            helper.make_node("Flatten", ["p"], ["f"], "flat"),
            helper.make_node("Gemm", ["f", "v", "b"], ["y"], "dense", transB=1),
        ],
        {
            "w": gain * generator.standard_normal((CHANNELS, CHANNELS, 3, 3)).astype(np.float32),
            "v": sizes[:, None] * generator.standard_normal((64, CHANNELS)).astype(np.float32),
            "b": generator.standard_normal(64).astype(np.float32),
        },
        opset=opset,
    )


def _run(path: Path) -> NDArray[Any]:
    found: NDArray[Any] = onnxruntime.InferenceSession(str(path)).run(None, {"x": X})[0]
    return found


def _sqnr_db(expected: NDArray[Any], found: NDArray[Any]) -> float:
    return float(10 * np.log10(np.sum(expected**2) / np.sum((expected - found) ** 2)))


def _kinds(path: Path) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(path).graph.node)


@pytest.mark.parametrize("opset", [11, 20])
def test_int8_weights_are_a_quarter_of_the_size_and_answer_nearly_the_same(tmp_path: Path, opset: int) -> None:
    source, out = _net(tmp_path / "net.onnx", opset=opset), tmp_path / "w8.onnx"

    (said,) = write_int8_weights(source, out)

    # 32 * 32 * 9 + 64 * 32 of the 11,328 numbers; the other 64 are the bias.
    assert said.startswith("99.4% of the numbers are int8")
    assert out.stat().st_size < 0.35 * source.stat().st_size
    # Steps of 1/127 of each channel's largest weight, about 3 of its deviations: 20 log10(127 / 3 * sqrt(12)) is 43.
    assert 38 < _sqnr_db(_run(source), _run(out)) < 60


def test_int8_weights_take_the_form_that_is_fast_for_each_operator(tmp_path: Path) -> None:
    write_int8_weights(_net(tmp_path / "net.onnx"), tmp_path / "w8.onnx")

    kinds = _kinds(tmp_path / "w8.onnx")

    assert (kinds["Cast"], kinds["Mul"], kinds["Conv"]) == (1, 1, 1)
    assert (kinds["DequantizeLinear"], kinds["MatMul"], kinds["Gemm"]) == (1, 1, 0)


def test_a_weight_that_two_layers_share_is_written_once(tmp_path: Path) -> None:
    square = np.random.default_rng(2).standard_normal((CHANNELS, CHANNELS, 1, 1)).astype(np.float32)
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"]), helper.make_node("Conv", ["c", "w"], ["y"])]
    source = _save(tmp_path / "net.onnx", nodes, {"w": square})

    write_int8_weights(source, tmp_path / "w8.onnx")

    assert _kinds(tmp_path / "w8.onnx")["Cast"] == 1
    assert _sqnr_db(_run(source), _run(tmp_path / "w8.onnx")) > 35


@pytest.mark.parametrize("write", [write_int8_weights, lambda a, b: write_dynamic(a, b, reduce_range=False)])
def test_a_network_without_such_weights_is_refused(tmp_path: Path, write: Any) -> None:
    source = _save(tmp_path / "net.onnx", [helper.make_node("Relu", ["x"], ["y"])], {})

    with pytest.raises(StepError, match=r"no (convolution or )?matrix product"):
        write(source, tmp_path / "out.onnx")
    assert not (tmp_path / "out.onnx").exists()


@pytest.mark.parametrize("reduce_range", [False, True])
def test_dynamic_int8_quantizes_products_per_channel_and_leaves_convolutions(
    tmp_path: Path, reduce_range: bool
) -> None:
    source, out = _net(tmp_path / "net.onnx"), tmp_path / "dynamic.onnx"

    (said,) = write_dynamic(source, out, reduce_range=reduce_range)

    assert said.endswith("; 1 convolutions stay float32")
    assert (_kinds(out)["MatMulInteger"], _kinds(out)["Conv"]) == (1, 1)
    weights = next(tensor for tensor in onnx.load(out).graph.initializer if list(tensor.dims) == [CHANNELS, 64])
    largest = np.abs(numpy_helper.to_array(weights).astype(int)).max(axis=0)
    # Each channel has a scale of its own, by which its largest weight is the largest integer.
    assert set(largest) <= ({63, 64} if reduce_range else {127, 128})
    assert _sqnr_db(_run(source), _run(out)) > 30


def test_float16_keeps_the_types_of_inputs_and_outputs(tmp_path: Path) -> None:
    source, out = _net(tmp_path / "net.onnx"), tmp_path / "fp16.onnx"

    write_float16(source, out, [{"x": X}])

    model = onnx.load(out)
    ends = [value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)]
    assert ends == [TensorProto.FLOAT] * 2
    assert {tensor.data_type for tensor in model.graph.initializer} == {TensorProto.FLOAT16}
    # 11 bits: 20 log10(2^11 * sqrt(12)) is 77 for one rounding.
    assert 50 < _sqnr_db(_run(source), _run(out)) < 80


def test_two_operators_that_stay_float32_share_a_conversion(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Max", ["x", "one"], ["a"], "max"),
        helper.make_node("Min", ["x", "one"], ["b"], "min"),
        helper.make_node("Add", ["a", "b"], ["y"], "sum"),
    ]
    source = _save(tmp_path / "net.onnx", nodes, {"one": np.ones(1, np.float32)})

    write_float16(source, tmp_path / "fp16.onnx", [{"x": X}])

    # max(x, 1) + min(x, 1) is x + 1.
    np.testing.assert_allclose(_run(tmp_path / "fp16.onnx"), X + 1, atol=4e-3)


def test_an_activation_beyond_float16_is_an_error_that_names_it(tmp_path: Path) -> None:
    # The convolution's weights stay below 65,504 and its sums of 288 products do not.
    source = _net(tmp_path / "net.onnx", gain=1e4)

    with pytest.raises(StepError, match=r"the activation c reaches .*e\+05, and float16 ends at 65504"):
        write_float16(source, tmp_path / "fp16.onnx", [{"x": X}])
    assert not (tmp_path / "fp16.onnx").exists()


def test_a_weight_beyond_float16_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(StepError, match="the weight w reaches"):
        write_float16(_net(tmp_path / "net.onnx", gain=1e6), tmp_path / "fp16.onnx", [{"x": X}])
