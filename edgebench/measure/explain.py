"""`edgebench explain`: an int8 artifact read, run below its runtime's profiler on a device, and looked into layer by
layer, beside the float model that it was made of."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgebench.agent.operator_times import OperatorTimes
from edgebench.agent.wire import WIRE_VERSION, Job
from edgebench.config import find_device
from edgebench.errors import EdgebenchError, UsageError
from edgebench.explaining.executed import Executed, executed_of, times_of, unfused
from edgebench.explaining.explanation import Explanation
from edgebench.explaining.instructions import instructions, may_saturate
from edgebench.explaining.layers import Layer, counterparts, layers_of, twins, weight_noise
from edgebench.explaining.scheme import QuantizedFile, Scheme, read_file
from edgebench.explaining.tflite_scheme import scheme_of
from edgebench.explaining.values import Observed, Observer
from edgebench.measure.devices import Connected, connected
from edgebench.measure.explain_subjects import (
    Given,
    calibration_of,
    find_float_model,
    find_inputs,
    find_subject,
    renamed,
)
from edgebench.measure.jobs import JobRunner, read_output
from edgebench.measure.layer_values import float_weights, observe
from edgebench.measure.profile import DEFAULT_RUNS, profile_subject, runtime_for
from edgebench.measure.subjects import Subject
from edgebench.profiling.alignment import aligned
from edgebench.profiling.profile import Profile
from edgebench.progress import Progress, Silent
from edgebench.source.tflite_file import describe as describe_tflite
from edgebench.types import Calibration

__all__ = ["DEFAULT_SAMPLES", "explain"]

DEFAULT_SAMPLES = 16
_TIMEOUT_S = 600.0
_TFLITE_INSIDE = "of a TFLite file the answers alone are looked at, with inputs of --data or its bundle"
_NO_FLOAT_MODEL = "no float model is known: give the one that it was made of with --against"


@dataclass(frozen=True)
class _Side:
    """One of the two models: what it is, its graph, and its profile on the device."""

    subject: Subject
    file: QuantizedFile
    profile: Profile
    times: OperatorTimes

    @property
    def executed(self) -> list[Executed]:
        places = aligned(self.times.operators, self.times.graph)
        return executed_of(self.profile, self.times.graph, places, self.file)


def explain(
    path: str | Path,
    *,
    device: str = "local",
    against: str | Path | None = None,
    data: str | None = None,
    samples: int = DEFAULT_SAMPLES,
    preprocess: str | None = None,
    threads: int | None = None,
    runs: int = DEFAULT_RUNS,
    progress: Progress | None = None,
) -> Explanation:
    """Why the int8 artifact at `path` takes what it takes, and loses what it loses.

    Args:
        path: an ONNX or TFLite file of a bundle, or of anyone's.
        device: where it is timed; its values are looked at here.
        against: the float model that it was made of; None takes the one of its bundle.
        data: images to look at its values with; None takes the inputs that its bundle, or that of `against`, keeps.
        samples: how many of them.
        preprocess: for images of a file outside a bundle.
        threads: None takes the device's, else its physical cores.

    Raises:
        UsageError: not an int8 artifact, or a float model that is not its own.
        EnvironmentFailure: the runtime is not there, or has no profiler.
    """
    watch = progress or Silent()
    chosen = find_device(device)
    subject = find_subject(Path(path))
    file, scheme = _read(subject)
    if scheme.form == "float":
        source = path if file.nodes and subject.ref.precision == "fp32" else "ITS_FLOAT32_SOURCE"
        raise UsageError(
            f"{path} is not quantized ({subject.ref.precision or 'float'}): there is no int8 in it to explain",
            hint=f"where its time goes: edgebench profile {path}; int8 of it: edgebench export {source} --calib DATA",
        )
    beside = find_float_model(subject, None if against is None else Path(against))
    given = find_inputs(subject, beside, data, samples, preprocess)
    runtime = runtime_for(subject, None, chosen)
    with (
        tempfile.TemporaryDirectory(prefix="edgebench-explain-") as scratch,
        connected([chosen], Path(scratch), watch) as found,
    ):
        (item,) = found
        assert item.agent is not None
        runner = JobRunner(item.agent, item.scratch)
        count = threads or (chosen.threads or (int(item.device.fingerprint.get("physical_cores", 1)),))[0]
        models = [subject] if beside is None else [subject, beside]
        watch.start("profile", total=len(models))
        sides = []
        for model in models:
            fed = _fed(model, given)
            graph = file if model is subject else _read(model)[0]
            sides.append(_Side(fed, graph, *_profiled(fed, graph, runtime, count, runs, runner, item)))
            watch.advance()
        watch.done(f"{runs} inferences each with the profiler, {runs} without")
        own, float_side = sides[0], sides[1] if beside is not None else None
        device_noise = None
        if float_side is not None and given.feeds:
            device_noise = _noise_of_answers(own, float_side, runner, runtime, count)
        fingerprint = item.device.fingerprint
    watch.start("values")
    observed, why_none = _observed(own, float_side, given, count)
    watch.done(why_none or f"{len(given.feeds)} inputs")
    executed, cpu = own.executed, instructions(fingerprint)
    return Explanation(
        name=subject.ref.name,
        path=str(path),
        exported=subject.from_bundle,
        scheme=scheme,
        calibration=_in_words(calibration_of(subject)),
        parent=None if beside is None else str(beside.path),
        cpu=cpu,
        may_saturate=may_saturate(file, cpu),
        profile=own.profile,
        parent_profile=None if float_side is None else float_side.profile,
        unfused=tuple(unfused(executed, file, str(fingerprint.get("machine", "")))),
        layers=tuple(_layers(own, float_side, executed, observed)),
        inputs=len(given.feeds),
        fed_with=given.fed_with,
        why_no_values=why_none,
        noise=_noise_of_outputs(file, observed),
        device_noise=device_noise,
    )


def _read(subject: Subject) -> tuple[QuantizedFile, Scheme]:
    """The graph, and how it is quantized; of a TFLite file, whose graph is not looked into, the latter alone."""
    if subject.ref.format.startswith("tflite"):
        return QuantizedFile((), (), (), frozenset(), {}, ()), scheme_of(describe_tflite(subject.path))
    file = read_file(subject.path)
    return file, file.scheme


def _profiled(
    subject: Subject, file: QuantizedFile, runtime: str, threads: int, runs: int, runner: JobRunner, item: Connected
) -> tuple[Profile, OperatorTimes]:
    try:
        return profile_subject(subject, runtime, threads, runs, runner, item)
    except EdgebenchError as error:
        per_channel = [how.quantized for how in file.activations.values() if how.scale.size > 1]
        if not per_channel:
            raise
        raise type(error)(
            str(error),
            hint=f"{len(per_channel)} activations have a scale per channel, the first is {per_channel[0]}: quantize "
            "them per tensor, as edgebench export does",
        ) from error


def _fed(model: Subject, given: Given) -> Subject:
    if not given.feeds:
        return model
    return replace(model, kept=[renamed(feed, model) for feed in given.feeds], fed_with=given.fed_with)


def _observed(
    own: _Side, float_side: _Side | None, given: Given, threads: int
) -> tuple[dict[str, Observed], str | None]:
    """What was seen of the values, and why nothing is known of what layers lose."""
    if not own.file.nodes:
        return {}, _TFLITE_INSIDE
    if given.why_none is not None:
        return {}, given.why_none
    beside = None if float_side is None else (float_side.subject.path, float_side.file)
    try:
        found = observe((own.subject.path, own.file), beside, given.feeds, threads)
    except EdgebenchError as error:
        return {}, str(error)
    return found, _NO_FLOAT_MODEL if float_side is None else None


def _layers(
    own: _Side, float_side: _Side | None, executed: Sequence[Executed], observed: dict[str, Observed]
) -> list[Layer]:
    if not own.file.nodes:
        return []
    times, conversions = times_of(executed)
    modules = _modules(executed)
    if float_side is None:
        return layers_of(own.file, observed, modules, {}, times, conversions, {})
    beside = float_side.executed
    theirs, _ = times_of(beside)
    named = _modules(beside)
    found = twins(own.file, counterparts(own.file, float_side.file), float_side.file)
    return layers_of(
        own.file,
        observed,
        {first: named[parts[0]] for first, parts in found.items() if parts[0] in named} | modules,
        weight_noise(own.file, found, float_side.file, float_weights(float_side.subject.path)),
        times,
        conversions,
        {first: sum(theirs.get(part, 0.0) for part in parts) for first, parts in found.items() if parts[0] in theirs},
    )


def _modules(executed: Sequence[Executed]) -> dict[str, str]:
    """By the first results of a file's nodes."""
    return {
        item.origin.outputs[0]: item.module
        for item in executed
        # What brings a result into another layout is called after it, and of no module.
        if item.origin is not None and item.module is not None and item.work != "layout"
    }


def _noise_of_outputs(file: QuantizedFile, observed: dict[str, Observed]) -> float | None:
    """By the file's own arithmetic, of the worst output."""
    found = [observed.get(file.source(tensor)) for tensor in file.outputs]
    return max((item.noise for item in found if item is not None and item.noise is not None), default=None)


def _noise_of_answers(own: _Side, float_side: _Side, runner: JobRunner, runtime: str, threads: int) -> float | None:
    """By the device's kernels, of the worst output."""
    ours, theirs = (_answers(side.subject, runner, runtime, threads) for side in (own, float_side))
    noises = []
    for found, expected in zip(ours, theirs, strict=True):
        observer = Observer(None)
        observer.see(found.reshape(1, -1), expected=expected.reshape(1, -1))
        noises.append(observer.found().noise)
    return max((noise for noise in noises if noise is not None), default=None)


def _answers(subject: Subject, runner: JobRunner, runtime: str, threads: int) -> list[NDArray[Any]]:
    job = Job(
        version=WIRE_VERSION,
        kind="predict",
        artifact=str(subject.path.resolve()),
        runtime=runtime,
        threads=threads,
        feeds=runner.feeds_for(subject.inputs, subject.kept),
    )
    result = runner.job(job, timeout_s=_TIMEOUT_S)
    if result.status != "ok":
        raise EdgebenchError(f"{subject.ref.name} does not run: {result.reason}", hint="measure it: edgebench bench")
    return [np.asarray(read_output(file)) for file in result.outputs]


def _in_words(calibration: Calibration | None) -> str | None:
    if calibration is None:
        return None
    return f"{calibration.method}, {calibration.samples} images of {calibration.data}"
