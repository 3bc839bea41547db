"""Stored runs: one SQLite file in the data directory, one row a run, replaced whole after every measurement.

A row holds raw samples only; every figure is computed from them when it is asked for, so that old runs profit from
better methods. A transaction makes each save atomic: an interruption loses the measurement under way and nothing before
it.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgebench.agent.codec import DecodeError, decode, encode
from edgebench.config import home
from edgebench.errors import EnvironmentFailure, UsageError
from edgebench.types import Run

__all__ = ["SCHEMA", "RunStore", "decode_run"]

# History. 1: first. 2: a process's samples are in turns, its round has a number, and there is a ledger.
SCHEMA = 2

_NEWEST_FIRST = "ORDER BY started_at DESC, id DESC"


class RunStore:
    """The runs below the data directory."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path or home() / "runs.sqlite3"

    def save(self, run: Run) -> None:
        """Keep `run`, in place of an earlier state of it."""
        with self._connect() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO runs (id, started_at, document) VALUES (?, ?, ?)",
                (run.id, run.started_at, json.dumps(encode(run), allow_nan=False)),
            )

    def load(self, identifier: str) -> Run:
        """The run of that id, of a unique beginning of it, or the newest for `latest`.

        Raises:
            UsageError: no such run, several, or one that cannot be read.
        """
        found = self._find(identifier)
        with self._connect() as connection:
            ((document,),) = connection.execute("SELECT document FROM runs WHERE id = ?", (found,)).fetchall()
        return _read(found, document)

    def list(self) -> Iterator[tuple[str, Run | UsageError]]:
        """All runs with their ids, the newest first; in place of one that cannot be read the reason."""
        with self._connect() as connection:
            rows = connection.execute(f"SELECT id, document FROM runs {_NEWEST_FIRST}").fetchall()
        for identifier, document in rows:
            try:
                yield identifier, _read(identifier, document)
            except UsageError as error:
                yield identifier, error

    def remove(self, identifier: str) -> str:
        """Remove one run, readable or not; its full id.

        Raises:
            UsageError: no such run, or several.
        """
        found = self._find(identifier)
        with self._connect() as connection:
            connection.execute("DELETE FROM runs WHERE id = ?", (found,))
        return found

    def _find(self, identifier: str) -> str:
        with self._connect() as connection:
            ids = [str(row[0]) for row in connection.execute(f"SELECT id FROM runs {_NEWEST_FIRST}").fetchall()]
        if identifier == "latest":
            ids = ids[:1]
        else:
            ids = [known for known in ids if known == identifier] or [
                known for known in ids if known.startswith(identifier)
            ]
        if not ids:
            raise UsageError(f"there is no run `{identifier}`", hint="`edgebench runs` lists them")
        if len(ids) > 1:
            raise UsageError(f"`{identifier}` is the beginning of {len(ids)} runs", hint=", ".join(ids[:5]))
        return ids[0]

    @contextmanager
    def _connect(self) -> Iterator[sqlite3.Connection]:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(self._path, timeout=30.0)
            try:
                with connection:
                    connection.execute(
                        "CREATE TABLE IF NOT EXISTS runs "
                        "(id TEXT PRIMARY KEY, started_at TEXT NOT NULL, document TEXT NOT NULL)"
                    )
                    yield connection
            finally:
                connection.close()
        except (OSError, sqlite3.DatabaseError) as error:
            raise EnvironmentFailure(
                f"the runs in {self._path} cannot be reached: {error}",
                hint="EDGEBENCH_HOME names another directory for them",
            ) from error


def _read(identifier: str, document: str) -> Run:
    try:
        value = json.loads(document)
    except ValueError as error:
        raise UsageError(f"run {identifier} is damaged: {error}", hint=f"edgebench runs rm {identifier}") from error
    return decode_run(value, f"run {identifier}")


def decode_run(document: object, where: str) -> Run:
    """A run from its JSON value.

    Raises:
        UsageError: not a run, or one of a newer edgebench.
    """
    schema = document.get("schema") if isinstance(document, dict) else None
    if isinstance(schema, int) and schema > SCHEMA:
        raise UsageError(f"{where} has schema {schema}, this edgebench reads up to {SCHEMA}", hint="update edgebench")
    try:
        if isinstance(document, dict) and schema == 1:
            document = _from_1(document)
        return decode(Run, document, where)
    except DecodeError as error:
        raise UsageError(
            f"not a run: {error}", hint="give a run's id, or a file that `bench --json FILE` wrote"
        ) from error


def _from_1(document: dict[str, Any]) -> dict[str, Any]:
    """A document of schema 1 in schema 2; what is of another shape is left for the decoder to name."""
    settings = document.get("settings")
    if isinstance(settings, dict):
        settings = {key: value for key, value in settings.items() if key != "min_iterations"}
        # It bounded each process then, and bounds the cell now.
        limit_s, processes = settings.get("max_time_s", 5.0), settings.get("processes", 5)
        if isinstance(limit_s, (int, float)) and isinstance(processes, int):
            settings["max_time_s"] = float(limit_s * processes)
    cells = document.get("cells")
    if not isinstance(cells, list):
        return {**document, "schema": SCHEMA, "settings": settings}
    cells = [
        {
            **cell,
            "measurements": [_measurement_from_1(item, number) for number, item in enumerate(cell["measurements"])],
        }
        if isinstance(cell, dict) and isinstance(cell.get("measurements"), list)
        else cell
        for cell in cells
    ]
    return {**document, "schema": SCHEMA, "settings": settings, "cells": cells}


def _measurement_from_1(measurement: Any, number: int) -> Any:
    if not isinstance(measurement, dict):
        return measurement
    kept = {key: value for key, value in measurement.items() if key != "samples_ns"}
    samples = measurement.get("samples_ns")
    turns = [{"lap": 0, "started_ns": 0, "samples_ns": samples}] if samples else []
    return {**kept, "round": number, "turns": turns}
