"""Which PyTorch module each operator comes from that ONNX Runtime executes.

The module's name is in the exported file: torch's dynamo exporter writes it into the metadata of a node, the older one
into the node's name, and weights are called after their module. Simplifiers and quantizers drop metadata, but leave the
names of nodes and tensors, by which the files that an artifact was made from are asked. ONNX Runtime in turn makes a
node's name of theirs, with suffixes; where it fuses several nodes it takes the name of the last one's tensor.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from edgebench.agent.operator_times import GraphNode
from edgebench.agent.profilers.onnx_nodes import OnnxNode

__all__ = ["INSERTED", "FileNames", "Found", "file_names", "module_of_node", "modules_of", "origins_of"]

# Operators that no module asked for: they bring tensors into the layout that a kernel wants.
INSERTED = "(layout changes)"

_SCOPES = "pkg.torch.onnx.name_scopes"
_WEIGHTED = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
_SUFFIX = re.compile(
    r"(?:_token_\d+|_nchwc|_QuantizeLinear|_DequantizeLinear|_Output|_quantized|_q_to_dq|_pre_q|_post_dq\d*|_dq\d*|_q)$"
)
_LAYOUT_CHANGE = re.compile(r"(?:ReorderInput|ReorderOutput|Transpose)(?:_token_\d+)?$")
# What ONNX Runtime puts before an operator's name when it computes the same in int8, or in another layout.
_VARIANT = re.compile(r"^(?:QLinear|Nhwc|Fused|Q(?=[A-Z]))+")
_CONVERSIONS = ("QuantizeLinear", "DequantizeLinear")
# A fused operator is this many nodes of the file at most.
_LONGEST_FUSION = 6


@dataclass(frozen=True)
class Found:
    """A module by its name, "" for the network itself, None where it is not known. `guessed`: by what is around it."""

    module: str | None
    guessed: bool = False


@dataclass
class FileNames:
    """What the files say of nodes, of the tensors that they write, and of constants that one of them alone reads.
    `modules` is by the name of a node or of what it writes. `complete`: an exporter wrote the module of each node."""

    nodes: dict[str, OnnxNode] = field(default_factory=dict)
    writers: dict[str, OnnxNode] = field(default_factory=dict)
    owners: dict[str, OnnxNode] = field(default_factory=dict)
    modules: dict[str, str] = field(default_factory=dict)
    complete: bool = False

    def module(self, node: OnnxNode) -> str | None:
        """The module that any of the files gives the node, or the one that reads its constants."""
        owners = (self.owners[tensor] for tensor in node.inputs[1:] if tensor in self.owners)
        keys = (node.name, *node.outputs, *(key for owner in owners for key in (owner.name, *owner.outputs)))
        return next((self.modules[key] for key in keys if key in self.modules), None)


def file_names(files: Sequence[Sequence[OnnxNode]]) -> FileNames:
    """What is said by `files`, an artifact's own last; those before it are what it was made from."""
    names = FileNames()
    for nodes in files:
        written = {tensor for node in nodes for tensor in node.outputs}
        uses = Counter(tensor for node in nodes for tensor in set(node.inputs))
        for node in nodes:
            module = module_of_node(node, uses)
            if module is None:
                module = names.module(node)
            names.complete = names.complete or node.name.startswith("/") or _SCOPES in dict(node.metadata)
            if module is not None:
                names.modules.update((key, module) for key in (node.name, *node.outputs) if key)
            names.nodes[node.name] = node
            names.writers.update((tensor, node) for tensor in node.outputs)
            own = (tensor for tensor in node.inputs[1:] if uses[tensor] == 1 and tensor not in written)
            names.owners.update((tensor, node) for tensor in own)
    names.nodes.pop("", None)
    return names


def module_of_node(node: OnnxNode, uses: Counter[str]) -> str | None:
    """What the file itself says; `uses` counts the nodes that read a tensor.

    A convolution that swallowed its batch norm has that one's metadata, but still its own weight: so the weight's name
    comes first, unless several nodes share it.
    """
    for tensor in node.inputs[1:3] if node.operator in _WEIGHTED else ():
        owner, dot, name = tensor.rpartition(".")
        if dot and name in ("weight", "bias") and uses[tensor] == 1:
            return owner
    scopes = dict(node.metadata).get(_SCOPES)
    if scopes is not None:
        return _last_scope(scopes)
    return _path(node.name) if node.name.startswith("/") else None


def _last_scope(text: str) -> str | None:
    """`['', 'features', 'features.0', 'conv2d']` -> `features.0`: the last one is the operator."""
    try:
        scopes = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return None
    return str(scopes[-2]) if isinstance(scopes, list) and len(scopes) > 1 else None


def _path(name: str) -> str:
    """`/layer1/layer1.0/conv1/Conv` -> `layer1.0.conv1`."""
    parts: list[str] = []
    for part in name.split("/")[1:-1]:
        if parts and part.startswith(f"{parts[-1]}."):
            parts[-1] = part
        else:
            parts.append(part)
    return ".".join(parts)


def modules_of(graph: Sequence[GraphNode], names: FileNames) -> list[Found]:
    """The module of each node of the graph that was executed, which is in topological order.

    A conversion belongs to what computes in float: from int8 to what reads it, to int8 to what wrote it. What the files
    know nothing of was put there by a simplifier or the runtime, and is taken for a part of what reads it.
    """
    found = [_by_name(node, names) for node in graph]
    writers = {tensor: number for number, node in enumerate(graph) for tensor in node.outputs}
    readers: dict[str, list[int]] = {}
    for number, node in enumerate(graph):
        for tensor in node.inputs:
            readers.setdefault(tensor, []).append(number)

    def reading(number: int) -> set[str | None]:
        """The modules of all that read a node, through what only converts."""
        modules: set[str | None] = set()
        for reader in (reader for tensor in graph[number].outputs for reader in readers.get(tensor, ())):
            passes = graph[reader].operator == "QuantizeLinear" or found[reader].module == INSERTED
            modules |= reading(reader) if passes else {found[reader].module}
        return modules

    for number in reversed(range(len(graph))):
        unknown = found[number].module is None and names.complete
        if unknown or graph[number].operator == "DequantizeLinear":
            modules = reading(number)
            if len(modules) == 1 and (module := modules.pop()) is not None:
                found[number] = Found(module, guessed=unknown and graph[number].operator not in _CONVERSIONS)
    for number, node in enumerate(graph):
        before = found[writers[node.inputs[0]]].module if node.inputs and node.inputs[0] in writers else None
        if node.operator == "QuantizeLinear" and before not in (None, INSERTED):
            found[number] = Found(before)
    return found


def _by_name(node: GraphNode, names: FileNames) -> Found:
    if _LAYOUT_CHANGE.match(node.name) and node.name not in names.nodes:
        return Found(INSERTED)
    modules = (names.module(origin) for origin in origins_of(node, names))
    return Found(next((module for module in modules if module is not None), None))


def origins_of(node: GraphNode, names: FileNames) -> Iterator[OnnxNode]:
    """The nodes of the files that the runtime may have made `node` of, the likeliest first."""
    for text in (node.name, *node.outputs, *_scale_of_output(node)):
        for name in _stripped(text):
            origin = names.nodes.get(name) or names.writers.get(name)
            if origin is not None:
                yield _first_of_fusion(origin, node.operator, names)
    for text in node.inputs[1:]:
        for name in _stripped(text):
            if name in names.owners:
                yield _first_of_fusion(names.owners[name], node.operator, names)


def _stripped(name: str) -> Iterator[str]:
    while name:
        yield name
        shorter = _SUFFIX.sub("", name)
        if shorter == name:
            return
        name = shorter


def _scale_of_output(node: GraphNode) -> Iterator[str]:
    """An int8 operator reads its output's scale, which is called after the tensor that the file quantized."""
    if node.operator.startswith("QLinear"):
        scales = [name for name in node.inputs if name.endswith("_scale")]
        yield from (name.removesuffix("_scale") for name in scales[-1:])


def _first_of_fusion(last: OnnxNode, operator: str, names: FileNames) -> OnnxNode:
    """The node of `operator`'s kind that `last` was fused with: itself, or one that it reads, directly or not."""
    if operator in _CONVERSIONS:
        return last
    wanted, node = _VARIANT.sub("", operator), last
    for _ in range(_LONGEST_FUSION):
        if node.operator == wanted:
            return node
        before = names.writers.get(node.inputs[0]) if node.inputs else None
        if before is None:
            break
        node = before
    return last
