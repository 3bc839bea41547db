"""Which nodes compute in int8, and which tensors therefore get a scale.

Products (convolutions and matrix products) are what int8 is for. A light node (an addition, a pool) is worth it only
between others that are int8: alone it costs a pair of conversions. In a network with attention only products with
weights are int8, and end in float: anything more loses accuracy and gains no time (benchmarks/vit_int8.py). What moves
values without changing them passes them on at the scale that they have. An activation that cuts off what the range of
its result cuts off too needs no node.

A node that is kept in float reads values that were never quantized, so what computes these gives up int8 as well:
leaving out a node alone leaves the noise of its inputs in place, which is most often what it suffers from.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgebench.errors import StepError
from edgebench.quantize.graph import Graph, attribute

__all__ = ["MATRIX_PRODUCTS", "Placement", "find_places", "key_of", "nodes_called", "with_light_sources"]

MATRIX_PRODUCTS = frozenset({"Conv", "Gemm", "MatMul"})
# Those with an int8 kernel in onnxruntime 1.31's CPU provider.
_LIGHT = frozenset({"Add", "Mul", "Concat", "AveragePool", "GlobalAveragePool", "Sigmoid", "LeakyRelu"})
# They make of much a little, which is then cheap to have in float.
_POOLS = frozenset({"AveragePool", "GlobalAveragePool"})
_MOVES = frozenset({"MaxPool", "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Gather", "Slice", "Split",
                    "DepthToSpace", "SpaceToDepth", "Identity"})  # fmt: skip
_CUTS = frozenset({"Relu", "Clip"})
# These end in float by themselves where nothing after them is int8.
_FLOAT_RESULTS = frozenset({"Gemm", "MatMul"})
_TRANSFORMER = frozenset({"LayerNormalization", "Softmax"})


def key_of(node: Any) -> str:
    """What identifies a node: its first result. Names may be missing, or given twice."""
    return str(node.output[0])


@dataclass(frozen=True)
class Placement:
    """`int8`: the nodes (by `key_of`) that compute in int8; `absorbed`: activations that need no node, with the tensor
    that their result takes the place of. `quantized`: the tensors that get a scale of their own, in the graph's order.
    `shared`: tensors that have the scale of another one. `transformer`: the light nodes are float, because it has
    attention."""

    int8: frozenset[str]
    absorbed: dict[str, str]
    quantized: tuple[str, ...]
    shared: dict[str, str]
    transformer: bool

    def scale_of(self, tensor: str) -> str | None:
        """The tensor whose scale `tensor` has; None for one that stays float."""
        seen = tensor
        while seen in self.shared:
            seen = self.shared[seen]
        return seen if seen in self._own else None

    @property
    def _own(self) -> frozenset[str]:
        return frozenset(self.quantized)


def nodes_called(graph: Graph, names: Iterable[str]) -> frozenset[str]:
    """The keys of the nodes of those names: a node's own, its result's, or that of a kind of operators.

    Raises:
        StepError: there is none of a name.
    """
    found = set()
    for name in names:
        keys = {key_of(node) for node in graph.nodes if name in (key_of(node), node.name, node.op_type)}
        if not keys:
            kinds = sorted({node.op_type for node in graph.nodes})
            raise StepError(f"no node and no kind of operators is called `{name}`; there are: {', '.join(kinds)}")
        found |= keys
    return frozenset(found)


def find_places(graph: Graph, *, kept: frozenset[str] = frozenset(), symmetric: bool = False) -> Placement:
    """The placement where the nodes `kept` (by `key_of`) are float.

    symmetric: activations have no zero point, so that a range cannot cut off what a Relu cuts off.
    """
    return _Finder(graph, kept, symmetric).placement()


def with_light_sources(graph: Graph, keys: frozenset[str]) -> frozenset[str]:
    """The nodes `keys`, and the light nodes that what they read comes from: a sum of 8 bits stays one in 16."""
    found = set(keys)
    waiting = [node for node in graph.nodes if key_of(node) in keys]
    while waiting:
        for name in graph.activations_of(waiting.pop()):
            source = _source(graph, name)
            if source is not None and source.op_type in _LIGHT and key_of(source) not in found:
                found.add(key_of(source))
                waiting.append(source)
    return frozenset(found)


class _Finder:
    def __init__(self, graph: Graph, kept: frozenset[str], symmetric: bool) -> None:
        self._graph = graph
        self._symmetric = symmetric
        kinds = {node.op_type for node in graph.nodes}
        self._transformer = kinds >= _TRANSFORMER
        light = frozenset() if self._transformer else _LIGHT
        self._int8 = {
            key_of(node): node
            for node in graph.nodes
            if (node.op_type in MATRIX_PRODUCTS and _is_product(graph, node, weighted=self._transformer))
            or (node.op_type in light and _is_light(graph, node))
        }
        for node in graph.nodes:
            if key_of(node) in kept:
                self._keep(node)

    def placement(self) -> Placement:
        graph = self._graph
        while lonely := [key for key, node in self._int8.items() if self._is_lonely(node)]:
            for key in lonely:
                del self._int8[key]
        moves = [node for node in graph.nodes if node.op_type in _MOVES and self._moves_int8(node)]
        absorbed = {key_of(node): node.input[0] for node in graph.nodes if self._is_absorbed(node)}
        computing = {*self._int8, *(key_of(node) for node in moves)}
        shared = {name: node.input[0] for node in moves for name in node.output}
        scaled: dict[str, None] = {}
        for node in graph.nodes:
            if key_of(node) not in computing:
                continue
            for name in graph.activations_of(node):
                scaled.setdefault(name)
            if node.op_type in MATRIX_PRODUCTS | _LIGHT:
                for name in self._scaled_results(node, absorbed, computing):
                    scaled.setdefault(name)
        for node in graph.nodes:
            if node.op_type == "Concat" and key_of(node) in self._int8:
                # It would bring them to its own scale anyway, one by one.
                for name in node.input:
                    alone = len(graph.consumers[name]) == 1 and name not in graph.outputs
                    if alone and name in scaled and name not in shared:
                        shared[name] = key_of(node)
        own = tuple(name for name in scaled if name not in shared)
        return Placement(frozenset(computing), absorbed, own, shared, self._transformer)

    def _keep(self, node: Any) -> None:
        self._int8.pop(key_of(node), None)
        for name in self._graph.activations_of(node):
            if (source := _source(self._graph, name)) is not None:
                self._int8.pop(key_of(source), None)

    def _readers(self, tensor: str) -> Iterator[Any]:
        """What computes with the values of `tensor`."""
        for node in self._graph.consumers.get(tensor, ()):
            if node.op_type in _MOVES | _CUTS:
                for name in node.output:
                    yield from self._readers(name)
            else:
                yield node

    def _is_int8(self, node: Any | None) -> bool:
        return node is not None and key_of(node) in self._int8

    def _comes_from_int8(self, tensor: str) -> bool:
        return self._is_int8(_source(self._graph, tensor))

    def _is_lonely(self, node: Any) -> bool:
        if node.op_type in MATRIX_PRODUCTS:
            return False
        before = [self._comes_from_int8(name) for name in self._graph.activations_of(node)]
        if node.op_type in _POOLS and all(before):
            return False
        return not any(before) or not self._leads_to_product(node)

    def _leads_to_product(self, node: Any) -> bool:
        """Whether a product reads in int8 what comes of it. At the end of a network, where boxes are put together, 8
        bits are too few and little is computed."""
        waiting, seen = [node], set()
        while waiting:
            for reader in (reader for name in waiting.pop().output for reader in self._readers(name)):
                if not self._is_int8(reader) or key_of(reader) in seen:
                    continue
                if reader.op_type in MATRIX_PRODUCTS:
                    return True
                seen.add(key_of(reader))
                waiting.append(reader)
        return False

    def _moves_int8(self, node: Any) -> bool:
        # Constants are moved at no time, and indices are no values.
        if node.input[0] not in self._graph.shapes or not self._comes_from_int8(node.input[0]):
            return False
        source = _source(self._graph, node.input[0])
        if source is None or source.op_type not in _FLOAT_RESULTS:
            return True
        return any(self._is_int8(reader) for name in node.output for reader in self._readers(name))

    def _is_absorbed(self, node: Any) -> bool:
        graph = self._graph
        if node.op_type not in _CUTS or self._symmetric or not _cuts_around_zero(graph, node):
            return False
        # A branch reads it by its name, which would then be that of what was not cut off.
        if key_of(node) in graph.captured:
            return False
        source = graph.producers.get(node.input[0])
        alone = len(graph.consumers[node.input[0]]) == 1 and node.input[0] not in graph.outputs
        if source is None or not alone or not self._is_int8(source):
            return False
        # A product that may end in float does so, and then nothing cuts off for it.
        return source.op_type not in _FLOAT_RESULTS or any(map(self._is_int8, self._readers(node.output[0])))

    def _scaled_results(self, node: Any, absorbed: dict[str, str], computing: set[str]) -> list[str]:
        graph = self._graph
        result = key_of(node)
        readers = graph.consumers.get(result, [])
        if len(readers) == 1 and key_of(readers[0]) in absorbed:
            result = key_of(readers[0])
            readers = graph.consumers.get(result, [])
        if node.op_type in _FLOAT_RESULTS and not any(key_of(reader) in computing for reader in readers):
            return []
        return [result]


def _source(graph: Graph, tensor: str) -> Any | None:
    """What computes the values of `tensor`: the node before those that only move them or cut them off."""
    node = graph.producers.get(tensor)
    while node is not None and node.op_type in _MOVES | _CUTS:
        node = graph.producers.get(node.input[0])
    return node


def _is_product(graph: Graph, node: Any, *, weighted: bool) -> bool:
    """Whether it is a product that int8 computes; `weighted`: only one with constant weights."""
    data, weights, *bias = node.input
    if data not in graph.shapes or (bias and bias[0] and not graph.is_float(bias[0])):
        return False
    if node.op_type == "MatMul":
        return graph.is_float(weights) or (weights in graph.shapes and not weighted)
    if node.op_type == "Gemm" and (
        attribute(node, "alpha", 1.0) != 1 or attribute(node, "beta", 1.0) != 1 or attribute(node, "transA", 0)
    ):
        return False
    return graph.is_float(weights)


def _is_light(graph: Graph, node: Any) -> bool:
    floats = [name in graph.shapes or graph.is_float(name) for name in node.input]
    return all(floats) and any(name in graph.shapes for name in node.input)


def _cuts_around_zero(graph: Graph, node: Any) -> bool:
    """Whether the range of its results, with zero in it, cuts off all that it cuts off."""
    if node.op_type == "Relu":
        return True
    bounds = [*node.input[1:], "", ""][:2]
    if any(name and not graph.is_weight(name) for name in bounds):
        return False
    low, high = (
        float(np.asarray(graph.weight(name)).reshape(())) if name else fallback
        for name, fallback in zip(bounds, (-np.inf, np.inf), strict=True)
    )
    return low <= 0 <= high
