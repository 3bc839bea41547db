"""TFLite on the CPU with its built-in kernels alone: what XNNPACK is worth, and what a build without it gives."""

from __future__ import annotations

from .tflite import FORMATS, INSTALL, TfliteSession, load_library, open_interpreter, prepare

__all__ = ["FORMATS", "INSTALL", "load_library", "open_session", "prepare"]


def open_session(path: str, threads: int) -> TfliteSession:
    """An interpreter of the file with `threads` threads and no delegate."""
    return TfliteSession(open_interpreter(path, threads, delegates=False))
