"""A bundle on disk: `bundle.json` beside its artifacts, written atomically after every step."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgebench.agent.codec import DecodeError, decode, encode
from edgebench.errors import UsageError
from edgebench.files import write_atomically
from edgebench.types import Bundle

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
        return decode(Bundle, data, str(path))
    except DecodeError as error:
        raise UsageError(str(error), hint=_MAKE_ONE) from error


_MAKE_ONE = "make one with `edgebench export MODEL -o DIR`"


def save_bundle(directory: Path, bundle: Bundle) -> None:
    """Write `bundle.json`."""
    write_atomically(directory / BUNDLE_FILE, json.dumps(encode(bundle), indent=2) + "\n")


def check_directory(directory: Path, *, source: str) -> None:
    """Make sure that a bundle of `source` may be written to `directory`; writes nothing.

    Raises:
        UsageError: it is a file, holds something else, or holds the bundle of another source.
    """
    if not directory.exists():
        return
    if not directory.is_dir():
        raise UsageError(f"{directory} is a file, not a directory", hint="choose another directory with -o")
    if not any(directory.iterdir()):
        return
    if not (directory / BUNDLE_FILE).is_file():
        raise UsageError(
            f"{directory} holds something that is not a bundle; nothing was written",
            hint="choose a new or empty directory with -o",
        )
    other = load_bundle(directory).source.path
    if Path(other).resolve() != Path(source).resolve():
        raise UsageError(
            f"{directory} holds the bundle of {other}, not of {source}; nothing was written",
            hint="choose another directory with -o, or remove that one",
        )


def save_inputs(directory: Path, feeds: Sequence[Mapping[str, NDArray[Any]]]) -> None:
    """Keep a few model inputs beside the artifacts, so that `bench` feeds real ones without the data set."""
    stacked = {name: np.stack([feed[name] for feed in feeds]) for name in feeds[0]}
    partial = directory / f".{_INPUTS_FILE}.partial"
    try:
        with partial.open("wb") as file:
            np.savez(file, allow_pickle=False, **stacked)
        partial.replace(directory / _INPUTS_FILE)
    finally:
        partial.unlink(missing_ok=True)


def load_inputs(directory: Path) -> list[dict[str, NDArray[Any]]]:
    """The inputs that were kept; none where the bundle was made without calibration data."""
    path = directory / _INPUTS_FILE
    if not path.is_file():
        return []
    with np.load(path, allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in stored.files}
    count = min(len(array) for array in arrays.values())
    return [{name: array[index] for name, array in arrays.items()} for index in range(count)]
