"""Which PyTorch module each operator of a .tflite file comes from: litert-torch names tensors after modules.

A name is a path of `class_name` (`...container.Sequential_layer1/...conv.Conv2d_conv1;1`). An operator that several
were fused into has all of theirs, separated by `;;`: the last one that was computed comes first, and constants that it
shares with other modules come with those.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from edgebench.agent.operator_times import GraphNode
from edgebench.profiling.onnx_modules import Found

__all__ = ["modules_of"]

# Operators with weights, and how the classes that have them are called.
_WEIGHTED = {
    "CONV_2D": "Conv",
    "DEPTHWISE_CONV_2D": "Conv",
    "TRANSPOSE_CONV": "Conv",
    "CONV_3D": "Conv",
    "FULLY_CONNECTED": "Linear",
}
# What the converter made itself is called after the operation of its compiler.
_NOT_A_CLASS = ("arith.", "tfl.", "stablehlo.")


def modules_of(graph: Sequence[GraphNode]) -> list[Found]:
    """The module of each node, in their order."""
    return [Found(_module(node)) for node in graph]


def _module(node: GraphNode) -> str | None:
    scopes = [scope for tensor in node.outputs for scope in _scopes(tensor)]
    wanted = _WEIGHTED.get(node.operator)
    if wanted is not None:
        # The network's last tensor has the name of the output, while the weights have theirs.
        weights = [scope for tensor in node.inputs[1:] for scope in _scopes(tensor)]
        weighted = [module for owner, module in scopes or weights if wanted in owner]
        if weighted:
            return weighted[-1]
    if not scopes:
        return None
    modules = [module for _, module in scopes]
    # An addition with the activation of a child of its module.
    is_child = len(modules) > 1 and modules[0].rpartition(".")[0] == modules[1]
    return modules[1] if is_child else modules[0]


def _scopes(tensor: str) -> Iterator[tuple[str, str]]:
    """(class, module) of each operator in a tensor's name."""
    for path in tensor.split(";;"):
        owner, names = "", []
        root, *parts = path.partition(";")[0].split("/")
        if "." not in root or root.startswith(_NOT_A_CLASS):
            continue
        for part in parts:
            package, _, last = part.rpartition(".")
            # A class may begin with the separator itself.
            kind, _, name = last.lstrip("_").partition("_")
            if not package or not name:
                break
            owner = kind
            names.append(name)
        else:
            yield owner or root, ".".join(names)
