"""TorchScript on an NVIDIA GPU: the archive as `torch.jit.load` puts it there.

A call of a module returns before the GPU has done its work, so `run` ends with the answers in host memory, which waits
for them. torch's defaults are left as they are and are named beside the provider: convolutions of float32 use TF32.
"""

from __future__ import annotations

import os
import re
import time
from typing import Any, List, Optional, Tuple

from ..probes import cuda
from . import Unsupported
from .torchscript import FORMATS, TorchScriptSession, flatten, load_module, prepare
from .torchscript import load_library as load_torch

__all__ = ["FORMATS", "INSTALL", "ON_GPU", "describe_card", "load_library", "open_session", "prepare"]

INSTALL = "pip install torch (for Linux on x86-64 with CUDA; elsewhere as https://pytorch.org/get-started/locally says)"
ON_GPU = True

_DEVICE = "cuda:0"


def load_library() -> str:
    """Import torch; its version, which names its CUDA.

    Raises:
        Unsupported: it is not there, is built without CUDA, or finds no device.
    """
    version = load_torch()
    import torch

    if not torch.cuda.is_available():
        raise Unsupported("torch %s cannot use CUDA: %s" % (version, _why_not(torch)))
    return version


def open_session(path: str, threads: int) -> TorchScriptGpuSession:
    """The archive at `path` on CUDA device 0; `threads` are for what stays on the CPU."""
    import torch

    torch.set_num_threads(threads)
    module = load_module(path, _DEVICE)
    return TorchScriptGpuSession(torch, module.eval(), _DEVICE, describe_card(torch))


def _why_not(torch: Any) -> str:
    if torch.version.cuda is None:
        return "it is built without: " + INSTALL
    why = cuda.why_not(int(torch.version.cuda.partition(".")[0]))
    if why:
        return why
    try:
        torch.zeros(1, device="cuda")
    except (RuntimeError, AssertionError) as error:
        return "%s: see `nvidia-smi`" % str(error).partition("\n")[0]
    return "see `nvidia-smi`"


def describe_card(torch: Any) -> str:
    """The card and what of torch's settings changes figures."""
    built = "ROCm %s" % torch.version.hip if torch.version.cuda is None else "CUDA %s" % torch.version.cuda
    return "%s (%s, %s)" % (torch.cuda.get_device_name(0), built, _tf32(torch))


def _tf32(torch: Any) -> str:
    if os.environ.get("NVIDIA_TF32_OVERRIDE") == "0":
        return "no TF32"
    # Reading `allow_tf32` raises once somebody has set the names that came with torch 2.9.
    convolutions = getattr(torch.backends.cudnn, "conv", None)
    if convolutions is None:
        settings = {
            "convolutions": torch.backends.cudnn.allow_tf32,
            "matrix products": torch.backends.cuda.matmul.allow_tf32,
        }
    else:
        settings = {
            "convolutions": convolutions.fp32_precision == "tf32",
            "matrix products": torch.backends.cuda.matmul.fp32_precision == "tf32",
        }
    allowed = [name for name, value in settings.items() if value]
    return "TF32 allowed in %s" % " and ".join(allowed) if allowed else "no TF32"


class TorchScriptGpuSession(TorchScriptSession):
    """A `torch.jit.ScriptModule` on `device`, which is fed and answers in host memory."""

    parts_method = "CUDA events around the module, host clock around copies of pageable host memory"
    lead_in_s = 0.1

    def __init__(self, torch: Any, module: Any, device: str, provider: str) -> None:
        super().__init__(torch, module)
        self.provider = provider
        self._device = device

    @property
    def gpu_uuid(self) -> Optional[str]:
        """As `nvidia-smi -L` says it."""
        found = str(getattr(self._torch.cuda.get_device_properties(0), "uuid", ""))
        bare = re.fullmatch(r"(?:GPU-)?([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})", found)
        return None if bare is None else "GPU-" + bare.group(1)

    def run(self, prepared: List[Any]) -> List[Any]:
        """One inference, with the copies; `.cpu()` waits for what it copies."""
        with self._torch.inference_mode():
            outputs = self._module(*[tensor.to(self._device) for tensor in prepared])
            return [tensor.cpu() for tensor in flatten(outputs)]

    def parts(self, prepared: List[Any]) -> Tuple[int, int, int]:
        """Nanoseconds of the copies to the GPU, of the computation, and of the copies back.

        The computation is the span on the GPU's stream: where the host launches more slowly than the GPU works, it is
        the host's time.
        """
        torch, clock = self._torch, time.perf_counter_ns
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        with torch.inference_mode():
            torch.cuda.synchronize()
            begun = clock()
            inputs = [tensor.to(self._device) for tensor in prepared]
            torch.cuda.synchronize()
            copied = clock()
            start.record()
            outputs = self._module(*inputs)
            end.record()
            end.synchronize()
            computed = clock()
            for tensor in flatten(outputs):
                tensor.cpu()
            ended = clock()
        return copied - begun, round(start.elapsed_time(end) * 1e6), ended - computed

    def gpu_memory(self) -> Optional[Tuple[int, str]]:
        """What torch took from the driver at most; the CUDA context is not in it."""
        return int(self._torch.cuda.max_memory_reserved()), "torch's allocator at its highest, without the CUDA context"
