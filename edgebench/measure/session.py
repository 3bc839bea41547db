"""One device's part of a run that grows: rounds of measurements, until every cell is known well enough; each round is
stored at once.

A round gives each cell one fresh process and all of them turns in alternation (agent.conductor), so that a machine that
slows down slows all cells alike; a figure relative to the baseline is made of pairs from one round.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from numpy.typing import NDArray

from edgebench.agent.roofline import Roofline
from edgebench.agent.runtimes import on_gpu
from edgebench.agent.wire import WIRE_VERSION, Job, Measurement, Round, RoundResult
from edgebench.figures import baseline_cell, is_precise
from edgebench.measure.costs import costs_of
from edgebench.measure.jobs import JobRunner
from edgebench.measure.scoring import EvaluationData, score_cells
from edgebench.measure.size import compressed_size
from edgebench.measure.subjects import Subject
from edgebench.progress import Progress
from edgebench.scenarios import parse_scenario
from edgebench.store import RunStore
from edgebench.types import Cell, Device, DeviceProfile, LedgerEntry, Run, Size

__all__ = ["RunBook", "Session", "Task"]

# Timed runs in a turn: blocks of five gave closer ratios than turns of one run, and drift is still cut small.
_TURN = 5
# So many rounds in a row shall be precise. Whoever stops at the first interval that is narrow stops at one that is so
# by chance, and that holds the true value less often than 95 % (benchmarks/coverage.py).
_IN_A_ROW = 3
# Of a sustained run: long enough for a median, and enough of them for a curve.
_WINDOW_S = 5.0
_LEAST_WINDOWS = 12
# qemu takes a hundred times as long as the machine itself.
_COUNT_TIMEOUT_S = 1800.0
_PEAKS_TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Task:
    """A cell to be measured, and with what."""

    subject: Subject
    profile: DeviceProfile
    runtime: str
    threads: int
    scenario: str


class RunBook:
    """The run as it stands, which the sessions of several devices write into at once; every change is stored."""

    def __init__(self, store: RunStore, run: Run) -> None:
        self.run = run
        self._store = store
        self._mutex = threading.Lock()

    def put(self, changes: Mapping[int, Cell], *entries: LedgerEntry, device: Device | None = None) -> None:
        """Replace cells by number, add to the ledger, replace a device."""
        with self._mutex:
            run = self.run
            cells = tuple(changes.get(index, cell) for index, cell in enumerate(run.cells))
            devices = tuple(device if device and device.name == other.name else other for other in run.devices)
            self.run = replace(run, cells=cells, ledger=(*run.ledger, *entries), devices=devices)
            self._store.save(self.run)


class Session:
    """Measures those cells of the book's run that are of one device, one for each of `tasks`, by `runner`.

    `is_known` says whether a cell that has its processes needs no more; by default the settings' precision does.
    """

    def __init__(
        self,
        *,
        book: RunBook,
        runner: JobRunner,
        tasks: Sequence[Task],
        device: Device,
        is_known: Callable[[Run, Cell], bool] | None = None,
    ) -> None:
        self._book = book
        self._runner = runner
        self._tasks = tasks
        self._device = device
        self._own = [index for index, task in enumerate(tasks) if task.profile.name == device.name]
        self._is_known_otherwise = is_known

    @property
    def run(self) -> Run:
        """As it stands."""
        return self._book.run

    def _cells(self) -> list[Cell]:
        return [self.run.cells[index] for index in self._own]

    def weigh(self) -> None:
        """Note of every cell what is known without its device: its file's size, and what an inference takes."""
        subjects = {id(self._tasks[index].subject): self._tasks[index].subject for index in self._own}
        costs = {key: costs_of(subject) for key, subject in subjects.items()}
        self._put(
            {
                index: replace(
                    self.run.cells[index],
                    size=self._size(self._tasks[index]),
                    costs=costs[id(self._tasks[index].subject)],
                )
                for index in self._own
            }
        )

    def find_peaks(self, progress: Progress) -> None:
        """What the device can do at most with as many threads as its cells have, or why that is not known."""
        threads: set[int] = set()
        for index in self._own:
            task, costs = self._tasks[index], self.run.cells[index].costs
            # Tools of a device without Python have no products of their own, an emulator's are no device's.
            has_peak = not (self._device.emulated or task.profile.tools or on_gpu(task.runtime))
            if has_peak and self._open(index) and costs is not None and costs.macs:
                threads.add(task.threads)
        if not threads:
            return
        progress.start("peaks", total=len(threads))
        found: list[Roofline] = []
        reason = None
        for count in sorted(threads):
            job = Job(WIRE_VERSION, "roofline", artifact="", runtime="", threads=count, feeds=())
            result = self._runner.job(job, timeout_s=_PEAKS_TIMEOUT_S)
            found.extend(result.rooflines)
            reason = result.reason or reason
            progress.advance()
        self._book.put({}, device=replace(self._device, rooflines=tuple(found), no_roofline=reason))
        rates = [f"threads {item.threads}: {item.flops_per_s / 1e9:.3g} GFLOP/s" for item in found]
        progress.done(reason or ", ".join(rates))

    def measure(self, progress: Progress) -> None:
        """Rounds, until every cell has its number of processes, and its precision where one was asked for."""
        settings = self.run.settings
        progress.start("measure", total=len(self._own) * settings.processes)
        started = time.monotonic()
        limit_s = settings.max_time_s * len(self._own)
        longest_s = 0.0
        while (wanted := self._wanted()) and (
            self._lacks_processes(wanted) or time.monotonic() - started + longest_s < limit_s
        ):
            before = time.monotonic()
            self._round(self._next_round(), wanted)
            longest_s = max(longest_s, time.monotonic() - before)
            progress.advance(len(wanted))
        measured = [cell for cell in self._cells() if cell.status == "ok"]
        counts = sorted({_processes(cell) for cell in measured}) or [0]
        each = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else f"{counts[0]}"
        progress.done(f"{len(measured)} of {len(self._own)} cells, {each} processes each")

    def _wanted(self) -> list[int]:
        """Cells that the next round measures: those not known well enough, and what they are compared with."""
        open_cells = [index for index in self._own if self._open(index)]
        wanted = {index for index in open_cells if not self._is_known(self.run.cells[index])}
        baselines = {id(baseline_cell(self.run, self.run.cells[index])) for index in wanted}
        return [index for index in open_cells if index in wanted or id(self.run.cells[index]) in baselines]

    def _is_known(self, cell: Cell) -> bool:
        settings = self.run.settings
        if _processes(cell) < settings.processes:
            return False
        if self._is_known_otherwise is not None:
            return self._is_known_otherwise(self.run, cell)
        if settings.precision is None:
            return True
        states = [replace(cell, measurements=cell.measurements[: len(cell.measurements) - n]) for n in range(_IN_A_ROW)]
        return all(
            _processes(state) >= settings.processes and is_precise(self.run, state, settings.precision)
            for state in states
        )

    def _lacks_processes(self, indices: Sequence[int]) -> bool:
        return any(_processes(self.run.cells[index]) < self.run.settings.processes for index in indices)

    def _next_round(self) -> int:
        measured = [item.round for cell in self._cells() for item in cell.measurements if item.round is not None]
        noted = [entry.round for entry in self.run.ledger if entry.device == self._device.name]
        return 1 + max((*noted, *measured), default=-1)

    def _round(self, number: int, indices: Sequence[int]) -> None:
        result = self._runner.measure(self._work(number, indices))
        self._put(
            {
                index: _with_measurement(self.run.cells[index], replace(found, round=number))
                for index, found in zip(indices, result.measurements, strict=True)
            },
            self._entry(number, result),
        )

    def _work(self, number: int, indices: Sequence[int]) -> Round:
        settings = self.run.settings
        laps = math.ceil(settings.iterations / _TURN)
        return Round(
            version=WIRE_VERSION,
            jobs=tuple(self._job(self._tasks[index]) for index in indices),
            seed=f"{self.run.id} {number}",
            warmup=settings.warmup,
            laps=laps,
            turn=math.ceil(settings.iterations / laps),
            max_time_s=settings.max_time_s / settings.processes,
            timeout_s=settings.timeout_s,
            max_wait_s=settings.max_wait_s,
            cooldown_c=settings.cooldown_c,
        )

    def _entry(self, number: int, result: RoundResult) -> LedgerEntry:
        return LedgerEntry(
            self._device.name,
            number,
            result.states,
            result.notes,
            result.energy_method,
            result.idle_microwatts,
        )

    def push(self, progress: Progress) -> None:
        """Put the artifacts on the device, so that their way there is seen and in no other step."""
        paths = [self._tasks[index].subject.path.resolve() for index in self._own if self._open(index)]
        total = sum(path.stat().st_size for path in dict.fromkeys(paths))
        progress.start("push (kB)", total=total // 1000)
        sent = 0

        def advance(count: int) -> None:
            nonlocal sent
            progress.advance((sent + count) // 1000 - sent // 1000)
            sent += count

        self._runner.push(list(dict.fromkeys(paths)), advance)
        progress.done(f"{sent / 1e6:.1f} MB sent, {(total - sent) / 1e6:.1f} MB were there")

    def score(
        self, evaluation: EvaluationData, progress: Progress, here: Mapping[tuple[str, str], NDArray[Any]]
    ) -> None:
        """Accuracy of every cell that can be measured, once per artifact and runtime; `here` as for `score_cells`."""
        wanted: dict[tuple[str, str], list[int]] = {}
        for index in self._own:
            task, cell = self._tasks[index], self.run.cells[index]
            if self._open(index) and (cell.accuracy is None or cell.accuracy.sha256 != evaluation.sha256):
                wanted.setdefault((task.subject.ref.name, task.runtime), []).append(index)
        if not wanted:
            return
        first = [self._tasks[indices[0]] for indices in wanted.values()]
        results = score_cells(
            self._runner, evaluation, [(task.subject, task.runtime, task.threads) for task in first], progress, here
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

    def count(self, progress: Progress) -> None:
        """Instructions of every measured cell, once per artifact, runtime and batch."""
        wanted: dict[tuple[str, str, int], list[int]] = {}
        for index in self._own:
            task, cell = self._tasks[index], self.run.cells[index]
            # What a CPU does while it waits for a GPU says nothing.
            if cell.status == "ok" and cell.instructions is None and not on_gpu(task.runtime):
                wanted.setdefault((task.subject.ref.name, task.runtime, cell.batch_size), []).append(index)
        progress.start("count", total=len(wanted))
        refused: dict[str, None] = {}
        for indices in wanted.values():
            # A pool that waits for work executes as many instructions as there is time for.
            job = replace(self._job(self._tasks[indices[0]]), kind="count", threads=1)
            found = self._runner.job(job, timeout_s=_COUNT_TIMEOUT_S)
            if found.instructions is None:
                refused[str(found.reason)] = None
            self._put({index: replace(self.run.cells[index], instructions=found.instructions) for index in indices})
            progress.advance()
        for reason in refused:
            progress.warn(f"instructions were not counted: {reason}")
        progress.done(f"{sum(cell.instructions is not None for cell in self._cells())} cells")

    def sustain(self, progress: Progress) -> None:
        """Each measured cell by itself for the minutes that the settings say, after a rest."""
        settings = self.run.settings
        wanted = [index for index in self._own if (cell := self.run.cells[index]).status == "ok" and not cell.sustained]
        progress.start("sustained", total=len(wanted))
        for index in wanted:
            seconds = 60 * settings.sustained_min
            work = replace(
                self._work(self._next_round(), [index]),
                laps=1,
                sustained_s=seconds,
                window_s=min(_WINDOW_S, seconds / _LEAST_WINDOWS),
            )
            result = self._runner.measure(work)
            (found,) = result.measurements
            cell = self.run.cells[index]
            if found.status == "ok":
                cell = replace(cell, sustained=found.windows)
            else:
                cell = replace(cell, status="failed", reason=f"sustained: {found.reason}")
            self._put({index: cell}, self._entry(self._next_round(), result))
            progress.advance()
        progress.done(f"{len(wanted)} cells, {settings.sustained_min:g} minutes each")

    def _open(self, index: int) -> bool:
        cell = self.run.cells[index]
        return self._tasks[index].subject.reason is None and cell.status not in ("failed", "unsupported")

    def _size(self, task: Task) -> Size | None:
        if task.subject.reason is not None:
            return None
        return compressed_size(task.subject.exported or task.subject.path, task.subject.ref.sha256)

    def _job(self, task: Task) -> Job:
        subject, scenario = task.subject, parse_scenario(task.scenario)
        end_to_end = scenario.kind == "end-to-end"
        return Job(
            version=WIRE_VERSION,
            kind="measure",
            artifact=str(subject.path.resolve()),
            runtime=task.runtime,
            threads=task.threads,
            feeds=self._runner.feeds_for(subject.inputs, subject.kept),
            scenario=scenario,
            frames=self._runner.frames_for(subject.frames) if end_to_end else (),
            preprocess=subject.preprocess if end_to_end else None,
        )

    def _put(self, changes: Mapping[int, Cell], *entries: LedgerEntry) -> None:
        self._book.put(changes, *entries)


def _processes(cell: Cell) -> int:
    """Those that came to their end."""
    return sum(item.status == "ok" for item in cell.measurements)


def _with_measurement(cell: Cell, result: Measurement) -> Cell:
    """The cell with one process more; one that failed says why, and what it measured before is kept."""
    if result.status == "unsupported":
        return replace(cell, status="unsupported", reason=result.reason)
    kept = (*cell.measurements, result) if result.turns or result.summary else cell.measurements
    if result.status == "ok":
        return replace(cell, status="ok", reason=None, provider=result.provider, measurements=kept)
    return replace(cell, status="failed", reason=result.reason, measurements=kept)
