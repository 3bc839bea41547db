"""torch's compiler on the CPU: an exported program as `torch.compile` makes native code of it.

Compilation happens at the first call and is in the first inference. It needs a C++ compiler, and its cache is this
process's own, so that a figure does not depend on what was compiled before.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from typing import Any

from . import Unsupported
from .torchscript import TorchScriptSession, prepare
from .torchscript import load_library as load_torch

__all__ = ["FORMATS", "INSTALL", "load_library", "open_session", "prepare"]

FORMATS = ("torch-export",)
INSTALL = "pip install torch, and a C++ compiler: sudo apt install g++"


def load_library() -> str:
    """Import torch; its version.

    Raises:
        Unsupported: it is not there, or no compiler is.
    """
    version = load_torch()
    if not any(shutil.which(name) for name in (os.environ.get("CXX"), "g++", "c++", "clang++") if name):
        raise Unsupported("torch.compile finds no C++ compiler: sudo apt install g++")
    return version


def open_session(path: str, threads: int) -> CompiledSession:
    """The program at `path`, to be compiled at its first run with `threads` intra-op threads."""
    import torch

    torch.set_num_threads(threads)
    return CompiledSession(torch, load_program(torch, path).module())


def load_program(torch: Any, path: str) -> Any:
    """The exported program; it may run code of its file, as a bundle's own may."""
    return torch.export.load(path)


class CompiledSession(TorchScriptSession):
    """A compiled module, called with its inputs in the order in which they were fed."""

    provider = "inductor, CPU"

    def __init__(self, torch: Any, module: Any) -> None:
        self._cache = CompilerCache()
        # One graph for the one shape that is measured: falling back to eager would be another figure.
        super().__init__(torch, torch.compile(module, fullgraph=True, dynamic=False))

    @property
    def module(self) -> Any:
        """What is called."""
        return self._module

    def close(self) -> None:
        """Release the module and what it was compiled to."""
        super().close()
        self._cache.close()


class CompilerCache:
    """A directory that torch's compiler uses from now on as its cache, until it is closed."""

    def __init__(self) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix="edgebench-inductor-")
        self.directory = self._temporary.name
        os.environ.update(TORCHINDUCTOR_CACHE_DIR=self.directory, TRITON_CACHE_DIR=self.directory)

    def close(self) -> None:
        """Remove it."""
        self._temporary.cleanup()
