"""From the names of nodes and tensors to modules of the PyTorch network."""

from __future__ import annotations

from collections import Counter

import pytest

from edgebench.agent.operator_times import GraphNode, OperatorTime
from edgebench.agent.profilers.onnx_nodes import OnnxNode
from edgebench.profiling import tflite_modules
from edgebench.profiling.alignment import aligned
from edgebench.profiling.onnx_modules import INSERTED, Found, file_names, module_of_node, modules_of

SCOPES = "pkg.torch.onnx.name_scopes"


def _file(name: str, operator: str, inputs: list[str], output: str, scopes: str | None = None) -> OnnxNode:
    return OnnxNode(name, operator, "", tuple(inputs), (output,), () if scopes is None else ((SCOPES, scopes),))


def _ran(name: str, operator: str, inputs: list[str], output: str) -> GraphNode:
    return GraphNode(name, operator, tuple(inputs), (output,))


# What dynamo writes for conv (its batch norm folded), relu, hardswish, and a mean.
EXPORTED = [
    _file("node_Conv_1", "Conv", ["input", "a.0.weight"], "getitem", "['', 'a', 'a.1', 'batch_norm']"),
    _file("node_relu", "Relu", ["getitem"], "relu", "['', 'a', 'a.2', 'relu']"),
    _file("n0", "HardSwish", ["relu"], "hardswish", "['', 'b', 'hardswish']"),
    _file("node_mean", "ReduceMean", ["hardswish"], "mean", "['', 'mean']"),
]
NAMES = file_names([EXPORTED])


@pytest.mark.parametrize(
    ("node", "module"),
    [
        (EXPORTED[0], "a.0"),
        (EXPORTED[1], "a.2"),
        (EXPORTED[3], ""),
        (_file("/layer1/layer1.0/conv1/Conv", "Conv", ["x", "onnx::Conv_1"], "y"), "layer1.0.conv1"),
        (_file("/features/features.3/Add", "Add", ["x", "y"], "z"), "features.3"),
        (_file("/Flatten", "Flatten", ["x"], "y"), ""),
        (_file("Gemm_2", "Gemm", ["x", "val_98", "mlp.0.bias"], "y"), "mlp.0"),
        (_file("Add_1", "Add", ["x", "y"], "z"), None),
        (_file("n", "Relu", ["x"], "y", "not a list"), None),
    ],
)
def test_a_node_says_what_module_it_is_of(node: OnnxNode, module: str | None) -> None:
    assert module_of_node(node, Counter({"a.0.weight": 1, "mlp.0.bias": 1})) == module


def test_a_weight_that_several_nodes_share_names_no_module() -> None:
    node = _file("n", "MatMul", ["x", "embed.weight"], "y", "['', 'head', 'matmul']")
    assert module_of_node(node, Counter({"embed.weight": 2})) == "head"


def test_a_fused_operator_is_of_the_module_of_its_kind_and_not_of_the_last_one() -> None:
    # ONNX Runtime calls a convolution with its activation after the activation's tensor.
    graph = [_ran("relu_nchwc", "Conv", ["input", "reorder"], "reorder_token_0")]
    assert modules_of(graph, NAMES) == [Found("a.0")]


def test_an_int8_operator_is_found_by_its_name_and_by_its_outputs_scale() -> None:
    graph = [
        _ran("node_Conv_1_token_7", "QLinearConv", ["q", "s", "z", "a.0.weight_quantized", "relu_scale"], "t1"),
        _ran("", "QLinearMul", ["t1", "relu_scale", "z", "t0", "x_scale", "z", "hardswish_scale", "z"], "_token_2"),
    ]
    assert modules_of(graph, NAMES) == [Found("a.0"), Found("b")]


def test_conversions_belong_to_what_computes_in_float() -> None:
    graph = [
        _ran("input_QuantizeLinear", "QuantizeLinear", ["input"], "q0"),
        _ran("Transpose_token_3", "Transpose", ["q0"], "q1"),
        _ran("node_Conv_1", "QLinearConv", ["q1"], "q2"),
        _ran("relu_DequantizeLinear", "DequantizeLinear", ["q2"], "f0"),
        _ran("", "HardSigmoid", ["f0"], "_token_1"),
        _ran("_inlfunc_HS_QuantizeLinear", "QuantizeLinear", ["_token_1"], "q3"),
        _ran("", "QLinearMul", ["q3", "s", "z", "q2", "s", "z", "hardswish_scale"], "q4"),
    ]
    assert modules_of(graph, NAMES) == [
        Found("a.0"),
        Found(INSERTED),
        Found("a.0"),
        Found("b"),
        # An inlined function's operator, of which no file knows.
        Found("b", guessed=True),
        Found("b"),
        Found("b"),
    ]


def test_a_simplified_files_node_is_found_by_the_constant_that_it_took_over() -> None:
    exported = [
        _file("node_MatMul", "MatMul", ["x", "val_98"], "val_99", "['', 'mlp', 'mlp.0', 'linear']"),
        _file("node_linear", "Add", ["val_99", "val_7"], "linear", "['', 'mlp', 'mlp.0', 'linear']"),
    ]
    simplified = [_file("Gemm_2", "Gemm", ["x", "val_98", "val_7"], "_v_1")]
    graph = [_ran("Gemm_2", "QGemm", ["x", "s", "z", "val_98_quantized"], "linear_q")]
    assert modules_of(graph, file_names([exported, simplified])) == [Found("mlp.0")]


def test_without_an_exporters_names_nothing_is_guessed() -> None:
    bare = [
        _file("node_mean", "ReduceMean", ["input"], "mean"),
        _file("node_linear", "Gemm", ["mean", "fc.weight"], "linear"),
    ]
    graph = [_ran("node_mean", "ReduceMean", ["input"], "mean"), _ran("node_linear", "Gemm", ["mean", "w"], "linear")]
    assert modules_of(graph, file_names([bare])) == [Found(None), Found("fc")]


NET = "torchvision.models.resnet.ResNet"
BLOCK = f"{NET}/torch.nn.modules.container.Sequential_layer1/torchvision.models.resnet.BasicBlock_0"
CONV = f"{BLOCK}/torch.nn.modules.conv.Conv2d_conv1"
RELU = f"{BLOCK}/torch.nn.modules.activation.ReLU_relu"
NORM = f"{BLOCK}/torch.nn.modules.batchnorm.BatchNorm2d_bn1"


@pytest.mark.parametrize(
    ("operator", "inputs", "output", "module"),
    [
        ("CONV_2D", [], f"{RELU};;{NORM};;{CONV};1", "layer1.0.conv1"),
        ("ADD", [], f"{RELU};;{BLOCK};;{NORM};", "layer1.0"),
        ("MEAN", [], f"{NET}/torch.nn.modules.pooling.AdaptiveAvgPool2d_avgpool;1", "avgpool"),
        ("MUL", [], f"{BLOCK}/torch.nn.modules.activation.Hardsigmoid_scale_activation;;{CONV};2",
         "layer1.0.scale_activation"),
        # The last operator writes the network's output, which has a name of its own.
        ("FULLY_CONNECTED", ["x", f"{NET}/torch.nn.modules.linear.Linear_fc;1"], "serving_default_output_0", "fc"),
        ("RESHAPE", [], "arith.constant3", None),
        ("RESHAPE", [], f"{NET};", ""),
    ],
)  # fmt: skip
def test_litert_torchs_tensors_name_their_module(
    operator: str, inputs: list[str], output: str, module: str | None
) -> None:
    assert tflite_modules.modules_of([GraphNode("0", operator, tuple(inputs), (output,))]) == [Found(module)]


def _kernels(*names: str) -> list[OperatorTime]:
    return [OperatorTime(name=name, operator=name, ns=(1,)) for name in names]


def _graph(*operators: str) -> list[GraphNode]:
    return [GraphNode(str(number), operator, (), ()) for number, operator in enumerate(operators)]


def test_xnnpacks_kernels_are_matched_with_the_operators_that_they_compute() -> None:
    graph = _graph("TRANSPOSE", "PAD", "CONV_2D", "HARD_SWISH", "DEPTHWISE_CONV_2D", "ADD", "CONV_2D", "MEAN")
    # Padding is folded into the convolution; one of a pixel is a matrix product; an addition's activation is a clamp.
    kernels = _kernels(
        "Transpose", "Convolution", "HardSwish", "Convolution", "Add", "Clamp", "Fully Connected", "Mean"
    )
    assert aligned(kernels, graph) == [0, 2, 3, 4, 5, 5, 6, 7]


def test_an_operator_that_no_delegate_took_keeps_its_own_place() -> None:
    graph = _graph("CONV_2D", "PADV2", "MAX_POOL_2D")
    kernels = [*_kernels("Convolution"), OperatorTime("PADV2", "PADV2", (1,), node=1), *_kernels("Max Pooling")]
    assert aligned(kernels, graph) == [0, 1, 2]


def test_nothing_is_matched_where_the_operators_with_weights_are_not_as_many() -> None:
    assert aligned(_kernels("Convolution", "Add"), _graph("CONV_2D", "CONV_2D", "ADD")) == [None, None]
