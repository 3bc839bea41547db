"""ONNX Runtime on an NVIDIA GPU by its TensorRT provider, and by its CUDA provider for what TensorRT does not take.

The engine is built anew for each process, when the session is opened (or in the first run of a model with free
dimensions): that takes seconds to minutes and is in the load. A cache of engines would make it depend on what was
measured before. The build times kernels on the card and chooses by that, so two processes may have two engines.
"""

from __future__ import annotations

import mmap
from contextlib import suppress

from . import onnxruntime_cuda
from .onnxruntime_cuda import FORMATS, OrtGpuSession, load_with, open_on, prepare

__all__ = ["FORMATS", "INSTALL", "ON_GPU", "load_library", "open_session", "prepare"]

# TensorRT is not in onnxruntime's wheel, and its major version has to be the one that the wheel was built with: 1.31.1
# is linked to libnvinfer.so.10, and pip's newest is 11.
INSTALL = onnxruntime_cuda.INSTALL + " 'tensorrt-cu13<11'"
ON_GPU = True
PROVIDER = "TensorrtExecutionProvider"


def load_library() -> str:
    """Import onnxruntime and the libraries of CUDA and TensorRT that pip installed; its version, package and CUDA."""
    # It loads its libraries from where the loader does not look; without the package they may be the system's.
    with suppress(ImportError, OSError):
        import tensorrt  # type: ignore[import-not-found, unused-ignore]  # noqa: F401
    return load_with(PROVIDER, INSTALL)


def open_session(path: str, threads: int) -> OrtGpuSession:
    """A session whose compute nodes run on CUDA device 0, and some on TensorRT at least.

    Raises:
        Unsupported: they would not.
    """
    # Without the flag TensorRT refuses the int8 tensors of a model that is quantised by Q and DQ nodes.
    options = {"trt_int8_enable": "1"} if _mentions(path, b"DequantizeLinear") else {}
    return open_on(path, threads, [(PROVIDER, options), onnxruntime_cuda.PROVIDER], INSTALL)


def _mentions(path: str, word: bytes) -> bool:
    # An empty file cannot be mapped, and is onnxruntime's to refuse.
    with open(path, "rb") as file, suppress(ValueError), mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
        return text.find(word) >= 0
    return False
