"""Static int8 ONNX, calibrated on real images, within a budget of accuracy where there is one."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from edgebench.agent.codec import decode
from edgebench.exporters.onnx import written_opset
from edgebench.exporters.steps import Parent, Step, StepInput, StepResult
from edgebench.trade_off import Budget, TradeOff

__all__ = ["STEP"]


def _export(parent: Parent, given: StepInput, out: Path) -> StepResult:
    import onnx

    from edgebench.quantize.control import keep_within
    from edgebench.quantize.settings import Settings
    from edgebench.quantize.static import Quantizer

    assert parent.path is not None and given.calibration is not None
    settings = decode(Settings, given.options["int8"], "int8")
    with tempfile.TemporaryDirectory(prefix="edgebench-int8-") as scratch:
        quantizer = Quantizer(parent.path, Path(scratch), given.calibration, settings)
        quantizer.calibrate(given.kept)
        trade_off = None
        if given.score is None:
            quantizer.write(out)
        else:
            wanted = given.options["budget"]
            score = partial(given.score, parent.path)
            budget = decode(Budget, wanted["budget"], "budget")
            trade_off = keep_within(quantizer, budget, score, given.calibration, out, data=wanted["data"])
    notes = [*quantizer.description, *quantizer.notes, *(_told(trade_off) if trade_off is not None else [])]
    return StepResult(
        notes=tuple(notes),
        opset=written_opset(onnx.load(out, load_external_data=False)),
        trade_off=trade_off,
        reason=_unmet(trade_off),
    )


def _told(trade_off: TradeOff) -> list[str]:
    trial = trade_off.trials[trade_off.chosen]
    what = "float" if trade_off.budget.keep == "float" else "16-bit activations"
    count = trial.products - trial.int8_products
    kept = f"{count} of {trial.products} products in {what}" if count else "all products in int8"
    tried = len(trade_off.trials)
    evaluations = "1 evaluation" if tried == 1 else f"{tried} evaluations"
    lines = [f"{kept}, after {evaluations} in {trade_off.seconds:.0f} s on {trade_off.data}"]
    if trade_off.stopped is not None:
        lines.append(f"the search was not finished: {trade_off.stopped}")
    return lines


def _unmet(trade_off: TradeOff | None) -> str | None:
    if trade_off is None or trade_off.met:
        return None
    score = trade_off.trials[trade_off.chosen].score
    best = f"{score.drop_points:+.2f} points" if score.drop_points is not None else f"{score.sqnr_db:.1f} dB"
    if trade_off.stopped is not None:
        return f"no int8 model within the budget was found, because {trade_off.stopped}; the best one loses {best}"
    return f"the budget cannot be met with any product in int8; the best one that was tried has {best}"


def _options(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {"int8": settings["int8"], **({"budget": settings["budget"]} if settings["budget"] is not None else {})}


STEP = Step(
    format="onnx-int8",
    precision="int8",
    suffix=".int8.onnx",
    parents=("onnx-sim", "onnx"),
    modules=("onnx", "onnxruntime"),
    tools=("onnx", "onnxruntime"),
    options=_options,
    run=_export,
    lossy=True,
    calibrated=True,
)
