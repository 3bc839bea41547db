"""An ONNX source enters the chain as its first artifact: as it is, or with the weights beside it taken in."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from edgebench.errors import StepError
from edgebench.exporters.onnx import written_opset
from edgebench.exporters.steps import Parent, Step, StepInput, StepResult

__all__ = ["STEP"]

_LARGEST_BYTES = 2**31 - 2**20


def _export(parent: Parent, given: StepInput, out: Path) -> StepResult:
    import onnx

    assert parent.path is not None
    skeleton = onnx.load(parent.path, load_external_data=False)
    if (size := _outside(skeleton)) > _LARGEST_BYTES:
        raise StepError(
            f"its weights take {size / 1e9:.1f} GB, and an artifact is one file, which ONNX limits to 2 GB",
            hint="export a smaller network, or its parts one by one",
        )
    if given.options["external_weights"]:
        onnx.save(onnx.load(parent.path), out)
        note = "the source, with its external weights in one file"
    else:
        shutil.copyfile(parent.path, out)
        note = "the source itself"
    return StepResult(notes=(note,), opset=written_opset(skeleton))


def _outside(model: Any) -> int:
    """How many bytes of weights lie beside the file."""
    entries = (entry for tensor in model.graph.initializer for entry in tensor.external_data)
    return sum(int(entry.value) for entry in entries if entry.key == "length")


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
