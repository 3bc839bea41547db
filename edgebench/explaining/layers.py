"""The layers of an int8 model beside those of the float model that it was made of: which is which, by names."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgebench.agent.profilers.onnx_nodes import OnnxNode
from edgebench.explaining.scheme import CONVERSIONS, QuantizedFile
from edgebench.explaining.values import Observed, sqnr_of

__all__ = ["INPUT", "Counterpart", "Layer", "counterparts", "layers_of", "twins", "weight_noise"]

INPUT = "input"
_ACTIVATIONS = ("Relu", "Clip")
# Rounding to 4 bits or more loses less of the power: these are other weights, as equalisation makes them.
_OTHER_WEIGHTS = 0.5
# These compute no values of the network.
_SHAPES = ("Shape", "Constant", "ConstantOfShape", "Range")


@dataclass(frozen=True)
class Counterpart:
    """The float model's tensor of a quantized model's tensor. `absorbed`: the activation that the float model has
    there and the quantized one does not, because its range does the same."""

    tensor: str
    absorbed: str | None = None


@dataclass(frozen=True)
class Layer:
    """An operator of the quantized file with the activation that belongs to it, or an input (of the kind INPUT).

    `result` is what was seen of its result, `noise_in` the largest noise of what it reads, `weight_noise` that of its
    weights. Times are of an inference: of what was made of it, of the conversions on its account, and of its twin in
    the float model. `module` is as of a profile's operators. None is what is not known.
    """

    name: str
    kind: str
    tensor: str
    module: str | None
    result: Observed | None
    noise_in: float | None
    weight_noise: float | None
    ns: float | None
    conversion_ns: float
    float_ns: float | None

    @property
    def sqnr_db(self) -> float | None:
        """Of its result."""
        return None if self.result is None else self.result.sqnr_db

    @property
    def lost_db(self) -> float | None:
        """By how much the SQNR of its result is below that of what it reads; None where one of them is not known, or
        where what it reads has no noise."""
        before, after = sqnr_of(self.noise_in), self.sqnr_db
        if before is None or after is None or math.isinf(before) or math.isinf(after):
            return None
        return before - after

    @property
    def added_noise(self) -> float:
        """The noise that it adds, in shares of the signal: what layers are ranked by, because 12 dB lost at 60 dB are
        nothing and at 20 dB all. 0 where it is not known."""
        if self.result is None or self.result.noise is None or self.noise_in is None:
            return 0.0
        return max(0.0, self.result.noise - self.noise_in)


def _counterpart(tensor: str, file: QuantizedFile, parent: QuantizedFile) -> Counterpart | None:
    """The float model's tensor of `tensor`: one of the same name, without what quantizers append."""
    name = next((name for name in file.names(tensor) if name in parent.writers or name in parent.inputs), None)
    if name is None:
        return None
    floats = file.activations[tensor].tensor if tensor in file.activations else tensor
    ours = {reader.operator for reader in _users(tensor, file)}
    theirs = parent.readers.get(name, [])
    if len(theirs) == 1 and theirs[0].operator in _ACTIVATIONS and theirs[0].operator not in ours:
        return Counterpart(theirs[0].outputs[0], theirs[0].operator)
    writer = parent.writers.get(name)
    if writer is not None and writer.operator in _ACTIVATIONS:
        own = _writer(tensor, floats, file)
        if own is not None and own.operator not in _ACTIVATIONS:
            return Counterpart(name, writer.operator)
    return Counterpart(name)


def counterparts(file: QuantizedFile, parent: QuantizedFile) -> dict[str, Counterpart]:
    """By the tensors that are worth a look: those with a scale, and what the file computes in float."""
    tensors = dict.fromkeys(file.activations)
    tensors.update(dict.fromkeys(_result(node, file) for node in _computing(file)))
    found = {tensor: _counterpart(tensor, file, parent) for tensor in tensors}
    return {tensor: other for tensor, other in found.items() if other is not None}


def _writer(tensor: str, floats: str, file: QuantizedFile) -> OnnxNode | None:
    node = file.writers.get(tensor)
    return file.writers.get(floats) if node is not None and node.operator == "QuantizeLinear" else node


def _users(tensor: str, file: QuantizedFile) -> Iterator[OnnxNode]:
    """What reads the values of a tensor, through conversions; of integers, what reads the floats beside them too."""
    for node in file.readers.get(tensor, ()):
        if node.operator in CONVERSIONS:
            yield from _users(node.outputs[0], file)
        else:
            yield node


def _computing(file: QuantizedFile) -> Iterator[OnnxNode]:
    """The nodes that are layers: all that compute, but for the activations of others."""
    nodes = [node for node in file.nodes if node.operator not in (*CONVERSIONS, *_SHAPES) and node.outputs]
    followers = {id(other) for node in nodes for other in list(_with_activations(node, file))[1:]}
    yield from (node for node in nodes if id(node) not in followers)


def _result(node: OnnxNode, file: QuantizedFile) -> str:
    """The integers that a node's result is rounded to, with the activation that alone reads it; else the result."""
    tensor = node.outputs[0]
    activation = _activation_after(node, file)
    if activation is not None:
        return _result(activation, file)
    for reader in file.readers.get(tensor, ()):
        if reader.operator == "QuantizeLinear" and reader.outputs[0] in file.activations:
            return reader.outputs[0]
    return tensor


def _activation_after(node: OnnxNode, file: QuantizedFile) -> OnnxNode | None:
    """The activation that alone reads a node's result: both are one layer."""
    users = list(_users(node.outputs[0], file))
    return users[0] if len(users) == 1 and users[0].operator in _ACTIVATIONS else None


def _with_activations(node: OnnxNode, file: QuantizedFile) -> Iterator[OnnxNode]:
    following: OnnxNode | None = node
    while following is not None:
        yield following
        following = _activation_after(following, file)


def weight_noise(
    file: QuantizedFile,
    others: Mapping[str, tuple[str, ...]],
    parent: QuantizedFile,
    constants: Mapping[str, NDArray[Any]],
) -> dict[str, float]:
    """By a layer's first result the noise of its quantized weight against the one constant of that shape that its twin
    reads; `others` are the `twins`, `constants` the float model's."""
    found: dict[str, float] = {}
    for weight in file.weights:
        first = weight.node.outputs[0]
        twin = parent.writers.get(others[first][0]) if first in others else None
        read = [constants[name] for name in (twin.inputs if twin is not None else ()) if name in constants]
        alike = [array for array in read if array.shape == weight.integers.shape]
        signal = float(np.sum(np.square(alike[0], dtype=np.float64))) if len(alike) == 1 else 0.0
        if signal > 0:
            noise = float(np.sum(np.square(alike[0] - weight.real, dtype=np.float64))) / signal
            if noise < _OTHER_WEIGHTS:
                found[first] = noise
    return found


def layers_of(
    file: QuantizedFile,
    observed: Mapping[str, Observed],
    modules: Mapping[str, str],
    weights: Mapping[str, float],
    times: Mapping[str, float],
    conversions: Mapping[str, float],
    float_times: Mapping[str, float],
) -> list[Layer]:
    """The operators of the file in its order; the mappings are by tensors, times and weights by a node's first one."""
    found: list[Layer] = []
    for tensor in file.inputs:
        quantized = _result(OnnxNode("", "", "", (), (tensor,), ()), file)
        if quantized != tensor and quantized in observed:
            found.append(Layer(tensor, INPUT, quantized, None, observed[quantized], 0.0, None, None, 0.0, None))
    for node in _computing(file):
        parts = [part.outputs[0] for part in _with_activations(node, file)]
        first, tensor = parts[0], _result(node, file)
        data = [file.source(name) for name in node.inputs if name and not _is_constant(name, file)]
        read = [observed.get(source) for source in data]
        known = [item.noise for item in read if item is not None and item.noise is not None]
        # An input of the network that has no scale has no noise.
        silent = all(source in file.inputs for source, item in zip(data, read, strict=True) if item is None)
        result = observed.get(tensor)
        rescaled = any(item is not None and item.rescaled for item in (*read, result))
        found.append(
            Layer(
                name=node.name or first,
                kind=node.operator,
                tensor=tensor,
                module=modules.get(first),
                result=result,
                noise_in=max(known, default=0.0 if silent else None),
                # Equalisation scales the weights as well, by factors that are not known.
                weight_noise=None if rescaled else weights.get(first),
                ns=sum(times[part] for part in parts if part in times) if first in times else None,
                conversion_ns=sum(conversions.get(part, 0.0) for part in parts),
                float_ns=float_times.get(first),
            )
        )
    return found


def _is_constant(tensor: str, file: QuantizedFile) -> bool:
    return tensor in file.constants or file.source(tensor) in file.constants


def twins(file: QuantizedFile, others: Mapping[str, Counterpart], parent: QuantizedFile) -> dict[str, tuple[str, ...]]:
    """By the first results of a quantized file's layers what the float model has in their place: the first results of
    a node, and of the activations that belong to it."""
    by_name = {node.name: node for node in parent.nodes if node.name}
    found = {}
    for node in _computing(file):
        twin = by_name.get(node.name) or by_name.get(node.name.removesuffix("_quant"))
        other = others.get(_result(node, file))
        # Names such as Conv_0 may be given anew.
        twin = twin if twin is not None and twin.operator in node.operator else None
        if twin is None and other is not None:
            twin = parent.writers.get(other.tensor)
        if twin is not None:
            found[node.outputs[0]] = tuple(part.outputs[0] for part in _with_activations(twin, parent))
    return found
