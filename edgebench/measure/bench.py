"""`edgebench.bench`: what is to be measured, checked and planned before the first measurement."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgebench.agent.environment import physical_cores
from edgebench.bundle import BUNDLE_FILE, load_bundle
from edgebench.config import find_device
from edgebench.errors import DeviceError, EdgebenchError, UsageError
from edgebench.evaluation.datasets import choose, open_dataset, overlap
from edgebench.evaluation.preprocess import resolve_preprocess
from edgebench.measure.batching import rebatched
from edgebench.measure.devices import Connected, connected, side_by_side
from edgebench.measure.jobs import JobRunner
from edgebench.measure.plan import earlier_run, new_run, plan_tasks
from edgebench.measure.scoring import EvaluationData, scores_here
from edgebench.measure.session import RunBook, Session, Task
from edgebench.measure.subjects import Subject, find_subjects
from edgebench.pipeline import Exported
from edgebench.progress import Progress, Silent
from edgebench.scenarios import parse_scenario
from edgebench.store import RunStore
from edgebench.types import HIGHEST_PERCENTILE, NOT_MEASURED, BenchSettings, Cell, Run

__all__ = ["bench", "measure_subjects"]

_FED_INPUTS = 8


def bench(
    *paths: str | Path | Exported,
    devices: Sequence[str] = ("local",),
    runtimes: Sequence[str] | None = None,
    threads: Sequence[int] | None = None,
    scenarios: Sequence[str] = ("single-stream",),
    batch_sizes: Sequence[int] | None = None,
    data: str | None = None,
    samples: int | None = None,
    preprocess: str | None = None,
    baseline: str | None = None,
    settings: BenchSettings | None = None,
    include_failed: bool = False,
    resume: str | None = None,
    command: Sequence[str] = (),
    progress: Progress | None = None,
) -> Run:
    """Measure every artifact of the bundles and files at `paths`; the run is stored after every measurement.

    Args:
        devices: names of profiles in `devices/`.
        runtimes: which of them, or `all`; default: the usual one of each artifact's format.
        threads: intra-op threads, one cell for each number; default: the device's, else its physical cores.
        scenarios: of `edgebench.scenarios`, one cell for each; `offline` takes 1, 2, 4, ... threads up to the cores
            unless `threads` says otherwise.
        batch_sizes: inputs at once, a cell for each; default: as the artifact was exported.
        data: labelled images for top-1 and top-5; None measures no accuracy.
        samples: how many of them, evenly over the classes; default all.
        preprocess: for a single file; a bundle knows its own.
        baseline: the artifact that others are compared with; default the fp32 ONNX.
        include_failed: also measure artifacts that failed their parity.
        resume: the id of an interrupted run to go on with, in its own settings.

    Raises:
        UsageError: nothing to measure, or data that does not fit; before anything was measured.
    """
    places = [item.path if isinstance(item, Exported) else Path(item) for item in paths]
    return measure_subjects(
        find_subjects(places, include_failed=include_failed),
        places,
        devices=devices,
        runtimes=runtimes,
        threads=threads,
        scenarios=scenarios,
        batch_sizes=batch_sizes,
        data=data,
        samples=samples,
        preprocess=preprocess,
        baseline=baseline,
        settings=settings or BenchSettings(),
        resume=resume,
        command=command,
        watch=progress or Silent(),
        with_peaks=True,
    )


def measure_subjects(
    subjects: Sequence[Subject],
    places: Sequence[Path],
    *,
    devices: Sequence[str],
    runtimes: Sequence[str] | None,
    threads: Sequence[int] | None,
    data: str | None,
    samples: int | None,
    preprocess: str | None,
    settings: BenchSettings,
    command: Sequence[str],
    watch: Progress,
    scenarios: Sequence[str] = ("single-stream",),
    batch_sizes: Sequence[int] | None = None,
    baseline: str | None = None,
    resume: str | None = None,
    is_known: Callable[[Run, Cell], bool] | None = None,
    with_peaks: bool = False,
) -> Run:
    """Check, plan and measure `subjects`, which came from `places`; the arguments are those of `bench`.

    Args:
        is_known: whether a cell that has its processes needs no more of them; default as `settings.precision` says.
        with_peaks: also try what each device can do at most, which takes about two seconds.
    """
    if min(settings.processes, settings.iterations, *(threads or (1,)), *(batch_sizes or (1,))) < 1:
        raise UsageError("processes, iterations, threads and batch sizes are 1 or more")
    if not all(50 <= percent <= HIGHEST_PERCENTILE for percent in settings.percentiles):
        raise UsageError(f"percentiles are from 50 to {HIGHEST_PERCENTILE}", hint="percentiles=(50.0, 95.0)")
    # Each once: the same cell twice would be two names for one thing.
    threads = None if threads is None else list(dict.fromkeys(threads))
    batch_sizes = None if batch_sizes is None else list(dict.fromkeys(batch_sizes))
    scenarios = list(dict.fromkeys(scenarios))
    subjects = [_prepared_as(item, preprocess) for item in subjects]
    evaluation = None if data is None else EvaluationData.open(data, samples, subjects)
    if evaluation is not None:
        subjects = [_fed(subject, evaluation) for subject in subjects]
        _warn_of_classes(subjects, evaluation, watch)
        _warn_of_overlap(places, evaluation, watch)
        if any(subject.untrained for subject in subjects):
            watch.warn("the weights are untrained: speed and size are real, accuracy says nothing")
    kinds = [parse_scenario(scenario).kind for scenario in scenarios]
    profiles = [find_device(name) for name in dict.fromkeys(devices)]
    store = RunStore()
    earlier = None if resume is None else store.load(resume)
    with (
        tempfile.TemporaryDirectory(prefix="edgebench-bench-") as name,
        connected(profiles, Path(name), watch) as found,
    ):
        scratch = Path(name)
        if batch_sizes is not None:
            watch.start("batch sizes", total=len(subjects) * len(batch_sizes))
            subjects = [other for item in subjects for other in _of_batches(item, batch_sizes, scratch, watch)]
            proved = sum(subject.reason is None for subject in subjects)
            watch.done(f"{proved} of {len(subjects)} answer as they do one by one")
        if "end-to-end" in kinds:
            subjects = [_with_frames(subject, evaluation) for subject in subjects]
        tasks = plan_tasks(subjects, found, runtimes, threads, scenarios)
        if earlier is None:
            run = new_run(tasks, found, settings, command, baseline, evaluation)
        else:
            run = earlier_run(earlier, tasks, found, evaluation)
        book = RunBook(store, run)

        # Before anything is measured, because this machine may be among the devices.
        here = {} if evaluation is None else _scores_here(run, tasks, found, evaluation, scratch, watch)

        def work_on(item: Connected) -> Callable[[], None]:
            progress = watch.beside(item.profile.name) if len(found) > 1 else watch
            others = {} if item.profile.transport == "local" else here
            return lambda: _measure(item, book, tasks, evaluation, others, is_known, with_peaks, progress)

        reached = [item for item in found if item.agent is not None]
        try:
            side_by_side([work_on(item) for item in reached], [item.agent for item in reached if item.agent])
        except KeyboardInterrupt:
            store.save(book.run)
            watch.warn(f"run {run.id} is not complete: the same command with --resume {run.id} goes on")
            raise
    return book.run


def _measure(
    item: Connected,
    book: RunBook,
    tasks: Sequence[Task],
    evaluation: EvaluationData | None,
    here: Mapping[tuple[str, str], NDArray[Any]],
    is_known: Callable[[Run, Cell], bool] | None,
    with_peaks: bool,
    progress: Progress,
) -> None:
    """All that is asked of one device. One that is lost keeps what was measured, and does not stop the others."""
    assert item.agent is not None
    runner = JobRunner(item.agent, item.scratch)
    session = Session(book=book, runner=runner, tasks=tasks, device=item.device, is_known=is_known)
    try:
        if item.profile.transport != "local":
            session.push(progress)
        # Accuracy first: it reads every image, so that a broken one costs no measurement.
        if evaluation is not None:
            session.score(evaluation, progress, here)
        session.weigh()
        if with_peaks:
            session.find_peaks(progress)
        session.measure(progress)
        if session.run.settings.count is not None:
            session.count(progress)
        if session.run.settings.sustained_min:
            session.sustain(progress)
    except DeviceError as error:
        progress.warn(f"{error}; {error.hint}; what was measured is kept, and --resume {book.run.id} goes on")
        unmeasured = {
            index: replace(cell, reason=str(error))
            for index, cell in enumerate(book.run.cells)
            if cell.device == item.device.name and cell.reason == NOT_MEASURED
        }
        book.put(unmeasured, device=replace(book.run.device(item.device.name), error=str(error)))


def _scores_here(
    run: Run,
    tasks: Sequence[Task],
    found: Sequence[Connected],
    evaluation: EvaluationData,
    scratch: Path,
    watch: Progress,
) -> dict[tuple[str, str], NDArray[Any]]:
    """What this machine answers to the images that other devices are about to score."""
    elsewhere = {item.profile.name for item in found if item.agent is not None and item.profile.transport != "local"}
    wanted = {
        (task.subject.ref.name, task.runtime): (task.subject, task.runtime, physical_cores())
        for task, cell in zip(tasks, run.cells, strict=True)
        if cell.device in elsewhere and task.subject.reason is None and cell.accuracy is None
    }
    if not wanted:
        return {}
    own = scratch / "here"
    own.mkdir()
    return scores_here(JobRunner.here(own), evaluation, list(wanted.values()), watch.beside("this machine"))


def _of_batches(subject: Subject, batch_sizes: Sequence[int], scratch: Path, progress: Progress) -> Iterator[Subject]:
    """The subject once for each batch size, with a reason where its file takes no such batch."""
    if subject.reason is not None:
        yield subject
        return
    for batch in batch_sizes:
        directory = scratch / f"{subject.ref.name.replace('/', '-')}-batch-{batch}"
        directory.mkdir(parents=True)
        found = rebatched(subject.path, subject.ref.format, subject.inputs, batch, directory)
        progress.advance()
        yield replace(
            subject,
            path=found.path or subject.path,
            exported=subject.path,
            inputs=found.inputs,
            outputs=tuple(replace(spec, shape=(batch, *spec.shape[1:])) for spec in subject.outputs),
            kept=_batched(subject.kept, batch),
            reason=found.reason,
        )


def _batched(kept: Sequence[Mapping[str, NDArray[Any]]], batch: int) -> list[dict[str, NDArray[Any]]]:
    """The same rows, `batch` of them at a time and again from the first where they run out."""
    if not kept:
        return []
    rows = {name: np.concatenate([feed[name] for feed in kept]) for name in kept[0]}
    count = len(next(iter(rows.values())))
    chosen = [np.arange(start, start + batch) % count for start in range(0, count, batch)]
    return [{name: values[indices] for name, values in rows.items()} for indices in chosen]


def _prepared_as(subject: Subject, preprocess: str | None) -> Subject:
    if preprocess is None:
        return subject
    asked = resolve_preprocess(preprocess)
    if subject.from_bundle and subject.preprocess not in (None, asked):
        known = subject.preprocess.name if subject.preprocess is not None else ""
        raise UsageError(
            f"{subject.ref.name} was exported with the preprocessing `{known}`, not `{asked.name}`",
            hint="leave --preprocess out, or export again with it",
        )
    return replace(subject, preprocess=asked)


def _fed(subject: Subject, evaluation: EvaluationData) -> Subject:
    """The subject with what is known of its images, and with some of them to be measured with if none came with it."""
    if subject.reason is not None:
        return subject
    subject = replace(subject, preprocess=evaluation.prepared_as(subject))
    if subject.kept:
        return subject
    return replace(subject, kept=evaluation.first(subject, _FED_INPUTS), fed_with=evaluation.dataset.spec)


def _with_frames(subject: Subject, evaluation: EvaluationData | None) -> Subject:
    if subject.reason is not None:
        return subject
    if evaluation is None or evaluation.dataset.ready or subject.preprocess is None:
        raise UsageError(
            "end-to-end measures from an image's pixels on, and there are no images",
            hint="give --data with images (imagefolder:DIR, csv:FILE, cifar10:DIR, ...) that have a preprocessing",
        )
    if subject.inputs[0].shape[0] != 1:
        raise UsageError(f"end-to-end takes one frame at a time, and {subject.ref.name} a batch", hint="leave it out")
    return replace(subject, frames=evaluation.frames(_FED_INPUTS))


def _warn_of_classes(subjects: Sequence[Subject], evaluation: EvaluationData, progress: Progress) -> None:
    """Labels that come from positions of folders are wrong where some folders are missing."""
    given = evaluation.dataset.class_count
    known = max((subject.outputs[0].shape[1] for subject in subjects if subject.reason is None), default=0)
    if given is not None and given < known:
        progress.warn(
            f"{evaluation.dataset.spec} has {given} classes, the model {known}: labels count the classes that are "
            "there in order; if they are a part of the model's, give them with csv:FILE"
        )


def _warn_of_overlap(places: Sequence[Path], evaluation: EvaluationData, progress: Progress) -> None:
    """Images that calibrated int8 say little about its accuracy on others."""
    for directory in dict.fromkeys(place if place.is_dir() else place.parent for place in places):
        if not (directory / BUNDLE_FILE).is_file():
            continue
        calibration = load_bundle(directory).calibration
        if calibration is None:
            continue
        try:
            dataset = open_dataset(calibration.data)
        except EdgebenchError:
            continue  # The images that calibrated need not be here any more.
        chosen = choose(dataset, calibration.samples, calibration.seed)
        if common := overlap(dataset, chosen, evaluation.dataset, evaluation.indices):
            progress.warn(
                f"{common} of the {len(evaluation.indices)} images of {evaluation.dataset.spec} also calibrated "
                f"{directory}: take others, or expect int8 to look too good"
            )
