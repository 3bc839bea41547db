"""`edgebench.bench`: every artifact on every device, each measurement in a fresh process, saved as soon as it is made.

Cells take turns: one round gives each cell one process, in an order drawn anew, and a figure relative to the baseline
is made of pairs from the same round. So a machine that slows down slows all cells alike.
"""

from __future__ import annotations

import platform
import random
import secrets
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from edgebench._version import __version__
from edgebench.agent.environment import describe_machine, usable_cpus
from edgebench.agent.wire import WIRE_VERSION, Job, Measurement
from edgebench.config import find_device
from edgebench.errors import UsageError
from edgebench.evaluation.preprocess import resolve_preprocess
from edgebench.measure.jobs import JobRunner, write_feeds
from edgebench.measure.scoring import EvaluationData, score_cells
from edgebench.measure.size import compressed_size
from edgebench.measure.subjects import RUNTIME_OF_FORMAT, Subject, find_subjects
from edgebench.pipeline import Exported
from edgebench.progress import Progress, Silent
from edgebench.store import SCHEMA, RunStore
from edgebench.types import Cell, Device, DeviceProfile, Run, Size

__all__ = ["BenchSettings", "bench"]

_FED_INPUTS = 8


@dataclass(frozen=True)
class BenchSettings:
    """How much is measured: `processes` fresh processes a cell, each with `warmup` untimed runs and then `iterations`
    timed ones, of which at least `min_iterations` whatever `max_time_s` says."""

    processes: int = 5
    warmup: int = 5
    iterations: int = 50
    min_iterations: int = 5
    max_time_s: float = 5.0


@dataclass(frozen=True)
class _Task:
    """A cell to be measured, and with what."""

    subject: Subject
    profile: DeviceProfile
    runtime: str
    threads: int


def bench(
    *paths: str | Path | Exported,
    devices: Sequence[str] = ("local",),
    runtimes: Sequence[str] | None = None,
    threads: Sequence[int] | None = None,
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
        runtimes: which of them; default: the one of each artifact's format.
        threads: intra-op threads, one cell for each number; default: the device's, else its physical cores.
        data: labelled images for top-1 and top-5; None measures no accuracy.
        samples: how many of them, evenly over the classes; default all.
        preprocess: for a single file; a bundle knows its own.
        baseline: the artifact that others are compared with; default the fp32 ONNX.
        include_failed: also measure artifacts that failed their parity.
        resume: the id of an interrupted run to go on with.

    Raises:
        UsageError: nothing to measure, or data that does not fit; before anything was measured.
    """
    watch = progress or Silent()
    chosen = settings or BenchSettings()
    subjects = find_subjects(
        [item.path if isinstance(item, Exported) else Path(item) for item in paths], include_failed=include_failed
    )
    subjects = [_prepared_as(subject, preprocess) for subject in subjects]
    evaluation = None if data is None else EvaluationData.open(data, samples, subjects)
    subjects = [_fed(subject, evaluation) for subject in subjects]
    tasks = _plan(subjects, [find_device(name) for name in devices], runtimes, threads)
    store = RunStore()
    with tempfile.TemporaryDirectory(prefix="edgebench-bench-") as scratch:
        runner = JobRunner(Path(scratch))
        session = _Session(
            store=store,
            runner=runner,
            tasks=tasks,
            run=_first_state(tasks, store, resume, command, baseline),
            settings=chosen,
        )
        try:
            session.measure(watch)
            if evaluation is not None:
                session.score(evaluation, watch)
        except KeyboardInterrupt:
            watch.warn(f"run {session.run.id} is not complete: the same command with --resume {session.run.id} goes on")
            raise
    return session.run


def _prepared_as(subject: Subject, preprocess: str | None) -> Subject:
    if preprocess is None:
        return subject
    asked = resolve_preprocess(preprocess)
    if subject.bundle is not None and subject.preprocess not in (None, asked):
        known = subject.preprocess.name if subject.preprocess is not None else ""
        raise UsageError(
            f"{subject.ref.name} was exported with the preprocessing `{known}`, not `{asked.name}`",
            hint="leave --preprocess out, or export again with it",
        )
    return replace(subject, preprocess=asked)


def _fed(subject: Subject, evaluation: EvaluationData | None) -> Subject:
    """The subject with real inputs to be measured with, where there are any."""
    if subject.kept or evaluation is None or subject.reason is not None:
        return subject
    return replace(subject, kept=evaluation.first(subject, _FED_INPUTS), fed_with=evaluation.dataset.spec)


def _plan(
    subjects: Sequence[Subject],
    profiles: Sequence[DeviceProfile],
    runtimes: Sequence[str] | None,
    threads: Sequence[int] | None,
) -> list[_Task]:
    known = set(RUNTIME_OF_FORMAT.values())
    for name in runtimes or ():
        if name not in known:
            raise UsageError(f"unknown runtime `{name}`", hint=f"there are: {', '.join(sorted(known))}")
    tasks = [
        _Task(subject, profile, runtime, count)
        for profile in profiles
        for count in threads or profile.threads or (_physical_cores(),)
        for subject in subjects
        if runtimes is None or RUNTIME_OF_FORMAT[subject.ref.format] in runtimes
        for runtime in (RUNTIME_OF_FORMAT[subject.ref.format],)
    ]
    if not tasks:
        raise UsageError("there is nothing to measure", hint="give a bundle with artifacts, or leave --runtime out")
    return tasks


def _physical_cores() -> int:
    """Cores that this process may use; a second thread on one core gives matrix products nothing."""
    return min(psutil.cpu_count(logical=False) or usable_cpus(), usable_cpus())


def _first_state(
    tasks: Sequence[_Task],
    store: RunStore,
    resume: str | None,
    command: Sequence[str],
    baseline: str | None,
) -> Run:
    cells = tuple(_blank_cell(task) for task in tasks)
    if resume is not None:
        earlier = store.load(resume)
        done = {_identity(cell): cell for cell in earlier.cells}
        if not any(_identity(cell) in done for cell in cells):
            raise UsageError(
                f"run {earlier.id} measured other artifacts", hint="resume with the arguments of the interrupted run"
            )
        return replace(earlier, cells=tuple(done.get(_identity(cell), cell) for cell in cells))
    started = datetime.now(UTC)
    machine = describe_machine()
    return Run(
        schema=SCHEMA,
        id=f"{started:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}",
        started_at=started.isoformat(timespec="seconds"),
        edgebench_version=__version__,
        command=tuple(command),
        inputs=", ".join(dict.fromkeys(task.subject.fed_with for task in tasks)),
        baseline=_choose_baseline(cells, baseline),
        devices=tuple(
            Device(profile.name, profile.name, {**machine, "host": platform.node()})
            for profile in {task.profile.name: task.profile for task in tasks}.values()
        ),
        cells=cells,
    )


def _identity(cell: Cell) -> tuple[Any, ...]:
    return (cell.artifact, cell.device, cell.runtime, cell.threads, cell.batch_size, cell.scenario)


def _blank_cell(task: _Task) -> Cell:
    subject = task.subject
    return Cell(
        artifact=subject.ref,
        device=task.profile.name,
        runtime=task.runtime,
        provider=None,
        threads=task.threads,
        batch_size=subject.inputs[0].shape[0] if subject.inputs and subject.inputs[0].shape else 1,
        scenario="single-stream",
        status="skipped",
        reason=subject.reason or "not measured: the run was interrupted",
    )


def _choose_baseline(cells: Sequence[Cell], asked: str | None) -> str | None:
    names = list(dict.fromkeys(cell.artifact.name for cell in cells))
    if asked is not None:
        if asked not in names:
            raise UsageError(
                f"there is no artifact `{asked}` to be the baseline", hint=f"there are: {', '.join(names)}"
            )
        return asked
    preferred = [cell.artifact.name for cell in cells if cell.artifact.format == "onnx"]
    return next(iter(preferred or names), None)


class _Session:
    """A run that grows: every change of a cell is stored at once."""

    def __init__(
        self, *, store: RunStore, runner: JobRunner, tasks: Sequence[_Task], run: Run, settings: BenchSettings
    ) -> None:
        self.run = run
        self._store = store
        self._runner = runner
        self._tasks = tasks
        self._settings = settings

    def measure(self, progress: Progress) -> None:
        """Rounds of one process a cell, until every cell has its number of processes."""
        settings = self._settings
        rounds = range(settings.processes)
        progress.start("measure", total=len(self._tasks) * len(rounds))
        with_size = [
            replace(cell, size=self._size(task)) for task, cell in zip(self._tasks, self.run.cells, strict=True)
        ]
        self._put(dict(enumerate(with_size)))
        for number in rounds:
            order = list(range(len(self._tasks)))
            random.Random(f"{self.run.id} {number}").shuffle(order)
            for index in order:
                cell = self.run.cells[index]
                if self._open(index) and len(cell.measurements) <= number:
                    self._put({index: _with_measurement(cell, self._measure(self._tasks[index]))})
                progress.advance()
        measured = sum(cell.status == "ok" for cell in self.run.cells)
        progress.done(f"{measured} of {len(self.run.cells)} cells, {settings.processes} processes each")

    def score(self, evaluation: EvaluationData, progress: Progress) -> None:
        """Accuracy of every cell that was measured, once per artifact and runtime."""
        wanted: dict[tuple[str, str], list[int]] = {}
        for index, (task, cell) in enumerate(zip(self._tasks, self.run.cells, strict=True)):
            if cell.status == "ok" and (cell.accuracy is None or cell.accuracy.sha256 != evaluation.sha256):
                wanted.setdefault((task.subject.ref.name, task.runtime), []).append(index)
        jobs = [
            (self._tasks[indices[0]].subject, self._tasks[indices[0]].runtime, self._tasks[indices[0]].threads)
            for indices in wanted.values()
        ]
        results = score_cells(self._runner, evaluation, jobs, progress)
        changes: dict[int, Cell] = {}
        for indices, result in zip(wanted.values(), results, strict=True):
            for index in indices:
                cell = self.run.cells[index]
                if isinstance(result, str):
                    changes[index] = replace(cell, status="failed", reason=result)
                else:
                    changes[index] = replace(cell, accuracy=result)
        self._put(changes)

    def _open(self, index: int) -> bool:
        cell = self.run.cells[index]
        return self._tasks[index].subject.reason is None and cell.status not in ("failed", "unsupported")

    def _size(self, task: _Task) -> Size | None:
        if task.subject.reason is not None:
            return None
        return compressed_size(task.subject.path, task.subject.ref.sha256)

    def _measure(self, task: _Task) -> Measurement:
        settings = self._settings
        subject = task.subject
        return self._runner.run(
            Job(
                version=WIRE_VERSION,
                kind="measure",
                artifact=str(subject.path.resolve()),
                runtime=task.runtime,
                threads=task.threads,
                feeds=self._runner.feeds_for(subject.inputs, subject.kept, write_feeds),
                warmup=settings.warmup,
                iterations=settings.iterations,
                min_iterations=settings.min_iterations,
                max_time_s=settings.max_time_s,
            )
        )

    def _put(self, changes: dict[int, Cell]) -> None:
        cells = tuple(changes.get(index, cell) for index, cell in enumerate(self.run.cells))
        self.run = replace(self.run, cells=cells)
        self._store.save(self.run)


def _with_measurement(cell: Cell, result: Measurement) -> Cell:
    if result.status == "ok":
        return replace(
            cell,
            status="ok",
            reason=None,
            provider=result.provider,
            measurements=(*cell.measurements, result),
        )
    if result.status == "unsupported":
        return replace(cell, status="unsupported", reason=result.reason)
    return replace(cell, status="failed", reason=result.reason)
