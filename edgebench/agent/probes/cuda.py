"""Why CUDA has no device for this process, asked of the driver's own library, so that a refusal names its remedy.

A runtime that cannot use the card says so in its own way: onnxruntime by a line in its log and a session on the CPU,
torch by `False`. Starting the driver costs tenths of a second, so it is asked only after a runtime has failed.
"""

from __future__ import annotations

import ctypes
import os
from typing import Any, Optional, Tuple

from . import nvml

LIBRARY = "libcuda.so.1"

# CUresult
_SUCCESS = 0
_NO_DEVICE = 100


def no_driver(library: str = LIBRARY) -> str:
    """Why there is no driver, and what to do; empty if there is one. It is found and not started."""
    _, why = _load(library)
    return why


def why_not(built_for: Optional[int] = None, *, library: str = LIBRARY) -> str:
    """Why no device can be used by a library that was built for CUDA `built_for`, and what to do; empty if one can."""
    driver, why = _load(library)
    if driver is None:
        return why
    code = driver.cuInit(ctypes.c_uint(0))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if code == _NO_DEVICE and visible is not None:
        return "CUDA_VISIBLE_DEVICES=%s leaves no device: unset it, or name one of `nvidia-smi -L`" % visible
    if code == _NO_DEVICE:
        return "the CUDA driver finds no device: see `nvidia-smi -L`; start a container with `--gpus all`"
    if code != _SUCCESS:
        return "the CUDA driver does not start (%s): see `nvidia-smi`" % _words(driver, code)
    version = ctypes.c_int()
    known = driver.cuDriverGetVersion(ctypes.byref(version)) == _SUCCESS
    # The driver's number is of the newest CUDA that it serves: 12040 is 12.4.
    if known and built_for is not None and version.value // 1000 < built_for:
        found = "%d.%d" % (version.value // 1000, version.value % 1000 // 10)
        return "the driver serves CUDA up to %s, and the library is built for CUDA %d: install a newer driver" % (
            found,
            built_for,
        )
    return ""


def _load(library: str) -> Tuple[Optional[Any], str]:
    try:
        return ctypes.CDLL(library), ""
    except OSError as error:
        return None, nvml.why_not() or "no CUDA driver (%s): install it; start a container with `--gpus all`" % error


def _words(driver: Any, code: int) -> str:
    text = ctypes.c_char_p()
    told = driver.cuGetErrorString(ctypes.c_int(code), ctypes.byref(text)) == _SUCCESS
    return text.value.decode("ascii", "replace") if told and text.value else "error %d" % code
