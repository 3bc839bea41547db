"""ONNX Runtime by its XNNPACK provider on the CPU, or not at all."""

from __future__ import annotations

from . import onnxruntime_providers
from .onnxruntime import ONNX_FORMATS as FORMATS
from .onnxruntime import OrtSession, prepare

__all__ = ["FORMATS", "INSTALL", "load_library", "open_session", "prepare"]

INSTALL = "no package of pip has it: build onnxruntime with `./build.sh --use_xnnpack --build_wheel`"
PROVIDER = "XnnpackExecutionProvider"


def load_library() -> str:
    """Import onnxruntime; its version and package."""
    return "%s (%s)" % onnxruntime_providers.load_with(PROVIDER, INSTALL)


def open_session(path: str, threads: int) -> OrtSession:
    """A session whose compute nodes all run in XNNPACK, which has `threads` threads of its own.

    Raises:
        Unsupported: they would not.
    """
    # onnxruntime's documentation of this provider: its pool and XNNPACK's fight for the cores while one of them spins.
    options = onnxruntime_providers.recording_options(1)
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    settings = {"intra_op_num_threads": str(threads)}
    return onnxruntime_providers.open_on_cpu(path, options, PROVIDER, settings, INSTALL)
