"""ExecuTorch programs for XNNPACK, float32 and static int8, from torch's exported program.

Made when they are asked for (`--formats executorch,executorch-int8`). The lowering is a process of its own
(`executorch_lowering.py`): it prints, and what it imports takes seconds and hundreds of megabytes.
"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from edgebench.exporters.converter import convert
from edgebench.exporters.steps import Parent, Step, StepInput, StepResult

__all__ = ["INT8_STEP", "STEP"]

_LOWERING = Path(__file__).with_name("executorch_lowering.py")


def _export(parent: Parent, given: StepInput, out: Path) -> StepResult:
    assert parent.path is not None
    with TemporaryDirectory(prefix="edgebench-executorch-") as scratch:
        # Not this file's directory before all others (-P): its neighbours are called as what is imported.
        command = [sys.executable, "-P", str(_LOWERING), str(parent.path.resolve()), str(out.resolve())]
        if given.calibration is not None and given.options.get("quantizer"):
            for index, feed in enumerate(given.calibration()):
                # By position: a name of an input need not be one of an argument of `savez`.
                np.savez(Path(scratch) / f"{index:06}.npz", *feed.values())
            command.append(scratch)
        said = convert("ExecuTorch's lowering", command, Path(scratch))
    return StepResult(notes=(said.strip().rpartition("\n")[2],))


STEP = Step(
    format="executorch",
    precision="fp32",
    suffix=".pte",
    parents=("torch-export",),
    modules=("torch", "executorch"),
    tools=("torch", "executorch"),
    options=lambda _: {"backend": "xnnpack"},
    run=_export,
    extra="executorch",
    usual=lambda: False,
)
INT8_STEP = Step(
    format="executorch-int8",
    precision="int8",
    suffix=".int8.pte",
    parents=("torch-export",),
    modules=("torch", "executorch", "torchao"),
    tools=("torch", "executorch", "torchao"),
    options=lambda _: {"backend": "xnnpack", "quantizer": "XNNPACKQuantizer, symmetric per channel"},
    run=_export,
    extra="executorch",
    lossy=True,
    calibrated=True,
    usual=lambda: False,
)
