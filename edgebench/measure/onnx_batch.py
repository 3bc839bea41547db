"""ONNX files for another batch than they were exported for, as guesses that somebody else has to prove.

Exporters write the batch of the example into the file: as the first length of inputs and outputs, and in constants,
such as the shape `[17, 4, 24]` that a Reshape gives to `[17, 1, 96]`. Two walks along the graph, at the batch it has
and at the wanted one, infer all shapes side by side. Where nothing is wrong they differ in one axis by one factor:
there the batch lies, and so a constant that would undo it can be mended. Where that leaves a choice, here between
`[17, 4N, 24]` and `[17N, 4, 24]`, those that fit the rest of the graph are tried in turn.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgebench.errors import first_line
from edgebench.types import TensorSpec

__all__ = ["Misfit", "mendings", "of_batch"]

# torchvision's networks were right at the first proof, after three walks at most.
_MOST_WALKS = 32
# Shapes, and what they are computed of, are known by value; weights have more elements.
_SMALL = 64

Shape = tuple[int, ...]


class Misfit(Exception):
    """The batch does not go through, or not with the same answers; the message is a clause that says where."""


def of_batch(inputs: Sequence[TensorSpec], batch: int) -> tuple[TensorSpec, ...]:
    """The inputs with `batch` as their first length."""
    return tuple(replace(spec, shape=(batch, *spec.shape[1:])) for spec in inputs)


def mendings(model: Any, inputs: Sequence[TensorSpec], batch: int) -> Iterator[Any]:
    """Copies of an `onnx.ModelProto` whose shapes go together at `batch`, the likeliest first.

    Raises:
        Misfit: there are none.
    """
    before = _Shapes(model, inputs)
    for node in model.graph.node:
        before.follow(node)
    pending: list[dict[Any, int]] = [{}]
    furthest, any_fits = (-1, ""), False
    for _ in range(_MOST_WALKS):
        if not pending:
            break
        walk = _Walk(model, before, inputs, batch, pending.pop())
        try:
            walk.run()
            fits = True
        except Misfit as misfit:
            fits = False
            furthest = max(furthest, (len(walk.nodes), str(misfit)), key=lambda item: item[0])
        # The choice that was met last is the first to be made otherwise.
        made = dict(walk.choices)
        for place, count in walk.met.items():
            pending.extend({**made, place: other} for other in range(count - 1, 0, -1))
            made[place] = 0
        if fits:
            any_fits = True
            yield _assemble(model, walk, inputs, batch)
    if not any_fits:
        raise Misfit(furthest[1])


def _assemble(model: Any, walk: _Walk, inputs: Sequence[TensorSpec], batch: int) -> Any:
    import onnx

    mended = onnx.ModelProto()
    mended.CopyFrom(model)
    # What the file says of shapes in between is of the old batch.
    del mended.graph.node[:], mended.graph.value_info[:]
    mended.graph.node.extend(walk.nodes)
    mended.graph.initializer.extend(walk.constants)
    names = {spec.name for spec in inputs}
    for value in (*(value for value in mended.graph.input if value.name in names), *mended.graph.output):
        if value.type.tensor_type.shape.dim:
            value.type.tensor_type.shape.dim[0].dim_value = batch
    return mended


class _Walk:
    """One way through the graph at the new batch: `nodes` and `constants` are what it is made of then.

    `choices` says which of several shapes to take where; of those that were `met` without one, the first was taken.
    """

    def __init__(
        self, model: Any, before: _Shapes, inputs: Sequence[TensorSpec], batch: int, choices: Mapping[Any, int]
    ) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.choices = choices
        self.met: dict[Any, int] = {}
        self._graph = model.graph
        self._before, self._after = before, _Shapes(model, of_batch(inputs, batch))
        self._own, self._batch = inputs[0].shape[0], batch
        self._mend: dict[str, Callable[[Any], Any]] = {
            "Reshape": self._mend_reshape,
            "Expand": lambda node: self._mend_lengths(node, 1),
            "Resize": lambda node: self._mend_lengths(node, 3),
            "Gather": self._mend_gather,
            "Concat": self._mend_concat,
            "GRU": self._mend_recurrent,
            "LSTM": self._mend_recurrent,
            "RNN": self._mend_recurrent,
        }

    def run(self) -> None:
        """
        Raises:
            Misfit: the batch is lost, or met by something that does not take it.
        """
        for node in self._graph.node:
            mend = self._mend.get(node.op_type)
            mended = node if mend is None else mend(node)
            refusal = self._after.follow(mended)
            if refusal is not None and self._before.shape(node.output[0]) is not None:
                raise Misfit(f"{_title(node)} does not take a batch of {self._batch}: {refusal}")
            self.nodes.append(mended)
            for name in node.output:
                old, new = self._before.shape(name), self._after.shape(name)
                if old and new and old != new and self._axis(name) is None:
                    raise Misfit(f"{_title(node)} makes {list(new)} of what was {list(old)}")
        for value in self._graph.output:
            old, new = self._before.shape(value.name), self._after.shape(value.name)
            if old and new and (self._axis(value.name) != 0 or old[0] != self._own):
                raise Misfit(f"its output `{value.name}`, {list(old)}, does not begin with the batch")

    def _axis(self, name: str) -> int | None:
        """The axis of a tensor that holds the batch, alone or multiplied with something else."""
        old, new = self._before.shape(name), self._after.shape(name)
        if old is None or new is None or len(old) != len(new):
            return None
        axes = [axis for axis in range(len(old)) if old[axis] != new[axis]]
        if len(axes) != 1 or old[axes[0]] % self._own or new[axes[0]] != old[axes[0]] // self._own * self._batch:
            return None
        return axes[0]

    def _constant(self, name: str) -> NDArray[Any] | None:
        """The value of a tensor that is small and the same at both batches."""
        old, new = self._before.values.get(name), self._after.values.get(name)
        return old if old is not None and new is not None and np.array_equal(old, new) else None

    def _with_constant(self, node: Any, index: int, value: Any) -> Any:
        """The node with `value`, of integers, as its input number `index`."""
        import onnx

        mended = onnx.NodeProto()
        mended.CopyFrom(node)
        mended.input[index] = self._add_constant(f"edgebench/{node.output[0]}/{index}", np.array(value, np.int64))
        return mended

    def _add_constant(self, name: str, value: NDArray[np.int64]) -> str:
        import onnx

        self.constants.append(onnx.numpy_helper.from_array(value, name))
        self._after.know(name, self.constants[-1])
        return name

    def _mend_reshape(self, node: Any) -> Any:
        target = self._constant(node.input[1])
        if target is None:
            return node
        old, out = self._before.shape(node.input[0]), self._before.shape(node.output[0])
        if old is None or out is None or self._after.shape(node.input[0]) is None:
            leads = target.size > 0 and target[0] == self._own
            return self._with_constant(node, 1, [self._batch, *target[1:]]) if leads else node
        axis = self._axis(node.input[0])
        if axis is None:
            return node
        options = _reshapes(old, axis, out, target, self._own, self._batch)
        if not options:
            raise Misfit(f"{_title(node)} makes {list(out)} of {list(old)}, where the batch has no place")
        # Where a network does the same again, it means the same.
        place = (old, axis, out, *target.tolist())
        if place not in self.choices and len(options) > 1:
            self.met[place] = len(options)
        return self._with_constant(node, 1, options[self.choices.get(place, 0)])

    def _mend_lengths(self, node: Any, index: int) -> Any:
        """Lengths that an operator stretches its input to, aligned at the last axis."""
        target = self._constant(node.input[index]) if len(node.input) > index else None
        axis, old = self._axis(node.input[0]), self._before.shape(node.input[0])
        if target is None or axis is None or old is None:
            return node
        at = target.size - len(old) + axis
        if at < 0 or target[at] != old[axis]:
            return node
        return self._with_constant(node, index, [*target[:at], old[axis] // self._own * self._batch, *target[at + 1 :]])

    def _mend_gather(self, node: Any) -> Any:
        """Elements by their place in a flattened tensor, as the dynamo exporter writes `as_strided`."""
        import onnx

        old = self._before.shape(node.input[0])
        indices = self._before.tensors.get(node.input[1])
        if indices is None or old is None or len(old) != 1 or self._axis(node.input[0]) != 0:
            return node
        places = onnx.numpy_helper.to_array(indices)
        if places.shape[:1] != (self._own,):
            return node
        one = old[0] // self._own
        return self._with_constant(node, 1, np.concatenate([places[:1] + one * index for index in range(self._batch)]))

    def _mend_concat(self, node: Any) -> Any:
        """A constant beside a batch, such as a class token."""
        axes = {self._axis(name) for name in node.input} - {None}
        return self._with_repeated(node, range(len(node.input)), axes.pop()) if len(axes) == 1 else node

    def _mend_recurrent(self, node: Any) -> Any:
        """States to begin with, `[directions, N, hidden]`, beside inputs `[steps, N, features]`."""
        return self._with_repeated(node, range(5, len(node.input)), 1) if self._axis(node.input[0]) == 1 else node

    def _with_repeated(self, node: Any, indices: Sequence[int], axis: int | None) -> Any:
        """The node with the first of a constant's entries along `axis` for each input, where it had the old batch."""
        import onnx

        mended = onnx.NodeProto()
        mended.CopyFrom(node)
        for index in indices:
            name = node.input[index]
            shape = self._after.shape(name) if name in self._after.fixed else None
            if shape is None or axis is None or len(shape) <= axis or shape[axis] != self._own:
                continue
            repeated = f"edgebench/{node.output[0]}/{index}"
            first = self._add_constant(f"{repeated}/places", np.zeros(self._batch, np.int64))
            self.nodes.append(onnx.helper.make_node("Gather", [name, first], [repeated], name=repeated, axis=axis))
            self._after.follow(self.nodes[-1])
            mended.input[index] = repeated
        return mended


def _title(node: Any) -> str:
    return f"its {node.op_type} `{node.name or node.output[0]}`"


def _reshapes(old: Shape, axis: int, out: Shape, target: NDArray[Any], own: int, batch: int) -> list[Shape]:
    """The shapes that `out` may have at the new batch, the likeliest first.

    A Reshape moves nothing in memory, so the batch comes behind as many elements as before: ahead of what it is
    multiplied with in its axis, or behind that.
    """
    ahead = math.prod(old[:axis])
    starts = (ahead, ahead * old[axis] // own)
    found: list[tuple[tuple[int, ...], Shape]] = []
    for which, start in enumerate(starts):
        for at, length in enumerate(out):
            before = math.prod(out[:at])
            if length % own == 0 and start in (before, before * length // own):
                alone = length == own
                # As torch is used: an axis for itself, where it was; what was left open; ahead of what it multiplies.
                rank = (not alone, alone and at != axis, target[at] != -1, start != before, which, at)
                found.append((tuple(map(int, rank)), (*out[:at], length // own * batch, *out[at + 1 :])))
    by_rank = sorted(found)
    # An axis that has the batch's length and place is the batch's.
    alone_first = [shape for rank, shape in by_rank if rank[0] == 0] or [shape for _, shape in by_rank]
    return list(dict.fromkeys(alone_first))


class _Shapes:
    """What is known of a model's tensors when it is fed `inputs`: types, small values, what depends on no input."""

    def __init__(self, model: Any, inputs: Sequence[TensorSpec]) -> None:
        import onnx

        self.values: dict[str, NDArray[Any]] = {}
        self.tensors: dict[str, Any] = {}
        self.fixed: set[str] = set()
        self._model = model
        self._opsets = {entry.domain: entry.version for entry in model.opset_import}
        kinds = {value.name: value.type.tensor_type.elem_type for value in model.graph.input}
        self._types = {spec.name: onnx.helper.make_tensor_type_proto(kinds[spec.name], spec.shape) for spec in inputs}
        for tensor in model.graph.initializer:
            self.know(tensor.name, tensor)

    def know(self, name: str, tensor: Any) -> None:
        """Take in a constant."""
        import onnx

        self._types[name] = onnx.helper.make_tensor_type_proto(tensor.data_type, tensor.dims)
        self.tensors[name] = tensor
        self.fixed.add(name)
        if math.prod(tensor.dims) <= _SMALL:
            self.values[name] = onnx.numpy_helper.to_array(tensor)

    def shape(self, name: str) -> Shape | None:
        """The shape of a tensor, if all of it is known."""
        kind = self._types.get(name)
        if kind is None or not kind.tensor_type.HasField("shape"):
            return None
        lengths = kind.tensor_type.shape.dim
        if any(length.WhichOneof("value") != "dim_value" for length in lengths):
            return None
        return tuple(length.dim_value for length in lengths)

    def follow(self, node: Any) -> str | None:
        """Infer a node's outputs; why they cannot be, if they cannot."""
        import onnx

        if node.op_type == "Constant" and node.attribute[0].name == "value":
            self.know(node.output[0], node.attribute[0].t)
            return None
        names = [name for name in node.input if name]
        if all(name in self.fixed for name in names):
            self.fixed.update(node.output)
        if any(name not in self._types for name in names) or any(item.HasField("g") for item in node.attribute):
            return "its inputs are not known"
        try:
            inferred = onnx.shape_inference.infer_node_outputs(
                onnx.defs.get_schema(node.op_type, self._opsets.get(node.domain, 1), node.domain),
                node,
                {name: self._types[name] for name in names},
                {name: onnx.numpy_helper.from_array(self.values[name]) for name in names if name in self.values},
                opset_imports=self._model.opset_import,
                ir_version=self._model.ir_version,
            )
        except (onnx.defs.SchemaError, onnx.shape_inference.InferenceError) as error:
            return first_line(error).removeprefix("[ShapeInferenceError] ")
        self._types.update(inferred)
        self._evaluate(node, names)
        return None

    def _evaluate(self, node: Any, names: Sequence[str]) -> None:
        """The values of a node's outputs, where they are small and known: shapes that a network computes itself."""
        import onnx
        from onnx.reference import ReferenceEvaluator

        shapes = [self.shape(name) for name in node.output]
        if any(shape is None or math.prod(shape) > _SMALL for shape in shapes):
            return
        feed = {name: self.values[name] for name in names if name in self.values}
        if node.op_type == "Shape" and (shape := self.shape(names[0])) is not None:
            # Of the tensor no more than its shape is needed.
            feed = {names[0]: np.broadcast_to(np.float32(0), shape)}
        if len(feed) < len(set(names)) or not (feed or node.op_type == "Constant"):
            return
        function = onnx.helper.make_function(
            "edgebench", "node", list(feed), list(node.output), [node], self._model.opset_import
        )
        try:
            found = ReferenceEvaluator(function).run(None, feed, {})
        except Exception:  # noqa: BLE001 - an operator that it lacks, or has not for these types: then it is not known
            return
        self.values.update(zip(node.output, found, strict=True))
