"""ONNX Runtime by Intel's OpenVINO provider on the CPU, or not at all.

float32 is pinned as in `openvino.py`. The package carries an OpenVINO of its own.
"""

from __future__ import annotations

import json

from . import onnxruntime_providers
from .onnxruntime import ONNX_FORMATS as FORMATS
from .onnxruntime import OrtSession, prepare

__all__ = ["FORMATS", "INSTALL", "load_library", "open_session", "prepare"]

INSTALL = "pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime-openvino"
PROVIDER = "OpenVINOExecutionProvider"


def load_library() -> str:
    """Import onnxruntime; its version and package."""
    return "%s (%s)" % onnxruntime_providers.load_with(PROVIDER, INSTALL)


def open_session(path: str, threads: int) -> OrtSession:
    """A session whose compute nodes all run in OpenVINO with `threads` threads.

    Raises:
        Unsupported: they would not.
    """
    properties = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
    }
    settings = {"device_type": "CPU", "load_config": json.dumps({"CPU": properties})}
    options = onnxruntime_providers.recording_options(threads)
    return onnxruntime_providers.open_on_cpu(path, options, PROVIDER, settings, INSTALL, ["CPU", "f32 hint"])
