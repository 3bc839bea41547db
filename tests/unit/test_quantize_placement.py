"""Which nodes of small graphs compute in int8, and what the written models compute."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgebench.errors import StepError
from edgebench.quantize.placement import find_places, nodes_called, with_light_sources
from edgebench.quantize.prepare import prepared
from edgebench.quantize.settings import Settings
from edgebench.quantize.static import Quantizer, answers, output_sqnr_db
from edgebench.quantize.statistics import Kept

SHAPE = (1, 8, 6, 6)


class Net:
    """A graph in the making: `input` is `[1, 8, 6, 6]`, each tensor is called after the node that computes it."""

    def __init__(self) -> None:
        self.generator = np.random.default_rng(0)
        self.nodes: list[Any] = []
        self.weights: list[Any] = []

    def weight(self, name: str, *shape: int) -> str:
        values = (self.generator.standard_normal(shape) / np.sqrt(np.prod(shape[1:]) or 1)).astype(np.float32)
        self.weights.append(numpy_helper.from_array(values, name))
        return name

    def conv(self, name: str, source: str, *, channels: int = 8, inputs: int = 8, group: int = 1) -> str:
        weight = self.weight(f"{name}.w", channels, inputs // group, 3, 3)
        bias = self.weight(f"{name}.b", channels)
        return self.add("Conv", name, [source, weight, bias], pads=[1, 1, 1, 1], group=group)

    def add(self, kind: str, name: str, inputs: list[str], **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [name], name=f"{name}.node", **attributes))
        return name

    def constant(self, name: str, values: NDArray[Any]) -> str:
        self.weights.append(numpy_helper.from_array(values, name))
        return name

    def save(self, path: Path, *outputs: str, opset: int = 20) -> Path:
        graph = helper.make_graph(
            self.nodes,
            "net",
            [helper.make_tensor_value_info("input", TensorProto.FLOAT, SHAPE)],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
            self.weights,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
        onnx.save(onnx.shape_inference.infer_shapes(model), path)
        return path


def residual_net() -> Net:
    """conv -> relu -> conv -> + -> relu -> pool -> flatten -> gemm, and the first relu is added."""
    net = Net()
    net.add("Relu", "first", [net.conv("conv1", "input")])
    net.add("Relu", "sum_relu", [net.add("Add", "sum", [net.conv("conv2", "first"), "first"])])
    net.add("GlobalAveragePool", "pool", ["sum_relu"])
    net.add("Flatten", "flat", ["pool"])
    net.add("Gemm", "scores", ["flat", net.weight("fc.w", 5, 8), net.weight("fc.b", 5)], transB=1)
    return net


def feeds(count: int = 8) -> list[dict[str, NDArray[np.float32]]]:
    generator = np.random.default_rng(1)
    return [{"input": generator.standard_normal(SHAPE).astype(np.float32)} for _ in range(count)]


def quantized(source: Path, scratch: Path, **settings: Any) -> tuple[Path, Quantizer]:
    chosen = Settings(**{"method": "minmax", **settings})
    own = scratch / "quantizing"
    own.mkdir()
    quantizer = Quantizer(source, own, feeds, chosen)
    quantizer.calibrate(Kept(scratch / "statistics.npz", "these"))
    quantizer.write(scratch / "int8.onnx")
    return scratch / "int8.onnx", quantizer


def executed(path: Path) -> Counter[str]:
    """The operators that onnxruntime executes in place of the file's."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(path.with_suffix(".optimized.onnx"))
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    model = onnx.load(path.with_suffix(".optimized.onnx"), load_external_data=False)
    return Counter(node.op_type for node in model.graph.node)


def sqnr_db(source: Path, path: Path) -> float:
    return output_sqnr_db(answers(source, feeds()), answers(path, feeds()))


def test_everything_of_a_residual_network_computes_in_int8_and_its_scores_are_float(tmp_path: Path) -> None:
    source = residual_net().save(tmp_path / "net.onnx", "scores")
    path, quantizer = quantized(source, tmp_path)
    onnx.checker.check_model(onnx.load(path), full_check=True)
    assert quantizer.placement.int8 >= {"conv1", "conv2", "sum", "pool", "flat", "scores"}
    assert quantizer.placement.absorbed == {"first": "conv1", "sum_relu": "sum"}
    operators = executed(path)
    assert operators["QLinearConv"] == 2
    assert operators["QGemm"] == 1
    assert not operators.keys() & {"Conv", "Gemm", "Add", "Relu", "GlobalAveragePool", "DequantizeLinear"}
    assert sqnr_db(source, path) > 30


def test_a_node_that_is_kept_reads_values_that_were_never_quantized(tmp_path: Path) -> None:
    graph, _ = prepared(residual_net().save(tmp_path / "net.onnx", "scores"), tmp_path)
    places = find_places(graph, kept=frozenset({"conv2"}))
    # What computes its input gives up int8 with it.
    assert not places.int8 & {"conv1", "conv2"}
    # The sum has no int8 operand left; the last product is still worth it.
    assert "sum" not in places.int8
    assert "scores" in places.int8


@pytest.mark.parametrize("kept", ["Conv", "conv1.node", "conv1"])
def test_nodes_are_kept_by_kind_by_name_and_by_result(tmp_path: Path, kept: str) -> None:
    graph, _ = prepared(residual_net().save(tmp_path / "net.onnx", "scores"), tmp_path)
    assert "conv1" not in find_places(graph, kept=nodes_called(graph, [kept])).int8


def test_a_name_that_nothing_has_is_refused(tmp_path: Path) -> None:
    graph, _ = prepared(residual_net().save(tmp_path / "net.onnx", "scores"), tmp_path)
    with pytest.raises(StepError, match=r"called `Softmax`; there are: Add, Conv"):
        nodes_called(graph, ["Conv", "Softmax"])


def test_a_light_node_between_float_ones_stays_float(tmp_path: Path) -> None:
    net = Net()
    net.add("Add", "sum", [net.add("Tanh", "a", ["input"]), net.add("Sin", "b", ["input"])])
    net.conv("conv", net.add("Softplus", "c", ["sum"]))
    graph, _ = prepared(net.save(tmp_path / "net.onnx", "conv"), tmp_path)
    assert find_places(graph).int8 == {"conv"}


def test_what_moves_values_passes_their_scale_on(tmp_path: Path) -> None:
    net = Net()
    net.add(
        "MaxPool", "pool", [net.add("Relu", "relu", [net.conv("conv1", "input")])], kernel_shape=[2, 2], strides=[2, 2]
    )
    net.conv("conv2", "pool")
    path, quantizer = quantized(net.save(tmp_path / "net.onnx", "conv2"), tmp_path)
    assert quantizer.placement.scale_of("pool") == quantizer.placement.scale_of("relu") == "relu"
    operators = executed(path)
    assert operators["QLinearConv"] == 2
    assert operators["MaxPool"] + operators["NhwcMaxPool"] == 1


def test_the_parts_of_a_concatenation_have_its_scale_unless_others_read_them(tmp_path: Path) -> None:
    net = Net()
    net.conv("alone", "input")
    net.conv("shared", "input")
    net.conv("after", net.add("Concat", "both", ["alone", "shared"], axis=1), inputs=16)
    net.add("Add", "out", ["after", "shared"])
    graph, _ = prepared(net.save(tmp_path / "net.onnx", "out"), tmp_path)
    places = find_places(graph)
    assert places.scale_of("alone") == "both"
    assert places.scale_of("shared") == "shared"


def test_an_output_that_int8_computes_has_its_name_and_comes_as_float(tmp_path: Path) -> None:
    net = Net()
    net.add("Relu", "features", [net.conv("conv1", "input")])
    net.conv("conv2", "features")
    source = net.save(tmp_path / "net.onnx", "features", "conv2")
    path, _ = quantized(source, tmp_path)
    model = onnx.load(path)
    assert [value.name for value in model.graph.output] == ["features", "conv2"]
    assert executed(path)["QLinearConv"] == 2
    assert sqnr_db(source, path) > 30


@pytest.mark.parametrize("low", [0.0, -0.5])
def test_a_clip_around_zero_needs_no_node(tmp_path: Path, low: float) -> None:
    net = Net()
    bounds = [net.constant("low", np.array(low, np.float32)), net.constant("high", np.array(0.5, np.float32))]
    net.conv("conv2", net.add("Clip", "clip", [net.conv("conv1", "input"), *bounds]))
    source = net.save(tmp_path / "net.onnx", "conv2")
    path, quantizer = quantized(source, tmp_path, equalize=False)
    assert quantizer.placement.absorbed == {"clip": "conv1"}
    assert "Clip" not in executed(path)
    assert sqnr_db(source, path) > 25


def test_a_clip_that_leaves_zero_out_stays(tmp_path: Path) -> None:
    net = Net()
    bounds = [net.constant("low", np.array(0.1, np.float32)), net.constant("high", np.array(0.5, np.float32))]
    net.conv("conv2", net.add("Clip", "clip", [net.conv("conv1", "input"), *bounds]))
    source = net.save(tmp_path / "net.onnx", "conv2")
    path, quantizer = quantized(source, tmp_path, equalize=False)
    assert quantizer.placement.absorbed == {}
    assert sqnr_db(source, path) > 20


@pytest.mark.parametrize(
    "settings",
    [
        {"activations": "int8"},
        {"activations": "int8", "symmetric": True},
        {"weights": "uint8"},
        {"weight_bits": 7},
        {"per_channel": False},
        {"form": "QOperator"},
        {"wide": ("conv2",)},
        {"activations": "uint16"},
    ],
    ids=str,
)
@pytest.mark.parametrize("opset", [13, 20, 21])
def test_every_scheme_computes_the_network(tmp_path: Path, settings: dict[str, Any], opset: int) -> None:
    source = residual_net().save(tmp_path / "net.onnx", "scores", opset=opset)
    path, _ = quantized(source, tmp_path, **settings)
    assert sqnr_db(source, path) > 25


def test_sixteen_bits_of_activations_lose_less_than_eight(tmp_path: Path) -> None:
    source = residual_net().save(tmp_path / "net.onnx", "scores")
    losses = {}
    for activations in ("uint8", "uint16"):
        (tmp_path / activations).mkdir()
        path, _ = quantized(source, tmp_path / activations, activations=activations)
        losses[activations] = sqnr_db(source, path)
    assert losses["uint16"] > losses["uint8"] + 1


def test_a_sum_that_a_wide_product_reads_is_wide_as_well(tmp_path: Path) -> None:
    graph, _ = prepared(residual_net().save(tmp_path / "net.onnx", "scores"), tmp_path)
    assert with_light_sources(graph, frozenset({"scores"})) == {"scores", "pool", "sum"}


def test_a_matrix_product_of_activations_is_int8_as_well(tmp_path: Path) -> None:
    net = Net()
    net.add("Softplus", "a", ["input"])
    net.add("MatMul", "product", ["a", "input"])
    source = net.save(tmp_path / "net.onnx", "product")
    path, quantizer = quantized(source, tmp_path)
    assert quantizer.placement.int8 == {"product"}
    assert executed(path)["MatMulIntegerToFloat"] == 1
    assert sqnr_db(source, path) > 30


def test_a_pruned_filter_keeps_its_bias(tmp_path: Path) -> None:
    net = Net()
    net.conv("conv", "input")
    for tensor in net.weights:
        values = np.array(numpy_helper.to_array(tensor))
        values[3] = 0 if tensor.name == "conv.w" else 0.7
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    source = net.save(tmp_path / "net.onnx", "conv")
    path, _ = quantized(source, tmp_path)
    constant = answers(path, feeds(1))[0][0][0, 3]
    # The result's own step is what may be missing: its range is about 8 wide.
    assert constant == pytest.approx(0.7, abs=8 / 255)


def test_the_biases_are_corrected_for_what_rounding_adds_to_the_mean(tmp_path: Path) -> None:
    source = residual_net().save(tmp_path / "net.onnx", "scores")
    means = {}
    for corrected in (False, True):
        (tmp_path / str(corrected)).mkdir()
        path, _ = quantized(source, tmp_path / str(corrected), correct_bias=corrected, weight_bits=4, equalize=False)
        off = [one[0] - other[0] for one, other in zip(answers(path, feeds()), answers(source, feeds()), strict=True)]
        means[corrected] = float(np.abs(np.mean(off, axis=0)).mean())
    assert means[True] < means[False]


def test_what_is_quantized_already_is_refused_in_words(tmp_path: Path) -> None:
    net = Net()
    net.conv("conv", "input")
    path = net.save(tmp_path / "net.onnx", "conv")
    model = onnx.load(path)
    model.graph.node.append(helper.make_node("QuantizeLinear", ["conv"], ["other"]))
    onnx.save(model, path)
    with pytest.raises(StepError, match="it is quantized already"):
        prepared(path, tmp_path)


def test_what_a_branch_reads_from_outside_is_what_it_was(tmp_path: Path) -> None:
    """The branch takes a rectified tensor by its name, and weights of its own."""
    net = Net()
    net.add("Relu", "relu", [net.conv("conv1", "input")])
    net.conv("conv2", "relu")
    own = numpy_helper.from_array(np.full((1, 8, 6, 6), 2, np.float32), "own")
    branches = {
        f"{name}_branch": helper.make_graph(
            [helper.make_node(kind, ["relu", "own"], [f"{name}_out"])],
            name,
            [],
            [helper.make_tensor_value_info(f"{name}_out", TensorProto.FLOAT, SHAPE)],
            [own],
        )
        for name, kind in (("then", "Add"), ("else", "Mul"))
    }
    condition = net.constant("zero", np.array(0, np.float32))
    net.add("ReduceSum", "total", ["conv2"], keepdims=0)
    net.add("If", "out", [net.add("Greater", "positive", ["total", condition])], **branches)
    source = net.save(tmp_path / "net.onnx", "out")
    path, quantizer = quantized(source, tmp_path)
    assert "relu" not in quantizer.placement.absorbed
    assert sqnr_db(source, path) > 25


def test_a_network_without_products_has_nothing_for_int8(tmp_path: Path) -> None:
    net = Net()
    net.add("Tanh", "tanh", ["input"])
    with pytest.raises(StepError, match="no convolution and no matrix product"):
        Quantizer(net.save(tmp_path / "net.onnx", "tanh"), tmp_path, feeds, Settings())
