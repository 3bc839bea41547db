"""The MACs of single ONNX operators, by the shapes of their tensors; the definition is at the head of `layers`.

The formulas follow the operators' definitions: https://onnx.ai/onnx/operators/ and onnxruntime's ContribOperators.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

__all__ = ["macs_of"]

Shapes = Callable[[str], tuple[int, ...]]

# Element by element, or looked up: none of them multiplies and sums over an axis that its weights have.
_WITHOUT_MACS = frozenset({
    "Add", "And", "BatchNormalization", "Cast", "Clip", "Concat", "DequantizeLinear", "Div", "Equal", "Expand",
    "Gather", "GatherElements", "GatherND", "Greater", "GroupNormalization", "Identity", "InstanceNormalization",
    "LayerNormalization", "Less", "Max", "Min", "Mod", "Mul", "Not", "Or", "PRelu", "Pad", "Pow", "QuantizeLinear",
    "RMSNormalization", "Reshape", "Resize", "ScatterElements", "ScatterND", "Slice", "Split", "Sub", "Tile",
    "Transpose", "Unsqueeze", "Where",
})  # fmt: skip
# Of onnxruntime's own operators, whatever weights they have; any other of a foreign domain is taken to multiply.
_FOREIGN_WITHOUT_MACS = frozenset({
    "BiasGelu", "BiasSoftmax", "FastGelu", "Gelu", "QLinearAdd", "QLinearAveragePool", "QLinearConcat",
    "QLinearGlobalAveragePool", "QLinearLeakyRelu", "QLinearMul", "QLinearReduceMean", "QLinearSigmoid",
    "QLinearSoftmax", "QLinearWhere", "QuickGelu", "QuantizeLinear", "DequantizeLinear",
    "SimplifiedLayerNormalization", "SkipLayerNormalization", "SkipSimplifiedLayerNormalization",
})  # fmt: skip
_STANDARD = ("", "ai.onnx")
# How often a subgraph runs is known when it has run; the transforms have weights in no file.
_NEVER_COUNTED = frozenset({"If", "Loop", "Scan", "SequenceMap", "DFT", "STFT"})


def macs_of(node: Any, shape: Shapes, has_matrices: bool) -> int | None:
    """Its MACs, or None where it multiplies and there is no formula for it, or a shape that it needs is not known.

    `shape` gives a tensor's, or raises KeyError; `has_matrices` says whether it has weights of two axes or more.
    """
    formula = _FORMULAS.get(node.op_type)
    if formula is not None:
        try:
            return formula(node, shape)
        # A shape that is not known, or an input that this form of the operator leaves out.
        except (KeyError, ValueError, IndexError):
            return None
    if node.op_type in _NEVER_COUNTED:
        return None
    if node.domain not in _STANDARD:
        return 0 if node.op_type in _FOREIGN_WITHOUT_MACS else None
    return None if has_matrices and node.op_type not in _WITHOUT_MACS else 0


def _convolution(node: Any, shape: Shapes) -> int:
    # Weights are [C_out, C_in / groups, k...] in every layout of the data.
    weights = shape(node.input[3 if node.op_type == "QLinearConv" else 1])
    return math.prod(shape(node.output[0])) * math.prod(weights[1:])


def _transposed_convolution(node: Any, shape: Shapes) -> int:
    # Weights are [C_in, C_out / groups, k...]: each input value is spread over all that its row holds.
    return math.prod(shape(node.input[0])) * math.prod(shape(node.input[1])[1:])


def _product(node: Any, shape: Shapes) -> int:
    rows = shape(node.input[0])
    summed: int = rows[-2] if _attribute(node, "transA", 0) and len(rows) > 1 else rows[-1]
    return math.prod(shape(node.output[0])) * summed


def _recurrent(node: Any, shape: Shapes) -> int:
    # X [T, N, I]; W [D, gates * H, I] and R [D, gates * H, H] are used once for each step and sequence.
    steps, batch = shape(node.input[0])[:2]
    return steps * batch * (math.prod(shape(node.input[1])) + math.prod(shape(node.input[2])))


def _einsum(node: Any, shape: Shapes) -> int:
    equation = _attribute(node, "equation", b"").decode().replace(" ", "")
    terms = equation.partition("->")[0].split(",")
    # With three operands or more the order decides, and a runtime chooses it.
    if "." in equation or len(terms) > 2:
        raise KeyError(equation)
    lengths: dict[str, int] = {}
    for term, name in zip(terms, node.input, strict=True):
        lengths.update(zip(term, shape(name), strict=True))
    return math.prod(lengths.values()) if len(terms) == 2 else 0


def _attention(node: Any, shape: Shapes) -> int:
    """Q times K, and the scores times V; without a mask that leaves some out, and without keys of earlier calls."""
    past = node.input[4:6] if node.op_type == "Attention" else node.input[6:8]
    # The one of onnxruntime's own projects as well.
    if (node.op_type == "Attention" and node.domain not in _STANDARD) or any(past):
        raise KeyError(node.op_type)
    query, key, value = (shape(name) for name in node.input[:3])
    if len(query) == 4:
        batch, heads, steps, width = query
        return batch * heads * steps * key[2] * (width + value[3])
    batch, steps, width = query
    heads = _attribute(node, "q_num_heads", 1)
    repeated: int = heads // _attribute(node, "kv_num_heads", heads)
    return batch * steps * key[1] * (width + value[2] * repeated)


def _attribute(node: Any, name: str, default: Any) -> Any:
    import onnx

    found = next((attribute for attribute in node.attribute if attribute.name == name), None)
    return default if found is None else onnx.helper.get_attribute_value(found)


_FORMULAS: dict[str, Callable[[Any, Shapes], int]] = {
    **dict.fromkeys(("Conv", "ConvInteger", "QLinearConv", "DeformConv", "FusedConv", "NhwcFusedConv"), _convolution),
    "ConvTranspose": _transposed_convolution,
    **dict.fromkeys(("Gemm", "FusedGemm", "QGemm", "MatMul", "MatMulInteger", "QLinearMatMul"), _product),
    **dict.fromkeys(("FusedMatMul", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "MatMulNBits"), _product),
    **dict.fromkeys(("LSTM", "GRU", "RNN"), _recurrent),
    "Einsum": _einsum,
    **dict.fromkeys(("Attention", "MultiHeadAttention"), _attention),
}
