"""An artifact for another batch than it was exported for, proved against the artifact itself.

Exporters write the batch of the example into the file: as the first length of inputs and outputs, and in constants,
such as the shape `[17, 4, 24]` that a Reshape gives to `[17, 1, 96]`. Two walks along the graph, at the batch it has
and at the wanted one, infer all shapes side by side. Where nothing is wrong they differ in one axis by one factor:
there the batch lies, and so a constant that would undo it can be mended. Where that leaves a choice, here between
`[17, 4N, 24]` and `[17N, 4, 24]`, those that fit the rest of the graph are tried in turn.

None of that is trusted. Whatever file comes out, and a file that takes any batch as it is, counts only once different
random inputs had the same answers one by one through the artifact and at once through it. Equal to the bit they need
not be, because a runtime adds up N rows of floats in another order than one; nor in int8, whose scales are constants,
but which has floats between its integers.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgebench.agent.runtimes import onnxruntime, torchscript
from edgebench.errors import MissingExtra, first_line
from edgebench.exporters.parity import Outputs, Runner, compare, judge, open_runner
from edgebench.model_inputs import random_feed
from edgebench.types import TensorSpec, Tolerance

__all__ = ["Rebatched", "rebatched"]

_TOLERANCE = Tolerance(atol=1e-4, rtol=1e-3)
# An answer that mixes inputs is off by a part of what they differ in, however large the answers are: by a fifth of it
# and more where attention went across the batch. Rounding came to 4e-6 of it as a rule, and to 4e-4 in an untrained
# shufflenet_v2_x0_5, whose answers differ by 3e-4 of themselves.
_LARGEST_SHARE = 0.01
# torchvision's networks were right at the first proof, after three walks at most.
_MOST_PROOFS = 8
_MOST_WALKS = 32
# Shapes, and what they are computed of, are known by value; weights have more elements.
_SMALL = 64

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Rebatched:
    """The file that takes `inputs`, whose first length is the batch; or no file, and why."""

    path: Path | None
    inputs: tuple[TensorSpec, ...]
    reason: str | None


class _Misfit(Exception):
    """The batch does not go through, or not with the same answers; the message is a clause that says where."""


def rebatched(path: Path, format: str, inputs: tuple[TensorSpec, ...], batch: int, directory: Path) -> Rebatched:
    """The artifact at `path` for `batch` inputs at once: itself, or a mended copy below `directory`.

    Args:
        inputs: what it takes now, `[N, ...]` each.
    """
    own = inputs[0].shape[0] if inputs and inputs[0].shape else None
    if own == batch:
        return Rebatched(path, inputs, None)
    wanted = _of_batch(inputs, batch)
    try:
        if own is None or any(spec.shape[:1] != (own,) for spec in inputs):
            raise _Misfit("its inputs have no batch in common")
        if format not in (*onnxruntime.FORMATS, *torchscript.FORMATS):
            raise _Misfit(f"the batch of the format `{format}` cannot be changed")
        return Rebatched(_find_file(path, format, inputs, batch, directory), wanted, None)
    except MissingExtra as error:
        return Rebatched(None, wanted, f"{error}, which a batch of {batch} needs: {error.hint}")
    except _Misfit as misfit:
        shape, name = ",".join(map(str, wanted[0].shape if wanted else ())), path.name.partition(".")[0]
        remedy = f"edgebench export MODEL --input-shape {shape} -o {name}-b{batch}.eb"
        return Rebatched(None, wanted, f"{misfit}; export it for that batch: {remedy}")


def _of_batch(inputs: Sequence[TensorSpec], batch: int) -> tuple[TensorSpec, ...]:
    return tuple(replace(spec, shape=(batch, *spec.shape[1:])) for spec in inputs)


def _find_file(path: Path, format: str, inputs: Sequence[TensorSpec], batch: int, directory: Path) -> Path:
    """
    Raises:
        _Misfit: no file was proved.
        MissingExtra: a module is missing without which none can be.
    """
    original = _open(path, format)
    proof = _Proof(original, inputs, batch)
    try:
        proof.check(original)
        return path
    except _Misfit as misfit:
        why = misfit
    if format in torchscript.FORMATS:
        raise why
    try:
        import onnx
    except ImportError as error:
        raise MissingExtra("onnx", "torch") from error
    for count, mended in enumerate(_mendings(onnx.load(str(path)), inputs, batch), start=1):
        # A directory of its own: two bundles may hold files of one name.
        copy = Path(tempfile.mkdtemp(dir=directory)) / f"{path.stem}-b{batch}.onnx"
        onnx.save(mended, str(copy))
        try:
            proof.check(_open(copy, format))
            return copy
        except _Misfit as misfit:
            copy.unlink()
            why = misfit
        if count == _MOST_PROOFS:
            break
    raise why


def _open(path: Path, format: str) -> Runner:
    try:
        return open_runner(format, path=path)
    except ImportError as error:
        raise MissingExtra("torch", "torch") from error
    except Exception as error:  # A runtime raises whatever it likes.
        raise _Misfit(f"it does not load: {first_line(error)}") from error


class _Proof:
    """Random inputs, and what the original answers to them in its own batches.

    Raises:
        _Misfit: not even the original has one answer for each input.
    """

    def __init__(self, original: Runner, inputs: Sequence[TensorSpec], batch: int) -> None:
        own = inputs[0].shape[0]
        # As many as fill both batches a whole number of times.
        feeds = [random_feed(inputs, seed=0, index=index) for index in range(math.lcm(own, batch) // own)]
        self._inputs = {spec.name: np.concatenate([feed[spec.name] for feed in feeds]) for spec in inputs}
        self._batch = batch
        self._alone = _answers(original, self._inputs, own)

    def check(self, candidate: Runner) -> None:
        """
        Raises:
            _Misfit: the candidate answers otherwise, or the answers are such that nothing can be told from them.
        """
        together = _answers(candidate, self._inputs, self._batch)
        try:
            comparison = compare([self._alone], [together])
        except ValueError as error:
            raise _Misfit(str(error)) from error
        if (wrong := judge(comparison, calibrated=False, tolerance=_TOLERANCE)) is not None:
            raise _Misfit(f"inputs are answered otherwise at once than one by one: {wrong}")
        spreads = [_spread(answers) for answers in self._alone if answers.size]
        pairs = zip(comparison.outputs, spreads, strict=True)
        if not any(spreads) or any(output.max_abs_error > _LARGEST_SHARE * spread for output, spread in pairs):
            raise _Misfit("it answers different inputs so much alike that nothing shows whether it mixes them")


def _answers(run: Runner, inputs: Mapping[str, NDArray[Any]], batch: int) -> Outputs:
    """The outputs for all of `inputs`, taken `batch` at a time, each as one array."""
    parts: list[Outputs] = []
    for start in range(0, len(next(iter(inputs.values()))), batch):
        try:
            parts.append(run({name: array[start : start + batch] for name, array in inputs.items()}))
        except Exception as error:  # A network raises whatever it likes.
            raise _Misfit(f"it does not run with a batch of {batch}: {_cause(error)}") from error
        for index, array in enumerate(parts[-1]):
            # onnxruntime answers with lists where a network's output is a sequence.
            shape = getattr(array, "shape", ())
            if shape[:1] != (batch,):
                raise _Misfit(f"output {index} is {list(shape)} for a batch of {batch}, not one answer for each input")
    return [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]


def _cause(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # TorchScript begins with a traceback of its own and ends with what happened.
    return lines[-1] if lines and "TorchScript interpreter" in lines[0] else first_line(error)


def _spread(answers: NDArray[Any]) -> float:
    """How far apart answers to different inputs are at most."""
    values = np.where(np.isfinite(answers), answers, 0).astype(np.float64)
    return float(np.ptp(values, axis=0).max())


def _mendings(model: Any, inputs: Sequence[TensorSpec], batch: int) -> Iterator[Any]:
    """Copies of an `onnx.ModelProto` whose shapes go together at `batch`, the likeliest first.

    Raises:
        _Misfit: there are none.
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
        except _Misfit as misfit:
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
        raise _Misfit(furthest[1])


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
        self._before, self._after = before, _Shapes(model, _of_batch(inputs, batch))
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
            _Misfit: the batch is lost, or met by something that does not take it.
        """
        for node in self._graph.node:
            mend = self._mend.get(node.op_type)
            mended = node if mend is None else mend(node)
            refusal = self._after.follow(mended)
            if refusal is not None and self._before.shape(node.output[0]) is not None:
                raise _Misfit(f"{_title(node)} does not take a batch of {self._batch}: {refusal}")
            self.nodes.append(mended)
            for name in node.output:
                old, new = self._before.shape(name), self._after.shape(name)
                if old and new and old != new and self._axis(name) is None:
                    raise _Misfit(f"{_title(node)} makes {list(new)} of what was {list(old)}")
        for value in self._graph.output:
            old, new = self._before.shape(value.name), self._after.shape(value.name)
            if old and new and (self._axis(value.name) != 0 or old[0] != self._own):
                raise _Misfit(f"its output `{value.name}`, {list(old)}, does not begin with the batch")

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
            raise _Misfit(f"{_title(node)} makes {list(out)} of {list(old)}, where the batch has no place")
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
