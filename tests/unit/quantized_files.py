"""Small ONNX files, float and quantized by hand, whose scales the tests know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

__all__ = ["SCALES", "float_net", "qdq_net", "save"]

# Of the activations of `qdq_net`, by the name of the float tensor.
SCALES = {"x": 1 / 32, "relu": 1 / 32, "conv2": 1 / 16, "sum": 1 / 16, "y": 1 / 16}
_WEIGHT_SCALE = 1 / 64
_CHANNELS = 4


def _weight(seed: int) -> NDArray[np.float32]:
    """[4, 4, 1, 1], in steps that int8 of `_WEIGHT_SCALE` expresses exactly."""
    steps = np.random.default_rng(seed).integers(-40, 40, (_CHANNELS, _CHANNELS, 1, 1))
    return (steps * _WEIGHT_SCALE).astype(np.float32)


def save(
    path: Path, nodes: Sequence[Any], constants: Mapping[str, NDArray[Any]], shape: Sequence[int], opset: int = 20
) -> Path:
    """A model of one input `x` and one output `y`, both float32 of `shape`."""
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape)) for name in ("x", "y")]
    graph = helper.make_graph(
        list(nodes), "net", values[:1], values[1:], [numpy_helper.from_array(a, n) for n, a in constants.items()]
    )
    domains = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=domains, ir_version=10), str(path))
    return path


def float_net(path: Path) -> Path:
    """conv1 -> relu -> conv2, whose result and relu's are added, and of that the hard sigmoid: `[1, 4, 4, 4]`."""
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["conv1"], "conv1"),
        helper.make_node("Relu", ["conv1"], ["relu"], "relu"),
        helper.make_node("Conv", ["relu", "w2"], ["conv2"], "conv2"),
        helper.make_node("Add", ["conv2", "relu"], ["sum"], "add"),
        helper.make_node("HardSigmoid", ["sum"], ["y"], "hard"),
    ]
    return save(path, nodes, {"w1": _weight(1), "w2": _weight(2)}, (1, _CHANNELS, 4, 4))


def qdq_net(path: Path, *, dtype: str = "uint8", scales: Mapping[str, float] = SCALES) -> Path:
    """`float_net` with pairs around every operator; its Relu is gone, as its result's range begins at 0."""
    kind = np.dtype(dtype)
    middle, least = {"uint8": (128, 0), "int8": (0, -128), "uint16": (32768, 0)}[dtype]
    # onnxruntime has 16 bits of its own before operator set 21.
    domain = "com.microsoft" if kind.itemsize > 1 else ""
    nodes: list[Any] = []
    constants: dict[str, NDArray[Any]] = {
        "weight_scale": np.float32(_WEIGHT_SCALE) * np.ones(_CHANNELS, np.float32),
        "weight_zero": np.zeros(_CHANNELS, np.int8),
    }

    def pair(tensor: str, read_as: str | None = None) -> str:
        constants[f"{tensor}_scale"] = np.asarray(scales[tensor], np.float32)
        constants[f"{tensor}_zero"] = np.asarray(least if tensor == "relu" else middle, kind)
        scale, zero, floats = f"{tensor}_scale", f"{tensor}_zero", read_as or f"{tensor}_DequantizeLinear_Output"
        source = f"{tensor}_QuantizeLinear_Input" if read_as == tensor else tensor
        for operator, inputs, output in (
            ("QuantizeLinear", [source, scale, zero], f"{tensor}_q"),
            ("DequantizeLinear", [f"{tensor}_q", scale, zero], floats),
        ):
            nodes.append(helper.make_node(operator, inputs, [output], f"{tensor}_{operator}", domain=domain))
        return floats

    def weight(name: str, seed: int) -> str:
        constants[f"{name}_quantized"] = np.rint(_weight(seed) / _WEIGHT_SCALE).astype(np.int8)
        inputs = [f"{name}_quantized", "weight_scale", "weight_zero"]
        nodes.append(helper.make_node("DequantizeLinear", inputs, [f"{name}_dq"], f"{name}_dq", axis=0))
        return f"{name}_dq"

    x = pair("x")
    nodes.append(helper.make_node("Conv", [x, weight("w1", 1)], ["relu"], "conv1"))
    relu = pair("relu")
    nodes.append(helper.make_node("Conv", [relu, weight("w2", 2)], ["conv2"], "conv2"))
    conv2 = pair("conv2")
    nodes.append(helper.make_node("Add", [conv2, relu], ["sum"], "add"))
    nodes.append(helper.make_node("HardSigmoid", [pair("sum")], ["y_QuantizeLinear_Input"], "hard"))
    pair("y", read_as="y")
    return save(path, nodes, constants, (1, _CHANNELS, 4, 4))
