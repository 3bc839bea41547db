"""A source's operators: the network itself, run by eager PyTorch in this process, with the module of each operator."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from typing import TYPE_CHECKING, Any

from edgebench.agent.operator_times import OperatorTimes
from edgebench.agent.profilers.torch_events import MODULE, profile_calls
from edgebench.errors import SourceError, UsageError, first_line
from edgebench.model_inputs import random_feed
from edgebench.source.load import load
from edgebench.source.sniff import Identity
from edgebench.types import TensorSpec

if TYPE_CHECKING:
    import torch

__all__ = ["profile_source"]


def profile_source(
    identity: Identity, *, arch: str | None, trust: bool, input_shape: Sequence[int] | None, threads: int, runs: int
) -> OperatorTimes:
    """The operators of the network that `identity` names, fed with random numbers of `input_shape`.

    Raises:
        SourceError: it cannot be loaded, or does not run.
        UsageError: nothing says what shape its input has.
    """
    # Its libkineto logs its starts and that there is no GPU, unless this is set before torch is imported.
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")
    # What a network prints is not this command's data.
    with redirect_stdout(sys.stderr):
        loaded = load(identity, arch=arch, trust=trust)
        shape = tuple(input_shape or loaded.input_shape or ())
        if not shape:
            raise UsageError(
                f"{identity.spec} does not say what shape its input has", hint="give it: --input-shape 1,3,224,224"
            )
        import torch

        module: Any = loaded.module
        if isinstance(module, torch.export.ExportedProgram):
            module = module.module()
        torch.set_num_threads(threads)
        feed = torch.from_numpy(random_feed((TensorSpec("input", shape, "float32"),), seed=0, index=0)["input"])

        def call(tensor: torch.Tensor) -> Any:
            with torch.inference_mode():
                return module(tensor)

        try:
            return profile_calls(call, [feed], runs, lambda: _named_modules(module))
        except (RuntimeError, ValueError, TypeError) as error:
            raise SourceError(
                f"{identity.spec} does not run on {list(shape)}: {first_line(error)}",
                hint="say what it takes with --input-shape",
            ) from error


@contextmanager
def _named_modules(network: torch.nn.Module) -> Iterator[None]:
    """Within it the profiler sees what module each operator is called by. TorchScript takes no hooks."""
    import torch

    with ExitStack() as stack:
        if not isinstance(network, torch.jit.ScriptModule):
            for name, module in network.named_modules():
                before, after = _marks(name)
                stack.callback(module.register_forward_pre_hook(before).remove)
                stack.callback(module.register_forward_hook(after, always_call=True).remove)
        yield


def _marks(name: str) -> tuple[Callable[..., None], Callable[..., None]]:
    import torch

    # A stack, as a module may call itself.
    opened: list[Any] = []

    def before(module: torch.nn.Module, arguments: Any) -> None:
        opened.append(torch.profiler.record_function(MODULE + name))
        opened[-1].__enter__()

    def after(module: torch.nn.Module, arguments: Any, result: Any) -> None:
        opened.pop().__exit__(None, None, None)

    return before, after
