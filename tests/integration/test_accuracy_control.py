"""Budgets of accuracy as they are typed, on a network whose int8 collapses without equalisation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from edgebench.cli.main import main
from tests.rescaled import depthwise_network, pattern_images, rescale

FORMATS = ["--formats", "onnx,onnx-int8", "--preprocess", "none", "--equalize", "off"]


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`net.onnx`, whose channels are rescaled, `photos.npz` (200 labelled inputs) and `others.npz` (150)."""
    monkeypatch.chdir(tmp_path)
    onnx.save(rescale(depthwise_network(), seed=3, decades=0.5), "net.onnx")
    for name, count, seed in (("photos", 200, 5), ("others", 150, 6)):
        x, y = pattern_images(count, seed=seed)
        np.savez(f"{name}.npz", x=x, y=y)
    return tmp_path


def run(*options: str, calib: str = "npz:photos.npz") -> tuple[int, dict[str, Any]]:
    """The exit code and the int8 artifact of `bundle.json`; int8 itself may be absent."""
    code = main(["export", "net.onnx", "-o", "net.eb", "--calib", calib, "--samples", "64", *FORMATS, *options])
    artifacts = json.loads(Path("net.eb/bundle.json").read_text())["artifacts"]
    return code, next(item for item in artifacts if item["name"] == "onnx-int8")


def test_a_budget_is_kept_on_images_that_did_not_calibrate(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, artifact = run("--min-sqnr", "30", "--max-drop", "2")
    assert (code, artifact["status"]) == (0, "ok")
    trade_off = artifact["trade_off"]
    taken = trade_off["trials"][trade_off["chosen"]]
    # 200 less the 64 that calibrated.
    assert taken["score"]["samples"] == 136
    assert taken["score"]["sqnr_db"] >= 30
    assert taken["score"]["drop_points"] <= 2
    assert 0 < taken["int8_products"] < taken["products"]
    said = capsys.readouterr().out
    assert "a drop of at most 2 points and at least 30 dB, judged on 136 images" in " ".join(said.split())
    assert "within the budget, taken" in said


def test_the_judges_may_be_named(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, artifact = run("--min-sqnr", "20", "--data", "npz:others.npz", "--data-samples", "120")
    trade_off = artifact["trade_off"]
    assert trade_off["data"] == "npz:others.npz"
    assert trade_off["trials"][0]["score"]["samples"] == 120
    run("--min-sqnr", "19", "--data", "npz:photos.npz")
    assert "64 of the images in npz:photos.npz calibrate too" in capsys.readouterr().err


def test_a_budget_that_cannot_be_met_fails_and_keeps_the_best(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, artifact = run("--min-sqnr", "300")
    assert (code, artifact["status"]) == (1, "failed")
    assert "the budget cannot be met with any product in int8" in artifact["reason"]
    assert (Path("net.eb") / artifact["file"]).is_file()
    assert "taken, the best" in capsys.readouterr().out


def test_a_search_that_was_cut_short_says_so(files: Path) -> None:
    code, artifact = run("--min-sqnr", "300", "--max-evaluations", "3")
    assert code == 1
    assert "all 3 evaluations were used" in artifact["reason"]
    assert len(artifact["trade_off"]["trials"]) == 3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--max-drop", "0"], "0 points is no budget"),
        (["--data", "npz:others.npz"], "--data is what a budget is judged on"),
        (["--max-drop", "1", "--samples", "150"], "50 images beside the 150 that calibrate"),
        (["--min-sqnr", "20", "--target", "toaster"], "toaster"),
    ],
)
def test_what_cannot_be_a_budget_is_refused_and_nothing_is_written(
    files: Path, options: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(
        ["export", "net.onnx", "-o", "net.eb", "--calib", "npz:photos.npz", "--samples", "64", *FORMATS, *options]
    )
    said = capsys.readouterr().err
    assert code == 2
    assert words in said
    assert "hint: " in said
    assert not Path("net.eb").exists()


def test_points_without_labels_are_refused(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    x, _ = pattern_images(200, seed=5)
    np.savez("bare.npz", x=x)
    code = main(["export", "net.onnx", "-o", "net.eb", "--calib", "npz:bare.npz", *FORMATS, "--max-drop", "1"])
    assert code == 2
    said = capsys.readouterr().err
    assert "has no labels" in said or "too few to judge by" in said


def test_sixteen_bits_are_another_way_to_keep(files: Path) -> None:
    _, artifact = run("--min-sqnr", "300", "--keep", "int16", "--max-evaluations", "2")
    first, second = artifact["trade_off"]["trials"]
    assert (len(first["kept"]), len(second["kept"])) == (0, 1)
    assert artifact["trade_off"]["chosen"] == 1
    model = onnx.load(Path("net.eb") / artifact["file"])
    zero_points = {item.name: item.data_type for item in model.graph.initializer if item.name.endswith("/zero_point")}
    assert onnx.TensorProto.UINT16 in zero_points.values()
    assert onnx.TensorProto.UINT8 in zero_points.values()
