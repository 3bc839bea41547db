"""Numbers and tables for people."""

from __future__ import annotations

import io

import pytest
from rich.console import Console, RenderableType

from edgebench.errors import UsageError
from edgebench.report.run_table import render, render_list
from edgebench.report.units import MISSING, megabytes, milliseconds, percent, with_interval
from edgebench.types import ArtifactRef
from tests.unit.runs import cell, run


def _text(renderable: RenderableType) -> str:
    console = Console(file=io.StringIO(), width=200)
    console.print(renderable)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize(
    ("value", "interval", "text"),
    [
        (12.3456, (12.2256, 12.4656), "12.35 ± 0.12"),
        (12.3456, (11.1, 13.6), "12.3 ± 1.2"),
        (123.4, (111.0, 136.0), "123 ± 12"),
        (12.0, (6.0, 24.0), "12 [6, 24]"),
        (204.0, (74.0, 570.0), "200 [74, 570]"),
        (0.22, (0.11, 0.44), "0.22 [0.11, 0.44]"),
        (2.0, (2.0, 2.0), "2.000 ± 0.000"),
        (12.3456, None, "12.3"),
    ],
)
def test_a_figure_has_the_digits_that_its_interval_supports(
    value: float, interval: tuple[float, float] | None, text: str
) -> None:
    assert with_interval(value, interval) == text


def test_units_for_people() -> None:
    assert megabytes(44_800_000) == "44.8"
    assert megabytes(26_454) == "0.026"
    assert megabytes(None) == MISSING
    assert milliseconds(0.01234) == "0.0123"
    assert milliseconds(123.4) == "123"
    assert percent(0.995) == "99.5 %"
    assert percent(None) == MISSING


def test_the_table_shows_ratio_drop_and_sizes() -> None:
    text = _text(
        render(
            run(
                cell("onnx", *[(2_000_000,) * 30] * 3, correct="1" * 50),
                cell("onnx-int8", (1_000_000,) * 30, (1_010_000,) * 30, (990_000,) * 30, correct="1" * 49 + "0"),
            )
        )
    )
    assert "0.500 ± 0.012" in text
    assert "+2.00 [" in text
    assert "44.8 (41.0)" in text
    assert "98.0 %" in text
    assert "60.0" in text


def test_each_figure_stands_in_the_row_of_its_artifact() -> None:
    cells = [cell(name, *[(count * 1_000_000,) * 30] * 3, correct="1" * 50) for count, name in ((1, "onnx"), (2, "x8"))]
    rows = [line.split() for line in _text(render(run(*cells))).splitlines() if line.strip().startswith(("onnx", "x8"))]
    assert [row[0] for row in rows[:4]] == ["onnx", "x8", "onnx", "x8"]
    assert [row[1] for row in rows[:2]] == ["1.000", "2.000"]


def test_a_narrow_terminal_cuts_no_figure_and_no_id() -> None:
    measured = run(cell("resnet18_relu6/torchscript", (1_000_000,), (9_000_000,), (2_000_000,), correct="10"))
    console = Console(file=io.StringIO(), width=60)
    console.print(render(measured))
    console.print(render_list([(measured.id, measured)]))
    assert isinstance(console.file, io.StringIO)
    assert "…" not in console.file.getvalue()
    assert measured.id in console.file.getvalue()


def test_an_interrupted_run_is_told_from_a_finished_one() -> None:
    finished = run(cell("onnx", *[(1,)] * 5), cell("onnx-int8", status="skipped", reason="not exported"))
    interrupted = run(cell("onnx", *[(1,)] * 4))
    lines = _text(render_list([("finished", finished), ("stopped", interrupted)])).splitlines()
    assert "interrupted" not in next(line for line in lines if "finished" in line)
    assert "interrupted" in next(line for line in lines if "stopped" in line)


def test_a_cell_without_figures_says_why() -> None:
    skipped = cell("onnx-int8", status="skipped", reason="not exported: int8 needs real images", size=None)
    text = _text(render(run(cell("onnx", (1_000_000,)), skipped)))
    assert "onnx-int8: skipped: not exported: int8 needs real images" in text


def test_a_percentile_without_samples_names_the_count_that_it_needs() -> None:
    text = _text(render(run(cell("onnx", (1_000_000,) * 10, (1_000_000,) * 10))))
    assert "needs 130" in text


def test_a_doubt_is_given_with_its_evidence_and_remedy() -> None:
    text = _text(render(run(cell("onnx", *[(factor * 1_000_000,) * 30 for factor in (10, 11, 12, 13, 14)]))))
    assert "drifting" in text
    assert "processes became 40% slower from the first to the last" in text
    assert "Next: more of them" in text


def test_int8_that_was_calibrated_on_random_numbers_is_named() -> None:
    made_up = ArtifactRef("onnx-int8", "onnx-int8", "int8", "ff", "random")
    real = ArtifactRef("tflite-int8", "tflite-int8", "int8", "ff", "imagefolder:photos")
    cells = [cell(ref.name, (1_000_000,), artifact=ref) for ref in (made_up, real)]
    lines = [line.strip() for line in _text(render(run(*cells))).splitlines()]
    assert [line.partition(":")[0] for line in lines if "RANDOM" in line] == ["onnx-int8"]


def test_the_list_shows_paths_with_brackets_and_runs_that_cannot_be_read() -> None:
    text = _text(render_list([("a", run(cell("onnx", (1,)))), ("b", UsageError("run b is damaged"))]))
    assert "[/data].eb" in text
    assert "cannot be read: run b is damaged" in text


def test_an_empty_list_says_what_to_do() -> None:
    assert "edgebench bench" in _text(render_list([]))
