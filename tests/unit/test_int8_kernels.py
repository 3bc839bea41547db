"""Which kinds of operators onnxruntime computes in int8, asked of the one that is installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import helper

from edgebench.agent.profilers.onnx_nodes import read_nodes
from edgebench.explaining.executed import INT8_KERNELS
from tests.unit.quantized_files import save

SHAPE = (1, 8, 8, 8)
_MEAN_AXES = np.array([2, 3])

# Of each kind: how many quantized inputs it takes, its attributes, and what follows its inputs ("w": int8 weights).
CASES: dict[str, tuple[int, dict[str, Any], list[Any]]] = {
    "Conv": (1, {"kernel_shape": [1, 1]}, [("w", (8, 8, 1, 1))]),
    "MatMul": (1, {}, [("w", (8, 8))]),
    "Add": (2, {}, []),
    "Mul": (2, {}, []),
    "LeakyRelu": (1, {}, []),
    "Sigmoid": (1, {}, []),
    "Softmax": (1, {}, []),
    "Concat": (2, {"axis": 1}, []),
    "AveragePool": (1, {"kernel_shape": [1, 1]}, []),
    "GlobalAveragePool": (1, {}, []),
    "MaxPool": (1, {"kernel_shape": [2, 2]}, []),
    "ReduceMax": (1, {}, [_MEAN_AXES]),
    "ReduceMin": (1, {}, [_MEAN_AXES]),
    "Reshape": (1, {}, [np.array([1, -1])]),
    "Flatten": (1, {}, []),
    "Transpose": (1, {"perm": [0, 2, 3, 1]}, []),
    "Squeeze": (1, {}, [np.array([0])]),
    "Unsqueeze": (1, {}, [np.array([0])]),
    "Expand": (1, {}, [np.array([2, 8, 8, 8])]),
    "Tile": (1, {}, [np.array([1, 1, 2, 2])]),
    "Slice": (1, {}, [np.array([0]), np.array([4]), np.array([1])]),
    "Split": (1, {"axis": 1, "num_outputs": 1}, []),
    "Gather": (1, {"axis": 1}, [np.array([0, 1])]),
    "GatherElements": (1, {"axis": 1}, [np.zeros(SHAPE, np.int64)]),
    "DepthToSpace": (1, {"blocksize": 2}, []),
    "Resize": (1, {"mode": "nearest"}, [np.zeros(0, np.float32), np.array([1, 1, 2, 2], np.float32)]),
    "Sub": (2, {}, []),
    "Div": (2, {}, []),
    "Pow": (2, {}, []),
    "Max": (2, {}, []),
    "Relu": (1, {}, []),
    "Tanh": (1, {}, []),
    "HardSigmoid": (1, {}, []),
    "Gelu": (1, {}, []),
    "Elu": (1, {}, []),
    "Pad": (1, {}, [np.array([0, 0, 1, 1, 0, 0, 1, 1])]),
    "ReduceMean": (1, {}, [_MEAN_AXES]),
    "ReduceSum": (1, {}, [_MEAN_AXES]),
    "GlobalMaxPool": (1, {}, []),
    "SpaceToDepth": (1, {"blocksize": 2}, []),
    "LayerNormalization": (1, {}, [np.ones(8, np.float32)]),
    "ConvTranspose": (1, {"kernel_shape": [1, 1]}, [("w", (8, 8, 1, 1))]),
}


@pytest.mark.parametrize("kind", CASES)
def test_a_kind_is_joined_with_the_pairs_around_it_as_explanations_say(kind: str, tmp_path: Path) -> None:
    count, attributes, others = CASES[kind]
    constants: dict[str, Any] = {"s": np.asarray(0.05, np.float32), "z": np.asarray(128, np.uint8)}
    nodes, read = [], []

    def pair(tensor: str, name: str) -> str:
        nodes.append(helper.make_node("QuantizeLinear", [tensor, "s", "z"], [f"{name}_q"], f"{name}_q"))
        nodes.append(helper.make_node("DequantizeLinear", [f"{name}_q", "s", "z"], [f"{name}_d"], f"{name}_d"))
        return f"{name}_d"

    for number in range(count):
        # Not of the input itself, whose conversion would be the network's own.
        nodes.append(helper.make_node("Erf", ["x"], [f"x{number}"], f"erf{number}"))
        read.append(pair(f"x{number}", f"in{number}"))
    for number, other in enumerate(others):
        if isinstance(other, tuple):
            constants |= {"w": np.ones(other[1], np.int8), "wz": np.asarray(0, np.int8)}
            nodes.append(helper.make_node("DequantizeLinear", ["w", "s", "wz"], ["wd"], "wd"))
            read.append("wd")
        else:
            constants[f"c{number}"] = other
            read.append(f"c{number}")
    nodes.append(helper.make_node(kind, read, ["made"], "target", **attributes))
    nodes.append(helper.make_node("Erf", [pair("made", "out")], ["erf"], "last"))
    nodes.append(helper.make_node("ReduceSum", ["erf"], ["y"], "sum", keepdims=0))
    path = save(tmp_path / "net.onnx", nodes, constants, SHAPE)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    operators = [node.operator for node in read_nodes(str(tmp_path / "optimised.onnx"))]
    # The last one is for what is float behind it; an operator in float has one before it as well.
    assert (operators.count("DequantizeLinear") == 1) == (kind in INT8_KERNELS), operators


def test_every_kind_that_is_said_to_have_a_kernel_is_tried() -> None:
    # Gemm takes rows, Where a condition, and Identity disappears.
    assert set(INT8_KERNELS) - CASES.keys() == {"Gemm", "Where", "Identity"}
