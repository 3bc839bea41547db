"""How an ONNX file is quantized, read from it: which tensors have a scale, of which type, and where it came from.

Both forms are read alike: QDQ, where pairs of QuantizeLinear and DequantizeLinear stand around float operators, and
QOperator, where operators such as QLinearConv take scales as inputs. A scale that is computed while the model runs
(dynamic quantization) is none of the file's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgebench.agent.profilers.onnx_nodes import OnnxNode

__all__ = ["CONVERSIONS", "Quantization", "QuantizedFile", "Scheme", "Weight", "read_file"]

CONVERSIONS = ("QuantizeLinear", "DequantizeLinear")

# Of operators that take scales: where (tensor, scale, zero point) of each quantized input stand, where scale and zero
# point of the result do (onnx.ai/onnx/operators, and ContribOperators.md of onnxruntime).
_BINARY = (((0, 1, 2), (3, 4, 5)), (6, 7))
_UNARY = (((0, 1, 2),), (3, 4))
_TAKE_SCALES: dict[str, tuple[tuple[tuple[int, int, int], ...], tuple[int, int]]] = {
    "QLinearConv": _BINARY,
    "QLinearMatMul": _BINARY,
    "QLinearAdd": _BINARY,
    "QLinearMul": _BINARY,
    "QGemm": (((0, 1, 2), (3, 4, 5)), (7, 8)),
    "QLinearWhere": (((1, 2, 3), (4, 5, 6)), (7, 8)),
    "QLinearSigmoid": _UNARY,
    "QLinearLeakyRelu": _UNARY,
    "QLinearSoftmax": _UNARY,
    "QLinearAveragePool": _UNARY,
    "QLinearGlobalAveragePool": _UNARY,
    "QLinearReduceMean": _UNARY,
}
# What quantizers append to a tensor's name when they make another of it.
_SUFFIXES = (
    *("_quantized", "_QuantizeLinear_Output", "_DequantizeLinear_Output", "_QuantizeLinear_Input"),
    *("_QuantizeInput", "_q", "_dq"),
)
# onnxruntime's QuantType of 8 bits with one bit less (reduce_range) is within +-64.
_SEVEN_BITS = 64
_NO_SCALES = "no scales in the file"


@dataclass(frozen=True)
class Quantization:
    """The scale of a tensor: `quantized` names the integers, `tensor` the floats that they stand for, "" where the file
    has none. `scale` and `zero_point` are single, or one for each channel, or block of them, along `axis`."""

    tensor: str
    quantized: str
    dtype: str
    scale: NDArray[np.float32]
    zero_point: NDArray[np.int64]
    axis: int | None

    @property
    def levels(self) -> tuple[int, int]:
        """The least and the greatest integer of its type."""
        bits = int("".join(filter(str.isdigit, self.dtype)))
        return (0, 2**bits - 1) if self.dtype.startswith("u") else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)

    @property
    def range(self) -> tuple[float, float]:
        """The real values that it can express, of a single scale."""
        least, most = self.levels
        scale, zero = float(self.scale.reshape(-1)[0]), int(self.zero_point.reshape(-1)[0])
        return (least - zero) * scale, (most - zero) * scale

    def real(self, integers: NDArray[Any]) -> NDArray[np.float32]:
        """What the integers stand for."""
        steps = integers.astype(np.int32) - self._along(self.zero_point, integers.shape)
        return np.asarray(steps * self._along(self.scale, integers.shape), np.float32)

    def rounded(self, reals: NDArray[Any]) -> NDArray[np.int32]:
        """The integers of `reals`."""
        scaled = np.rint(reals / self._along(self.scale, reals.shape)) + self._along(self.zero_point, reals.shape)
        return np.asarray(np.clip(scaled, *self.levels), np.int32)

    def _along(self, values: NDArray[Any], shape: Sequence[int]) -> NDArray[Any]:
        """Scales or zero points as they are broadcast."""
        if self.axis is None or values.size == 1:
            return values.reshape(())
        if values.ndim > 1:
            # Blocks along the axis have one each.
            block = -(-shape[self.axis] // values.shape[self.axis])
            return np.repeat(values, block, self.axis).take(range(shape[self.axis]), self.axis)
        beside = [1] * len(shape)
        beside[self.axis] = values.size
        return values.reshape(beside)


@dataclass(frozen=True)
class Weight:
    """A quantized constant, and the operator that reads it."""

    how: Quantization
    integers: NDArray[Any]
    node: OnnxNode

    @property
    def real(self) -> NDArray[np.float32]:
        """What its integers stand for."""
        return self.how.real(self.integers)

    @property
    def seven_bits(self) -> bool:
        """Whether it leaves a bit unused, so that 16-bit sums of two products do not overflow."""
        return bool(np.abs(self.integers.astype(np.int32)).max(initial=0) <= _SEVEN_BITS)


@dataclass(frozen=True)
class Scheme:
    """How a file is quantized, in short.

    form: `QDQ`, `QOperator`, `dynamic` (scales are computed while it runs), `weight-only`, or `float`.
    activations: (type, how many tensors). weights: (type, whether each channel has its scale, how many).
    seven_bits: all weights leave a bit unused.
    """

    form: str
    activations: tuple[tuple[str, int], ...]
    weights: tuple[tuple[str, bool, int], ...]
    seven_bits: bool

    @property
    def activations_in_words(self) -> str:
        """Such as `31 uint8, 4 uint16`."""
        return ", ".join(f"{count} {dtype}" for dtype, count in self.activations) or _NO_SCALES

    @property
    def weights_in_words(self) -> str:
        """Such as `20 int8 per channel`."""
        kinds = [
            f"{count} {dtype} per {'channel' if per_channel else 'tensor'}"
            for dtype, per_channel, count in self.weights
        ]
        return ", ".join(kinds) + (", of 7 bits" if self.seven_bits else "") if kinds else _NO_SCALES


@dataclass(frozen=True)
class QuantizedFile:
    """The main graph of a file. `activations` are by the name of their integers; biases are among `constants` alone."""

    nodes: tuple[OnnxNode, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    constants: frozenset[str]
    activations: dict[str, Quantization]
    weights: tuple[Weight, ...]

    @cached_property
    def writers(self) -> dict[str, OnnxNode]:
        """By tensor the node that writes it."""
        return {tensor: node for node in self.nodes for tensor in node.outputs}

    @cached_property
    def readers(self) -> dict[str, list[OnnxNode]]:
        """By tensor the nodes that read it."""
        found: dict[str, list[OnnxNode]] = {}
        for node in self.nodes:
            for tensor in node.inputs:
                found.setdefault(tensor, []).append(node)
        return found

    @property
    def form(self) -> str:
        """As of a Scheme."""
        kinds = {node.operator for node in self.nodes}
        if kinds & _TAKE_SCALES.keys():
            return "QOperator"
        if kinds & {"ConvInteger", "MatMulInteger", "DynamicQuantizeLinear", "DynamicQuantizeMatMul"}:
            return "dynamic"
        if self.activations:
            return "QDQ"
        return "weight-only" if self.weights or "MatMulNBits" in kinds else "float"

    @property
    def scheme(self) -> Scheme:
        """All of it in short."""
        activations = Counter(how.dtype for how in self.activations.values())
        weights = Counter((weight.how.dtype, weight.how.scale.size > 1) for weight in self.weights)
        return Scheme(
            form=self.form,
            activations=tuple(activations.most_common()),
            weights=tuple((dtype, per_channel, count) for (dtype, per_channel), count in weights.most_common()),
            seven_bits=bool(self.weights) and all(weight.seven_bits for weight in self.weights),
        )

    def source(self, tensor: str) -> str:
        """The tensor whose values `tensor` has, before conversions: integers where they have a scale, else floats."""
        seen = set()
        while tensor not in self.activations and tensor not in seen:
            seen.add(tensor)
            writer = self.writers.get(tensor)
            if writer is None or writer.operator not in CONVERSIONS:
                break
            tensor = writer.inputs[0]
        return tensor

    def names(self, tensor: str) -> Iterator[str]:
        """What the float model may call what `tensor` holds, the likeliest first."""
        how = self.activations.get(tensor)
        candidates = [how.tensor if how is not None else tensor, tensor]
        candidates += [node.outputs[0] for node in self.readers.get(tensor, ()) if node.operator == "DequantizeLinear"]
        for name in candidates:
            yield from _stripped(name)


def _stripped(name: str) -> Iterator[str]:
    """The name, and what it was before a quantizer made another of it."""
    while name:
        yield name
        suffix = next((suffix for suffix in _SUFFIXES if name.endswith(suffix)), None)
        if suffix is None:
            return
        name = name.removesuffix(suffix)


def read_file(path: Path) -> QuantizedFile:
    """Read the graph and its quantized constants; `path` was found to be an ONNX file before."""
    import onnx
    from onnx import numpy_helper

    model = onnx.load(str(path))
    graph = model.graph
    protos = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
            protos[node.output[0]] = node.attribute[0].t
    nodes = tuple(
        OnnxNode(node.name, node.op_type, node.domain, tuple(node.input), tuple(node.output), ())
        for node in graph.node
        if node.op_type != "Constant"
    )
    axes = {
        node.output[0]: next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
        for node in graph.node
    }
    transposed = {
        node.output[0]
        for node in graph.node
        if any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
    }

    def constant(name: str) -> NDArray[Any] | None:
        return numpy_helper.to_array(protos[name], str(path.parent)) if name in protos else None

    activations: dict[str, Quantization] = {}
    weights: dict[str, Weight] = {}
    readers = {name: node for node in nodes for name in node.inputs}
    for node in nodes:
        for tensor, scale_name, zero_name, floats in _scaled(node):
            scale = constant(scale_name)
            if scale is None:
                continue
            integers = constant(tensor)
            zero = constant(zero_name)
            if zero is None:
                zero = np.zeros(scale.shape, np.uint8 if integers is None else integers.dtype)
            if zero.dtype.kind not in "iu" and "int" not in str(zero.dtype):
                continue  # 8-bit floats
            axis = None if scale.size == 1 else axes[node.outputs[0]]
            if node.operator not in CONVERSIONS and scale.size > 1:
                # A convolution has its output channels first, a matrix product last, unless it is transposed.
                axis = 0 if node.operator == "QLinearConv" or node.outputs[0] in transposed else -1
            how = Quantization(floats, tensor, str(zero.dtype), scale, zero.astype(np.int64), axis)
            if node.operator == "QuantizeLinear" and (unrounded := constant(floats)) is not None:
                # A weight that the file keeps in float, to be rounded while it is loaded.
                integers = how.rounded(unrounded)
            if integers is None:
                before = activations.get(tensor)
                activations[tensor] = how if before is None or not before.tensor else before
            elif integers.ndim > 1 and how.dtype != "int32":
                weights[tensor] = Weight(how, integers, _user(node, readers))
    return QuantizedFile(
        nodes=nodes,
        inputs=tuple(value.name for value in graph.input if value.name not in protos),
        outputs=tuple(value.name for value in graph.output),
        constants=frozenset(protos),
        activations=activations,
        weights=tuple(weights.values()),
    )


def _user(node: OnnxNode, readers: Mapping[str, OnnxNode]) -> OnnxNode:
    """What reads a constant through its conversions."""
    while node.operator in CONVERSIONS and node.outputs[0] in readers:
        node = readers[node.outputs[0]]
    return node


def _scaled(node: OnnxNode) -> Iterator[tuple[str, str, str, str]]:
    """(integers, scale, zero point, floats) of what the node reads and writes; "" for what the file does not name."""
    if node.operator in CONVERSIONS and len(node.inputs) > 1:
        writes = node.operator == "QuantizeLinear"
        zero = node.inputs[2] if len(node.inputs) > 2 else ""
        integers, floats = (node.outputs[0], node.inputs[0]) if writes else (node.inputs[0], node.outputs[0])
        yield integers, node.inputs[1], zero, floats
        return
    if node.operator == "QLinearConcat":
        yield node.outputs[0], node.inputs[0], node.inputs[1], ""
        for start in range(2, len(node.inputs) - 2, 3):
            yield node.inputs[start], node.inputs[start + 1], node.inputs[start + 2], ""
        return
    if node.operator in _TAKE_SCALES:
        inputs, (scale, zero_point) = _TAKE_SCALES[node.operator]
        # A node with fewer is for the runtime to refuse.
        for places in inputs if len(node.inputs) > max(map(max, inputs)) else ():
            tensor, tensor_scale, tensor_zero = (node.inputs[place] for place in places)
            yield tensor, tensor_scale, tensor_zero, ""
        if len(node.inputs) > zero_point and node.inputs[scale]:
            yield node.outputs[0], node.inputs[scale], node.inputs[zero_point], ""
