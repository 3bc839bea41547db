"""Stored runs, and runs as JSON documents."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest

from edgebench.agent.codec import encode
from edgebench.errors import UsageError
from edgebench.figures import figures
from edgebench.run_file import load_run, run_document
from edgebench.store import RunStore
from tests.unit.runs import cell, run


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore(tmp_path / "runs.sqlite3")


def test_a_saved_run_comes_back_whole(store: RunStore) -> None:
    saved = run(cell("onnx", (1_000_000, 2_000_000), correct="1101"))
    store.save(saved)
    assert store.load(saved.id) == saved


def test_saving_again_replaces_the_earlier_state(store: RunStore) -> None:
    store.save(run())
    store.save(run(cell("onnx", (1,))))
    assert len(list(store.list())) == 1
    assert len(store.load("latest").cells) == 1


def test_a_run_is_found_by_a_unique_beginning(store: RunStore) -> None:
    for identifier in ("20261120-120000-aaaa", "20261121-120000-bbbb"):
        store.save(run(identifier=identifier, started_at=identifier))
    assert store.load("20261121").id == "20261121-120000-bbbb"
    assert store.load("latest").id == "20261121-120000-bbbb"
    with pytest.raises(UsageError, match="beginning of 2 runs"):
        store.load("202611")
    with pytest.raises(UsageError, match="no run"):
        store.load("x")


def test_a_removed_run_is_gone(store: RunStore) -> None:
    store.save(run())
    store.remove(run().id)
    assert list(store.list()) == []


def test_a_run_that_cannot_be_read_hides_no_other_and_can_be_removed(store: RunStore, tmp_path: Path) -> None:
    for identifier in ("good", "bad"):
        store.save(run(identifier=identifier))
    connection = sqlite3.connect(tmp_path / "runs.sqlite3")
    with connection:
        connection.execute("UPDATE runs SET document = '{' WHERE id = 'bad'")
    connection.close()
    listed = dict(store.list())
    assert isinstance(listed["bad"], UsageError)
    assert listed["good"] == run(identifier="good")
    with pytest.raises(UsageError, match="damaged"):
        store.load("bad")
    store.remove("bad")
    assert [identifier for identifier, _ in store.list()] == ["good"]


def test_a_newer_schema_is_refused(store: RunStore, tmp_path: Path) -> None:
    store.save(run())
    with sqlite3.connect(tmp_path / "runs.sqlite3") as connection:
        newer = json.dumps({**encode(run()), "schema": 99})
        connection.execute("UPDATE runs SET document = ?", (newer,))
    connection.close()
    with pytest.raises(UsageError, match="schema 99"):
        store.load("latest")


def test_a_run_document_has_the_figures_of_the_contract_and_reads_back(tmp_path: Path) -> None:
    saved = run(
        cell("onnx", *[(2_000_000,) * 70] * 3, correct="1111"),
        cell("onnx-int8", *[(1_000_000,) * 70] * 3, correct="1110"),
    )
    path = tmp_path / "run.json"
    path.write_text(json.dumps(run_document(saved)))
    document = json.loads(path.read_text())["cells"][1]
    assert document["latency"]["p50_ms"] == pytest.approx(1.0)
    assert document["latency"]["p95_ms"] == pytest.approx(1.0)
    assert document["latency"]["p95_ci_ms"] == pytest.approx([1.0, 1.0])
    assert document["latency"]["p99_ms"] is None
    assert document["latency"]["required_samples"]["p99"] == 662
    assert document["verdict"] == "stable"
    assert document["cold_ms"] == pytest.approx(40.0)
    assert document["state"]["other_cpus"] is None
    assert document["relative"] == {
        "baseline": "onnx",
        "ratio": pytest.approx(0.5),
        "ci": pytest.approx([0.5, 0.5]),
        "rounds": 3,
    }
    assert document["load_ms"] == pytest.approx(20.0)
    assert document["first_ms"] == pytest.approx(3.0)
    assert document["memory"]["peak_bytes"] == 160_000_000
    assert document["accuracy"]["drop_points"] == pytest.approx(25.0)
    assert document["accuracy"]["agreement"] == pytest.approx(0.75)
    assert document["accuracy"]["mcnemar_p"] == pytest.approx(1.0)
    assert document["samples_ns"] == [[1_000_000] * 70] * 3
    assert load_run(path) == saved


def test_a_run_of_schema_1_still_loads_with_its_figures(tmp_path: Path) -> None:
    document = encode(run(cell("onnx", (2_000_000,) * 9, correct="1"), cell("onnx-int8", (1_000_000,) * 9)))
    document.pop("ledger")
    document["schema"] = 1
    document["settings"] = {"processes": 5, "warmup": 5, "iterations": 50, "min_iterations": 5, "max_time_s": 5.0}
    for one in document["cells"]:
        (measured,) = one["measurements"]
        measured["samples_ns"] = measured.pop("turns")[0]["samples_ns"]
        for added in ("cold_ns", "warm_up", "round"):
            del measured[added]
    path = tmp_path / "old.json"
    path.write_text(json.dumps(document))
    loaded = load_run(path)
    assert loaded.settings.max_time_s == 25.0
    assert loaded.cells[1].measurements[0].samples_ns == (1_000_000,) * 9
    relative = figures(loaded, loaded.cells[1]).relative
    assert relative is not None
    assert relative.ratio == pytest.approx(0.5)


def test_what_is_not_a_run_is_refused(tmp_path: Path) -> None:
    for text, message in (("[]", "not a run"), ("{", "not JSON"), ('{"cells": 3}', "not a run")):
        path = tmp_path / "run.json"
        path.write_text(text)
        with pytest.raises(UsageError, match=message):
            load_run(path)


def test_a_file_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        load_run(tmp_path / "none.json")


@pytest.mark.parametrize(
    "document", [{"schema": 1, "cells": None}, {"schema": 1, "settings": {"max_time_s": None}, "cells": [{}]}]
)
def test_an_old_run_that_was_edited_is_refused_without_a_traceback(document: object, tmp_path: Path) -> None:
    (tmp_path / "old.json").write_text(json.dumps(document))
    with pytest.raises(UsageError, match="not a run"):
        load_run(tmp_path / "old.json")
