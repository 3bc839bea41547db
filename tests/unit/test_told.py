"""Figures that a tool tells of runs whose single times it keeps to itself: shown as told, and compared with their like
only."""

from __future__ import annotations

import io
import json
import math
import statistics
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from edgebench.agent.wire import Measurement, Summary, Turn
from edgebench.comparison import compare_runs, compare_within
from edgebench.figures import Told, figures, is_precise, latency_ratio
from edgebench.report.run_table import render
from edgebench.run_file import load_run, run_document
from edgebench.store import RunStore
from edgebench.types import BenchSettings, Cell, Device, Run
from tests.unit.runs import cell, measurement, run

CANNOT = ("It keeps single times to itself.",)


def _told(number: int, tool: str | None = "benchmark_model", **summary: int | None) -> Measurement:
    return Measurement(3, "ok", round=number, summary=Summary(**summary), tool=tool, cannot=CANNOT)


def _means(name: str, *means_ms: float, tool: str = "benchmark_model") -> Cell:
    items = [_told(number, tool, mean_ns=round(ms * 1e6), runs=50) for number, ms in enumerate(means_ms)]
    return cell(name, measurements=tuple(items), provider=None, runtime="tflite")


def _medians(name: str, *medians_ms: float, tool: str = "onnxruntime_perf_test") -> Cell:
    items = [
        _told(number, tool, p50_ns=round(ms * 1e6), mean_ns=10**9, runs=50) for number, ms in enumerate(medians_ms)
    ]
    return cell(name, measurements=tuple(items), provider=None)


def _sampled(name: str, *medians_ms: float) -> Cell:
    items = [
        measurement(number=number, turns=tuple(Turn(lap, 0, (round(ms * 1e6),) * 30) for lap in range(5)))
        for number, ms in enumerate(medians_ms)
    ]
    return cell(name, measurements=tuple(items))


def _figure(one: Cell) -> Told | None:
    return figures(run(one), one).told


def _text(shown: Run) -> str:
    console = Console(file=io.StringIO(), width=220)
    console.print(render(shown))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_mean_is_the_geometric_mean_over_processes_with_its_interval() -> None:
    found = _figure(_means("a", 10.0, 11.0, 12.0))
    assert found is not None
    assert (found.statistic, found.runs, found.processes) == ("mean", 150, 3)
    # By hand: logarithms, Student's t for 2 degrees of freedom is 4.303.
    logs = [math.log(value) for value in (10.0, 11.0, 12.0)]
    centre, half = statistics.fmean(logs), 4.303 * statistics.stdev(logs) / math.sqrt(3)
    assert found.ms == pytest.approx(math.exp(centre))
    assert found.ci_ms == pytest.approx((math.exp(centre - half), math.exp(centre + half)), rel=1e-3)


def test_a_median_comes_before_a_mean() -> None:
    found = _figure(_medians("a", 5.0, 5.0, 5.0))
    assert found is not None
    assert (found.statistic, found.ms) == ("p50", pytest.approx(5.0))


def test_two_processes_give_no_interval() -> None:
    found = _figure(_means("a", 10.0, 11.0))
    assert found is not None
    assert found.ci_ms is None


def test_runs_that_are_not_told_are_not_counted() -> None:
    found = _figure(cell("a", measurements=(_told(0, mean_ns=10**6),)))
    assert found is not None
    assert found.runs is None


@pytest.mark.parametrize("items", [(), (_told(0),), (measurement(1000, 1000, number=0),)])
def test_what_is_not_told_is_no_figure(items: tuple[Measurement, ...]) -> None:
    assert _figure(cell("a", measurements=items)) is None


def test_a_time_of_zero_is_no_traceback() -> None:
    # What a tool prints in whole milliseconds of a tiny model.
    one = cell("a", measurements=(_told(0, mean_ns=0, runs=5), _told(1, mean_ns=0, runs=5)))
    figures(run(one), one)
    _text(run(one))


def test_the_ratio_is_of_one_and_the_same_statistic_round_by_round() -> None:
    found = latency_ratio(_means("a", 10.0, 20.0, 40.0), _means("b", 11.0, 22.0, 44.0))
    assert found is not None
    assert (found.ratio, found.rounds) == (pytest.approx(1.1), 3)
    assert found.ci == pytest.approx((1.1, 1.1))


@pytest.mark.parametrize(
    ("baseline", "other"),
    [
        (_sampled("a", 10, 10, 10), _means("b", 10, 10, 10)),
        (_means("a", 10, 10, 10), _sampled("b", 10, 10, 10)),
        (_means("a", 10, 10, 10), _medians("b", 10, 10, 10)),
    ],
)
def test_figures_of_different_kinds_have_no_ratio(baseline: Cell, other: Cell) -> None:
    assert latency_ratio(baseline, other) is None


def test_precision_is_of_what_is_told() -> None:
    narrow, wide = _means("onnx", 10.0, 10.01, 10.02), _means("onnx", 10.0, 12.0, 14.0)
    assert is_precise(run(narrow), narrow, 1.0)
    assert not is_precise(run(wide), wide, 1.0)


def test_the_table_does_not_let_a_mean_pass_for_a_median() -> None:
    text = _text(run(_means("onnx", 10.0, 10.0, 10.0), _means("b", 11.0, 11.0, 11.0)))
    rows = [line for line in text.splitlines() if "as told" in line]
    assert len(rows) == 2
    assert "mean 10.00" in rows[0]
    assert "baseline" in rows[0]
    assert "1.100" in rows[1]
    assert "measured by benchmark_model, not by edgebench's agent. It keeps single times to itself." in text


def test_the_table_says_what_was_run() -> None:
    text = _text(run(_means("onnx", 10.0, 10.0, 10.0)))
    assert "95 % intervals over 3 processes, measured one after the other, 150 timed runs a cell" in text


def test_the_table_shows_a_median_as_one() -> None:
    text = _text(run(_medians("onnx", 10.0, 10.0, 10.0)))
    assert "as told" in text
    assert "mean" not in text.partition("cold ms")[0]


def test_an_emulated_device_is_called_so_also_where_a_tool_told() -> None:
    shown = run(_means("onnx", 10.0, 10.0, 10.0))
    text = _text(replace(shown, devices=(replace(shown.devices[0], emulated=True),)))
    (row,) = [line for line in text.splitlines() if "mean 10.00" in line]
    assert "emulated" in row


def test_the_document_has_what_was_told_and_is_read_back(tmp_path: Path) -> None:
    shown = run(_means("onnx", 10.0, 11.0, 12.0), _sampled("b", 1.0, 1.0, 1.0))
    document = run_document(shown)
    first, second = document["cells"]
    assert (first["told"]["statistic"], first["told"]["runs"], first["latency"]) == ("mean", 150, None)
    assert second["told"] is None
    path = tmp_path / "run.json"
    path.write_text(json.dumps(document, allow_nan=False))
    assert load_run(path) == shown


def test_the_store_gives_back_what_was_told(tmp_path: Path) -> None:
    shown = run(_means("onnx", 10.0, 11.0, 12.0), _medians("b", 10.0, 11.0, 12.0))
    store = RunStore(tmp_path / "runs.sqlite3")
    store.save(shown)
    assert store.load(shown.id) == shown
    assert _figure(store.load("latest").cells[0]) == _figure(shown.cells[0])


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        (_sampled("a", 10, 10, 10), _medians("a", 10, 10, 10), ("the agent", "onnxruntime_perf_test")),
        (_medians("a", 10, 10, 10), _sampled("a", 10, 10, 10), ("the agent", "onnxruntime_perf_test")),
        (_medians("a", 9, 9, 9), _medians("a", 10, 10, 10, tool="other"), ("onnxruntime_perf_test", "other")),
    ],
)
def test_two_tools_are_not_compared(before: Cell, after: Cell, words: tuple[str, ...]) -> None:
    (pair,) = compare_runs(run(before), run(after)).pairs
    change = pair.changes["p50"]
    assert (change.worse, change.ci, pair.verdict(0.5)) == (None, None, "not known")
    assert change.reason is not None
    assert all(word in change.reason for word in words)
    assert (change.before, change.after) != (None, None)
    assert pair.changes["memory"].worse is None
    # A file is as large whoever measures.
    assert pair.changes["size"].worse == 0


def test_one_tool_is_compared_with_itself() -> None:
    (pair,) = compare_runs(run(_means("a", 10.0, 10.01, 9.99)), run(_means("a", 12.0, 12.01, 11.99))).pairs
    assert pair.changes["p50"].worse == pytest.approx(0.2, abs=1e-3)
    assert pair.verdict(0.05) == "slower"
    (pair,) = compare_within(run(_means("A/a", 10.0, 10.01, 9.99), _means("B/a", 10.0, 10.0, 10.0))).pairs
    assert pair.verdict(0.05) == "same"


def test_a_median_is_not_compared_with_a_mean_of_the_same_tool() -> None:
    before, after = _medians("a", 10, 10, 10, tool="t"), _means("a", 10, 10, 10, tool="t")
    (pair,) = compare_runs(run(replace(before, runtime="tflite")), run(after)).pairs
    change = pair.changes["p50"]
    assert change.worse is None
    # "measured by t and by t" would explain nothing.
    assert change.reason is not None
    assert "p50" in change.reason
    assert "mean" in change.reason


def test_an_emulated_device_ranks_nothing() -> None:
    plain, emulated = run(_sampled("a", 10, 10, 10)), run(_sampled("a", 20, 20, 20))
    emulated = replace(emulated, devices=(Device("local", "local", {}, emulated=True),))
    (pair,) = compare_runs(plain, emulated).pairs
    assert pair.changes["p50"].worse is None
    assert pair.changes["p50"].reason == "the device is emulated"
    assert pair.verdict(0.5) == "not known"


def test_precision_that_was_asked_for_is_told_of_tools_too() -> None:
    shown = run(_means("onnx", 10.0, 12.0, 14.0))
    assert "not reached in time: onnx" in _text(replace(shown, settings=replace(BenchSettings(), precision=1.0)))
