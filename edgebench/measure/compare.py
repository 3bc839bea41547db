"""`edgebench.compare`: two runs that were stored, or two artifacts that are measured now, in alternation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from edgebench.comparison import AFTER, AGAIN, BEFORE, Comparison, compare_runs, compare_within
from edgebench.errors import UsageError
from edgebench.gate import decide, parse_gates
from edgebench.measure.bench import measure_subjects
from edgebench.measure.subjects import Subject, find_subjects
from edgebench.pipeline import Exported
from edgebench.progress import Progress, Silent
from edgebench.run_file import load_run
from edgebench.types import BenchSettings, Cell, Run

__all__ = ["ALLOWABLE", "compare"]

# What two runs must have in common unless the user says otherwise.
ALLOWABLE = ("device", "threads", "batch")

# Who looks after every round and stops at the first interval that decides is wrong more often than in 5 % of the cases.
# So to stop early it takes an interval this much wider that decides.
_SURE = 1.4

Side = str | Path | Run | Exported


def compare(
    before: Side,
    after: Side,
    *,
    fail_if: Sequence[str] = (),
    margin: float = 1.0,
    noise_floor: bool = False,
    allow: Sequence[str] = (),
    device: str = "local",
    runtimes: Sequence[str] | None = None,
    threads: Sequence[int] | None = None,
    data: str | None = None,
    samples: int | None = None,
    preprocess: str | None = None,
    settings: BenchSettings | None = None,
    resume: str | None = None,
    command: Sequence[str] = (),
    progress: Progress | None = None,
) -> Comparison:
    """What changed from `before` to `after`: two runs (or their ids or JSON files), or two bundles or artifacts.

    Artifacts are measured now, until it is known what became of the gates, or without gates which one is faster, or
    `settings.max_time_s` is over.

    Args:
        fail_if: gates as in `p50>5%`; `edgebench.gate.decide` says what became of each.
        margin: percent within which two latencies are called the same.
        noise_floor: also measure `before` against itself.
        allow: in what two runs may differ, of ALLOWABLE.
        device: the profile to measure on; it and what follows is as for `bench`, and of no use for stored runs.

    Raises:
        UsageError: neither two runs nor two artifacts, or two runs that are not comparable.
    """
    gates = parse_gates(list(fail_if))
    if unknown := [name for name in allow if name not in ALLOWABLE]:
        raise UsageError(f"`{unknown[0]}` cannot be allowed to differ", hint=f"there are: {', '.join(ALLOWABLE)}")
    places = [_artifact(before), _artifact(after)]
    if (places[0] is None) != (places[1] is None):
        raise UsageError(f"{before} and {after} are not of one kind", hint="give two runs, or two artifacts or bundles")
    if places[0] is None or places[1] is None:
        if noise_floor:
            raise UsageError("a noise floor is measured, and stored runs are not", hint="give two artifacts or bundles")
        comparison = compare_runs(*(side if isinstance(side, Run) else load_run(str(side)) for side in (before, after)))
        _refuse_differences(comparison, allow)
        return comparison

    def is_known(run: Run, cell: Cell) -> bool:
        found = compare_within(run)
        for pair in found.pairs:
            if cell is pair.before or cell is pair.after or cell.artifact.name.startswith(f"{AGAIN}/"):
                sure = pair.widened(_SURE)
                undecided = any(decide(gate, sure).outcome == "undecided" for gate in gates if gate.is_timed)
                if undecided or (not gates and sure.verdict(margin / 100) == "not known"):
                    return False
        return True

    sides = {BEFORE: places[0], AFTER: places[1], **({AGAIN: places[0]} if noise_floor else {})}
    subjects = [subject for side, place in sides.items() for subject in _named(side, place)]
    batches = {subject.inputs[0].shape[0] for subject in subjects if subject.inputs and subject.inputs[0].shape}
    if len(batches) > 1 and "batch" not in allow:
        listed = ", ".join(map(str, sorted(batches)))
        raise UsageError(f"the artifacts take batches of {listed}", hint="say that it may differ: --allow batch")
    run = measure_subjects(
        subjects,
        list(sides.values()),
        devices=(device,),
        runtimes=runtimes,
        threads=threads,
        data=data,
        samples=samples,
        preprocess=preprocess,
        settings=settings or BenchSettings(),
        resume=resume,
        command=command,
        watch=progress or Silent(),
        is_known=is_known,
    )
    return compare_within(run)


def _artifact(side: Side) -> Path | None:
    """The path of artifacts to measure; None for a run."""
    if isinstance(side, Exported):
        return side.path
    if isinstance(side, Run):
        return None
    path = Path(side)
    if path.is_dir() or (path.is_file() and path.suffix != ".json"):
        return path
    if path.suffix in (".onnx", ".eb", ".pt"):
        raise UsageError(f"{path} does not exist", hint="give a bundle that `edgebench export` made, or an artifact")
    return None


def _named(side: str, place: Path) -> list[Subject]:
    return [
        replace(subject, ref=replace(subject.ref, name=f"{side}/{subject.ref.name}"))
        for subject in find_subjects([place], include_failed=False)
    ]


def _refuse_differences(comparison: Comparison, allow: Sequence[str]) -> None:
    kinds = {kind: text for text in reversed(comparison.differs) if (kind := text.partition(":")[0]) in ALLOWABLE}
    refused = [kind for kind in ALLOWABLE if kind in kinds and kind not in allow]
    if refused:
        raise UsageError(
            f"the runs differ in more than their artifacts: {'; '.join(kinds[kind] for kind in refused)}",
            hint=f"measure both in the same way, or say that it may differ: --allow {','.join(refused)}",
        )
    if not comparison.pairs:
        raise UsageError(
            f"runs {comparison.before.id} and {comparison.after.id} have no measured artifact in common",
            hint="; ".join(comparison.missing),
        )
