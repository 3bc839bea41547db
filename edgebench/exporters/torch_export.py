"""torch's own exported program: what `torch.compile` takes on a device, where TorchScript cannot be compiled.

Made when it is asked for (`--formats torch-export`): few devices have torch, and fewer a compiler.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from edgebench.errors import StepError
from edgebench.exporters.steps import Parent, Step, StepInput, StepResult

__all__ = ["STEP", "exported", "saved"]


def exported(parent: Parent, given: StepInput) -> Any:
    """The `torch.export.ExportedProgram` of a source.

    Raises:
        StepError: it is TorchScript.
    """
    import torch

    if parent.module is None or isinstance(parent.module, torch.jit.ScriptModule):
        raise StepError("torch.export does not take TorchScript", hint="export from the network that it was made of")
    if isinstance(parent.module, torch.export.ExportedProgram):
        return parent.module
    example = tuple(torch.from_numpy(array.copy()) for array in given.example.values())
    with torch.no_grad():
        return torch.export.export(parent.module, example)


def saved(program: Any) -> bytes:
    """The program as a `.pt2` file has it."""
    import torch

    # By way of memory: on a full disk torch's own writer ends the process instead of raising.
    written = io.BytesIO()
    torch.export.save(program, written)
    return written.getvalue()


def _export(parent: Parent, given: StepInput, out: Path) -> StepResult:
    out.write_bytes(saved(exported(parent, given)))
    return StepResult()


STEP = Step(
    format="torch-export",
    precision="fp32",
    suffix=".pt2",
    parents=("source",),
    modules=("torch",),
    tools=("torch",),
    options=lambda _: {},
    run=_export,
    usual=lambda: False,
)
