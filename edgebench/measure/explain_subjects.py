"""What `explain` was given: the int8 artifact, the float model that it was made of, and inputs for both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from edgebench.bundle import BUNDLE_FILE, load_bundle
from edgebench.errors import DataError, UsageError
from edgebench.evaluation.datasets import batches, choose, open_dataset
from edgebench.evaluation.preprocess import resolve_preprocess
from edgebench.measure.profile import lineage, subject_of
from edgebench.measure.subjects import Subject
from edgebench.types import Calibration

__all__ = ["Given", "calibration_of", "find_float_model", "find_inputs", "find_subject", "renamed"]

_FLOATS = ("fp32", "fp64", None)


@dataclass(frozen=True)
class Given:
    """The inputs that values are looked at with, and what they are; `why_none` where there are none."""

    feeds: Sequence[Mapping[str, NDArray[Any]]]
    fed_with: str
    why_none: str | None = None


def find_subject(path: Path) -> Subject:
    """The artifact at `path`; one that broke its parity is worth an explanation.

    Raises:
        UsageError: neither ONNX nor TFLite.
    """
    if path.is_dir():
        found = [item for item in load_bundle(path).artifacts if item.precision == "int8" and item.file is not None]
        names = ", ".join(str(path / str(item.file)) for item in found)
        raise UsageError(
            f"{path} is a bundle: name one of its int8 artifacts",
            hint=f"there are: {names}" if found else f"there are none: edgebench export MODEL --calib DATA -o {path}",
        )
    subject = subject_of(path, include_failed=True)
    if _family(subject) not in ("onnx", "tflite"):
        raise UsageError(
            f"{path} is {subject.ref.format}, and explain reads ONNX and TFLite files",
            hint=f"where its time goes: edgebench profile {path}",
        )
    return subject


def _family(subject: Subject) -> str:
    return subject.ref.format.partition("-")[0]


def find_float_model(subject: Subject, against: Path | None) -> Subject | None:
    """The float model that was asked for, else the one that a bundle's artifact was made from; None for neither.

    Raises:
        UsageError: the one that was asked for is of another kind, quantized itself, or takes other inputs.
    """
    if against is None:
        made_from = [item for item in lineage(subject)[:-1] if item.file is not None and item.precision in _FLOATS]
        path = subject.path.parent / str(made_from[-1].file) if made_from else None
        return subject_of(path) if path is not None and path.suffix == subject.path.suffix and path.is_file() else None
    found = subject_of(against)
    if _family(found) != _family(subject) or found.ref.precision not in _FLOATS:
        raise UsageError(
            f"{against} is {found.ref.format} {found.ref.precision or ''}, not the float32 {_family(subject)} file of "
            f"{subject.path}",
            hint="give that one with --against, or leave --against out",
        )
    shapes = [[(spec.shape, spec.dtype) for spec in item.inputs] for item in (subject, found)]
    if shapes[0] != shapes[1]:
        raise UsageError(
            f"{against} takes {_shapes(found)}, and {subject.path} takes {_shapes(subject)}: they are not one network",
            hint="give the float model that it was made of",
        )
    return found


def _shapes(subject: Subject) -> str:
    return ", ".join(f"{spec.dtype} {list(spec.shape)}" for spec in subject.inputs)


def find_inputs(
    subject: Subject, beside: Subject | None, data: str | None, samples: int, preprocess: str | None
) -> Given:
    """Images of `data`, else what the bundle of either file keeps.

    Raises:
        DataError: `data` cannot be used, or nothing says how its images are prepared.
    """
    known = next((item for item in (subject, beside) if item is not None and item.from_bundle), None)
    if data is not None:
        return _from_data(subject, known, data, samples, preprocess)
    if preprocess is not None:
        raise UsageError("--preprocess is for images", hint="give them with --data, or leave --preprocess out")
    if known is not None and known.kept:
        return Given([renamed(feed, subject) for feed in known.kept], known.fed_with)
    why = "there are no inputs: give images with --data (random numbers would say nothing of them)"
    return Given((), subject.fed_with, why)


def _from_data(subject: Subject, known: Subject | None, data: str, samples: int, preprocess: str | None) -> Given:
    if len(subject.inputs) != 1:
        raise DataError(f"images feed one input; {subject.path} has {len(subject.inputs)}", hint="leave --data out")
    dataset = open_dataset(data)
    own = known.preprocess if known is not None else None
    prepare = own if preprocess is None else resolve_preprocess(preprocess)
    if prepare is None and not dataset.ready and dataset.default_preprocess is None:
        raise DataError(
            f"nothing says how {subject.path} wants the images of {data} prepared",
            hint="give --preprocess: imagenet, cifar10, none, ... or a TOML file",
        )
    (spec,) = subject.inputs
    indices = choose(dataset, samples * spec.shape[0])
    prepare = None if dataset.ready else prepare
    return Given([{spec.name: batch} for batch in batches(dataset, indices, prepare, spec)], data)


def renamed(feed: Mapping[str, NDArray[Any]], subject: Subject) -> dict[str, NDArray[Any]]:
    """The same arrays for a model that calls its inputs otherwise."""
    return {spec.name: array for spec, array in zip(subject.inputs, feed.values(), strict=True)}


def calibration_of(subject: Subject) -> Calibration | None:
    """What the bundle says of an artifact's calibration."""
    directory = subject.path.parent
    return load_bundle(directory).calibration if subject.from_bundle and (directory / BUNDLE_FILE).is_file() else None
