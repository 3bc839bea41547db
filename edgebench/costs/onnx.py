"""The costs of an ONNX file, read from its graph: nothing is run, and no file beside it is opened.

What a runtime does once when it loads the file is taken as done: operators on constants alone are folded, so that the
weights of a quantized layer are int8 and belong to it. A tensor that is quantized and used in no other way is int8
where it is made, as runtimes fuse that; its float values exist in none of them.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from edgebench.costs.layers import Counted, LayerCosts, Step, known_sum, peak_live_bytes, summed
from edgebench.costs.onnx_macs import macs_of
from edgebench.errors import MissingExtra
from edgebench.types import TensorSpec

__all__ = ["count"]

_VIEWS = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Dropout"})
# Which inputs are settings and statistics, not learned: scales, zero points, running means.
_SETTINGS: dict[str, tuple[int, ...]] = {
    "QuantizeLinear": (1, 2),
    "DequantizeLinear": (1, 2),
    "ConvInteger": (2, 3),
    "MatMulInteger": (2, 3),
    "QLinearConv": (1, 2, 4, 5, 6, 7),
    "QLinearMatMul": (1, 2, 4, 5, 6, 7),
    "QGemm": (1, 2, 4, 5, 7, 8),
    "BatchNormalization": (3, 4),
    "Resize": (1, 2, 3),
    "Upsample": (1,),
    "Pad": (1, 2, 3),
    "Clip": (1, 2),
}
# Which input is the zero point of which.
_ZERO_POINTS = {
    "DequantizeLinear": {0: 2},
    "ConvInteger": {1: 3},
    "MatMulInteger": {1: 3},
    "QLinearConv": {3: 5},
    "QLinearMatMul": {3: 5},
    "QGemm": {3: 5},
}
_BITS = {"INT4": 4, "UINT4": 4, "FLOAT4E2M1": 4, "INT2": 2, "UINT2": 2}
_INDICES = frozenset({"INT64", "INT32", "BOOL", "STRING"})
# Larger constants are no shapes, and shape inference would copy them.
_LARGEST_SHAPE_BYTES = 4096


def count(path: Path, inputs: Sequence[TensorSpec] = ()) -> Counted:
    """The costs of one inference of the file.

    Args:
        inputs: shapes of the inputs, by name; where none is given a free first axis is 1, and what depends on another
            free one is not counted.

    Raises:
        MissingExtra: onnx is not installed.
    """
    try:
        import onnx
    except ImportError as error:
        raise MissingExtra("onnx", "torch") from error
    model = onnx.load(str(path), load_external_data=False)
    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    return _Graph(model, {spec.name: spec.shape for spec in inputs}).counted()


class _Graph:
    """A model's graph with what is known of its tensors."""

    def __init__(self, model: Any, given: dict[str, tuple[int, ...]]) -> None:
        self._graph = model.graph
        self._tensors = dict(_constants(model.graph))
        # The initializers that each constant was made of.
        self._origins: dict[str, tuple[str, ...]] = {name: (name,) for name in self._tensors}
        self._zero_points: dict[str, str] = {}
        # Integers that stand for real numbers.
        self._quantized: set[str] = set()
        self._nodes = self._unfolded()
        self._zeros = {name: self._zeros_in(name) for name in self._tensors}
        self._shapes, self._bits = _infer(model, given)
        self._stored_as = self._aliases()

    def counted(self) -> Counted:
        """The costs of every operator that is not folded."""
        seen: set[str] = set()
        layers, steps = [], []
        sizes: dict[Any, int | None] = {}
        for node in self._nodes:
            reads = [self._stored(name) for name in _inputs(node) if name and name not in self._origins]
            writes = [self._stored(name) for name in node.output if name]
            made = [name for name in writes if name not in reads]
            sizes |= {name: self._bytes(name) for name in made}
            steps.append(Step(tuple(reads), tuple(writes)))
            weights = self._weights(node)
            new = [name for name in weights if name not in seen]
            seen.update(new)
            layers.append(self._layer(node, weights, new, known_sum(sizes[name] for name in made)))
        given = [value.name for value in self._graph.input]
        sizes |= {name: self._bytes(name) for name in given}
        kept = [self._stored(value.name) for value in self._graph.output]
        return summed(layers, peak_live_bytes(steps, given, kept, sizes))

    def _layer(self, node: Any, weights: Sequence[str], new: Sequence[str], activation_bytes: int | None) -> LayerCosts:
        matrices = any(len(self._tensors[name].dims) > 1 for name in weights)
        return LayerCosts(
            name=node.name or node.output[0],
            module=_module_of(node, weights),
            operator=node.op_type,
            output_shape=self._shapes.get(node.output[0]),
            macs=macs_of(node, self._shapes.__getitem__, matrices),
            parameters=sum(_elements(self._tensors[name]) for name in new),
            zeros=known_sum(self._zeros[name] for name in new),
            weight_bytes=sum(
                _elements(self._tensors[name]) * _bits(self._tensors[name].data_type) // 8 for name in new
            ),
            activation_bytes=activation_bytes,
        )

    def _unfolded(self) -> list[Any]:
        """The nodes that a runtime executes; of the others it is noted what their constants are made of."""
        nodes = []
        for node in self._graph.node:
            for position, point in _ZERO_POINTS.get(node.op_type, {}).items():
                if position < len(node.input) and point < len(node.input):
                    self._zero_points.update(
                        dict.fromkeys(self._origins.get(node.input[position], ()), node.input[point])
                    )
            if node.op_type == "DequantizeLinear" or node.op_type.startswith("QLinear") or node.op_type == "QGemm":
                self._quantized.update(origin for name in node.input for origin in self._origins.get(name, ()))
            constant = all(name in self._origins for name in _inputs(node) if name) and "Random" not in node.op_type
            # An empty loop over constants is still a loop.
            if constant and not any(attribute.HasField("g") for attribute in node.attribute):
                origins = tuple(self._weights(node))
                self._origins.update({name: self._origins.get(name, origins) for name in node.output})
            else:
                nodes.append(node)
        return nodes

    def _weights(self, node: Any) -> list[str]:
        """The initializers among what it reads that were learned."""
        settings = _SETTINGS.get(node.op_type, ())
        names = [
            name
            for position, used in enumerate(_inputs(node))
            if position not in settings
            for name in self._origins.get(used, ())
        ]
        # Shapes and indices are integers too; a single number is a setting.
        return [
            name
            for name in dict.fromkeys(names)
            if self._tensors[name].dims
            and (name in self._quantized or _type_name(self._tensors[name].data_type) not in _INDICES)
        ]

    def _zeros_in(self, name: str) -> int | None:
        """How many values of the initializer stand for zero; None where they lie in another file."""
        import onnx

        tensor, point = self._tensors[name], self._tensors.get(self._zero_points.get(name, ""))
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            return None
        values = onnx.numpy_helper.to_array(tensor)
        points = set() if point is None else set(onnx.numpy_helper.to_array(point).reshape(-1).tolist())
        return int((values == (points.pop() if points else 0)).sum()) if len(points) < 2 else None

    def _aliases(self) -> dict[str, str]:
        """Tensors that have no memory of their own, with the one that they are stored as."""
        uses = Counter(name for node in self._nodes for name in _inputs(node))
        ends = {value.name for value in (*self._graph.input, *self._graph.output)}
        found = {}
        for node in self._nodes:
            if node.op_type in _VIEWS or node.op_type == "DequantizeLinear":
                found[node.output[0]] = node.input[0]
            elif node.op_type == "QuantizeLinear" and uses[node.input[0]] == 1 and node.input[0] not in ends:
                found[node.input[0]] = node.output[0]
        return found

    def _stored(self, name: str) -> str:
        while name in self._stored_as:
            name = self._stored_as[name]
        return name

    def _bytes(self, name: str) -> int | None:
        shape = self._shapes.get(name)
        return None if shape is None else math.prod(shape) * self._bits[name] // 8


def _constants(graph: Any) -> Iterator[tuple[str, Any]]:
    """The initializers and constants with their names."""
    for tensor in graph.initializer:
        yield tensor.name, tensor
    for sparse in graph.sparse_initializer:
        yield sparse.values.name, sparse.values
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.name == "value":
                yield node.output[0], attribute.t
            # Those of a branch or a loop's body are the control flow's.
            for inner in (attribute.g, *attribute.graphs):
                yield from _constants(inner)


def _inputs(node: Any) -> list[str]:
    """What it reads, "" for what is left out, with what its subgraphs read, some of which is their own."""
    graphs = (graph for attribute in node.attribute for graph in (attribute.g, *attribute.graphs))
    return [*node.input, *(name for graph in graphs for inner in graph.node for name in _inputs(inner))]


def _infer(model: Any, given: dict[str, tuple[int, ...]]) -> tuple[dict[str, tuple[int, ...]], dict[str, int]]:
    """Shapes and bits per element of the tensors, by ONNX's own inference; the model's weights are dropped for that."""
    import onnx

    graph = model.graph
    constants = dict(_constants(graph))
    # Older files list their weights as inputs too, which then might be others.
    fed = [value for value in graph.input if value.name not in constants]
    del graph.input[:]
    graph.input.extend(fed)
    for value in graph.input:
        tensor = value.type.tensor_type
        lengths = given.get(value.name, tuple(side.dim_value for side in tensor.shape.dim))
        known = [length or int(axis == 0) for axis, length in enumerate(lengths)]
        if all(known) and len(known) == len(tensor.shape.dim):
            for side, length in zip(tensor.shape.dim, known, strict=True):
                side.dim_value = length
    for tensor in constants.values():
        if len(tensor.raw_data) > _LARGEST_SHAPE_BYTES:
            tensor.ClearField("raw_data")
    # What the file says of tensors within was inferred for the lengths that it leaves free.
    free = [value for value in graph.value_info if not all(side.dim_value for side in value.type.tensor_type.shape.dim)]
    if free:
        del graph.value_info[:]
    for value in graph.output:
        value.type.tensor_type.ClearField("shape")
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    shapes, bits = {}, {}
    for value in (*inferred.input, *inferred.value_info, *inferred.output):
        tensor = value.type.tensor_type
        bits[value.name] = _bits(tensor.elem_type)
        if tensor.HasField("shape") and all(side.HasField("dim_value") for side in tensor.shape.dim):
            shapes[value.name] = tuple(side.dim_value for side in tensor.shape.dim)
    for name, tensor in _constants(inferred):
        shapes[name], bits[name] = tuple(tensor.dims), _bits(tensor.data_type)
    return shapes, bits


def _module_of(node: Any, weights: Sequence[str]) -> str | None:
    """The module of the network that it came from, as far as exporters say: weights keep their names through every
    simplification and quantization, torch's newer exporter notes scopes, and the older one has them in names."""
    for name in weights:
        stem, dot, last = name.rpartition(".")
        if dot and last.startswith(("weight", "bias", "in_proj")):
            return stem
    scopes = next((item.value for item in node.metadata_props if item.key == "pkg.torch.onnx.name_scopes"), None)
    if scopes is not None:
        names: list[str] = re.findall(r"'([^']*)'", scopes)
        return names[-2] if len(names) > 2 else None
    if not node.name.startswith("/"):
        return None
    path = ""
    for part in node.name[1:].split("/")[:-1]:
        path = part if part.startswith(path + ".") or not path else f"{path}.{part}"
    return path or None


def _elements(tensor: Any) -> int:
    return math.prod(tensor.dims)


def _type_name(code: int) -> str:
    import onnx

    return str(onnx.TensorProto.DataType.Name(code))


def _bits(code: int) -> int:
    import onnx

    try:
        return _BITS.get(_type_name(code)) or 8 * int(onnx.helper.tensor_dtype_to_np_dtype(code).itemsize)
    except (KeyError, ValueError):
        # A string, or a type that the file leaves open.
        return 0
