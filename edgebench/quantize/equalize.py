"""Cross-layer equalisation with the activations in view: the channels of a tensor are brought to like ranges, in float,
without a change of what the network computes.

A tensor has one scale for all its channels, so a channel whose values are a hundredth of the largest's is left with two
or three levels. Between a layer that computes it and those that read it a channel may be divided by any number above
zero, if the weights after it are multiplied by it: Relu, pooling and additions let it through (Nagel et al.,
"Data-Free Quantization Through Weight Equalization and Bias Correction", 2019). With scales per channel the weights
that compute it do not care, and the question is how much of the spread the weights after it can take over: the exponent
of Xiao et al., "SmoothQuant" (2023), chosen for each tensor by the noise that is to be expected. Every quantity that
the choice is made from is relative, so that a network comes out the same however its channels were scaled before.

Tensors that are added, pooled or rectified share their channels' divisors: they are a group. A Clip at 6 is not
homogeneous; its channels may only be made larger, up to where what it cuts off was never reached.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgebench.quantize.graph import Graph, attribute
from edgebench.quantize.placement import Placement, key_of
from edgebench.quantize.survey import Channels

__all__ = ["equalize", "groups_of"]

Vector = NDArray[np.float64]

# What computes [N, C, ...] from [N, C, ...], channel by channel, and lets a positive factor through.
_HOMOGENEOUS = frozenset(
    {"Relu", "LeakyRelu", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "Identity", "Dropout"}
)
_RESHAPES = frozenset({"Flatten", "Reshape", "Squeeze"})
_EXPONENTS = (1.0, 0.75, 0.5, 0.25)
# How far beyond what was seen a clipped channel may still go.
_MARGIN = 4.0
_LARGEST_DIVISOR = 1e6
# A clipped channel that stays this far below is next to dead, and what it may do elsewhere is not known.
_LARGEST_GROWTH = 256.0
# A root mean square is about a third of the peak for the bell-shaped values that activations have.
_CREST = 3.0
_ROWS_AT_ONCE = 256


@dataclass
class Group:
    """Tensors that share their channels' divisors, `channels` of them; what computes them and what reads them."""

    tensors: set[str]
    channels: int
    producers: list[Any] = field(default_factory=list)
    consumers: list[Any] = field(default_factory=list)
    ceilings: dict[str, float] = field(default_factory=dict)


def equalize(
    graph: Graph, placement: Placement, channels: Mapping[str, Channels]
) -> tuple[dict[str, Channels], int, float]:
    """Change the weights of `graph`, in its file; the `channels` of its tensors from then on, how many groups changed,
    and the largest ratio between two divisors of one group."""
    now = dict(channels)
    changed, largest = 0, 1.0
    for group in groups_of(graph):
        scaled = [now[name] for name in sorted(group.tensors) if name in placement.quantized and name in now]
        if not scaled:
            continue
        ceilings = [(now[name], limit) for name, limit in group.ceilings.items() if name in now]
        if len(ceilings) < len(group.ceilings):
            continue
        divisors = _best_divisors(graph, group, scaled, ceilings)
        if divisors is None:
            continue
        _apply(graph, group, divisors)
        changed += 1
        largest = max(largest, float(divisors.max() / divisors.min()))
        for name in group.tensors & now.keys():
            now[name] = now[name].divided(divisors.astype(np.float32))
    # Small weights lie within the graph.
    graph.save()
    return now, changed, largest


def groups_of(graph: Graph) -> list[Group]:
    """The groups whose channels may be divided."""
    return list(_Finder(graph).groups())


class _Finder:
    """A union of tensors that must share divisors; `blocked` are those that must have none."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._parent: dict[str, str] = {}
        self._blocked: set[str] = {value.name for value in graph.proto.input} | set(graph.outputs)
        self._producers: dict[str, Any] = {}
        self._consumers: list[tuple[str, Any]] = []
        self._ceilings: dict[str, float] = {}
        for node in graph.nodes:
            self._look_at(node)

    def groups(self) -> Iterator[Group]:
        found: dict[str, Group] = {}
        for name in self._parent:
            root = self._root(name)
            group = found.setdefault(root, Group(set(), self._channels(name) or 0))
            group.tensors.add(name)
            if name in self._producers:
                group.producers.append(self._producers[name])
            if name in self._ceilings:
                group.ceilings[name] = self._ceilings[name]
        for name, node in self._consumers:
            found[self._root(name)].consumers.append(node)
        blocked = {self._root(name) for name in self._blocked if name in self._parent}
        for root, group in found.items():
            if root not in blocked and group.producers and group.consumers:
                yield group

    def _look_at(self, node: Any) -> None:
        graph = self._graph
        floats = list(graph.activations_of(node))
        results = [name for name in node.output if name in graph.shapes]
        if node.op_type in ("Conv", "Gemm") and self._has_own_weights(node):
            self._tie(results[0])
            self._tie(floats[0])
            self._producers[results[0]] = node
            self._consumers.append((floats[0], node))
        elif self._passes_channels(node, floats):
            self._tie(floats[0], results[0])
            if node.op_type == "Clip":
                self._ceilings[results[0]] = float(np.asarray(graph.weight(node.input[2])).reshape(()))
        elif node.op_type == "Add" and len(floats) == 2 and graph.shapes[floats[0]] == graph.shapes[floats[1]]:
            self._tie(*floats, results[0])
        elif node.op_type == "Mul" and len(floats) == 2 and self._gated(floats) is not None:
            through = self._gated(floats)
            self._tie(str(through), results[0])
            self._block(name for name in floats if name != through)
        else:
            self._block([*floats, *results])

    def _has_own_weights(self, node: Any) -> bool:
        """Whether its weights are constants that no other node reads."""
        graph = self._graph
        constants = [name for name in node.input[1:] if name]
        plain = node.op_type == "Conv" or not (
            attribute(node, "transA", 0) or attribute(node, "alpha", 1.0) != 1 or attribute(node, "beta", 1.0) != 1
        )
        data, result = node.input[0], key_of(node)
        known = self._channels(data) is not None and self._channels(result) is not None
        return known and plain and all(graph.is_float(name) and len(graph.consumers[name]) == 1 for name in constants)

    def _passes_channels(self, node: Any, floats: list[str]) -> bool:
        graph = self._graph
        if not floats or len(node.output) != 1 or node.output[0] not in graph.shapes:
            return False
        before, after = graph.shapes[floats[0]], graph.shapes[node.output[0]]
        if len(before) < 2 or len(after) < 2 or before[1] is None or before[1] != after[1]:
            return False
        if node.op_type in _HOMOGENEOUS:
            return True
        if node.op_type in _RESHAPES:
            # Only from [N, C, 1, 1] to [N, C] and back.
            return math.prod(size or 0 for size in before[1:]) == before[1]
        if node.op_type == "ReduceMean":
            axes = attribute(node, "axes")
            if axes is None and len(node.input) > 1 and graph.is_weight(node.input[1]):
                axes = [int(axis) for axis in graph.weight(node.input[1])]
            return axes is not None and {axis % len(before) for axis in axes} <= {2, 3}
        if node.op_type == "Clip" and len(node.input) == 3 and all(map(graph.is_weight, node.input[1:])):
            return float(np.asarray(graph.weight(node.input[1])).reshape(())) == 0
        return False

    def _gated(self, floats: list[str]) -> str | None:
        """Of two factors the one that the other one weighs channel by channel."""
        shapes = [self._graph.shapes[name] for name in floats]
        gates = [len(shape) == 4 and shape[2:] == (1, 1) for shape in shapes]
        if gates[0] == gates[1]:
            return None
        return floats[gates.index(False)]

    def _channels(self, name: str) -> int | None:
        shape = self._graph.shapes.get(name, ())
        return shape[1] if len(shape) >= 2 else None

    def _block(self, names: Any) -> None:
        self._blocked.update(names)

    def _root(self, name: str) -> str:
        while self._parent[name] != name:
            name = self._parent[name]
        return name

    def _tie(self, first: str, *others: str) -> None:
        for name in (first, *others):
            self._parent.setdefault(name, name)
            self._parent[self._root(name)] = self._root(first)


@dataclass(frozen=True)
class _Reader:
    """What a layer that reads a group makes of its channels, row by row of its results; relative to what each row
    amounts to. `weights`: `[O, C, K]`, `power`: `[C]`, the mean square of each channel."""

    weights: NDArray[np.float32]
    depthwise: bool
    power: Vector

    def _blocks(self) -> Iterator[tuple[Vector, Vector]]:
        """`[o, C, K]` weights, divided by the root of what their row's result amounts to, and their energy `[o, C]`."""
        for start in range(0, len(self.weights), _ROWS_AT_ONCE):
            rows = self.weights[start : start + _ROWS_AT_ONCE].astype(np.float64)
            signal = np.square(rows).sum(2) @ self.power
            live = signal > 0
            rows = rows[live] / np.sqrt(signal[live])[:, None, None]
            yield rows, np.square(rows).sum(2)

    def largest(self) -> Vector:
        """`[C]`: the largest weight that reads each channel."""
        found = np.zeros(len(self.power))
        for rows, _ in self._blocks():
            if len(rows):
                found = np.maximum(found, np.abs(rows).max(axis=(0, 2)))
        return found

    def noise(self, divisors: Vector, steps: Vector) -> float:
        """Expected noise over signal of its results, for activations with these `steps` and weights of 8 bits."""
        if self.depthwise:
            live = self.power > 0
            return float(np.sum(steps**2) / 12 * np.mean(divisors[live] ** 2 / self.power[live]))
        total, count = 0.0, 0
        read = float(np.sum(self.power / divisors**2)) * self.weights.shape[2]
        for rows, energy in self._blocks():
            activations = np.sum(steps**2) / 12 * (energy @ divisors**2)
            weight_steps = np.abs(rows * divisors[:, None]).max(axis=(1, 2), initial=0.0) / 127
            total += float(np.sum(activations + weight_steps**2 / 12 * read))
            count += len(rows)
        return total / max(count, 1)


def _best_divisors(
    graph: Graph, group: Group, scaled: list[Channels], ceilings: list[tuple[Channels, float]]
) -> Vector | None:
    """`[C]`, those with the least noise; None where none are better than what is."""
    peaks = np.stack([channels.typical.astype(np.float64) for channels in scaled])
    live: NDArray[np.bool_] = np.all(peaks > 0, axis=0)
    if live.sum() < 2:
        return None
    peak = np.ones(group.channels)
    # The geometric mean over the tensors: a factor on a channel is one on it.
    peak[live] = np.exp(np.log(peaks[:, live]).mean(axis=0))
    power = np.where(live, (peak / _CREST) ** 2, 0.0)
    readers = [_Reader(*_read_weights(graph, node, group.channels), power) for node in group.consumers]

    def noise(divisors: Vector) -> float:
        steps = np.array(
            [
                (np.max(channels.high / divisors, initial=0) - np.min(channels.low / divisors, initial=0)) / 255
                for channels in scaled
            ]
        )
        return sum(reader.noise(divisors, steps) for reader in readers)

    unchanged = np.ones(group.channels)
    best, least = None, noise(unchanged)
    for divisors in _candidates(readers, peak, live, ceilings):
        found = noise(divisors)
        if found < least:
            best, least = divisors, found
    return best


def _candidates(
    readers: list[_Reader], peak: Vector, live: NDArray[np.bool_], ceilings: list[tuple[Channels, float]]
) -> Iterator[Vector]:
    if ceilings:
        reach = np.max([channels.peak / limit for channels, limit in ceilings], axis=0).astype(np.float64)
        for exponent in _EXPONENTS:
            yield np.where(live, np.clip(reach * _MARGIN, 1 / _LARGEST_GROWTH, 1.0) ** exponent, 1.0)
        return
    dense = [reader.largest() for reader in readers if not reader.depthwise]
    usable = live & np.all([found > 0 for found in dense], axis=0) if dense else live
    after = np.ones(len(peak))
    if dense:
        after[usable] = np.exp(np.mean([np.log(found[usable]) for found in dense], axis=0))
    for exponent in _EXPONENTS if dense else _EXPONENTS[:1]:
        divisors = peak**exponent / after ** (1 - exponent)
        middle = np.exp(np.log(divisors[usable]).mean())
        yield np.where(usable, np.clip(divisors / middle, 1 / _LARGEST_DIVISOR, _LARGEST_DIVISOR), 1.0)


def _read_weights(graph: Graph, node: Any, channels: int) -> tuple[NDArray[np.float32], bool]:
    """`[O, C, K]`, and whether each result reads one channel alone; then it is `[C, 1, K]`."""
    weights = np.asarray(graph.weight(node.input[1]))
    if node.op_type == "Gemm":
        rows = weights if attribute(node, "transB", 0) else weights.T
        return rows[:, :, None], False
    groups = int(attribute(node, "group", 1))
    flat = weights.reshape(len(weights), weights.shape[1], -1)
    if groups == 1:
        return flat, False
    if weights.shape[1] == 1:
        return flat, True
    dense = np.zeros((len(weights), channels, flat.shape[2]), np.float32)
    for row in range(len(weights)):
        start = row * groups // len(weights) * weights.shape[1]
        dense[row, start : start + weights.shape[1]] = flat[row]
    return dense, False


def _apply(graph: Graph, group: Group, divisors: Vector) -> None:
    for node in group.producers:
        weights = np.array(graph.weight(node.input[1]))
        axis = 1 if node.op_type == "Gemm" and not attribute(node, "transB", 0) else 0
        graph.set_weight(node.input[1], (weights / _along(divisors, axis, weights.ndim)).astype(np.float32))
        if len(node.input) > 2 and node.input[2]:
            bias = np.array(graph.weight(node.input[2]))
            graph.set_weight(node.input[2], (bias / _along(divisors, bias.ndim - 1, bias.ndim)).astype(np.float32))
    for node in group.consumers:
        weights = np.array(graph.weight(node.input[1]))
        if node.op_type == "Gemm":
            factors = _along(divisors, 1 if attribute(node, "transB", 0) else 0, 2)
        else:
            # Result `o` reads the channels of its own group of convolutions, in their order.
            groups = int(attribute(node, "group", 1))
            own = np.arange(len(weights)) * groups // len(weights)
            factors = divisors.reshape(groups, weights.shape[1])[own].reshape(
                len(weights), weights.shape[1], *(1,) * (weights.ndim - 2)
            )
        graph.set_weight(node.input[1], (weights * factors).astype(np.float32))


def _along(values: Vector, axis: int, rank: int) -> Vector:
    return values.reshape([-1 if index == axis else 1 for index in range(rank)])
