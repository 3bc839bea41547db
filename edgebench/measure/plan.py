"""What a run is to measure: a task and a cell for each artifact, device, runtime, scenario and number of threads; anew,
or as an interrupted run left them."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from edgebench._version import __version__
from edgebench.errors import UsageError
from edgebench.measure.devices import Connected
from edgebench.measure.scoring import EvaluationData
from edgebench.measure.session import Task
from edgebench.measure.subjects import ALL_RUNTIMES, RUNTIMES, USUAL_RUNTIMES, Subject
from edgebench.store import SCHEMA
from edgebench.types import NOT_MEASURED, BenchSettings, Cell, Device, Run

__all__ = ["earlier_run", "new_run", "plan_tasks"]


def plan_tasks(
    subjects: Sequence[Subject],
    found: Sequence[Connected],
    runtimes: Sequence[str] | None,
    threads: Sequence[int] | None,
    scenarios: Sequence[str],
) -> list[Task]:
    """The tasks, in the order of their cells.

    Raises:
        UsageError: an unknown runtime, or nothing to measure.
    """
    if runtimes is not None and ALL_RUNTIMES in runtimes:
        runtimes = list(RUNTIMES)
    for name in (*(runtimes or ()), *(name for item in found for name in item.profile.runtimes or ())):
        if name not in RUNTIMES:
            raise UsageError(
                f"unknown runtime `{name}`", hint=f"there are: {ALL_RUNTIMES}, {', '.join(sorted(RUNTIMES))}"
            )
    tasks = [
        Task(subject, item.profile, runtime, count, scenario)
        for item in found
        for scenario in scenarios
        for count in threads or item.profile.threads or _default_threads(scenario, item.device)
        for subject in subjects
        for runtime in _runtimes_of(subject, runtimes or item.profile.runtimes)
    ]
    if not tasks:
        raise UsageError("there is nothing to measure", hint="give a bundle with artifacts, or leave --runtime out")
    return tasks


def _runtimes_of(subject: Subject, asked: Sequence[str] | None) -> list[str]:
    """Those that open the subject's file; a file that none opens has a cell all the same, which says so."""
    found = [name for name in asked or USUAL_RUNTIMES if subject.ref.format in RUNTIMES[name]]
    return found or ([] if asked else [subject.ref.format])


def _default_threads(scenario: str, device: Device) -> tuple[int, ...]:
    """As many as there are cores; for the largest throughput also fewer, by powers of two."""
    cores = int(device.fingerprint.get("physical_cores", 1))
    if scenario != "offline":
        return (cores,)
    return tuple(sorted({2**power for power in range(cores.bit_length())} | {cores}))


def new_run(
    tasks: Sequence[Task],
    found: Sequence[Connected],
    settings: BenchSettings,
    command: Sequence[str],
    baseline: str | None,
    evaluation: EvaluationData | None,
) -> Run:
    """A run that has measured nothing yet."""
    started = datetime.now(UTC)
    return Run(
        schema=SCHEMA,
        id=f"{started:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}",
        started_at=started.isoformat(timespec="seconds"),
        edgebench_version=__version__,
        command=tuple(command),
        settings=settings,
        inputs=_inputs_of(tasks),
        data_sha256=None if evaluation is None else evaluation.sha256,
        baseline=_choose_baseline(tasks, baseline),
        devices=tuple(item.device for item in found),
        cells=_unreached([_blank_cell(task) for task in tasks], found),
    )


def _unreached(cells: Sequence[Cell], found: Sequence[Connected]) -> tuple[Cell, ...]:
    """The cells; those of a device that cannot be reached say so."""
    errors = {item.device.name: item.device.error for item in found}
    return tuple(
        replace(cell, reason=errors[cell.device]) if errors[cell.device] and cell.reason == NOT_MEASURED else cell
        for cell in cells
    )


def earlier_run(run: Run, tasks: Sequence[Task], found: Sequence[Connected], evaluation: EvaluationData | None) -> Run:
    """The stored run, if these are its cells, its inputs, its images and its devices; what failed is open again.

    Raises:
        UsageError: they are not.
        DeviceError: a device of it cannot be reached, and without it that cannot be told.
    """
    started_by = f" ({' '.join(run.command)})" if run.command else ""
    hint = f"resume with the arguments of the interrupted run{started_by}, or leave --resume out"
    # Of a device that was never reached it was not known how many threads it would take.
    unknown = {device.name for device in run.devices if not device.fingerprint}
    blank = [_blank_cell(task) for task in tasks]
    earlier = {_identity(cell): cell for cell in run.cells}
    wanted = [_identity(cell) for cell in blank if cell.device not in unknown]
    if wanted != [_identity(cell) for cell in run.cells if cell.device not in unknown]:
        for item in found:
            if item.error is not None:
                # It was there before, and only it knows how many threads its cells have.
                raise item.error
        raise UsageError(f"run {run.id} has other cells than these arguments give", hint=hint)
    if run.inputs != _inputs_of(tasks):
        raise UsageError(f"run {run.id} was fed with {run.inputs}, not with {_inputs_of(tasks)}", hint=hint)
    if run.data_sha256 != (None if evaluation is None else evaluation.sha256):
        raise UsageError(f"run {run.id} measured accuracy on other --data, or on none", hint=hint)
    if {item.device.name for item in found} != {device.name for device in run.devices}:
        raise UsageError(f"run {run.id} is of other devices than these arguments name", hint=hint)
    for item in found:
        before = run.device(item.device.name)
        # One that was not reached said nothing.
        if before.fingerprint and item.agent is not None and before.fingerprint != item.device.fingerprint:
            raise UsageError(
                f"run {run.id} was measured on another `{before.name}`, or before it was changed", hint=hint
            )
    cells = [_reopened(earlier.get(_identity(cell), cell), task) for cell, task in zip(blank, tasks, strict=True)]
    devices = tuple(
        item.device if item.agent is not None else replace(run.device(item.device.name), error=item.device.error)
        for item in found
    )
    return replace(run, cells=_unreached(cells, found), devices=devices)


def _reopened(cell: Cell, task: Task) -> Cell:
    """A cell that failed is tried again: what killed its process, or kept its device away, may be over."""
    if task.subject.reason is not None or cell.status == "ok":
        return cell
    if any(item.status == "ok" for item in cell.measurements):
        return replace(cell, status="ok", reason=None)
    return replace(cell, status="skipped", reason=NOT_MEASURED)


def _inputs_of(tasks: Sequence[Task]) -> str:
    return ", ".join(dict.fromkeys(task.subject.fed_with for task in tasks))


def _identity(cell: Cell) -> tuple[Any, ...]:
    return (cell.artifact, cell.device, cell.runtime, cell.threads, cell.batch_size, cell.scenario)


def _blank_cell(task: Task) -> Cell:
    subject = task.subject
    return Cell(
        artifact=subject.ref,
        device=task.profile.name,
        runtime=task.runtime,
        provider=None,
        threads=task.threads,
        batch_size=subject.inputs[0].shape[0] if subject.inputs and subject.inputs[0].shape else 1,
        scenario=task.scenario,
        status="failed" if subject.broken else "skipped",
        reason=subject.reason or NOT_MEASURED,
    )


def _choose_baseline(tasks: Sequence[Task], asked: str | None) -> str | None:
    """What was asked for, else the first that can be measured of: fp32 ONNX, simplified fp32 ONNX, anything."""
    names = list(dict.fromkeys(task.subject.ref.name for task in tasks))
    if asked is not None:
        if asked not in names:
            raise UsageError(
                f"there is no artifact `{asked}` to be the baseline", hint=f"there are: {', '.join(names)}"
            )
        return asked
    usable = [task.subject.ref for task in tasks if task.subject.reason is None]
    for format in ("onnx", "onnx-sim"):
        for ref in usable:
            if ref.format == format and ref.precision in ("fp32", None):
                return ref.name
    return usable[0].name if usable else None
