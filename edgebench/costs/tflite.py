"""The costs of a TFLite file, read from its graph: nothing is run. Which of its weights are zero is not read."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from edgebench.costs.layers import Counted, LayerCosts, Step, known_sum, peak_live_bytes, summed
from edgebench.source.tflite_file import TfliteDescription, TfliteOperator, TfliteTensor, describe

__all__ = ["count"]

_VIEWS = frozenset({"RESHAPE", "SQUEEZE", "EXPAND_DIMS"})
# Element by element, or looked up, whatever constants they have.
_WITHOUT_MACS = frozenset({
    "ADD", "SUB", "MUL", "DIV", "PRELU", "GATHER", "GATHER_ND", "EMBEDDING_LOOKUP", "CONCATENATION", "PAD", "PADV2",
    "DEQUANTIZE", "QUANTIZE", "SELECT", "SELECT_V2", "MAXIMUM", "MINIMUM", "POW", "TILE", "TRANSPOSE", "SLICE",
})  # fmt: skip
_NEVER_COUNTED = frozenset({
    "IF", "WHILE", "CALL", "RFFT2D", "LSTM", "RNN", "SVDF", "UNIDIRECTIONAL_SEQUENCE_LSTM",
    "BIDIRECTIONAL_SEQUENCE_LSTM", "UNIDIRECTIONAL_SEQUENCE_RNN", "BIDIRECTIONAL_SEQUENCE_RNN", "STABLEHLO_COMPOSITE",
    "STABLEHLO_DOT_GENERAL",
})  # fmt: skip


def count(path: Path) -> Counted:
    """The costs of one inference of the file; a free first axis is 1.

    Raises:
        SourceError: it is not a TFLite model, or damaged.
        MissingExtra: ai-edge-litert is not installed.
    """
    return _Graph(describe(path)).counted()


class _Graph:
    """The operators with what is known of their tensors, each of which is the same object wherever it is used."""

    def __init__(self, model: TfliteDescription) -> None:
        self._model = model
        # What operators make of constants alone is constant: of which it was made.
        self._constants: dict[int, tuple[TfliteTensor, ...]] = {
            id(item): (item,) for node in model.operators for item in node.inputs if item and item.constant
        }
        self._stored_as: dict[int, int] = {}
        self._in_blocks: set[int] = set()
        self._nodes = [node for node in model.operators if self._executes(node)]

    def counted(self) -> Counted:
        """The costs of every operator that is not folded."""
        layers, steps = [], []
        sizes = {id(tensor): self._bytes(tensor) for tensor in self._model.inputs}
        seen: set[int] = set()
        for node in self._nodes:
            made = [tensor for tensor in node.outputs if id(tensor) not in self._stored_as]
            sizes.update({id(tensor): self._bytes(tensor) for tensor in made})
            reads = [self._stored(item) for item in node.inputs if item and id(item) not in self._constants]
            steps.append(Step(tuple(reads), tuple(map(id, made))))
            weights = self._weights(node)
            new = [tensor for tensor in weights if id(tensor) not in seen]
            seen.update(map(id, new))
            layers.append(
                LayerCosts(
                    name=node.outputs[0].name if node.outputs else node.kind,
                    module=None,
                    operator=node.kind,
                    output_shape=self._known_shape(node.outputs[0]) if node.outputs else None,
                    macs=self._macs(node, any(len(tensor.shape) > 1 for tensor in weights)),
                    parameters=sum(math.prod(tensor.shape) for tensor in new),
                    zeros=None if new else 0,
                    weight_bytes=sum(tensor.bytes for tensor in new),
                    activation_bytes=known_sum(sizes[id(tensor)] for tensor in made),
                )
            )
        ends = [self._stored(tensor) for tensor in self._model.outputs]
        return summed(layers, peak_live_bytes(steps, map(id, self._model.inputs), ends, sizes))

    def _executes(self, node: TfliteOperator) -> bool:
        """Whether a runtime executes it for each inference; what is to be known of its results is noted."""
        given = [tensor for tensor in node.inputs if tensor is not None]
        if node.kind not in _NEVER_COUNTED and all(id(tensor) in self._constants for tensor in given):
            self._constants.update({id(tensor): tuple(self._weights(node)) for tensor in node.outputs})
            return False
        if node.kind in _VIEWS:
            self._stored_as[id(node.outputs[0])] = self._stored(given[0])
        if node.kind == "SPACE_TO_BATCH_ND" or (
            node.kind != "BATCH_TO_SPACE_ND" and any(id(tensor) in self._in_blocks for tensor in given)
        ):
            self._in_blocks.update(map(id, node.outputs))
        return True

    def _weights(self, node: TfliteOperator) -> list[TfliteTensor]:
        """The constants behind it that were learned."""
        found = {id(item): item for used in node.inputs if used for item in self._constants.get(id(used), ())}
        # Shapes and indices are integers without a scale; a single number is a setting.
        return [item for item in found.values() if item.shape and (item.dtype.startswith("float") or item.scales)]

    def _macs(self, node: TfliteOperator, has_matrices: bool) -> int | None:
        formula = _FORMULAS.get(node.kind)
        if formula is None:
            # A custom operator is called as its maker liked.
            unknown = node.kind in _NEVER_COUNTED or not node.kind.isupper()
            return None if unknown or (has_matrices and node.kind not in _WITHOUT_MACS) else 0
        try:
            return formula([self._shape(tensor) for tensor in (*node.inputs[:3], *node.outputs[:1]) if tensor])
        except KeyError:
            return None

    def _shape(self, tensor: TfliteTensor) -> tuple[int, ...]:
        """
        Raises:
            KeyError: it is not known.
        """
        # A batch that was cut into blocks is as many times larger as there are blocks.
        first = -1 if id(tensor) in self._in_blocks else 1
        shape = tuple(first if axis == 0 and length == -1 else length for axis, length in enumerate(tensor.shape))
        if -1 in shape:
            raise KeyError(tensor.name)
        return shape

    def _known_shape(self, tensor: TfliteTensor) -> tuple[int, ...] | None:
        try:
            return self._shape(tensor)
        except KeyError:
            return None

    def _bytes(self, tensor: TfliteTensor) -> int | None:
        shape = self._known_shape(tensor)
        bits = 4 if tensor.dtype == "int4" else 8 * np.dtype(tensor.dtype).itemsize
        return None if shape is None else math.prod(shape) * bits // 8

    def _stored(self, tensor: TfliteTensor) -> int:
        return self._stored_as.get(id(tensor), id(tensor))


# Of the first inputs and, last, of the result.
Shapes = Sequence[tuple[int, ...]]


def _convolution(shapes: Shapes) -> int:
    # Weights are [C_out, k..., C_in / groups]; of a dense layer [C_out, C_in].
    return math.prod(shapes[-1]) * math.prod(shapes[1][1:])


def _depthwise(shapes: Shapes) -> int:
    # [1, k_h, k_w, C_out]
    return math.prod(shapes[-1]) * math.prod(shapes[1][1:3])


def _transposed(shapes: Shapes) -> int:
    # The wanted shape, weights [C_out, k_h, k_w, C_in], the data: each value is spread over all outputs and the kernel.
    return math.prod(shapes[2]) * math.prod(shapes[1][:3])


def _convolution_3d(shapes: Shapes) -> int:
    # [k_d, k_h, k_w, C_in / groups, C_out]
    return math.prod(shapes[-1]) * math.prod(shapes[1][:4])


def _product(shapes: Shapes) -> int:
    # Of the left side's last two axes the one that is none of the result's, whichever side is transposed.
    left, result = shapes[0], shapes[-1]
    return math.prod(result) * (left[-2] * left[-1] // result[-2])


_FORMULAS: dict[str, Callable[[Shapes], int]] = {
    "CONV_2D": _convolution,
    "FULLY_CONNECTED": _convolution,
    "DEPTHWISE_CONV_2D": _depthwise,
    "TRANSPOSE_CONV": _transposed,
    "CONV_3D": _convolution_3d,
    "BATCH_MATMUL": _product,
}
