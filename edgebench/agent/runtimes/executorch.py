"""ExecuTorch on the CPU: what its exporter gave to XNNPACK runs there, and the rest in ExecuTorch's own kernels."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, List

from . import Unsupported
from .torchscript import TorchScriptSession, prepare

__all__ = ["FORMATS", "INSTALL", "load_library", "open_session", "prepare"]

FORMATS = ("executorch", "executorch-int8")
INSTALL = "pip install executorch"


def load_library() -> str:
    """Import ExecuTorch, and the torch that its tensors are of; its version."""
    try:
        with warnings.catch_warnings():
            # It calls its Python API experimental.
            warnings.simplefilter("ignore")
            import executorch.runtime  # noqa: F401
            from executorch.version import __version__
    except ImportError as error:
        raise Unsupported("executorch is not installed: %s" % INSTALL) from error
    return str(__version__)


def open_session(path: str, threads: int) -> ExecuTorchSession:
    """The method `forward` of the program at `path`, ready to run with `threads` threads."""
    import torch
    from executorch.extension.pybindings import portable_lib
    from executorch.runtime import Runtime

    # A method that is loaded keeps the pool that it found.
    portable_lib._unsafe_reset_threadpool(threads)
    runtime = Runtime.get()
    # The program names its backends.
    written = Path(path).read_bytes()
    used = [name for name in runtime.backend_registry.registered_backend_names if name.encode() in written]
    del written
    return ExecuTorchSession(torch, runtime.load_program(path).load_method("forward"), used)


class ExecuTorchSession(TorchScriptSession):
    """A loaded method, called with its inputs in the order in which they were fed; it answers with copies."""

    one_at_a_time = "ExecuTorch's method"

    def __init__(self, torch: Any, method: Any, backends: List[str]) -> None:
        super().__init__(torch, method)
        self.provider = "CPU, %s" % (" ".join(backends) or "no backend")

    def run(self, prepared: List[Any]) -> Any:
        """One inference."""
        return self._module.execute(prepared)
