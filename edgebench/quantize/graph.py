"""An ONNX model as quantization works on it: a small graph, and its weights in a file beside it that are read when they
are needed.

Weights that lie in memory twice (in Python and in the runtime's session) are what quantizers need most of their memory
for. Here the runtime maps the file, and so does numpy; what changes a weight changes the file. Models above protobuf's
2 GB pass as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Graph", "attribute", "captured", "subgraphs"]


class Graph:
    """The model at `path`, whose larger initializers are external data. Nodes may be edited through `proto` before the
    first look at `producers`, `consumers` or `shapes`."""

    def __init__(self, path: Path) -> None:
        import onnx

        self.path = path
        self.model = onnx.load(path, load_external_data=False)
        self._initializers = {tensor.name: tensor for tensor in self.model.graph.initializer}

    @property
    def weights_path(self) -> Path:
        """Where the larger initializers lie, if there are any."""
        return self.path.with_suffix(".weights")

    @property
    def proto(self) -> Any:
        """The `GraphProto`."""
        return self.model.graph

    @property
    def nodes(self) -> list[Any]:
        """The nodes, in an order in which each comes after those that it reads."""
        return list(self.model.graph.node)

    @cached_property
    def producers(self) -> dict[str, Any]:
        """The node that computes each tensor."""
        return {name: node for node in self.nodes for name in node.output if name}

    @cached_property
    def consumers(self) -> dict[str, list[Any]]:
        """The nodes that read each tensor, also from within a branch or a loop, one of them as often as it reads it."""
        found: dict[str, list[Any]] = {}
        for node in self.nodes:
            for name in (*node.input, *captured(node)):
                if name:
                    found.setdefault(name, []).append(node)
        return found

    @cached_property
    def captured(self) -> frozenset[str]:
        """What branches and loops read of the graph around them, by its name."""
        return frozenset(name for node in self.nodes for name in captured(node))

    @cached_property
    def shapes(self) -> dict[str, tuple[int | None, ...]]:
        """The shape of each tensor that is a float32 activation and whose rank is known; unknown sizes are None."""
        import onnx

        float_type = onnx.TensorProto.FLOAT
        found = {}
        for value in (*self.proto.input, *self.proto.value_info, *self.proto.output):
            kind = value.type.tensor_type
            if kind.elem_type == float_type and kind.HasField("shape") and value.name not in self._initializers:
                found[value.name] = tuple(
                    axis.dim_value if axis.HasField("dim_value") else None for axis in kind.shape.dim
                )
        return found

    @cached_property
    def outputs(self) -> frozenset[str]:
        """The names of the model's outputs."""
        return frozenset(value.name for value in self.proto.output)

    @property
    def opset(self) -> int:
        """Of the standard domain."""
        return int(next(entry.version for entry in self.model.opset_import if entry.domain in ("", "ai.onnx")))

    def is_weight(self, name: str) -> bool:
        """Whether `name` is a constant of the model."""
        return name in self._initializers

    def is_float(self, name: str) -> bool:
        """Whether it is a float32 constant."""
        import onnx

        return self.is_weight(name) and self._initializers[name].data_type == onnx.TensorProto.FLOAT

    def weight(self, name: str) -> NDArray[Any]:
        """The values of a constant; mapped from the file, not to be written to."""
        from onnx import helper, numpy_helper

        tensor = self._initializers[name]
        external = {entry.key: entry.value for entry in tensor.external_data}
        if not external:
            return np.asarray(numpy_helper.to_array(tensor))
        return np.memmap(
            self.path.parent / external["location"],
            dtype=helper.tensor_dtype_to_np_dtype(tensor.data_type),
            mode="r",
            offset=int(external.get("offset", 0)),
            shape=tuple(tensor.dims),
        )

    def set_weight(self, name: str, values: NDArray[Any]) -> None:
        """Other values for a constant, of its shape and dtype; on disk where it lies there."""
        tensor = self._initializers[name]
        external = {entry.key: entry.value for entry in tensor.external_data}
        if not external:
            # Values may lie in the field of their type.
            tensor.ClearField("float_data")
            tensor.raw_data = np.ascontiguousarray(values).tobytes()
            return
        file = np.memmap(
            self.path.parent / external["location"],
            dtype=values.dtype,
            mode="r+",
            offset=int(external.get("offset", 0)),
            shape=values.shape,
        )
        file[...] = values
        file.flush()

    def save(self) -> None:
        """Write the graph to its path."""
        import onnx

        onnx.save(self.model, self.path)

    def activations_of(self, node: Any) -> Iterator[str]:
        """The float activations that `node` reads."""
        return (name for name in (*node.input, *captured(node)) if name in self.shapes)


def subgraphs(node: Any) -> Iterator[Any]:
    """The graphs of a branch or a loop."""
    for entry in node.attribute:
        if entry.HasField("g"):
            yield entry.g
        yield from entry.graphs


def captured(node: Any) -> set[str]:
    """What the subgraphs of `node` read of the graph around them; nothing for most nodes."""
    found: set[str] = set()
    for graph in subgraphs(node):
        own = {value.name for value in (*graph.input, *graph.initializer)}
        read = {value.name for value in graph.output}
        for inner in graph.node:
            own.update(inner.output)
            read.update(inner.input, captured(inner))
        found |= read - own
    return found - {""}


def attribute(node: Any, name: str, default: Any = None) -> Any:
    """The value of a node's attribute."""
    import onnx

    for entry in node.attribute:
        if entry.name == name:
            return onnx.helper.get_attribute_value(entry)
    return default
