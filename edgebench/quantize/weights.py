"""int8 weights in an ONNX file, activations in float32: a quarter of the size, without calibration.

The form is the one that onnxruntime 1.31 is fastest at, which differs by operator (x86-64 with VNNI, one thread, time
and memory beyond the library's own against float32):

- A convolution's weights behind DequantizeLinear are converted anew in every inference: resnet18 1.33 of the time at
  0.3 of the memory, mobilenet_v2 1.82 at 0.8. Behind Cast and Mul, which are folded when the file is loaded: 0.99 and
  0.93, with float32's memory. The latter it is.
- A matrix product behind DequantizeLinear becomes MatMulNBits, which keeps the weights in int8 and multiplies them by
  activations quantized on the way: vit_b_16 0.76 of the time at 0.4 of the memory. MatMulNBits written into the file
  was no faster (0.74) and is for onnxruntime alone. Gemm does not become one, so it is written as MatMul and Add.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgebench.errors import StepError

__all__ = ["drop_unread", "float_constants", "split_dense", "write_int8_weights"]

# Smaller weights stay: their scales and nodes would cost more than they save.
_SMALLEST = 1024
_LARGEST_CODE = 127
# DequantizeLinear has an axis from here on.
_PER_CHANNEL_OPSET = 13


def write_int8_weights(source: Path, out: Path) -> tuple[str, ...]:
    """Write `source` with the weights of its convolutions and matrix products in int8 to `out`; sentences on that.

    Raises:
        StepError: there are no such weights.
    """
    import onnx

    model = onnx.load(source)
    graph = model.graph
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    split_dense(graph)
    before = sum(int(np.prod(tensor.dims)) for tensor in graph.initializer)
    weights = float_constants(graph)
    computed: dict[str, int] = {}
    nodes: list[Any] = []
    for node in graph.node:
        axis = _channel_axis(node, weights)
        if axis is not None and (name := node.input[1]) not in computed and np.prod(weights[name].dims) >= _SMALLEST:
            computed[name] = int(np.prod(weights[name].dims))
            dequantized = node.op_type == "MatMul" and opset >= _PER_CHANNEL_OPSET
            nodes.extend(_in_int8(graph, weights[name], axis, dequantized=dequantized))
        nodes.append(node)
    if not computed:
        raise StepError(f"no convolution or matrix product in it has weights of {_SMALLEST} numbers or more")
    del graph.node[:]
    graph.node.extend(nodes)
    onnx.checker.check_model(model)
    onnx.save(model, out)
    return (f"{sum(computed.values()) / before:.1%} of the numbers are int8, per channel; activations are float32",)


def split_dense(graph: Any) -> None:
    """Make MatMul and Add of every plain Gemm with constant weights: quantizers and fusions know the former."""
    from onnx import helper, numpy_helper

    weights = float_constants(graph)
    nodes: list[Any] = []
    turned: set[str] = set()
    for node in graph.node:
        settings = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        tensor = weights.get(node.input[1]) if node.op_type == "Gemm" else None
        if tensor is None or settings.get("alpha", 1) != 1 or settings.get("beta", 1) != 1 or settings.get("transA", 0):
            nodes.append(node)
            continue
        name = tensor.name
        if settings.get("transB", 0):
            name = f"{tensor.name}_transposed"
            if name not in turned:
                turned.add(name)
                graph.initializer.append(numpy_helper.from_array(numpy_helper.to_array(tensor).T.copy(), name))
        result, bias = node.output[0], node.input[2] if len(node.input) > 2 else ""
        product = f"{result}_product" if bias else result
        nodes.append(helper.make_node("MatMul", [node.input[0], name], [product], name=node.name))
        if bias:
            nodes.append(helper.make_node("Add", [product, bias], [result], name=f"{node.name}_bias"))
    del graph.node[:]
    graph.node.extend(nodes)
    drop_unread(graph)


def float_constants(graph: Any) -> dict[str, Any]:
    """The float32 initializers that nobody outside can override or ask for."""
    outside = {value.name for value in (*graph.input, *graph.output)}
    return {
        tensor.name: tensor
        for tensor in graph.initializer
        if tensor.data_type == tensor.FLOAT and tensor.name not in outside
    }


def _channel_axis(node: Any, weights: Mapping[str, Any]) -> int | None:
    """The axis of the output channels in a layer's constant weights; None for what is no such layer."""
    if len(node.input) < 2 or node.input[1] not in weights or node.domain not in ("", "ai.onnx"):
        return None
    match node.op_type:
        case "Conv":
            return 0
        case "ConvTranspose":
            return 1
        case "MatMul":
            return len(weights[node.input[1]].dims) - 1
        case "Gemm":
            return 0 if any(attribute.name == "transB" and attribute.i for attribute in node.attribute) else 1
    return None


def _in_int8(graph: Any, tensor: Any, axis: int, *, dequantized: bool) -> list[Any]:
    """Replace `tensor` by an int8 one and by the nodes that compute it, under its name."""
    from onnx import TensorProto, helper, numpy_helper

    values: NDArray[np.float32] = numpy_helper.to_array(tensor)
    others = tuple(index for index in range(values.ndim) if index != axis)
    largest = np.abs(values).max(axis=others, keepdims=True)
    scales = np.where(largest > 0, largest / _LARGEST_CODE, 1).astype(np.float32)
    # Symmetric, and so without -128, which has no counterpart.
    codes = np.clip(np.rint(values / scales), -_LARGEST_CODE, _LARGEST_CODE).astype(np.int8)
    name = tensor.name
    graph.initializer.remove(tensor)
    graph.initializer.append(numpy_helper.from_array(codes, f"{name}_int8"))
    if dequantized:
        graph.initializer.append(numpy_helper.from_array(scales.reshape(-1), f"{name}_scale"))
        return [
            helper.make_node("DequantizeLinear", [f"{name}_int8", f"{name}_scale"], [name], f"{name}_dq", axis=axis)
        ]
    graph.initializer.append(numpy_helper.from_array(scales, f"{name}_scale"))
    return [
        helper.make_node("Cast", [f"{name}_int8"], [f"{name}_cast"], f"{name}_to_float", to=TensorProto.FLOAT),
        helper.make_node("Mul", [f"{name}_cast", f"{name}_scale"], [name], f"{name}_scaled"),
    ]


def drop_unread(graph: Any) -> None:
    """Leave out the initializers that nothing reads; onnxruntime warns of each."""
    read = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    kept = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.initializer[:]
    graph.initializer.extend(kept)
