"""TFLite at lower precision from the float32 file: float16 weights, int8 weights with dynamic activations, and full
integer int8 with float or integer inputs and outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from edgebench.exporters import litert
from edgebench.exporters.steps import Parent, Step, StepInput, StepResult

__all__ = ["DYNAMIC", "FP16", "INT8", "INT8_IO"]

_Run = Callable[[Parent, StepInput, Path], StepResult]


def _fp16(parent: Parent, given: StepInput, out: Path) -> StepResult:
    from edgebench.quantize import tflite

    assert parent.path is not None
    tflite.write_fp16(parent.path, out)
    return StepResult()


def _dynamic(parent: Parent, given: StepInput, out: Path) -> StepResult:
    from edgebench.quantize import tflite

    assert parent.path is not None
    tflite.write_dynamic(parent.path, out)
    return StepResult(
        notes=(
            "int8 weights per channel, activations quantized at each inference; needs ai-edge-litert or TFLite 2.17",
        )
    )


def _static(*, integer_io: bool) -> _Run:
    def run(parent: Parent, given: StepInput, out: Path) -> StepResult:
        from edgebench.quantize import tflite

        assert parent.path is not None and given.calibration is not None
        notes = tflite.quantize(parent.path, out, given.calibration, given.options, given.kept, integer_io=integer_io)
        return StepResult(notes=notes)

    return run


def _ranges_by(settings: Mapping[str, Any]) -> dict[str, Any]:
    """How ranges are chosen; "auto" takes the extremes, with which int8 lost the least on what was measured."""
    method = "minmax" if settings["method"] == "auto" else settings["method"]
    return {"method": method, "percentile": settings["int8"]["percentile"] if method == "percentile" else 100.0}


def _step(format: str, precision: str, run: _Run, *, calibrated: bool, usual: Callable[[], bool]) -> Step:
    return Step(
        format=format,
        precision=precision,
        suffix=f".{format.removeprefix('tflite-')}.tflite",
        parents=("tflite",),
        modules=("ai_edge_litert", "ai_edge_quantizer"),
        tools=("ai-edge-litert", "ai-edge-quantizer"),
        options=lambda settings: _ranges_by(settings) if calibrated else {},
        run=run,
        extra="tflite",
        lossy=True,
        calibrated=calibrated,
        usual=usual,
    )


FP16 = _step("tflite-fp16", "fp16", _fp16, calibrated=False, usual=lambda: False)
DYNAMIC = _step("tflite-dynamic", "int8-dynamic", _dynamic, calibrated=False, usual=lambda: False)
INT8 = _step("tflite-int8", "int8", _static(integer_io=False), calibrated=True, usual=litert.is_installed)
INT8_IO = _step("tflite-int8-io", "int8", _static(integer_io=True), calibrated=True, usual=lambda: False)
