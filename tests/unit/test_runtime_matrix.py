"""Formats against runtimes: figures, marks and gaps."""

from __future__ import annotations

import io
from dataclasses import replace

from rich.console import Console
from rich.table import Table

from edgebench.report.runtime_matrix import runtime_matrices
from edgebench.types import ArtifactRef, Cell, Run
from tests.unit.runs import cell, run

RUNTIMES = ("tflite", "tflite-no-xnnpack", "litert")


def _cell(name: str, runtime: str, *medians_ms: float, **changes: object) -> Cell:
    """Processes that all took so long."""
    return cell(name, *[(round(1e6 * value),) * 30 for value in medians_ms], runtime=runtime, **changes)


def _rows(table: Table, width: int = 200) -> dict[str, list[str]]:
    """The cells of each row by its first."""
    console = Console(file=io.StringIO(), width=width)
    console.print(table)
    assert isinstance(console.file, io.StringIO)
    lines = [line.split("  ") for line in console.file.getvalue().splitlines() if line.strip(" ─")]
    parts = [[part.strip() for part in line if part.strip()] for line in lines]
    return {row[0]: row[1:] for row in parts}


def _only(measured: Run) -> dict[str, list[str]]:
    (table,) = runtime_matrices(measured)
    return _rows(table)


def test_two_runtimes_make_no_table_and_three_do() -> None:
    cells = [_cell("a", runtime, 1, 1, 1) for runtime in RUNTIMES]
    assert runtime_matrices(run(*cells[:2])) == []
    assert len(runtime_matrices(run(*cells))) == 1


def test_runtimes_that_are_not_there_count_for_nothing_and_have_no_column() -> None:
    cells = [_cell("a", runtime, 1, 1, 1) for runtime in RUNTIMES]
    absent = cell("a", runtime="openvino", status="unsupported", reason="pip install openvino")
    assert runtime_matrices(run(*cells[:2], absent)) == []
    assert "openvino" not in _only(run(*cells, absent))["p50 ms"]


def test_each_figure_stands_below_its_runtime() -> None:
    cells = [_cell(name, runtime, *[base + index] * 3) for base, name in ((1, "a"), (5, "b")) for index, runtime in
             enumerate(RUNTIMES)]  # fmt: skip
    rows = _only(run(*cells))
    assert rows["p50 ms"] == list(RUNTIMES)
    assert [figure.split()[0] for figure in rows["a"]] == ["1.000", "2.000", "3.000"]
    assert [figure.split()[0] for figure in rows["b"]] == ["5.000", "6.000", "7.000"]


def test_the_fastest_of_all_is_marked() -> None:
    slow, fast, other = (
        _cell("a", runtime, *values)
        for runtime, values in zip(RUNTIMES, ((4, 4.1, 3.9), (1, 1.01, 0.99), (2, 2.02, 1.98)), strict=True)
    )
    rows = _only(run(slow, fast, other, _cell("b", "tflite", 3, 3.03, 2.97)))
    assert [figure.endswith("←") for figure in rows["a"]] == [False, True, False]
    assert not any("←" in figure for figure in rows["b"])


def test_what_may_be_as_fast_is_marked_too() -> None:
    # log(1.1) twice and 0 once: mean ± 4.30 * sd / sqrt(3) is about 1.07 [0.88, 1.30], which holds 1.
    fast, close, slow = (
        _cell("a", runtime, *values)
        for runtime, values in zip(RUNTIMES, ((1, 1.01, 0.99), (1, 1.1, 1.1), (2, 2.02, 1.98)), strict=True)
    )
    assert [figure.endswith("←") for figure in _only(run(fast, close, slow))["a"]] == [True, True, False]


def test_figures_without_an_interval_are_marked_only_where_they_are_least() -> None:
    # Two processes give no interval.
    cells = [_cell("a", runtime, value, value) for runtime, value in zip(RUNTIMES, (1, 1.0001, 2), strict=True)]
    assert [figure.endswith("←") for figure in _only(run(*cells))["a"]] == [True, False, False]


def test_a_pair_that_was_not_measured_says_why() -> None:
    rows = _only(
        run(
            *[_cell("a", runtime, 1, 1, 1) for runtime in RUNTIMES],
            _cell("b", "tflite", 1, 1, 1),
            cell("b", runtime="tflite-no-xnnpack", status="failed", reason="killed"),
        )
    )
    assert rows["b"][1:] == ["failed", "—"]


def test_scenarios_batches_and_threads_have_tables_of_their_own_that_say_which() -> None:
    cells = [_cell("a", runtime, 1, 1, 1, threads=threads) for threads in (1, 2) for runtime in RUNTIMES]
    titles = [next(iter(_rows(table))) for table in runtime_matrices(run(*cells))]
    assert [title.rpartition(", ")[2] for title in titles] == ["1 threads", "2 threads"]


def test_an_emulated_device_is_not_ranked() -> None:
    measured = run(*[_cell("a", runtime, 1, 1, 1) for runtime in RUNTIMES])
    emulated = replace(measured, devices=tuple(replace(device, emulated=True) for device in measured.devices))
    assert runtime_matrices(emulated) == []


def test_where_nothing_was_measured_nothing_is_marked() -> None:
    rows = _only(run(*[cell("a", runtime=runtime, status="failed", reason="killed") for runtime in RUNTIMES]))
    assert rows["a"] == ["failed"] * 3


def test_brackets_in_a_name_are_no_markup() -> None:
    ref = ArtifactRef("[b]a[/b]", "tflite", "fp32", "ff")
    rows = _only(run(*[replace(_cell("a", runtime, 1, 1, 1), artifact=ref) for runtime in RUNTIMES]))
    assert "[b]a[/b]" in rows
