"""The costs of a file of any format that says what it computes without being run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgebench.costs import onnx, tflite
from edgebench.costs.layers import Counted
from edgebench.source.tflite_file import is_tflite
from edgebench.types import TensorSpec

__all__ = ["count"]


def count(path: Path, inputs: Sequence[TensorSpec] = ()) -> Counted | None:
    """The costs of one inference of `inputs`, as for `onnx.count`; None for a format that says nothing of itself.

    Raises:
        SourceError: the file is damaged.
        MissingExtra: what reads it is not installed.
    """
    if path.suffix == ".onnx":
        return onnx.count(path, inputs)
    return tflite.count(path) if is_tflite(path) else None
