"""`edgebench profile`: artifacts run on a device below their runtime's profiler, each in a process of its own."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path

from edgebench.agent.operator_times import OperatorTimes
from edgebench.agent.profilers.onnx_nodes import read_nodes
from edgebench.agent.wire import WIRE_VERSION, Job
from edgebench.bundle import BUNDLE_FILE, load_bundle
from edgebench.config import find_device
from edgebench.errors import EdgebenchError, EnvironmentFailure, SourceError, UsageError
from edgebench.measure.devices import Connected, connected
from edgebench.measure.jobs import JobRunner
from edgebench.measure.subjects import RUNTIMES, USUAL_RUNTIMES, Subject, find_subjects
from edgebench.profiling import onnx_modules, tflite_modules
from edgebench.profiling.alignment import aligned
from edgebench.profiling.eager import profile_source
from edgebench.profiling.onnx_modules import Found
from edgebench.profiling.profile import Operator, Profile, build
from edgebench.progress import Progress, Silent
from edgebench.source.sniff import Identity, identify
from edgebench.types import Artifact, DeviceProfile

__all__ = ["DEFAULT_RUNS", "lineage", "profile", "profile_subject", "runtime_for", "subject_of"]

DEFAULT_RUNS = 20
_TIMEOUT_S = 600.0
_EMULATED = "the device is emulated: which operators it executes is real, their times say nothing"


def profile(
    paths: Sequence[str | Path],
    *,
    device: str = "local",
    runtime: str | None = None,
    threads: int | None = None,
    runs: int = DEFAULT_RUNS,
    arch: str | None = None,
    trust: bool = False,
    input_shape: Sequence[int] | None = None,
    progress: Progress | None = None,
) -> list[Profile]:
    """What the inferences of each artifact, or of each network that one was exported from, spend their time on.

    Args:
        paths: artifacts of bundles, single files, or sources, which this process runs.
        device: the name of a profile.
        runtime: None takes the usual one of the artifact's format, or the device's.
        threads: None takes the device's, else its physical cores.
        runs: how many inferences with the profiler, and as many without it.
        arch: of a source, and `trust` and `input_shape` as well: as for `export`.

    Raises:
        UsageError: not an artifact, or one that the runtime does not open.
        EnvironmentFailure: the runtime is not there, or has no profiler.
        EdgebenchError: the artifact failed.
    """
    watch = progress or Silent()
    chosen = find_device(device)
    identities = [_source(str(path)) for path in paths]
    if any(identities) and (chosen.transport != "local" or runtime is not None):
        raise UsageError(
            "a source is run by PyTorch on this machine", hint="leave --device and --runtime out, or export it"
        )
    if not any(identities) and (arch is not None or trust or input_shape is not None):
        raise UsageError("--arch, --trust and --input-shape are for a source", hint="leave them out for artifacts")
    subjects = [
        None if identity is not None else subject_of(Path(path))
        for path, identity in zip(paths, identities, strict=True)
    ]
    runtimes = [None if subject is None else runtime_for(subject, runtime, chosen) for subject in subjects]
    with (
        tempfile.TemporaryDirectory(prefix="edgebench-profile-") as scratch,
        connected([chosen], Path(scratch), watch) as found,
    ):
        (item,) = found
        assert item.agent is not None
        runner = JobRunner(item.agent, item.scratch)
        count = threads or (chosen.threads or (int(item.device.fingerprint.get("physical_cores", 1)),))[0]
        watch.start("profile", total=len(subjects))
        profiles = []
        for subject, name, identity in zip(subjects, runtimes, identities, strict=True):
            if subject is not None and name is not None:
                profiles.append(profile_subject(subject, name, count, runs, runner, item)[0])
            elif identity is not None:
                times = profile_source(
                    identity, arch=arch, trust=trust, input_shape=input_shape, threads=count, runs=runs
                )
                profiles.append(_of_source(identity, times, count))
            watch.advance()
        watch.done(f"{runs} inferences each with the profiler, {runs} without")
    if len({one.name for one in profiles}) < len(profiles):
        return [replace(one, name=str(path)) for one, path in zip(profiles, paths, strict=True)]
    return profiles


def _source(text: str) -> Identity | None:
    """The source that `text` names; None for what may be an artifact."""
    path = Path(text)
    if path.is_dir() or (path.parent / BUNDLE_FILE).is_file():
        return None
    try:
        identity = identify(text)
    except SourceError:
        # What it is instead, `find_subjects` says.
        if path.exists() or ":" not in text:
            return None
        raise
    return None if identity.kind == "onnx" else identity


def _of_source(identity: Identity, times: OperatorTimes, threads: int) -> Profile:
    return Profile(
        name=identity.spec,
        format="source",
        precision="fp32",
        runtime="torch",
        runtime_version=metadata.version("torch"),
        device="local",
        threads=threads,
        fed_with="random numbers",
        method=times.method,
        operators=build(times, [None] * len(times.operators), ()),
        whole_ns=times.whole_ns,
        unprofiled_ns=times.unprofiled_ns,
        notes=times.notes,
    )


def subject_of(path: Path, *, include_failed: bool = False) -> Subject:
    """The artifact at `path`; with `include_failed` also one that broke its parity.

    Raises:
        UsageError: it is none, or one that must not be measured.
    """
    if path.is_dir():
        names = ", ".join(
            str(path / artifact.file) for artifact in load_bundle(path).artifacts if artifact.file is not None
        )
        raise UsageError(f"{path} is a bundle: name one of its artifacts", hint=f"there are: {names}")
    (subject,) = find_subjects([path], include_failed=True)
    failed = next((item.reason for item in lineage(subject)[-1:] if item.status == "failed"), None)
    reason = subject.reason or (None if include_failed else failed)
    if reason is not None:
        raise UsageError(f"{path} is not profiled: {reason}", hint="choose another artifact of its bundle")
    if not subject.inputs:
        raise UsageError(f"{path} does not say what it is fed", hint="profile it in the bundle that it was exported to")
    return subject


def runtime_for(subject: Subject, asked: str | None, device: DeviceProfile) -> str:
    """The runtime that was asked for, else the usual one that opens the artifact.

    Raises:
        UsageError: there is none.
    """
    if asked is not None and asked not in RUNTIMES:
        raise UsageError(f"unknown runtime `{asked}`", hint=f"there are: {', '.join(sorted(RUNTIMES))}")
    candidates = (asked,) if asked is not None else device.runtimes or tuple(USUAL_RUNTIMES)
    for name in candidates:
        if subject.ref.format in RUNTIMES.get(name, ()):
            return name
    opening = [name for name, formats in RUNTIMES.items() if subject.ref.format in formats]
    raise UsageError(
        f"{' and '.join(candidates)} does not open {subject.path.name} ({subject.ref.format})",
        hint=f"these do: {', '.join(opening)}",
    )


def profile_subject(
    subject: Subject, runtime: str, threads: int, runs: int, runner: JobRunner, item: Connected
) -> tuple[Profile, OperatorTimes]:
    """The profile of one artifact on a device, and what the runtime told, operator by operator in the same order.

    Raises:
        EnvironmentFailure: the runtime is not there, or has no profiler.
        EdgebenchError: the artifact failed.
    """
    job = Job(
        version=WIRE_VERSION,
        kind="profile",
        artifact=str(subject.path.resolve()),
        runtime=runtime,
        threads=threads,
        feeds=runner.feeds_for(subject.inputs, subject.kept),
        runs=runs,
    )
    measured = runner.job(job, timeout_s=_TIMEOUT_S)
    if measured.status == "unsupported":
        raise EnvironmentFailure(
            f"{subject.ref.name} was not profiled on {item.device.name}: {measured.reason}",
            hint="choose another --runtime or --device, or measure it as a whole: edgebench bench",
        )
    times = measured.operator_times
    if times is None:
        raise EdgebenchError(
            f"{subject.ref.name} was not profiled on {item.device.name}: {measured.reason}",
            hint="measure it as a whole: edgebench bench",
        )
    made = Profile(
        name=subject.ref.name,
        format=subject.ref.format,
        precision=subject.ref.precision,
        runtime=runtime,
        runtime_version=measured.runtime_version,
        device=item.device.name,
        threads=threads,
        fed_with=subject.fed_with,
        method=times.method,
        operators=_operators(times, subject),
        whole_ns=times.whole_ns,
        unprofiled_ns=times.unprofiled_ns,
        notes=(*([_EMULATED] if item.device.emulated else []), *times.notes),
    )
    return made, times


def _operators(times: OperatorTimes, subject: Subject) -> tuple[Operator, ...]:
    modules: list[Found] = []
    if subject.ref.format.startswith(("onnx", "ort")):
        beside = [subject.path.parent / item.file for item in lineage(subject)[:-1] if item.file is not None]
        # Nodes are read from ONNX alone, and a graph keeps their names in onnxruntime's own format.
        readable = [path for path in [*beside, subject.path] if path.suffix != ".ort" and path.is_file()]
        files = [read_nodes(str(path)) for path in readable]
        modules = onnx_modules.modules_of(times.graph, onnx_modules.file_names(files))
    elif subject.ref.format.startswith("tflite"):
        modules = tflite_modules.modules_of(times.graph)
    return build(times, aligned(times.operators, times.graph), modules)


def lineage(subject: Subject) -> list[Artifact]:
    """The artifact as its bundle lists it, and before it those that it was made from, the first one first."""
    if not subject.from_bundle:
        return []
    artifacts = load_bundle(subject.path.parent).artifacts
    found = [next(item for item in artifacts if item.file == subject.path.name)]
    while (parent := next((item for item in artifacts if item.name == found[0].parent), None)) is not None:
        found.insert(0, parent)
    return found
