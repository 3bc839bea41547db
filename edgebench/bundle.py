"""A bundle on disk: `bundle.json` beside its artifacts, written atomically after every step."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgebench.agent.codec import DecodeError, decode, encode
from edgebench.agent.feeds import ITEM_BYTES
from edgebench.errors import EnvironmentFailure, UsageError
from edgebench.files import write_atomically, write_json
from edgebench.types import Bundle, TensorSpec

__all__ = ["BUNDLE_FILE", "SCHEMA", "check_directory", "load_bundle", "load_inputs", "save_bundle", "save_inputs"]

SCHEMA = 1
BUNDLE_FILE = "bundle.json"
_INPUTS_FILE = "inputs.npz"


def load_bundle(directory: Path) -> Bundle:
    """The bundle in `directory`.

    Raises:
        UsageError: no bundle there, a damaged one, or one of a newer edgebench.
    """
    path = directory / BUNDLE_FILE
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UsageError(f"{directory} is not a bundle: it has no {BUNDLE_FILE}", hint=_MAKE_ONE) from error
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read: {error}", hint=_MAKE_ONE) from error
    if isinstance(data, dict) and isinstance(data.get("schema"), int) and data["schema"] > SCHEMA:
        raise UsageError(
            f"{path} has schema {data['schema']}, this edgebench reads up to {SCHEMA}", hint="update edgebench"
        )
    try:
        bundle = decode(Bundle, data, str(path))
    except DecodeError as error:
        raise UsageError(str(error), hint=_MAKE_ONE) from error
    unknown = [spec.dtype for spec in (*bundle.inputs, *bundle.outputs) if spec.dtype not in ITEM_BYTES]
    if unknown or not bundle.inputs or not bundle.outputs:
        what = f"the unknown dtype `{unknown[0]}`" if unknown else "no inputs or no outputs"
        raise UsageError(f"{path} describes {what}", hint=_MAKE_ONE)
    return bundle


_MAKE_ONE = "make one with `edgebench export MODEL -o DIR`"


def save_bundle(directory: Path, bundle: Bundle) -> None:
    """Write `bundle.json`."""
    write_json(directory / BUNDLE_FILE, encode(bundle))


def check_directory(directory: Path, *, source: str) -> None:
    """Make sure that a bundle of `source` may be written to `directory`; writes nothing.

    Raises:
        UsageError: it is a file, holds something else, or holds the bundle of another source.
        EnvironmentFailure: it cannot be looked at.
    """
    try:
        if not directory.exists():
            above = next(parent for parent in directory.absolute().parents if parent.exists())
            if not above.is_dir():
                raise UsageError(f"{directory} cannot be made: {above} is a file", hint="choose another one with -o")
            return
        if not directory.is_dir():
            raise UsageError(f"{directory} is a file, not a directory", hint="choose another directory with -o")
        # What an interruption left half-written is nobody's.
        if all(path.name.startswith(".") and path.name.endswith(".partial") for path in directory.iterdir()):
            return
    except OSError as error:
        raise EnvironmentFailure(
            f"{directory} cannot be used: {error.strerror}", hint="choose another directory with -o"
        ) from error
    if not (directory / BUNDLE_FILE).is_file():
        raise UsageError(
            f"{directory} holds something that is not a bundle; nothing was written",
            hint="choose a new or empty directory with -o",
        )
    other = load_bundle(directory).source.path
    if other != source:
        raise UsageError(
            f"{directory} holds the bundle of {other}, not of {source}; nothing was written",
            hint="choose another directory with -o, or remove that one",
        )


def save_inputs(directory: Path, feeds: Sequence[Mapping[str, NDArray[Any]]]) -> None:
    """Keep a few model inputs beside the artifacts, so that `bench` feeds real ones without the data set; with no
    feeds, keep none."""
    path = directory / _INPUTS_FILE
    if not feeds:
        path.unlink(missing_ok=True)
        return
    stacked = {name: np.stack([feed[name] for feed in feeds]) for name in feeds[0]}
    written = io.BytesIO()
    np.savez(written, allow_pickle=False, **stacked)
    write_atomically(path, written.getvalue())


def load_inputs(directory: Path, inputs: Sequence[TensorSpec]) -> list[dict[str, NDArray[Any]]]:
    """The inputs that were kept; none where the bundle was made without calibration data.

    Raises:
        UsageError: the file is damaged, or does not hold what the bundle's `inputs` describe.
    """
    path = directory / _INPUTS_FILE
    if not path.is_file():
        return []
    try:
        # From memory: numpy leaves a damaged file open.
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise UsageError(f"{path} cannot be read: {error}", hint="export again, or remove that file") from error
    found = {name: (array.shape[1:], str(array.dtype)) for name, array in arrays.items()}
    if found != {spec.name: (spec.shape, spec.dtype) for spec in inputs}:
        raise UsageError(f"{path} does not hold the inputs of its bundle", hint="export again, or remove that file")
    count = min(len(array) for array in arrays.values())
    return [{name: array[index] for name, array in arrays.items()} for index in range(count)]
