"""ONNX Runtime on an NVIDIA GPU by its CUDA provider, or not at all.

TF32 is left as onnxruntime has it, on, and is named beside the provider: matrix products and convolutions of float32
then have 10 bits of mantissa. NVIDIA_TF32_OVERRIDE=0 in the environment turns it off.
"""

from __future__ import annotations

import ctypes
import os
import re
import time
from typing import Any, Dict, List, Optional, Sequence, Tuple

from ..probes import cuda
from . import Unsupported, onnxruntime_providers
from .onnxruntime import ONNX_FORMATS as FORMATS
from .onnxruntime import OrtSession, prepare
from .onnxruntime_providers import node_types, placement, recording_options

__all__ = ["FORMATS", "INSTALL", "ON_GPU", "load_library", "open_session", "prepare"]

INSTALL = "pip uninstall -y onnxruntime onnxruntime-gpu && pip install 'onnxruntime-gpu[cuda,cudnn]'"
ON_GPU = True
PROVIDER = "CUDAExecutionProvider"

_QDQ = {"QuantizeLinear", "DequantizeLinear"}
_LIBRARIES = {PROVIDER: "cuda", "TensorrtExecutionProvider": "tensorrt"}


def load_library() -> str:
    """Import onnxruntime and the CUDA libraries that pip installed; its version, package and CUDA."""
    return load_with(PROVIDER, INSTALL)


def open_session(path: str, threads: int) -> OrtGpuSession:
    """A session whose compute nodes all run on CUDA device 0; `threads` are for what stays on the CPU.

    Raises:
        Unsupported: they would not.
    """
    return open_on(path, threads, [PROVIDER], INSTALL)


def load_with(provider: str, install: str) -> str:
    """As `load_library`, for a `provider` that `install` installs."""
    version, package = onnxruntime_providers.load_with(provider, install)
    import onnxruntime

    # Libraries from pip lie where the loader does not look. It prints what it misses; a session shows it too.
    preload = getattr(onnxruntime, "preload_dlls", None)
    if preload is not None:
        preload(directory="")
    why = cuda.no_driver()
    if why:
        raise Unsupported("%s: %s" % (provider, why))
    return "%s (%s, CUDA %s)" % (
        version,
        package,
        getattr(onnxruntime, "cuda_version", None) or "of an unknown version",
    )


def open_on(path: str, threads: int, providers: Sequence[Any], install: str) -> OrtGpuSession:
    """As `open_session`, for the first of `providers`, names or pairs of name and options."""
    import onnxruntime

    asked = providers[0] if isinstance(providers[0], str) else providers[0][0]
    built_for = _major(getattr(onnxruntime, "cuda_version", None))

    def explain() -> str:
        return cuda.why_not(built_for) or _missing(onnxruntime, asked, install)

    session = onnxruntime_providers.open_on(path, recording_options(threads), providers, install, explain)
    return OrtGpuSession(session, "%s (%s)" % (asked, ", ".join(_facts(session, asked))))


def _facts(session: Any, asked: str) -> List[str]:
    """What stands beside the provider's name: it explains a figure."""
    nodes = node_types(session)
    facts = [placement(asked, nodes)]
    # onnxruntime fuses quantised operators for the CPU and for TensorRT; CUDA computes between Q and DQ in float.
    if asked == PROVIDER and nodes is not None and not _QDQ.isdisjoint(nodes.get(PROVIDER, ())):
        facts.append("quantised operators in float")
    return [*facts, "no TF32" if os.environ.get("NVIDIA_TF32_OVERRIDE") == "0" else "TF32 allowed"]


def _missing(onnxruntime: Any, asked: str, install: str) -> str:
    """Which file a provider's library did not find, and what to do; empty if none."""
    name = "libonnxruntime_providers_%s.so" % _LIBRARIES[asked]
    try:
        ctypes.CDLL(os.path.join(os.path.dirname(onnxruntime.__file__), "capi", name))
    except OSError as error:
        # By itself it may lack symbols that onnxruntime would give it; a file that is missing is missing there too.
        if "cannot open" in str(error):
            return "%s: %s" % (error, install)
    return ""


def _major(version: Optional[str]) -> Optional[int]:
    found = re.match(r"\d+", version or "")
    return None if found is None else int(found.group())


class OrtGpuSession(OrtSession):
    """An `onnxruntime.InferenceSession` on a GPU, which is fed and answers in host memory."""

    parts_method = "host clock; io-binding, pageable host memory, synchronised after each part"
    lead_in_s = 0.1
    # onnxruntime tells neither.
    gpu_uuid: Optional[str] = None
    _bound: Optional[BoundRun] = None

    def parts(self, prepared: Dict[str, Any]) -> Tuple[int, int, int]:
        """Nanoseconds of the copies to the GPU, of the computation, and of the copies back."""
        if self._bound is None:
            self._bound = BoundRun(self._session, "cuda", prepared)
        return self._bound.parts(prepared)

    def gpu_memory(self) -> None:
        """Only the driver tells."""

    def close(self) -> None:
        """Release what is on the card."""
        self._bound = None
        super().close()


class BoundRun:
    """A session whose inputs and outputs stay on `device` ("cuda", or "cpu"), so that the copies can be timed apart.

    `like` has the inputs' shapes and types; all that is given later has the same.
    """

    def __init__(self, session: Any, device: str, like: Dict[str, Any]) -> None:
        from onnxruntime import OrtValue

        self._session = session
        self._binding = session.io_binding()
        self._inputs = {
            name: OrtValue.ortvalue_from_shape_and_type(list(array.shape), array.dtype.type, device, 0)
            for name, array in like.items()
        }
        for name, value in self._inputs.items():
            # Not `bind_cpu_input`, which copies when it binds (issue 15438).
            self._binding.bind_ortvalue_input(name, value)
        for output in session.get_outputs():
            self._binding.bind_output(output.name, device, 0)
        self.outputs: List[Any] = []

    def parts(self, prepared: Dict[str, Any]) -> Tuple[int, int, int]:
        """As `OrtGpuSession.parts`; `outputs` are numpy arrays then."""
        clock, binding = time.perf_counter_ns, self._binding
        begun = clock()
        for name, value in self._inputs.items():
            value.update_inplace(prepared[name])
        # Without this the TensorRT provider computed on what was still being written (issue 32673).
        binding.synchronize_inputs()
        copied = clock()
        self._session.run_with_iobinding(binding)
        binding.synchronize_outputs()
        computed = clock()
        self.outputs = binding.copy_outputs_to_cpu()
        return copied - begun, computed - copied, clock() - computed
