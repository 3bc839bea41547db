"""What all tests share: where TFLite's converter is. Only its own tests make TFLite of every network that they export,
which takes 15 s each time."""

from __future__ import annotations

import os

__all__ = ["TFLITE_CONVERTER"]

TFLITE_CONVERTER = os.environ.pop("EDGEBENCH_TFLITE_PYTHON", None)
