"""What one inference of a subject takes, for its cells: as its bundle has it, else counted on its file."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

from edgebench.bundle import load_bundle
from edgebench.costs import files
from edgebench.measure.subjects import Subject
from edgebench.types import Costs, TensorSpec

__all__ = ["costs_of"]


def costs_of(subject: Subject) -> Costs | None:
    """The costs of one inference of the subject's batch; None where nothing can count its file."""
    if subject.reason is not None:
        return None
    file = subject.exported or subject.path
    if subject.from_bundle:
        bundle = load_bundle(file.parent)
        known = next((artifact.costs for artifact in bundle.artifacts if artifact.file == file.name), None)
        if known is not None:
            return _for_batch(known, _batch(bundle.inputs), _batch(subject.inputs))
    # Also where what reads it is not installed: a count is no reason to measure nothing.
    with suppress(Exception):
        counted = files.count(subject.path, subject.inputs)
        return None if counted is None else counted.totals
    return None


def _batch(inputs: Sequence[TensorSpec]) -> int:
    return inputs[0].shape[0] if inputs[0].shape else 1


def _for_batch(costs: Costs, exported: int, batch: int) -> Costs:
    """Those of a copy for another batch, which was proved to answer each row as if it were alone."""

    def scaled(count: int | None) -> int | None:
        return None if count is None else count * batch // exported

    return replace(
        costs,
        macs=costs.macs * batch // exported,
        activation_bytes=scaled(costs.activation_bytes),
        peak_activation_bytes=scaled(costs.peak_activation_bytes),
    )
