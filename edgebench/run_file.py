"""A run as a JSON document: the raw measurements, with the figures computed from them beside each cell; and back.

Reading takes the raw part alone and computes the figures anew.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edgebench.agent.codec import encode
from edgebench.errors import UsageError
from edgebench.figures import figures
from edgebench.stats import Latency
from edgebench.store import RunStore, decode_run
from edgebench.types import Cell, Run

__all__ = ["load_run", "run_document"]

_DERIVED = (
    "latency", "told", "gpu", "cold_ms", "load_ms", "first_ms", "energy", "frames", "curve", "memory", "relative",
    "samples_ns", "verdict", "evidence", "state", "compute",
)  # fmt: skip
_DERIVED_ACCURACY = ("drop_points", "drop_ci", "mcnemar_p", "agreement")


def run_document(run: Run) -> dict[str, Any]:
    """The JSON value of `run`: what `--json` writes."""
    return {**encode(run), "cells": [_cell_document(run, cell) for cell in run.cells]}


def load_run(run: str | Path) -> Run:
    """A stored run by its id (or the beginning of it, or `latest`), or one from a JSON file.

    Raises:
        UsageError: no such run or file, or not a run.
    """
    path = Path(run)
    if path.suffix != ".json" and not path.is_file():
        return RunStore().load(str(run))
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        hint = "it may have been cut: write it again with `bench --json`, or give the id of the stored run"
        raise UsageError(f"{path} is not JSON: {error}", hint=hint) from error
    if isinstance(document, dict) and isinstance(document.get("cells"), list):
        document["cells"] = [_raw(cell) for cell in document["cells"]]
    return decode_run(document, str(path))


def _cell_document(run: Run, cell: Cell) -> dict[str, Any]:
    found = figures(run, cell)
    document: dict[str, Any] = encode(cell)
    document["latency"] = None if found.latency is None else _latency_document(found.latency)
    document["told"] = encode(found.told)
    document["gpu"] = encode(found.gpu)
    document["compute"] = encode(found.compute)
    document["cold_ms"] = found.cold_ms
    document["load_ms"] = found.load_ms
    document["first_ms"] = found.first_ms
    document["energy"] = encode(found.energy)
    document["frames"] = encode(found.frames)
    document["curve"] = encode(found.sustained)
    document["memory"] = encode(found.memory)
    if cell.instructions is not None:
        document["instructions"]["median"] = found.instructions
    document["samples_ns"] = [list(item.samples_ns) for item in cell.measurements]
    document["relative"] = None if found.relative is None else {"baseline": run.baseline, **encode(found.relative)}
    document["verdict"], document["evidence"] = found.verdict.word, list(found.verdict.evidence)
    document["state"] = encode(found.conditions)
    if document["accuracy"] is not None:
        drop = found.drop
        document["accuracy"].update(
            drop_points=None if drop is None else drop.drop_points,
            drop_ci=None if drop is None else list(drop.ci),
            mcnemar_p=None if drop is None else drop.mcnemar_p,
            agreement=None if drop is None else drop.agreement,
        )
    return document


def _latency_document(latency: Latency) -> dict[str, Any]:
    """Percentiles beside each other: `p95_ms`, its bounds, and the samples that it needs."""
    document: dict[str, Any] = encode(latency)
    tail = document.pop("tail")
    for percent, found in latency.tail.items():
        document[f"p{percent:g}_ms"] = found.value_ms
        document[f"p{percent:g}_ci_ms"] = encode(found.ci_ms)
    document["required_samples"] = {f"p{float(percent):g}": found["required"] for percent, found in tail.items()}
    return document


def _raw(cell: Any) -> Any:
    if not isinstance(cell, dict):
        return cell
    kept = {key: value for key, value in cell.items() if key not in _DERIVED}
    if isinstance(kept.get("instructions"), dict):
        kept["instructions"] = {key: value for key, value in kept["instructions"].items() if key != "median"}
    if isinstance(kept.get("accuracy"), dict):
        kept["accuracy"] = {key: value for key, value in kept["accuracy"].items() if key not in _DERIVED_ACCURACY}
    return kept
