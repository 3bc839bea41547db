"""Simplified ONNX: onnxsim folds constants and fuses; what it gained is said, also when that is nothing."""

from __future__ import annotations

from pathlib import Path

from edgebench.errors import StepError
from edgebench.exporters.onnx import pin_ir_version, written_opset
from edgebench.exporters.steps import Parent, Step, StepInput, StepResult

__all__ = ["STEP"]


_NOTABLE_GROWTH = 1.1


def _export(parent: Parent, given: StepInput, out: Path) -> StepResult:
    import onnx
    import onnxsim

    assert parent.path is not None
    model = onnx.load(parent.path)
    before = len(model.graph.node)
    # A free dimension gets the length that is really fed: static shapes fold further and keep a runtime's fusions.
    shapes = {spec.name: list(spec.shape) for spec in given.inputs}
    # onnxsim's own comparison uses random inputs; ours, on real ones, follows.
    simplified, _ = onnxsim.simplify(model, check_n=0, overwrite_input_shapes=shapes)
    if not simplified.graph.node:
        raise StepError("onnxsim returned an empty graph")
    pin_ir_version(simplified)
    onnx.save(simplified, out)
    return StepResult(
        notes=(_gain(before, len(simplified.graph.node), parent.path, out),), opset=written_opset(simplified)
    )


def _gain(before: int, after: int, source: Path, out: Path) -> str:
    if after == before:
        return f"onnxsim found nothing to simplify: {before} nodes before and after"
    note = f"onnxsim: {before} -> {after} nodes"
    old, new = source.stat().st_size, out.stat().st_size
    # What is computed from weights alone becomes a weight, which can be the larger of the two.
    if new > _NOTABLE_GROWTH * old:
        note += f", but {old / 1e6:.3g} -> {new / 1e6:.3g} MB, as folded constants are stored"
    return note


STEP = Step(
    format="onnx-sim",
    precision="fp32",
    suffix=".sim.onnx",
    parents=("onnx",),
    modules=("onnx", "onnxsim"),
    tools=("onnx", "onnxsim"),
    options=lambda _: {},
    run=_export,
)
