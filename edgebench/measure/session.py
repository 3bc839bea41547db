"""A run that grows: cells take turns, and every change of one is stored at once.

One round gives each cell one process, in an order drawn anew, and a figure relative to the baseline is made of pairs
from the same round. So a machine that slows down slows all cells alike.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from edgebench.agent.wire import WIRE_VERSION, Job, Measurement
from edgebench.measure.jobs import JobRunner
from edgebench.measure.scoring import EvaluationData, score_cells
from edgebench.measure.size import compressed_size
from edgebench.measure.subjects import Subject
from edgebench.progress import Progress
from edgebench.store import RunStore
from edgebench.types import Cell, DeviceProfile, Run, Size

__all__ = ["Session", "Task"]


@dataclass(frozen=True)
class Task:
    """A cell to be measured, and with what."""

    subject: Subject
    profile: DeviceProfile
    runtime: str
    threads: int


class Session:
    """Measures the cells of `run`, one for each of `tasks`; `run` is its present state."""

    def __init__(self, *, store: RunStore, runner: JobRunner, tasks: Sequence[Task], run: Run) -> None:
        self.run = run
        self._store = store
        self._runner = runner
        self._tasks = tasks

    def measure(self, progress: Progress) -> None:
        """Rounds of one process a cell, until every cell has its number of processes."""
        settings = self.run.settings
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
        """Accuracy of every cell that can be measured, once per artifact and runtime."""
        wanted: dict[tuple[str, str], list[int]] = {}
        for index, (task, cell) in enumerate(zip(self._tasks, self.run.cells, strict=True)):
            if self._open(index) and (cell.accuracy is None or cell.accuracy.sha256 != evaluation.sha256):
                wanted.setdefault((task.subject.ref.name, task.runtime), []).append(index)
        if not wanted:
            return
        first = [self._tasks[indices[0]] for indices in wanted.values()]
        results = score_cells(
            self._runner, evaluation, [(task.subject, task.runtime, task.threads) for task in first], progress
        )
        changes: dict[int, Cell] = {}
        for indices, result in zip(wanted.values(), results, strict=True):
            for index in indices:
                cell = self.run.cells[index]
                if isinstance(result, Measurement):
                    changes[index] = _with_measurement(cell, result)
                else:
                    changes[index] = replace(cell, accuracy=result)
        self._put(changes)

    def _open(self, index: int) -> bool:
        cell = self.run.cells[index]
        return self._tasks[index].subject.reason is None and cell.status not in ("failed", "unsupported")

    def _size(self, task: Task) -> Size | None:
        if task.subject.reason is not None:
            return None
        return compressed_size(task.subject.path, task.subject.ref.sha256)

    def _measure(self, task: Task) -> Measurement:
        settings = self.run.settings
        subject = task.subject
        return self._runner.run(
            Job(
                version=WIRE_VERSION,
                kind="measure",
                artifact=str(subject.path.resolve()),
                runtime=task.runtime,
                threads=task.threads,
                feeds=self._runner.feeds_for(subject.inputs, subject.kept),
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
