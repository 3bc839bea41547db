"""MACs, parameters and activations of real networks and files; what is expected is worked out by hand in the comments,
or published by those who made the network."""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

torch = pytest.importorskip("torch", reason="needs torch: pip install 'edgebench[torch]'")

import edgebench  # noqa: E402
from edgebench.bundle import load_bundle, save_bundle  # noqa: E402
from edgebench.cli import inspect  # noqa: E402
from edgebench.costs import files  # noqa: E402
from edgebench.costs import onnx as onnx_costs  # noqa: E402
from edgebench.costs import torch as torch_costs  # noqa: E402
from edgebench.figures import figures  # noqa: E402
from edgebench.types import Costs, TensorSpec  # noqa: E402
from tests.integration.conftest import SHARED  # noqa: E402
from tests.unit.tflite_files import dense  # noqa: E402

# The tiny net of conftest on [1, 3, 16, 16]. Convolutions: 8*16*16 * 3*9 = 55,296 and 16*7*7 * 8*9 = 56,448; the head
# 16*4 = 64. Parameters: 8*27+8, 2*8 of the batch norm, 16*72+16, 16*4+4.
TINY_MACS = 55_296 + 56_448 + 64
TINY_PARAMETERS = 224 + 16 + 1_168 + 68
# Two results of [1, 8, 16, 16] in float32 are the most that is alive at once.
TINY_PEAK = 2 * 8 * 16 * 16 * 4
IMAGE = np.zeros((1, 3, 16, 16), np.float32)


def _tiny() -> Any:
    namespace: dict[str, Any] = {}
    exec(Path("tiny_net.py").read_text(), namespace)
    return namespace["tiny"]().eval()


def _model(
    nodes: Sequence[onnx.NodeProto],
    inputs: dict[str, Sequence[int | str]],
    weights: dict[str, Any],
    path: Path = Path("m.onnx"),
) -> Path:
    """A model of float32 inputs, whose outputs are those of its last node, of any shape."""
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in nodes[-1].output],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()],
    )
    opsets = [helper.make_opsetid("", 23), helper.make_opsetid("com.microsoft", 1), helper.make_opsetid("mine", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets), path)
    return path


def _floats(*shape: int) -> Any:
    return np.ones(shape, np.float32)


# --- ONNX, operator by operator


@pytest.mark.parametrize(
    ("node", "inputs", "weights", "macs"),
    [
        # Out [2, 6, 4, 4], each from 4/2 channels of 3x3: 2*6*16 * 2*9.
        (helper.make_node("Conv", ["x", "w"], ["y"], group=2), {"x": [2, 4, 6, 6]}, {"w": _floats(6, 2, 3, 3)}, 3_456),
        # Each of 2*5*5 inputs is spread over 3 channels of 2x2.
        (helper.make_node("ConvTranspose", ["x", "w"], ["y"]), {"x": [1, 2, 5, 5]}, {"w": _floats(2, 3, 2, 2)}, 600),
        # [3, 5] times [5, 7].
        (helper.make_node("Gemm", ["x", "w"], ["y"], transA=1, transB=1), {"x": [5, 3]}, {"w": _floats(7, 5)}, 105),
        # 2 * 3 products of [4, 5] and [5, 6].
        (helper.make_node("MatMul", ["x", "z"], ["y"]), {"x": [2, 3, 4, 5], "z": [2, 3, 5, 6]}, {}, 720),
        # b 2, i 3, j 4, k 5: 2*3*4*5.
        (
            helper.make_node("Einsum", ["x", "z"], ["y"], equation="bij,bjk->bik"),
            {"x": [2, 3, 4], "z": [2, 4, 5]},
            {},
            120,
        ),
        # 6 steps of 2 sequences, 4 gates of 3: 6*2 * (12*5 + 12*3).
        (
            helper.make_node("LSTM", ["x", "w", "r"], ["y"], hidden_size=3),
            {"x": [6, 2, 5]},
            {"w": _floats(1, 12, 5), "r": _floats(1, 12, 3)},
            1_152,
        ),
        # 2 heads of 4 queries and 6 keys: 8 wide for the scores, 10 wide for the sum.
        (
            helper.make_node("Attention", ["q", "k", "v"], ["y"]),
            {"q": [1, 2, 4, 8], "k": [1, 2, 6, 8], "v": [1, 2, 6, 10]},
            {},
            2 * 4 * 6 * (8 + 10),
        ),
        # The same heads side by side on the last axis.
        (
            helper.make_node("Attention", ["q", "k", "v"], ["y"], q_num_heads=2, kv_num_heads=2),
            {"q": [1, 4, 16], "k": [1, 6, 16], "v": [1, 6, 20]},
            {},
            2 * 4 * 6 * (8 + 10),
        ),
        (helper.make_node("Add", ["x", "w"], ["y"]), {"x": [4, 5]}, {"w": _floats(4, 5)}, 0),
    ],
    ids=lambda value: value.op_type if isinstance(value, onnx.NodeProto) else "",
)
def test_macs_of_an_onnx_operator(node: Any, inputs: Any, weights: Any, macs: int) -> None:
    totals = onnx_costs.count(_model([node], inputs, weights)).totals
    assert (totals.macs, totals.not_counted) == (macs, ())
    assert totals.parameters == sum(array.size for array in weights.values())


@pytest.mark.parametrize(
    "node",
    [
        helper.make_node("Twist", ["x", "w"], ["y"], domain="mine"),
        helper.make_node("Einsum", ["x", "w", "w"], ["y"], equation="ij,jk,kl->il"),
        helper.make_node("DFT", ["x"], ["y"]),
    ],
    ids=lambda node: str(node.op_type),
)
def test_what_multiplies_without_a_formula_is_named(node: Any) -> None:
    totals = onnx_costs.count(_model([node], {"x": [4, 4]}, {"w": _floats(4, 4)})).totals
    assert (totals.macs, totals.not_counted) == (0, (node.op_type,))


def test_a_branch_is_named_because_only_a_run_shows_which_is_taken() -> None:
    def branch(name: str) -> onnx.GraphProto:
        value = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        return helper.make_graph([helper.make_node("MatMul", ["x", "w"], [name])], name, [], [value])

    nodes = [
        helper.make_node("ReduceMax", ["x"], ["most"], keepdims=0),
        helper.make_node("Cast", ["most"], ["high"], to=TensorProto.BOOL),
        helper.make_node("If", ["high"], ["y"], then_branch=branch("a"), else_branch=branch("b")),
    ]
    totals = onnx_costs.count(_model(nodes, {"x": [4, 4]}, {"w": _floats(4, 4)})).totals
    assert (totals.macs, totals.not_counted) == (0, ("If",))
    assert totals.parameters == 16


def test_quantized_weights_are_counted_in_their_bytes_and_activations_too() -> None:
    # x (4*4 float32) -> int8 -> Gemm with an int8 [4, 6] -> int8 [4, 6] -> float32, as a network quantized by QDQ.
    scale, zero = np.float32(0.1), np.int8(0)
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "s", "z"], ["xd"]),
        helper.make_node("DequantizeLinear", ["w", "s", "z"], ["wd"]),
        helper.make_node("MatMul", ["xd", "wd"], ["m"]),
        helper.make_node("QuantizeLinear", ["m", "s", "z"], ["mq"]),
        helper.make_node("DequantizeLinear", ["mq", "s", "z"], ["md"]),
        helper.make_node("Softmax", ["md"], ["y"]),
    ]
    weights = np.arange(24, dtype=np.int8).reshape(4, 6) % 3
    counted = onnx_costs.count(_model(nodes, {"x": [4, 4]}, {"w": weights, "s": scale, "z": zero}))
    totals = counted.totals
    assert totals.macs == 4 * 4 * 6
    # Every third of 24 is zero; scales and zero points are no parameters.
    assert (totals.parameters, totals.zeros, totals.weight_bytes) == (24, 8, 24)
    # int8 [4, 4] and [4, 6], then float32 [4, 6] of the softmax.
    assert totals.activation_bytes == 16 + 24 + 96
    # The softmax reads 24 and writes 96; while the input is quantized there are 64 and 16.
    assert totals.peak_activation_bytes == 120
    (product,) = [layer for layer in counted.layers if layer.operator == "MatMul"]
    assert product.parameters == 24


def test_a_zero_point_is_what_stands_for_zero() -> None:
    scale, zero = np.float32(0.1), np.uint8(128)
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s", "z"], ["wd"]),
        helper.make_node("MatMul", ["x", "wd"], ["y"]),
    ]
    weights = np.array([[128, 128, 0], [1, 2, 128]], np.uint8)
    totals = onnx_costs.count(_model(nodes, {"x": [4, 2]}, {"w": weights, "s": scale, "z": zero})).totals
    assert totals.zeros == 3


def test_weights_that_two_operators_share_are_of_the_first() -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["m"]), helper.make_node("MatMul", ["m", "w"], ["y"])]
    counted = onnx_costs.count(_model(nodes, {"x": [2, 4]}, {"w": _floats(4, 4)}))
    assert [layer.parameters for layer in counted.layers] == [16, 0]
    assert counted.totals.macs == 2 * (2 * 4 * 4)


def test_a_free_batch_is_one_or_as_given() -> None:
    path = _model([helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": ["batch", 5]}, {"w": _floats(5, 7)})
    assert onnx_costs.count(path).totals.macs == 35
    assert onnx_costs.count(path, [TensorSpec("x", (4, 5), "float32")]).totals.macs == 4 * 35


def test_another_free_length_leaves_what_depends_on_it_uncounted() -> None:
    path = _model([helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": [1, "steps", 5]}, {"w": _floats(5, 7)})
    totals = onnx_costs.count(path).totals
    assert (totals.macs, totals.not_counted, totals.peak_activation_bytes) == (0, ("MatMul",), None)


# --- torch


def test_a_network_is_counted_by_module(tiny_net: str) -> None:
    counted = torch_costs.count(_tiny(), [IMAGE])
    totals = counted.totals
    assert (totals.macs, totals.parameters, totals.not_counted) == (TINY_MACS, TINY_PARAMETERS, ())
    assert totals.weight_bytes == 4 * TINY_PARAMETERS
    assert totals.peak_activation_bytes == TINY_PEAK
    assert {layer.module: layer.macs for layer in counted.layers if layer.macs} == {
        "features.0": 55_296,
        "features.3": 56_448,
        "head": 64,
    }


@pytest.mark.parametrize("form", ["traced", "frozen", "exported"])
def test_a_network_in_torchs_own_files_has_the_same_macs(tiny_net: str, form: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = torch.from_numpy(IMAGE)
        network = torch.export.export(_tiny(), (image,)) if form == "exported" else torch.jit.trace(_tiny(), image)
        network = torch.jit.freeze(network) if form == "frozen" else network
    totals = torch_costs.count(network, [IMAGE]).totals
    assert totals.macs == TINY_MACS
    # Freezing folds the batch norm into the convolution before it.
    assert totals.parameters == TINY_PARAMETERS - 16 * (form == "frozen")


def test_recurrent_layers_are_counted() -> None:
    # 4 steps of 2 sequences of 5: an LSTM of 7 has 4 gates, a GRU of 3 has 3.
    network = torch.nn.Sequential(torch.nn.LSTM(5, 7))
    lstm = torch_costs.count(network.eval(), [np.zeros((4, 2, 5), np.float32)]).totals
    gru = torch_costs.count(torch.nn.GRU(5, 3).eval(), [np.zeros((4, 2, 5), np.float32)]).totals
    assert (lstm.macs, lstm.not_counted) == (8 * (28 * 5 + 28 * 7), ())
    assert (gru.macs, gru.not_counted) == (8 * (9 * 5 + 9 * 3), ())


def test_a_transformer_layer_is_counted_as_torchs_own_counter_does() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    layer = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    given = np.zeros((1, 5, 8), np.float32)
    # With gradients, which keeps torch from its one operator for all of it.
    with FlopCounterMode(display=False) as counter:
        layer(torch.from_numpy(given))
    assert torch_costs.count(layer, [given]).totals.macs == counter.get_total_flops() / 2
    assert torch.backends.mha.get_fastpath_enabled()


def test_pruned_weights_are_counted_as_zeros(tiny_net: str) -> None:
    network = _tiny()
    with torch.no_grad():
        network.head.weight[:2] = 0
    (head,) = [item for item in torch_costs.count(network, [IMAGE]).layers if item.module == "head"]
    assert (head.parameters, head.zeros) == (68, 32)


def test_torch_operators_of_others_are_named() -> None:
    class Boxes(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            return torch.ops.torchvision.nms(x, x[:, 0], 0.5)

    pytest.importorskip("torchvision", reason="needs torchvision: pip install 'edgebench[torch]'")
    totals = torch_costs.count(Boxes(), [np.ones((3, 4), np.float32)]).totals
    assert (totals.macs, totals.not_counted) == (0, ("nms",))


# --- TFLite


@pytest.mark.parametrize(
    ("name", "millions", "thousands"),
    [
        # MLPerf Tiny's ResNet-8 has 12.5 million MACs and 78 thousand parameters (Banbury et al. 2021, table 1).
        ("mlperf_tiny_resnet8_fp32.tflite", 12.5, 78),
        ("mlperf_tiny_resnet8_int8.tflite", 12.5, 78),
        # MobileNet v1 0.25 128: 14 million, 0.47 million (tensorflow/models, mobilenet_v1.md).
        ("mobilenet_v1_0.25_128_quant.tflite", 14, 470),
    ],
)
def test_published_tflite_networks_have_their_published_macs(name: str, millions: float, thousands: int) -> None:
    pytest.importorskip("ai_edge_litert", reason="needs ai-edge-litert: pip install 'edgebench[tflite]'")
    path = SHARED / "models" / name
    if not path.is_file():
        pytest.skip(f"needs the published model {path}")
    counted = files.count(path)
    assert counted is not None
    assert counted.totals.macs / 1e6 == pytest.approx(millions, rel=0.04)
    assert counted.totals.parameters / 1e3 == pytest.approx(thousands, rel=0.01)
    assert counted.totals.weight_bytes < path.stat().st_size


def test_convolutions_on_blocks_of_a_free_batch_are_named() -> None:
    pytest.importorskip("ai_edge_litert", reason="needs ai-edge-litert: pip install 'edgebench[tflite]'")
    path = SHARED / "models" / "version-RFB-320_without_postprocessing.tflite"
    if not path.is_file():
        pytest.skip(f"needs the published model {path}")
    counted = files.count(path)
    assert counted is not None
    assert counted.totals.not_counted == ("CONV_2D",)
    # The ONNX file of the same network has all of them.
    theirs = files.count(path.with_suffix(".onnx"))
    assert theirs is not None
    assert 0.95 * theirs.totals.macs < counted.totals.macs < theirs.totals.macs


# --- through export, bench and inspect


def test_every_artifact_carries_its_costs_into_the_run(tiny_net: str, photos: str) -> None:
    exported = edgebench.export(
        tiny_net, calib=photos, preprocess="cifar10", formats=["torchscript", "onnx", "onnx-int8"]
    )
    costs = {item.format: item.costs for item in load_bundle(exported.path).artifacts}
    assert {name: found.macs for name, found in costs.items() if found} == dict.fromkeys(
        ("torchscript", "onnx", "onnx-int8"), TINY_MACS
    )
    # float32 against int8; the exporter has folded the batch norm.
    assert costs["onnx"] is not None and costs["onnx-int8"] is not None
    assert costs["onnx"].parameters == TINY_PARAMETERS - 16
    assert costs["onnx"].peak_activation_bytes == TINY_PEAK
    # Biases stay 32 bits wide: 8 + 16 + 4 of them.
    assert costs["onnx-int8"].weight_bytes == costs["onnx"].parameters + 3 * 28

    quick = edgebench.BenchSettings(processes=1, warmup=1, iterations=5, max_time_s=2.0, max_wait_s=0.0)
    run = edgebench.bench(exported, threads=[1], batch_sizes=[2], runtimes=["onnxruntime"], settings=quick)
    assert [cell.costs.macs for cell in run.cells if cell.costs] == [2 * TINY_MACS] * 2
    (roofline,) = run.devices[0].rooflines
    assert roofline.threads == 1
    shares = [found.share for cell in run.cells if (found := figures(run, cell).compute)]
    assert len(shares) == 2
    assert all(shares)
    assert edgebench.load_run(run.id) == run


def test_a_bundle_from_before_costs_is_counted_when_it_is_measured(tiny_net: str) -> None:
    from dataclasses import replace

    exported = edgebench.export(tiny_net, formats=["onnx"])
    bundle = exported.bundle
    save_bundle(exported.path, replace(bundle, artifacts=tuple(replace(a, costs=None) for a in bundle.artifacts)))
    quick = edgebench.BenchSettings(processes=1, warmup=1, iterations=5, max_time_s=2.0, max_wait_s=0.0)
    (cell,) = edgebench.bench(exported.path, threads=[1], settings=quick).cells
    assert cell.costs is not None
    assert cell.costs.macs == TINY_MACS


def _inspect(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    parser = argparse.ArgumentParser()
    inspect.add_parser(parser.add_subparsers())
    args = parser.parse_args(["inspect", *argv])
    args.run(args)
    return capsys.readouterr().out


def test_inspect_counts_a_factory_by_layer(tiny_net: str, capsys: pytest.CaptureFixture[str]) -> None:
    facts = json.loads(_inspect(capsys, tiny_net, "--layers", "--json", "-"))
    assert Costs(**{**facts["costs"], "not_counted": ()}).macs == TINY_MACS
    assert [layer["module"] for layer in facts["layers"] if layer["macs"]] == ["features.0", "features.3", "head"]
    printed = _inspect(capsys, tiny_net, "--layers")
    assert f"{TINY_MACS:,}" in printed
    # 55,296 of 111,808.
    assert "49.5 %" in next(line for line in printed.splitlines() if line.strip().startswith("features.0"))


def test_inspect_runs_no_code_of_a_torchscript_file(tiny_net: str, capsys: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(_tiny(), torch.from_numpy(IMAGE)), "net.pt")
    assert "pass --trust" in _inspect(capsys, "net.pt", "--input-shape", "1,3,16,16")
    assert f"{TINY_MACS:,}" in _inspect(capsys, "net.pt", "--input-shape", "1,3,16,16", "--trust")


def test_inspect_asks_for_the_length_that_a_file_leaves_free(capsys: pytest.CaptureFixture[str]) -> None:
    path = _model([helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": [1, "steps", 5]}, {"w": _floats(5, 7)})
    assert "--input-shape" in _inspect(capsys, str(path))
    assert "70" in _inspect(capsys, str(path), "--input-shape", "1,2,5")


def test_inspect_says_why_a_network_was_not_counted(tiny_net: str, capsys: pytest.CaptureFixture[str]) -> None:
    printed = _inspect(capsys, tiny_net, "--input-shape", "1,5,16,16")
    assert "not counted: it does not take an input of shape [1, 5, 16, 16]" in printed


def test_inspect_counts_a_tflite_file_whatever_it_is_called(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("ai_edge_litert", reason="needs ai-edge-litert: pip install 'edgebench[tflite]'")

    facts = json.loads(_inspect(capsys, str(dense(tmp_path / "model.bin")), "--json", "-"))

    # A dense layer of 4 to 3.
    assert (facts["kind"], facts["costs"]["macs"]) == ("tflite", 12)
