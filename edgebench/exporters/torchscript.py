"""TorchScript: traced on a real input, then frozen, so that constants are folded into the convolutions."""

from __future__ import annotations

import io
import shutil
import warnings
from pathlib import Path
from typing import Any

from edgebench.exporters.steps import Parent, Step, StepInput, StepResult

__all__ = ["STEP"]


def _export(parent: Parent, given: StepInput, out: Path) -> StepResult:
    import torch
    from torch.jit._trace import TracerWarning

    if isinstance(parent.module, torch.jit.ScriptModule):
        if parent.path is not None:
            shutil.copyfile(parent.path, out)
            return StepResult(notes=("the source is TorchScript already: copied as it is",))
        _save(parent.module, out)
        return StepResult(notes=("the source is TorchScript already",))
    module = parent.module.module() if isinstance(parent.module, torch.export.ExportedProgram) else parent.module
    example = tuple(torch.from_numpy(array.copy()) for array in given.example.values())
    with warnings.catch_warnings(record=True) as caught, torch.no_grad():
        warnings.simplefilter("always")
        # Dictionaries, as DETR answers, can be traced when the tracer is not strict. Our own parity, on real inputs,
        # stands for the tracer's check on the one input that it was traced with.
        traced = torch.jit.trace(module, example, strict=False, check_trace=False)
        _save(torch.jit.freeze(traced.eval()), out)
    suspicions = [str(warning.message) for warning in caught if issubclass(warning.category, TracerWarning)]
    if not suspicions:
        return StepResult()
    first = suspicions[0].split("\n")[0].split(". ")[0]
    return StepResult(notes=(f"the tracer warned {len(suspicions)} times, first: {first}; scripting keeps branches",))


def _save(module: Any, out: Path) -> None:
    import torch

    # By way of memory: on a full disk torch's own writer ends the process instead of raising.
    written = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(module, written)
    out.write_bytes(written.getbuffer())


STEP = Step(
    format="torchscript",
    precision="fp32",
    suffix=".torchscript.pt",
    parents=("source",),
    modules=("torch",),
    tools=("torch",),
    options=lambda _: {"method": "trace", "freeze": True},
    run=_export,
)
