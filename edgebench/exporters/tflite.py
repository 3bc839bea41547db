"""TFLite in float32, by litert-torch from torch's exported program; inputs and outputs keep their layout."""

from __future__ import annotations

from pathlib import Path

from edgebench.exporters import litert, torch_export
from edgebench.exporters.steps import Parent, Step, StepInput, StepResult

__all__ = ["STEP"]


def _export(parent: Parent, given: StepInput, out: Path) -> StepResult:
    program = torch_export.saved(torch_export.exported(parent, given))
    return StepResult(peak_rss_bytes=litert.convert(program, out))


STEP = Step(
    format="tflite",
    precision="fp32",
    suffix=".tflite",
    parents=("source",),
    modules=("torch", "ai_edge_litert"),
    tools=("torch", "ai-edge-litert"),
    options=lambda _: {},
    run=_export,
    extra="tflite",
    usual=litert.is_installed,
    other_tools=litert.converter_versions,
)
