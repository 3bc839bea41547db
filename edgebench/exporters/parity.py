"""Parity: an artifact and its parent on the same inputs, and the judgement of how far apart they may be.

SQNR is the parent's signal power over the power of the difference, `10 log10(sum r^2 / sum (r - a)^2)`, over all
samples of one output. Float steps are judged by the largest error against the parent's largest output; int8 by whether
it still answers the same class, or by SQNR where the outputs are not class scores.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgebench.agent.environment import switch_telemetry_off
from edgebench.agent.runtimes.torchscript import flatten
from edgebench.exporters.steps import Feed
from edgebench.types import Parity

__all__ = ["Runner", "compare", "judge", "open_runner", "remarks"]

Outputs = list[NDArray[Any]]
Runner = Callable[[Feed], Outputs]

# Below these an int8 artifact is broken rather than coarse: it no longer does its parent's task.
MIN_INT8_AGREEMENT = 0.5
MIN_INT8_SQNR_DB = 5.0
# From here on the noise is below a tenth of the signal. If the top class changes all the same, the classes were tied,
# as an untrained network's are (torchvision's shufflenet_v2_x1_0: 48 dB, and no top-1 answer the same).
FAITHFUL_SQNR_DB = 20.0
_REMARKABLE_AGREEMENT = 0.9


def open_runner(format: str, *, module: Any | None = None, path: Path | None = None) -> Runner:
    """A function from a feed to outputs, for a source's module or an artifact's file."""
    if format in ("source", "torchscript"):
        return _torch_runner(module, path)
    switch_telemetry_off()
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda feed: list(session.run(None, dict(feed)))


def _torch_runner(module: Any | None, path: Path | None) -> Runner:
    import torch

    if module is None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch 2.15 calls TorchScript deprecated on every load
            module = torch.jit.load(str(path), map_location="cpu").eval()
    elif isinstance(module, torch.export.ExportedProgram):
        module = module.module()

    def run(feed: Feed) -> Outputs:
        # Without its profiling runs TorchScript answers the same, and does not compile for a handful of inputs.
        with torch.no_grad(), torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
            answer = module(*(torch.from_numpy(array) for array in feed.values()))
        return [tensor.numpy() for tensor in flatten(answer)]

    return run


def compare(
    parents: Sequence[Outputs], children: Sequence[Outputs], *, inputs: Literal["calibration", "random"]
) -> Parity:
    """The parity of `children` with `parents`: one entry per feed, each the outputs of that feed in order.

    Raises:
        ValueError: the artifact has other outputs, or outputs of another shape, than its parent.
    """
    _require_same_shapes(parents, children)
    worst_error = worst_relative = 0.0
    worst_sqnr: float | None = None
    for index in range(len(parents[0])):
        expected = np.concatenate([outputs[index].reshape(-1) for outputs in parents]).astype(np.float64)
        found = np.concatenate([outputs[index].reshape(-1) for outputs in children]).astype(np.float64)
        error = np.abs(expected - found)
        # NaN where the parent has one is agreement; anywhere else it is the largest of errors.
        error[np.isnan(expected) & np.isnan(found)] = 0.0
        error[np.isnan(error)] = math.inf
        largest = float(error.max(initial=0.0))
        scale = float(np.nanmax(np.abs(expected), initial=0.0))
        worst_error = max(worst_error, largest)
        worst_relative = max(worst_relative, largest / scale if scale > 0 else (math.inf if largest else 0.0))
        sqnr = _sqnr_db(expected, error)
        if sqnr is not None:
            worst_sqnr = sqnr if worst_sqnr is None else min(worst_sqnr, sqnr)
    return Parity(
        inputs=inputs,
        samples=sum(outputs[0].shape[0] if outputs[0].ndim else 1 for outputs in parents),
        max_abs_error=_finite(worst_error),
        relative_error=_finite(worst_relative),
        sqnr_db=worst_sqnr,
        top1_agreement=_top1_agreement(parents, children),
    )


def judge(parity: Parity, *, precision: str, atol: float, rtol: float) -> str | None:
    """Why the artifact fails, or None: the largest error above `atol + rtol * (parent's largest output)`, for a float
    precision; for int8, the parent's class in fewer than half of the inputs, unless the outputs are that close."""
    if precision == "int8":
        if parity.top1_agreement is not None:
            faithful = parity.sqnr_db is None or parity.sqnr_db >= FAITHFUL_SQNR_DB
            if parity.top1_agreement < MIN_INT8_AGREEMENT and not faithful:
                return f"only {parity.top1_agreement:.1%} of top-1 answers agree with the parent"
        elif parity.sqnr_db is not None and parity.sqnr_db < MIN_INT8_SQNR_DB:
            return f"the signal is only {parity.sqnr_db:.1f} dB above the quantization noise"
        return None
    scale = parity.max_abs_error / parity.relative_error if parity.relative_error else 0.0
    allowed = atol + rtol * scale
    if parity.max_abs_error <= allowed:
        return None
    return f"max abs error {parity.max_abs_error:.3g} is above the tolerance of {allowed:.3g}"


def remarks(parity: Parity) -> tuple[str, ...]:
    """What a user should know of an artifact that passed."""
    if parity.top1_agreement is None or parity.top1_agreement >= _REMARKABLE_AGREEMENT:
        return ()
    return (f"top-1 agrees in {parity.top1_agreement:.0%} of images only: measure its accuracy with bench --data",)


def _require_same_shapes(parents: Sequence[Outputs], children: Sequence[Outputs]) -> None:
    for expected, found in zip(parents, children, strict=True):
        shapes = ([array.shape for array in expected], [array.shape for array in found])
        if shapes[0] != shapes[1]:
            raise ValueError(f"its outputs have shapes {shapes[1]}, its parent's have {shapes[0]}")


def _sqnr_db(expected: NDArray[np.float64], error: NDArray[np.float64]) -> float | None:
    noise = float(np.sum(error**2))
    if noise == 0.0:
        return None
    signal = float(np.nansum(expected**2))
    return 10 * math.log10(signal / noise) if signal > 0 and math.isfinite(noise) else -999.0


def _finite(value: float) -> float:
    # JSON has no infinity; the largest float says the same to every comparison.
    return value if math.isfinite(value) else float(np.finfo(np.float64).max)


def _top1_agreement(parents: Sequence[Outputs], children: Sequence[Outputs]) -> float | None:
    if parents[0][0].ndim != 2 or parents[0][0].shape[1] < 2:
        return None
    same = [
        np.argmax(expected[0], axis=1) == np.argmax(found[0], axis=1)
        for expected, found in zip(parents, children, strict=True)
    ]
    return float(np.mean(np.concatenate(same)))
