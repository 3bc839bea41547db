"""TorchScript on the CPU: the archive as `torch.jit.load` runs it."""

from __future__ import annotations

import warnings
from typing import Any, List, Tuple

from ..feeds import Feed
from ..wire import TensorSpec
from . import Unsupported

FORMATS = ("torchscript",)
INSTALL = "pip install 'edgebench[torch]'"


def load_library() -> str:
    """Import torch; its version."""
    try:
        import torch
    except ImportError as error:
        raise Unsupported("torch is not installed: %s" % INSTALL) from error
    return str(torch.__version__)


def prepare(feed: Feed) -> List[Any]:
    """Tensors of the feed, as copies, in its order."""
    import numpy
    import torch

    return [
        torch.from_numpy(numpy.frombuffer(tensor.data, dtype=tensor.spec.dtype).reshape(tensor.spec.shape).copy())
        for tensor in feed.values()
    ]


def open_session(path: str, threads: int) -> TorchScriptSession:
    """The archive at `path`, ready to run with `threads` intra-op threads."""
    import torch

    torch.set_num_threads(threads)
    return TorchScriptSession(torch, load_module(path, "cpu").eval())


def load_module(path: str, device: str) -> Any:
    """The archive at `path` with its tensors on `device`."""
    import torch

    with warnings.catch_warnings():
        # torch 2.15 calls TorchScript deprecated on every load; the user asked for it by name.
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.load(path, map_location=device)


class TorchScriptSession:
    """A `torch.jit.ScriptModule`, called with its inputs in the order in which they were fed."""

    provider = "CPU"

    def __init__(self, torch: Any, module: Any) -> None:
        self._torch = torch
        self._module = module

    def run(self, prepared: List[Any]) -> Any:
        """One inference."""
        with self._torch.inference_mode():
            return self._module(*prepared)

    def named_outputs(self, outputs: Any) -> List[Tuple[TensorSpec, bytes]]:
        """The outputs of one run as bytes; nested answers are flattened in their order."""
        arrays = [tensor.numpy() for tensor in flatten(outputs)]
        return [
            (TensorSpec("output%d" % index, tuple(array.shape), str(array.dtype)), array.tobytes())
            for index, array in enumerate(arrays)
        ]

    def close(self) -> None:
        """Release the module."""
        self._module = None


def flatten(outputs: Any) -> List[Any]:
    """The tensors of a module's answer (a tensor, a list, a dictionary, nested), in order."""
    if outputs is None:
        return []
    if isinstance(outputs, dict):
        return [tensor for value in outputs.values() for tensor in flatten(value)]
    if isinstance(outputs, (list, tuple)):
        return [tensor for value in outputs for tensor in flatten(value)]
    return [outputs]
