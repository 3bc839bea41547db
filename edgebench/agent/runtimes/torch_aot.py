"""torch's compiler ahead of time (AOTInductor): an exported program as a shared library of native code.

Compilation is in the load, and needs a C++ compiler as in `torch_compiled.py`; its cache is this process's own.
"""

from __future__ import annotations

import os
from typing import Any

from .torch_compiled import FORMATS, INSTALL, CompilerCache, load_library, load_program
from .torchscript import TorchScriptSession, prepare

__all__ = ["FORMATS", "INSTALL", "load_library", "open_session", "prepare"]


def open_session(path: str, threads: int) -> AotSession:
    """The program at `path`, compiled, and loaded with `threads` intra-op threads."""
    import torch

    torch.set_num_threads(threads)
    return AotSession(torch, path)


class AotSession(TorchScriptSession):
    """A compiled package, called with its inputs in the order in which they were fed."""

    provider = "AOTInductor, CPU"

    def __init__(self, torch: Any, path: str) -> None:
        from torch._inductor import aoti_compile_and_package, aoti_load_package

        self._cache = CompilerCache()
        package = os.path.join(self._cache.directory, "model.pt2")
        aoti_compile_and_package(load_program(torch, path), package_path=package)
        super().__init__(torch, aoti_load_package(package))

    def close(self) -> None:
        """Release the package and what it was compiled to."""
        super().close()
        self._cache.close()
