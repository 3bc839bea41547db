"""An ONNX source enters the chain as its first artifact: as it is, or with the weights beside it taken in."""

from __future__ import annotations

import shutil
from pathlib import Path

from edgebench.exporters.onnx import written_opset
from edgebench.exporters.steps import Parent, Step, StepInput, StepResult

__all__ = ["STEP"]


def _export(parent: Parent, given: StepInput, out: Path) -> StepResult:
    import onnx

    assert parent.path is not None
    skeleton = onnx.load(parent.path, load_external_data=False)
    if given.options["external_weights"]:
        onnx.save(onnx.load(parent.path), out)
        note = "the source, with its external weights in one file"
    else:
        shutil.copyfile(parent.path, out)
        note = "the source itself"
    return StepResult(notes=(note,), opset=written_opset(skeleton))


STEP = Step(
    format="onnx",
    precision="fp32",
    suffix=".onnx",
    parents=("onnx-source",),
    modules=("onnx",),
    tools=("onnx",),
    options=lambda settings: {"external_weights": settings["external_weights"]},
    run=_export,
)
