"""An artifact for another batch than it was exported for, proved against the artifact itself.

Whatever file comes out of `onnx_batch`, and a file that takes any batch as it is, counts only once different random
inputs had the same answers one by one through the artifact and at once through it. Equal to the bit they need not be,
because a runtime adds up N rows of floats in another order than one; nor in int8, whose scales are constants, but which
has floats between its integers.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgebench.agent.runtimes import onnxruntime, torchscript
from edgebench.errors import MissingExtra, first_line
from edgebench.exporters.parity import Outputs, Runner, compare, judge, open_runner
from edgebench.measure.onnx_batch import Misfit, mendings, of_batch
from edgebench.model_inputs import random_feed
from edgebench.types import TensorSpec, Tolerance

__all__ = ["Rebatched", "rebatched"]

_TOLERANCE = Tolerance(atol=1e-4, rtol=1e-3)
# An answer that mixes inputs is off by a part of what they differ in, however large the answers are: by a fifth of it
# and more where attention went across the batch. Rounding came to 4e-6 of it as a rule, and to 4e-4 in an untrained
# shufflenet_v2_x0_5, whose answers differ by 3e-4 of themselves.
_LARGEST_SHARE = 0.01
# torchvision's networks were right at the first proof.
_MOST_PROOFS = 8


@dataclass(frozen=True)
class Rebatched:
    """The file that takes `inputs`, whose first length is the batch; or no file, and why."""

    path: Path | None
    inputs: tuple[TensorSpec, ...]
    reason: str | None


def rebatched(path: Path, format: str, inputs: tuple[TensorSpec, ...], batch: int, directory: Path) -> Rebatched:
    """The artifact at `path` for `batch` inputs at once: itself, or a mended copy below `directory`.

    Args:
        inputs: what it takes now, `[N, ...]` each.
    """
    own = inputs[0].shape[0] if inputs and inputs[0].shape else None
    if own == batch:
        return Rebatched(path, inputs, None)
    wanted = of_batch(inputs, batch)
    try:
        if own is None or any(spec.shape[:1] != (own,) for spec in inputs):
            raise Misfit("its inputs have no batch in common")
        if format not in (*onnxruntime.ONNX_FORMATS, *torchscript.FORMATS):
            raise Misfit(f"the batch of the format `{format}` cannot be changed")
        return Rebatched(_find_file(path, format, inputs, batch, directory), wanted, None)
    except MissingExtra as error:
        return Rebatched(None, wanted, f"{error}, which a batch of {batch} needs: {error.hint}")
    except Misfit as misfit:
        shape, name = ",".join(map(str, wanted[0].shape if wanted else ())), path.name.partition(".")[0]
        remedy = f"edgebench export MODEL --input-shape {shape} -o {name}-b{batch}.eb"
        return Rebatched(None, wanted, f"{misfit}; export it for that batch: {remedy}")


def _find_file(path: Path, format: str, inputs: Sequence[TensorSpec], batch: int, directory: Path) -> Path:
    """
    Raises:
        Misfit: no file was proved.
        MissingExtra: a module is missing without which none can be.
    """
    original = _open(path, format)
    proof = _Proof(original, inputs, batch)
    try:
        proof.check(original)
        return path
    except Misfit as misfit:
        why = misfit
    if format in torchscript.FORMATS:
        raise why
    try:
        import onnx
    except ImportError as error:
        raise MissingExtra("onnx", "torch") from error
    for count, mended in enumerate(mendings(onnx.load(str(path)), inputs, batch), start=1):
        # A directory of its own: two bundles may hold files of one name.
        copy = Path(tempfile.mkdtemp(dir=directory)) / f"{path.stem}-b{batch}.onnx"
        onnx.save(mended, str(copy))
        try:
            proof.check(_open(copy, format))
            return copy
        except Misfit as misfit:
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
        raise Misfit(f"it does not load: {first_line(error)}") from error


class _Proof:
    """Random inputs, and what the original answers to them in its own batches.

    Raises:
        Misfit: not even the original has one answer for each input.
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
            Misfit: the candidate answers otherwise, or the answers are such that nothing can be told from them.
        """
        together = _answers(candidate, self._inputs, self._batch)
        try:
            comparison = compare([self._alone], [together])
        except ValueError as error:
            raise Misfit(str(error)) from error
        if (wrong := judge(comparison, lossy=False, tolerance=_TOLERANCE)) is not None:
            raise Misfit(f"inputs are answered otherwise at once than one by one: {wrong}")
        spreads = [_spread(answers) for answers in self._alone if answers.size]
        pairs = zip(comparison.outputs, spreads, strict=True)
        if not any(spreads) or any(output.max_abs_error > _LARGEST_SHARE * spread for output, spread in pairs):
            raise Misfit("it answers different inputs so much alike that nothing shows whether it mixes them")


def _answers(run: Runner, inputs: Mapping[str, NDArray[Any]], batch: int) -> Outputs:
    """The outputs for all of `inputs`, taken `batch` at a time, each as one array."""
    parts: list[Outputs] = []
    for start in range(0, len(next(iter(inputs.values()))), batch):
        try:
            parts.append(run({name: array[start : start + batch] for name, array in inputs.items()}))
        except Exception as error:  # A network raises whatever it likes.
            raise Misfit(f"it does not run with a batch of {batch}: {_cause(error)}") from error
        for index, array in enumerate(parts[-1]):
            # onnxruntime answers with lists where a network's output is a sequence.
            shape = getattr(array, "shape", ())
            if shape[:1] != (batch,):
                raise Misfit(f"output {index} is {list(shape)} for a batch of {batch}, not one answer for each input")
    return [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]


def _cause(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # TorchScript begins with a traceback of its own and ends with what happened.
    return lines[-1] if lines and "TorchScript interpreter" in lines[0] else first_line(error)


def _spread(answers: NDArray[Any]) -> float:
    """How far apart answers to different inputs are at most."""
    values = np.where(np.isfinite(answers), answers, 0).astype(np.float64)
    return float(np.ptp(values, axis=0).max())
