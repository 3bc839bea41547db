"""ONNX at lower precision where it is computed as it comes, without ranges: float16, int8 weights, dynamic int8."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from edgebench.exporters.onnx import written_opset
from edgebench.exporters.steps import Parent, Step, StepInput, StepResult

__all__ = ["DYNAMIC", "FP16", "W8"]


def _fp16(parent: Parent, given: StepInput, out: Path) -> StepResult:
    from edgebench.quantize.float16 import write_float16

    assert parent.path is not None
    write_float16(parent.path, out, given.calibration() if given.calibration is not None else [given.example])
    note = "float16 but for inputs and outputs; where a CPU has no float16 arithmetic, as x86-64, that saves size alone"
    return StepResult(notes=(note,), opset=_opset(out))


def _w8(parent: Parent, given: StepInput, out: Path) -> StepResult:
    from edgebench.quantize.weights import write_int8_weights

    assert parent.path is not None
    return StepResult(notes=write_int8_weights(parent.path, out), opset=_opset(out))


def _dynamic(parent: Parent, given: StepInput, out: Path) -> StepResult:
    from edgebench.quantize.dynamic import write_dynamic

    assert parent.path is not None
    notes = write_dynamic(parent.path, out, reduce_range=given.options["reduce_range"])
    return StepResult(notes=notes, opset=_opset(out))


def _opset(path: Path) -> int:
    import onnx

    return written_opset(onnx.load(path, load_external_data=False))


def _step(
    name: str,
    precision: str,
    run: Callable[[Parent, StepInput, Path], StepResult],
    options: Callable[[Mapping[str, Any]], dict[str, Any]],
) -> Step:
    return Step(
        format=f"onnx-{name}",
        precision=precision,
        suffix=f".{name}.onnx",
        parents=("onnx-sim", "onnx"),
        modules=("onnx", "onnxruntime"),
        tools=("onnx", "onnxruntime"),
        options=options,
        run=run,
        lossy=True,
        usual=lambda: False,
    )


FP16 = _step("fp16", "fp16", _fp16, lambda _: {})
W8 = _step("w8", "int8-weights", _w8, lambda _: {})
DYNAMIC = _step(
    "dynamic",
    "int8-dynamic",
    _dynamic,
    # Activations are unsigned in every case: DynamicQuantizeLinear knows no other.
    lambda settings: {"reduce_range": settings["int8"]["weight_bits"] < 8},
)
