"""torch's compiler on an NVIDIA GPU: an exported program, moved there and compiled at its first call."""

from __future__ import annotations

from typing import Any

from .torch_compiled import FORMATS, CompiledSession, load_program, prepare
from .torchscript_cuda import INSTALL, ON_GPU, TorchScriptGpuSession, describe_card, load_library

__all__ = ["FORMATS", "INSTALL", "ON_GPU", "load_library", "open_session", "prepare"]

_DEVICE = "cuda:0"


def open_session(path: str, threads: int) -> CompiledGpuSession:
    """The program at `path` on CUDA device 0; `threads` are for what stays on the CPU."""
    import torch
    from torch.export.passes import move_to_device_pass

    torch.set_num_threads(threads)
    # Also what the program holds of constants, which a plain move leaves where they are.
    module = move_to_device_pass(load_program(torch, path), _DEVICE).module()
    return CompiledGpuSession(torch, module)


class CompiledGpuSession(TorchScriptGpuSession):
    """A compiled module on the GPU, which is fed and answers in host memory."""

    def __init__(self, torch: Any, module: Any) -> None:
        self._compiled = CompiledSession(torch, module)
        super().__init__(torch, self._compiled.module, _DEVICE, "inductor, " + describe_card(torch))

    def close(self) -> None:
        """Release the module and what it was compiled to."""
        super().close()
        self._compiled.close()
