"""Parity: an artifact and its parent on the same inputs, and the judgement of how far apart they may be.

SQNR is the parent's signal power over the power of the difference, `10 log10(sum r^2 / sum (r - a)^2)`, over all
samples of one output. Float steps are judged by the largest error against the parent's largest value, output by output;
lossy ones by whether it still answers the same class, and by SQNR where an output is not class scores.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgebench.agent.environment import switch_telemetry_off, usable_cpus
from edgebench.agent.feeds import Tensor
from edgebench.agent.runtimes import executorch, ncnn, preparation, tflite
from edgebench.agent.runtimes.torchscript import flatten
from edgebench.agent.wire import TensorSpec
from edgebench.exporters.steps import Feed
from edgebench.types import Parity, Tolerance

__all__ = ["Comparison", "Runner", "compare", "judge", "open_runner", "remarks"]

Outputs = list[NDArray[Any]]
Runner = Callable[[Feed], Outputs]

# float32 rounds at about 140 dB; a float step whose outputs are below this is another function, however small they are.
MIN_FLOAT_SQNR_DB = 40.0
_SMALL_OUTPUT = 1e-4
# Below this an output that is not class scores is noise.
MIN_INT8_SQNR_DB = 5.0
# From here on the noise is below a tenth of the signal. If the top class changes all the same, the classes were tied,
# as an untrained network's are (torchvision's shufflenet_v2_x1_0: 48 dB, and no top-1 answer the same).
FAITHFUL_SQNR_DB = 20.0
_REMARKABLE_AGREEMENT = 0.9
# Formats that only a runtime of the agent opens.
_BY_AGENT: dict[str, ModuleType] = {
    format: runtime for runtime in (tflite, ncnn, executorch) for format in runtime.FORMATS
}
# What stands for minus infinity in JSON.
_LEAST_SQNR_DB = -999.0


@dataclass(frozen=True)
class OutputParity:
    """One output: the largest error, the parent's largest finite value, and SQNR (None for bit-equal outputs).
    `max_abs_error` is infinite where one of the two is not finite and the other differs."""

    max_abs_error: float
    scale: float
    sqnr_db: float | None


@dataclass(frozen=True)
class Comparison:
    """All outputs that have elements; `agreement` and `classes` are None where the first is not a row of scores."""

    outputs: tuple[OutputParity, ...]
    agreement: float | None
    classes: int | None

    def parity(self, *, inputs: Literal["calibration", "random"], samples: int) -> Parity:
        """The worst of each figure, as a bundle keeps it."""
        ratios = [out.sqnr_db for out in self.outputs if out.sqnr_db is not None]
        return Parity(
            inputs=inputs,
            samples=samples,
            max_abs_error=_finite(max(out.max_abs_error for out in self.outputs)),
            relative_error=_finite(max(_relative(out) for out in self.outputs)),
            sqnr_db=max(min(ratios), _LEAST_SQNR_DB) if ratios else None,
            top1_agreement=self.agreement,
        )


def open_runner(format: str, *, module: Any | None = None, path: Path | None = None) -> Runner:
    """A function from a feed to outputs, for a source's module or an artifact's file. It never changes the feed."""
    if format in ("source", "torchscript", "torch-export"):
        return _torch_runner(module, path)
    switch_telemetry_off()
    if format in _BY_AGENT:
        return _agent_runner(_BY_AGENT[format], str(path))
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda feed: list(session.run(None, dict(feed)))


def _agent_runner(runtime: ModuleType, path: str) -> Runner:
    """The runtime as it is on a device."""
    runtime.load_library()
    session = runtime.open_session(path, usable_cpus())
    prepare = preparation(runtime, session)

    def run(feed: Feed) -> Outputs:
        answer = session.run(prepare({name: _tensor(name, array) for name, array in feed.items()}))
        return [
            np.frombuffer(data, dtype=spec.dtype).reshape(spec.shape) for spec, data in session.named_outputs(answer)
        ]

    return run


def _tensor(name: str, array: NDArray[Any]) -> Tensor:
    spec = TensorSpec(name, tuple(array.shape), str(array.dtype))
    return Tensor(spec, memoryview(array.tobytes()))


def _torch_runner(module: Any | None, path: Path | None) -> Runner:
    import torch

    if module is None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch 2.15 calls TorchScript deprecated on every load
            if str(path).endswith(".pt2"):
                module = torch.export.load(str(path))
            else:
                module = torch.jit.load(str(path), map_location="cpu").eval()
    if isinstance(module, torch.export.ExportedProgram):
        module = module.module()

    def run(feed: Feed) -> Outputs:
        # Copies, because a network may work in place on what it is given.
        tensors = [torch.from_numpy(array.copy()) for array in feed.values()]
        # Without its profiling runs TorchScript answers the same, and does not compile for a handful of inputs.
        with torch.no_grad(), torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
            answer = module(*tensors)
        return [tensor.numpy() for tensor in flatten(answer)]

    return run


def compare(parents: Sequence[Outputs], children: Sequence[Outputs]) -> Comparison:
    """`children` against `parents`: one entry per feed, each the outputs of that feed in order.

    Raises:
        ValueError: other outputs, shapes or dtypes than the parent's; or nothing to compare, because every output is
            empty, or not finite in the parent itself.
    """
    for expected, found in zip(parents, children, strict=True):
        forms = [[(array.shape, str(array.dtype)) for array in outputs] for outputs in (expected, found)]
        if forms[0] != forms[1]:
            raise ValueError(f"its outputs are {_forms(forms[1])}, its parent's are {_forms(forms[0])}")
    outputs = tuple(
        _compare_output(
            np.concatenate([answer[index].reshape(-1) for answer in parents]).astype(np.float64),
            np.concatenate([answer[index].reshape(-1) for answer in children]).astype(np.float64),
        )
        for index in range(len(parents[0]))
        if any(answer[index].size for answer in parents)
    )
    if not outputs:
        raise ValueError("every output is empty on these inputs, so there was nothing to compare")
    first = parents[0][0]
    if first.ndim != 2 or first.shape[1] < 2 or not first.size:
        return Comparison(outputs, None, None)
    same = [
        np.argmax(expected[0], axis=1) == np.argmax(found[0], axis=1)
        for expected, found in zip(parents, children, strict=True)
    ]
    return Comparison(outputs, float(np.mean(np.concatenate(same))), int(first.shape[1]))


def judge(comparison: Comparison, *, lossy: bool, tolerance: Tolerance) -> str | None:
    """Why the artifact fails, or None.

    A float step fails where an output's largest error is above `atol + rtol * (the parent's largest value of it)`, and
    where a small output is below MIN_FLOAT_SQNR_DB. A
    lossy one fails where its top-1 answers agree less than halfway between chance and always, unless the outputs
    are within FAITHFUL_SQNR_DB; or where an output that is not class scores is below MIN_INT8_SQNR_DB. Both fail where
    an output is not finite and its parent's is.
    """
    for index, out in enumerate(comparison.outputs):
        if math.isinf(out.max_abs_error):
            return f"output {index} has values that are not finite, or not where its parent's are"
        allowed = tolerance.atol + tolerance.rtol * out.scale
        if not lossy and out.max_abs_error > allowed:
            return (
                f"output {index} has a max abs error of {out.max_abs_error:.3g}, above the tolerance of {allowed:.3g}"
            )
        # Below atol the absolute part alone would let anything pass.
        small = out.sqnr_db if out.sqnr_db is not None and 0 < out.scale < _SMALL_OUTPUT else math.inf
        if not lossy and small < MIN_FLOAT_SQNR_DB:
            return f"output {index} is small ({out.scale:.1g} at most) and only {small:.1f} dB above the error"
        scores = index == 0 and comparison.agreement is not None
        if lossy and not scores and out.sqnr_db is not None and out.sqnr_db < MIN_INT8_SQNR_DB:
            return f"output {index} is only {out.sqnr_db:.1f} dB above the quantization noise"
    if not lossy or comparison.agreement is None or comparison.classes is None:
        return None
    sqnr_db = comparison.outputs[0].sqnr_db
    least = (1 + 1 / comparison.classes) / 2
    if comparison.agreement >= least or sqnr_db is None or sqnr_db >= FAITHFUL_SQNR_DB:
        return None
    return f"only {comparison.agreement:.1%} of top-1 answers agree with the parent, at {sqnr_db:.1f} dB"


def remarks(comparison: Comparison) -> tuple[str, ...]:
    """What a user should know of an artifact that passed."""
    if comparison.agreement is None or comparison.agreement >= _REMARKABLE_AGREEMENT:
        return ()
    return (f"top-1 agrees in {comparison.agreement:.0%} of images only: measure its accuracy with bench --data",)


def _compare_output(expected: NDArray[np.float64], found: NDArray[np.float64]) -> OutputParity:
    finite = np.isfinite(expected)
    if not finite.any():
        raise ValueError("its parent answers nothing finite on these inputs, so there was nothing to compare")
    same = (expected == found) | (np.isnan(expected) & np.isnan(found))
    if not (same | (finite & np.isfinite(found))).all():
        return OutputParity(math.inf, 0.0, -math.inf)
    signal = expected[finite]
    error = np.abs(signal - found[finite])
    noise_power, signal_power = float(np.sum(error**2)), float(np.sum(signal**2))
    sqnr_db = None
    if noise_power > 0:
        sqnr_db = 10 * math.log10(signal_power / noise_power) if signal_power > 0 else -math.inf
    return OutputParity(float(error.max()), float(np.abs(signal).max()), sqnr_db)


def _relative(out: OutputParity) -> float:
    if out.max_abs_error == 0:
        return 0.0
    return out.max_abs_error / out.scale if out.scale > 0 else math.inf


def _finite(value: float) -> float:
    # JSON has no infinity; the largest float says the same to every comparison.
    return min(value, float(np.finfo(np.float64).max))


def _forms(forms: Sequence[tuple[tuple[int, ...], str]]) -> str:
    return ", ".join(f"{dtype} {list(shape)}" for shape, dtype in forms)
