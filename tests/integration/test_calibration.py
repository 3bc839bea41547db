"""Calibration as a user meets it: methods, statistics that stay in the bundle, data that cannot calibrate."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import edgebench
from edgebench.cli.main import main
from edgebench.errors import DataError, UsageError
from edgebench.quantize.settings import RANGE_METHODS
from edgebench.quantize.statistics import Statistics
from edgebench.types import Artifact

FORMATS = ["onnx", "onnx-int8"]


def _int8(result: edgebench.Exported) -> Artifact:
    (found,) = [artifact for artifact in result.bundle.artifacts if artifact.name == "onnx-int8"]
    return found


def test_each_method_makes_another_file_of_the_same_statistics(tiny_net: str, photos: str) -> None:
    made = {}
    for method in RANGE_METHODS:
        result = edgebench.export(
            tiny_net, "tiny.eb", calib=photos, preprocess="cifar10", formats=FORMATS, method=method
        )
        made[method] = _int8(result)
        # Averages of extremes cut off what the brightest class has, and an artifact that is refused keeps them too.
        assert (made[method].status == "ok") == (method != "moving-average"), made[method].reason
        kept = result.path / str(made[method].statistics)
        if method == "minmax":
            first = kept.read_bytes()
            assert Statistics.load(kept).inputs == 24
        else:
            assert (
                f"ranges by {method}, from the statistics in {kept.name}, which were not collected again"
                in made[method].notes
            )
            # What was made without a range stays as it was.
            assert result.reused == {"onnx"}
        assert kept.read_bytes() == first
    assert len({artifact.sha256 for artifact in made.values()}) == len(RANGE_METHODS)


def test_other_images_are_run_anew(tiny_net: str, photos: str) -> None:
    def export(samples: int) -> Artifact:
        return _int8(
            edgebench.export(
                tiny_net, "tiny.eb", calib=photos, preprocess="cifar10", formats=FORMATS, samples=samples, method="mse"
            )
        )

    export(24)
    assert any("over 20 inputs" in note for note in export(20).notes)


def test_a_bundle_without_int8_keeps_no_statistics(tiny_net: str, photos: str) -> None:
    result = edgebench.export(tiny_net, "tiny.eb", calib=photos, preprocess="cifar10", formats=FORMATS)
    kept = result.path / str(_int8(result).statistics)
    assert kept.is_file()
    edgebench.export(tiny_net, "tiny.eb", calib=photos, preprocess="cifar10", formats=["onnx"])
    assert not kept.exists()


def test_an_artifact_out_of_the_cache_names_no_statistics_that_are_not_there(tiny_net: str, photos: str) -> None:
    edgebench.export(tiny_net, "one.eb", calib=photos, preprocess="cifar10", formats=FORMATS)
    other = edgebench.export(tiny_net, "other.eb", calib=photos, preprocess="cifar10", formats=FORMATS)
    assert other.reused == set(FORMATS)
    assert _int8(other).statistics is None


def test_random_numbers_calibrate_when_asked_for_and_every_table_says_so(
    tiny_net: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["export", tiny_net, "-o", "tiny.eb", "--calib", "random", "--samples", "16", "--method", "mse"]
    assert main([*command, "--formats", "onnx,onnx-int8"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "calibration: 16 RANDOM inputs, mse" in said
    assert "onnx-int8: calibrated on RANDOM numbers" in said
    assert json.loads(Path("tiny.eb/bundle.json").read_text())["calibration"]["data"] == "random"
    assert main(["bench", "tiny.eb", "--processes", "1", "--iterations", "2", "--json", "run.json"]) in (0, 4)
    assert "onnx-int8: calibrated on RANDOM numbers" in " ".join(capsys.readouterr().out.split())
    cells = json.loads(Path("run.json").read_text())["cells"]
    assert {cell["artifact"]["name"]: cell["artifact"]["calibrated_on"] for cell in cells} == {
        "onnx": None,
        "onnx-int8": "random",
    }


@pytest.mark.parametrize("method", [method for method in RANGE_METHODS if method != "minmax"])
def test_too_few_images_for_a_method_are_refused(method: str, tiny_net: str, photos: str) -> None:
    with pytest.raises(UsageError, match=rf"15 calibration images are too few for `{method}`, which needs 16"):
        edgebench.export(tiny_net, "tiny.eb", calib=photos, preprocess="cifar10", samples=15, method=method)
    assert not Path("tiny.eb").exists()


def test_minmax_takes_a_single_image(tiny_net: str, photos: str) -> None:
    result = edgebench.export(tiny_net, "tiny.eb", calib=photos, preprocess="cifar10", samples=1, formats=FORMATS)
    assert any("over 1 inputs" in note for note in _int8(result).notes)


def _black() -> str:
    for index in range(3):
        Path("black/a").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16)).save(f"black/a/{index}.png")
    return "imagefolder:black"


def _no_numbers() -> str:
    images = np.random.default_rng(0).normal(size=(60, 3, 16, 16)).astype(np.float32)
    images[55, 1, 2, 3] = np.nan
    np.savez("broken.npz", x=images, y=np.zeros(60, np.int64))
    return "npz:broken.npz"


@pytest.mark.parametrize(
    ("data", "message"),
    [(_black, "nothing on the 3 images"), (_no_numbers, r"sample 55 of npz:broken\.npz holds values that are no")],
)
def test_images_that_cannot_calibrate_are_refused_and_nothing_is_written(
    data: Callable[[], str], message: str, tiny_net: str
) -> None:
    calib = data()
    preprocess = "cifar10" if calib.startswith("imagefolder") else None
    with pytest.raises(DataError, match=message) as caught:
        edgebench.export(tiny_net, "tiny.eb", calib=calib, preprocess=preprocess, formats=FORMATS)
    assert caught.value.hint
    assert not Path("tiny.eb").exists()
