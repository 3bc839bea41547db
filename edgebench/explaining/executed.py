"""What the runtime made of a quantized file: the pairs of conversions that it still executes, and why each of them.

ONNX Runtime joins an operator with the conversions around it into one that computes in integers. Where it does not, the
operator runs in float between a DequantizeLinear and a QuantizeLinear. Which kinds it joins was read off onnxruntime
1.31 on x86-64, which was given each kind alone between two pairs, with 8 and with 16 bits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from edgebench.agent.operator_times import GraphNode
from edgebench.agent.profilers.onnx_nodes import OnnxNode
from edgebench.explaining.scheme import CONVERSIONS, QuantizedFile
from edgebench.profiling.onnx_modules import file_names, origins_of
from edgebench.profiling.profile import Profile

__all__ = ["INT8_KERNELS", "Executed", "Unfused", "executed_of", "is_arm", "times_of", "unfused"]

_MOVES = {
    *("Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Expand", "Tile", "Slice", "Split", "Gather"),
    *("DepthToSpace", "GatherElements", "Identity", "MaxPool", "ReduceMax", "ReduceMin", "Resize"),
}
INT8_KERNELS = _MOVES | {
    *("Conv", "Gemm", "MatMul", "Add", "Mul", "LeakyRelu", "Sigmoid", "Softmax", "Concat", "Where"),
    *("AveragePool", "GlobalAveragePool"),
}
# These disappear into the operator before them, if that one is joined and nothing else reads it.
_ABSORBED = {"Relu", "Clip"}
_LAYOUT = {"Transpose", "ReorderInput", "ReorderOutput"}

# Why conversions are executed, for scripts.
NO_KERNEL = "no-kernel"
ABSORBED = "not-absorbed"
WIDE = "16-bit"
SIGNED = "signed"
FLOAT_INPUT = "float-input"
FLOAT_OUTPUT = "float-output"
SHARED = "shared"
BOUNDARY = "boundary"
REQUANTIZED = "requantized"
UNKNOWN = "unknown"


@dataclass(frozen=True)
class Executed:
    """An operator as it was executed: its time in an inference, the file's node that it was made of (None where that
    is not known), and its work and module as of a profile's operators."""

    node: GraphNode
    origin: OnnxNode | None
    work: str
    module: str | None
    ns: float


@dataclass(frozen=True)
class Unfused:
    """Operators of one kind that the runtime did not join with the conversions around them, for one reason. `ns` is
    their time, `conversion_ns` that of the `conversions` on their account. The kind is "" for the conversions of the
    network's own inputs and outputs."""

    kind: str
    reason: str
    detail: str
    names: tuple[str, ...]
    conversions: int
    ns: float
    conversion_ns: float


def is_arm(machine: str) -> bool:
    """By the name that `platform.machine()` has for it."""
    return machine.lower().startswith(("aarch64", "arm"))


def executed_of(
    profile: Profile, graph: Sequence[GraphNode], places: Sequence[int | None], file: QuantizedFile
) -> list[Executed]:
    """The operators of a profile that stand in the executed graph, in its order; `places` as of `profiling.profile`."""
    names = file_names([file.nodes])
    found = {
        place: Executed(
            graph[place], next(origins_of(graph[place], names), None), operator.work, operator.module, operator.p50_ns
        )
        for operator, place in zip(profile.operators, places, strict=True)
        if place is not None
    }
    return [found[place] for place in sorted(found)]


def times_of(executed: Sequence[Executed]) -> tuple[dict[str, float], dict[str, float]]:
    """By the first result of the file's nodes: the time of what was made of each, and that of the conversions on its
    account; in ns of an inference."""
    own: dict[str, float] = {}
    conversions: dict[str, float] = {}
    causes, _ = _causes(executed)
    for number, item in enumerate(executed):
        if item.origin is None or not item.origin.outputs or item.node.operator in CONVERSIONS:
            continue
        key = item.origin.outputs[0]
        own[key] = own.get(key, 0.0) + item.ns
        conversions[key] = conversions.get(key, 0.0) + sum(executed[other].ns for other in causes.get(number, ()))
    return own, conversions


def unfused(executed: Sequence[Executed], file: QuantizedFile, machine: str) -> list[Unfused]:
    """The conversions that are executed, by what they are there for; what costs most comes first."""
    causes, alone = _causes(executed)
    groups: dict[tuple[str, str, str], list[int]] = {}
    for number in causes:
        item = executed[number]
        kind = item.node.operator if item.origin is None else item.origin.operator
        reason, detail = _reason(item.origin, kind, file, machine)
        groups.setdefault((kind, reason, detail), []).append(number)
    found = [
        Unfused(
            kind,
            reason,
            detail,
            tuple(_name(executed[number]) for number in members),
            sum(len(causes[number]) for number in members),
            sum(executed[number].ns for number in members),
            sum(executed[other].ns for number in members for other in causes[number]),
        )
        for (kind, reason, detail), members in groups.items()
    ]
    found.sort(key=lambda group: -(group.ns + group.conversion_ns))
    return [*found, *_without_operator(executed, alone)]


def _without_operator(executed: Sequence[Executed], alone: Sequence[int]) -> Iterator[Unfused]:
    """Conversions that are there for no operator in float: at the ends of the network, or from one scale to another."""
    written = {tensor for item in executed for tensor in item.node.outputs}
    read = {tensor for item in executed for tensor in item.node.inputs}

    def at_the_ends(number: int) -> bool:
        node = executed[number].node
        return node.inputs[0] not in written or not read.intersection(node.outputs)

    ends = [number for number in alone if at_the_ends(number)]
    inner = [number for number in alone if not at_the_ends(number)]
    for reason, detail, members in (
        (BOUNDARY, "the network's own inputs and outputs are float", ends),
        (REQUANTIZED, "the file quantizes a tensor twice in a row, so that it goes from one scale to another", inner),
    ):
        if members:
            spent = sum(executed[number].ns for number in members)
            yield Unfused("", reason, detail, (), len(members), 0.0, spent)


def _causes(executed: Sequence[Executed]) -> tuple[dict[int, list[int]], list[int]]:
    """By the numbers of operators in float the conversions that are there for them, and the conversions that are
    there for none: at the ends of the network, or between two scales."""
    writers = {tensor: number for number, item in enumerate(executed) for tensor in item.node.outputs}
    readers: dict[str, list[int]] = {}
    for number, item in enumerate(executed):
        for tensor in item.node.inputs:
            readers.setdefault(tensor, []).append(number)

    def beside(number: int, *, before: bool) -> Iterator[int]:
        """What stands before or after an operator, past what changes the layout."""
        node = executed[number].node
        if before:
            others = [writers[tensor] for tensor in node.inputs[:1] if tensor in writers]
        else:
            others = [reader for tensor in node.outputs for reader in readers.get(tensor, ())]
        for other in others:
            if executed[other].node.operator in _LAYOUT:
                yield from beside(other, before=before)
            else:
                yield other

    causes: dict[int, list[int]] = {}
    alone: list[int] = []
    for number, item in enumerate(executed):
        if item.node.operator not in CONVERSIONS:
            continue
        around = beside(number, before=item.node.operator == "QuantizeLinear")
        cause = next((other for other in around if executed[other].work in ("float", "other")), None)
        if cause is None:
            alone.append(number)
        else:
            causes.setdefault(cause, []).append(number)
    return causes, alone


def _name(item: Executed) -> str:
    node = item.node if item.origin is None else item.origin
    return node.name or node.outputs[0]


def _reason(node: OnnxNode | None, kind: str, file: QuantizedFile, machine: str) -> tuple[str, str]:
    """Why a node is not joined: a word for it, and a sentence."""
    if kind in _ABSORBED:
        return ABSORBED, "it has no int8 kernel of its own; it only disappears into an int8 operator just before it"
    if kind not in INT8_KERNELS:
        return NO_KERNEL, "onnxruntime has no int8 kernel for this kind"
    if node is None:
        return UNKNOWN, "it is not in the file: the runtime made it"
    read = {tensor: file.activations.get(file.source(tensor)) for tensor in node.inputs if tensor}
    data = {tensor: how for tensor, how in read.items() if not _is_constant(tensor, file)}
    written = [_quantized(tensor, file) for tensor in node.outputs if tensor]
    types = {how.dtype for how in data.values() if how is not None} | {
        file.activations[name].dtype for names in written for name in names
    }
    if any(dtype.endswith("16") for dtype in types):
        return WIDE, "its tensors are of 16 bits, and onnxruntime has integer kernels for 8"
    unquantized = [tensor for tensor, how in data.items() if how is None]
    if unquantized:
        return FLOAT_INPUT, "the file does not quantize what it reads"
    if not all(written):
        return FLOAT_OUTPUT, "the file does not quantize its result"
    results = [_activated(tensor, file) for tensor in node.outputs]
    readers = [reader.operator for tensor in results for reader in file.readers.get(tensor, ())]
    others = [operator for operator in readers if operator not in CONVERSIONS]
    if others or any(tensor in file.outputs for tensor in results):
        by = ", ".join(dict.fromkeys(others)) or "the network's output"
        return SHARED, f"its result is wanted in float as well, by {by}"
    if "int8" in types and not is_arm(machine):
        return SIGNED, (
            "its activations are signed: on x86 onnxruntime computes those in integers only where it can make them "
            "unsigned, which is where one operator alone reads them"
        )
    return UNKNOWN, "it has pairs on all sides, and onnxruntime did not join them"


def _is_constant(tensor: str, file: QuantizedFile) -> bool:
    return file.source(tensor) in file.constants or tensor in file.constants


def _activated(tensor: str, file: QuantizedFile) -> str:
    """A result, behind the activation that alone reads it."""
    readers = file.readers.get(tensor, [])
    if len(readers) == 1 and readers[0].operator in _ABSORBED:
        return _activated(readers[0].outputs[0], file)
    return tensor


def _quantized(tensor: str, file: QuantizedFile) -> list[str]:
    """The integers that a tensor is turned into, or is."""
    if tensor in file.activations:
        return [tensor]
    readers = file.readers.get(_activated(tensor, file), ())
    return [
        reader.outputs[0]
        for reader in readers
        if reader.operator == "QuantizeLinear" and reader.outputs[0] in file.activations
    ]
