"""Static int8 ONNX in QDQ form, calibrated on real images."""

from __future__ import annotations

from pathlib import Path

from edgebench.exporters.onnx import written_opset
from edgebench.exporters.steps import Parent, Step, StepInput, StepResult, method_options
from edgebench.quantize.settings import for_machine

__all__ = ["STEP"]


def _export(parent: Parent, given: StepInput, out: Path) -> StepResult:
    import onnx

    from edgebench.quantize.static import quantize

    assert parent.path is not None and given.calibration is not None
    notes = quantize(parent.path, out, given.calibration, given.options, given.kept)
    return StepResult(notes=notes, opset=written_opset(onnx.load(out, load_external_data=False)))


STEP = Step(
    format="onnx-int8",
    precision="int8",
    suffix=".int8.onnx",
    parents=("onnx-sim", "onnx"),
    modules=("onnx", "onnxruntime"),
    tools=("onnx", "onnxruntime"),
    options=lambda settings: {**method_options(settings), **for_machine(settings["machine"])},
    run=_export,
    lossy=True,
    calibrated=True,
)
