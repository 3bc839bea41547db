"""ONNX Runtime by Qualcomm's QNN provider on the HTP, the NPU of a Snapdragon, or not at all.

The provider is a library of its own that a stock onnxruntime takes in. On x86-64 the package simulates the NPU: its
answers are the NPU's, its times are nobody's.
"""

from __future__ import annotations

import platform

from . import Unsupported, onnxruntime_providers
from .onnxruntime import ONNX_FORMATS as FORMATS
from .onnxruntime import OrtSession, prepare

__all__ = ["FORMATS", "INSTALL", "load_library", "open_session", "prepare"]

INSTALL = "pip install onnxruntime-qnn"
PROVIDER = "QNNExecutionProvider"


def load_library() -> str:
    """Import onnxruntime and the provider; the versions of both.

    Raises:
        Unsupported: one is not there, or it would simulate.
    """
    try:
        import onnxruntime_qnn
    except ImportError as error:
        raise Unsupported("onnxruntime-qnn is not installed: %s" % INSTALL) from error
    if platform.machine().lower() in ("x86_64", "amd64"):
        words = "onnxruntime-qnn %s only simulates the NPU on x86-64: measure on a device with a Snapdragon"
        raise Unsupported(words % onnxruntime_qnn.__version__)
    return register()


def register() -> str:
    """Give the provider to onnxruntime; the versions of both."""
    import onnxruntime
    import onnxruntime_qnn

    onnxruntime.register_execution_provider_library(PROVIDER, onnxruntime_qnn.get_library_path())
    return "%s (onnxruntime-qnn %s)" % (onnxruntime.__version__, onnxruntime_qnn.__version__)


def open_session(path: str, threads: int) -> OrtSession:
    """A session whose compute nodes all run on the HTP; `threads` are for what stays on the CPU.

    Raises:
        Unsupported: they would not.
    """
    import onnxruntime
    import onnxruntime_qnn

    devices = [device for device in onnxruntime.get_ep_devices() if device.ep_name == PROVIDER]
    if not devices:
        raise Unsupported("%s finds no device here: measure on one with a Snapdragon" % PROVIDER)
    options = onnxruntime_providers.recording_options(threads)
    options.add_provider_for_devices(devices[:1], {"backend_path": onnxruntime_qnn.get_qnn_htp_path()})
    session = onnxruntime.InferenceSession(path, options)
    placed = onnxruntime_providers.placement(PROVIDER, onnxruntime_providers.node_types(session))
    return OrtSession(session, "%s (%s, HTP)" % (PROVIDER, placed))
