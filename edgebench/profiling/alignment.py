"""Which operators of a .tflite file XNNPACK's kernels stand for: it names kernels, in the order of the operators.

It folds some of them away (padding, an activation) and adds others (a clamp after an addition), but each operator with
weights stays one. So these are matched by their numbers, if there are as many of them, and between two of them those of
one kind by their order. What has no counterpart stays without.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher

from edgebench.agent.operator_times import GraphNode, OperatorTime

__all__ = ["aligned"]

_WEIGHTED = "weighted"
# By XNNPACK's word, which is the part of a kernel's name before its types: the operators of TFLite that it computes.
# A convolution of one pixel is a matrix product there.
_COMPUTES = {
    "Convolution": ("CONV_2D", "DEPTHWISE_CONV_2D"),
    "Fully Connected": ("FULLY_CONNECTED",),
    "Deconvolution": ("TRANSPOSE_CONV",),
    "Batch Matrix Multiply": ("BATCH_MATMUL",),
    "Add": ("ADD",),
    "Subtract": ("SUB",),
    "Multiply": ("MUL",),
    "Divide": ("DIV",),
    "Max Pooling": ("MAX_POOL_2D",),
    "Average Pooling": ("AVERAGE_POOL_2D",),
    "Mean": ("MEAN",),
    "Sum": ("SUM",),
    "Maximum": ("MAXIMUM",),
    "Minimum": ("MINIMUM",),
    "Exp": ("EXP",),
    "PReLU": ("PRELU",),
    "ELU": ("ELU",),
    "Depth To Space": ("DEPTH_TO_SPACE",),
    "Space To Depth": ("SPACE_TO_DEPTH",),
    "HardSwish": ("HARD_SWISH",),
    "Sigmoid": ("LOGISTIC",),
    "Softmax": ("SOFTMAX",),
    "GELU": ("GELU",),
    "TanH": ("TANH",),
    "Clamp": ("RELU", "RELU6", "RELU_N1_TO_1"),
    "LeakyReLU": ("LEAKY_RELU",),
    "Constant Pad": ("PAD", "PADV2"),
    "Transpose": ("TRANSPOSE",),
    "Static Reshape": ("RESHAPE", "SQUEEZE"),
    "Static Expand Dims": ("EXPAND_DIMS",),
    "Slice": ("SLICE", "STRIDED_SLICE"),
    "Resize Bilinear": ("RESIZE_BILINEAR",),
    "Square Root": ("SQRT",),
    "Reciprocal Square Root": ("RSQRT",),
    "Squared Difference": ("SQUARED_DIFFERENCE",),
    "Convert": ("QUANTIZE", "DEQUANTIZE"),
}
_KINDS = {name: word for word, names in _COMPUTES.items() for name in names}
_WITH_WEIGHTS = ("Convolution", "Fully Connected", "Deconvolution")


def aligned(operators: Sequence[OperatorTime], graph: Sequence[GraphNode]) -> list[int | None]:
    """For each operator its node in the graph: the one that it has, or the one that the order tells."""
    places = [operator.node for operator in operators]
    taken = {place for place in places if place is not None}
    ours = [(number, _kind(operators[number].operator)) for number, place in enumerate(places) if place is None]
    theirs = [
        (number, _kind(_KINDS.get(node.operator, ""))) for number, node in enumerate(graph) if number not in taken
    ]
    for here, there in _between_weights(ours, theirs):
        matcher = SequenceMatcher(None, [kind for _, kind in here], [kind for _, kind in there], autojunk=False)
        for block in matcher.get_matching_blocks():
            for step in range(block.size):
                if here[block.a + step][1]:
                    places[here[block.a + step][0]] = there[block.b + step][0]
    for number in range(1, len(places)):
        # The file has an activation within the operator that it follows.
        if places[number] is None and operators[number].operator == "Clamp":
            places[number] = places[number - 1]
    return places


def _kind(word: str) -> str:
    return _WEIGHTED if word in _WITH_WEIGHTS else word


Numbered = Sequence[tuple[int, str]]


def _between_weights(ours: Numbered, theirs: Numbered) -> Iterator[tuple[Numbered, Numbered]]:
    """Parts of both that belong together: each begins with an operator with weights, but for the first."""
    cuts = [[at for at, (_, kind) in enumerate(side) if kind == _WEIGHTED] for side in (ours, theirs)]
    if len(cuts[0]) == len(cuts[1]):
        edges = zip([0, *cuts[0]], [*cuts[0], len(ours)], [0, *cuts[1]], [*cuts[1], len(theirs)], strict=True)
        yield from ((ours[a:b], theirs[c:d]) for a, b, c, d in edges)
