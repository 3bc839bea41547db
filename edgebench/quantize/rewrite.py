"""Operators without an int8 kernel, rewritten as those that have one; each because it was measured to pay.

Time over float32's, onnxruntime 1.31, x86-64 with VNNI, one thread, U8S8 per channel (benchmarks/int8_rewrites.py): as
exported, rewritten, and without scalings, efficientnet_b0 0.90, 0.70, 0.68 (it has none), mobilenet_v3_small 1.17,
1.03, 0.91. A mobilenet_v3_small trained on digits keeps its 28.2 dB and all of its answers.

- Pools: torch's dynamo exporter writes the mean over an image as ReduceMean, its older one as GlobalAveragePool.
- Hard activations: HardSwish and HardSigmoid become `x * Clip(x / 6 + 0.5, 0, 1)` (Howard et al., "Searching for
  MobileNetV3", 2019, section 5.2), whose Clip is the range that the sum is quantized in. Dividing last, or the product
  of `x` and a HardSigmoid in float, was slower.
- Scalings: `x / 6` of a quantized `x` are the same integers at a sixth of the scale, and no operator.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgebench.quantize.weights import drop_unread

__all__ = ["rewritten", "without_scalings"]

_STANDARD = ("", "ai.onnx")
# HardSwish is HardSigmoid with these, times its input.
_SWISH_SLOPE, _SWISH_OFFSET = 1 / 6, 0.5
# HardSigmoid's by default (ONNX's operators).
_SIGMOID_SLOPE, _SIGMOID_OFFSET = 0.2, 0.5
_MOST_AXES = 8

Constants = dict[str, NDArray[Any]]


def rewritten(model: Any) -> tuple[str, ...]:
    """Rewrite the float graph of an `onnx.ModelProto` in place, to the same function; sentences on what was done.

    Shapes must be inferred. Weights may lie outside: none is read.
    """
    pools = _pool_means(model.graph)
    hard = _split_hard_activations(model.graph)
    drop_unread(model.graph)
    said = []
    if pools:
        said.append(f"{pools} means over an image are GlobalAveragePool")
    if hard:
        said.append(f"{hard} HardSwish and HardSigmoid are sums and products")
    return tuple(said)


def without_scalings(model: Any) -> int:
    """Take products with a positive constant out of a QDQ graph, in place; how many.

    Where `DequantizeLinear`, `Mul` by the constant and `QuantizeLinear` follow each other, what reads the result reads
    the integers of the input instead, at their scale times the constant: that is exact, and rounds once less.
    """
    from onnx import numpy_helper

    graph = model.graph
    constants, makers, readers = _constants(graph), _makers(graph), _readers(graph)
    outputs = {value.name for value in graph.output}
    removed = 0
    for product in [node for node in graph.node if node.op_type == "Mul" and node.domain in _STANDARD]:
        source, factor = _scaled_by(product, constants, makers)
        (quantizer, *others) = readers.get(product.output[0], [None])
        if source is None or quantizer is None or others or product.output[0] in outputs:
            continue
        results = readers.get(quantizer.output[0], [])
        if not _are_pairs_of(source, quantizer, results, constants):
            continue
        scale = np.float32(constants[source.input[1]] * factor)
        name = f"{product.output[0]}/scale"
        graph.initializer.append(numpy_helper.from_array(np.array(scale), name))
        constants[name] = np.array(scale)
        for result in results:
            result.input[:] = [source.input[0], name, source.input[2]]
        graph.node.remove(product)
        graph.node.remove(quantizer)
        removed += 1
    _drop_unread(graph)
    return removed


def _drop_unread(graph: Any) -> None:
    """Drop the conversions of constants that nothing reads any more; onnxruntime would run them."""
    read = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    for node in [node for node in graph.node if not read.intersection(node.output)]:
        graph.node.remove(node)


def _pool_means(graph: Any) -> int:
    """Make GlobalAveragePool of every mean over height and width; how many."""
    from onnx import helper

    constants, ranks = _constants(graph), _ranks(graph)
    nodes: list[Any] = []
    count = 0
    for node in graph.node:
        settings = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        axes = constants.get(node.input[1]) if len(node.input) > 1 else settings.get("axes")
        if (
            node.op_type != "ReduceMean"
            or ranks.get(node.input[0]) != 4
            or axes is None
            or sorted(int(axis) % 4 for axis in axes) != [2, 3]
        ):
            nodes.append(node)
            continue
        count += 1
        result = node.output[0]
        pooled = result if settings.get("keepdims", 1) else f"{result}/pooled"
        nodes.append(helper.make_node("GlobalAveragePool", [node.input[0]], [pooled], f"{result}/pool"))
        if pooled != result:
            nodes.append(helper.make_node("Flatten", [pooled], [result], f"{result}/flat"))
    _replace(graph.node, nodes)
    return count


def _split_hard_activations(graph: Any) -> int:
    """Make a product, a sum and a Clip of every HardSigmoid and HardSwish, and of the latter one more product."""
    from onnx import helper, numpy_helper

    nodes: list[Any] = []
    count = 0
    for node in graph.node:
        if node.op_type not in ("HardSigmoid", "HardSwish") or node.domain not in _STANDARD:
            nodes.append(node)
            continue
        count += 1
        source, result = node.input[0], node.output[0]
        stem = node.name or result
        swish = node.op_type == "HardSwish"
        settings = {attribute.name: attribute.f for attribute in node.attribute}
        slope = _SWISH_SLOPE if swish else settings.get("alpha", _SIGMOID_SLOPE)
        offset = _SWISH_OFFSET if swish else settings.get("beta", _SIGMOID_OFFSET)
        for part, value in (("slope", slope), ("offset", offset), ("low", 0), ("high", 1)):
            graph.initializer.append(numpy_helper.from_array(np.array(value, np.float32), f"{result}/{part}"))
        gate = f"{result}/gate" if swish else result
        for kind, inputs, output in (
            ("Mul", [source, f"{result}/slope"], f"{result}/scaled"),
            ("Add", [f"{result}/scaled", f"{result}/offset"], f"{result}/sum"),
            ("Clip", [f"{result}/sum", f"{result}/low", f"{result}/high"], gate),
        ):
            nodes.append(helper.make_node(kind, inputs, [output], f"{stem}/{kind}"))
        if swish:
            nodes.append(helper.make_node("Mul", [source, gate], [result], f"{stem}/product"))
    _replace(graph.node, nodes)
    return count


def _scaled_by(product: Any, constants: Constants, makers: Mapping[str, Any]) -> tuple[Any | None, float]:
    """The DequantizeLinear whose result `product` multiplies by a positive number, and that number."""
    for name, other in (product.input, reversed(product.input)):
        source, factor = makers.get(name), _number(other, constants, makers)
        if factor is not None and factor > 0 and source is not None and source.op_type == "DequantizeLinear":
            return source, factor
    return None, 0.0


def _number(name: str, constants: Constants, makers: Mapping[str, Any]) -> float | None:
    """The single constant that a tensor is, itself or dequantized."""
    if (maker := makers.get(name)) is not None and maker.op_type == "DequantizeLinear" and len(maker.input) == 3:
        parts = [constants.get(part) for part in maker.input]
        if any(part is None or part.size != 1 for part in parts):
            return None
        integer, scale, zero_point = (float(part.reshape(())) for part in parts if part is not None)
        return (integer - zero_point) * scale
    value = constants.get(name)
    return float(value.reshape(())) if value is not None and value.size == 1 else None


def _are_pairs_of(source: Any, quantizer: Any, results: Sequence[Any], constants: Constants) -> bool:
    """Whether `quantizer` and the `results` that read it have integers as `source` reads them, with one scale."""
    if quantizer.op_type != "QuantizeLinear" or quantizer.domain != source.domain or not results:
        return False
    if any(result.op_type != "DequantizeLinear" for result in results):
        return False
    if len(source.input) != 3 or len(quantizer.input) != 3:
        return False
    scale, mine, theirs = (constants.get(name) for name in (source.input[1], source.input[2], quantizer.input[2]))
    if scale is None or mine is None or theirs is None:
        return False
    return scale.size == 1 and mine.dtype == theirs.dtype


def _constants(graph: Any) -> Constants:
    """What is not larger than a list of axes."""
    from onnx import TensorProto, numpy_helper

    return {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in graph.initializer
        if tensor.data_location != TensorProto.EXTERNAL and np.prod(tensor.dims) <= _MOST_AXES
    }


def _makers(graph: Any) -> dict[str, Any]:
    return {name: node for node in graph.node for name in node.output}


def _readers(graph: Any) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            found.setdefault(name, []).append(node)
    return found


def _ranks(graph: Any) -> dict[str, int]:
    return {
        value.name: len(value.type.tensor_type.shape.dim)
        for value in (*graph.input, *graph.value_info)
        if value.type.tensor_type.HasField("shape")
    }


def _replace(nodes: Any, new: Sequence[Any]) -> None:
    del nodes[:]
    nodes.extend(new)
