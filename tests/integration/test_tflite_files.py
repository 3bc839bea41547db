"""TFLite files that others trained and converted: as accurate as their sources say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgebench.agent.runtimes import onnxruntime, tflite
from edgebench.cli.main import main
from edgebench.source.tflite_file import describe
from tests.unit.tflite_files import floats

pytest.importorskip("ai_edge_litert", reason="needs ai-edge-litert (the extra `tflite`)")

QUICK = ["--threads", "1", "--processes", "1", "--warmup", "1", "--iterations", "3", "--max-wait", "0"]

# Pixels as they are, channels last. mlcommons/tiny trained on 0..255; its int8 input is pixel - 128, as scale 1 and
# zero point -128 say.
PIXELS = 'channels = "rgb"\nlayout = "nhwc"\n'
# -1..1 as the file's scale 1/128 and zero point 128 say, so that each pixel is its own uint8; class 0 is "background".
MOBILENET = f"resize = 146\ncrop = 128\nscale = {1 / 128}\nmean = [1.0]\nstd = [1.0]\nlabel_offset = 1\n{PIXELS}"


def _cells(capsys: pytest.CaptureFixture[str], preprocess: str, data: str, *arguments: str) -> list[dict[str, Any]]:
    Path("prepared.toml").write_text(preprocess)
    status = main(["bench", *arguments, "--data", data, "--preprocess", "prepared.toml", "--json", "-", *QUICK])
    told = capsys.readouterr()
    assert status == 0, told.err
    cells: list[dict[str, Any]] = json.loads(told.out)["cells"]
    assert [cell["status"] for cell in cells] == ["ok"] * len(cells)
    return cells


def test_mlperf_tinys_resnet8_is_as_accurate_as_measured_elsewhere(
    shared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fp32, int8 = (str(shared / f"models/mlperf_tiny_resnet8_{kind}.tflite") for kind in ("fp32", "int8"))
    data = f"npz:{shared}/cifar10/cifar10_test_2000A.npz"
    cells = _cells(capsys, PIXELS, data, fp32, int8, "--baseline", "mlperf_tiny_resnet8_fp32")
    # SOURCES.md beside the files, for these 2,000 images.
    assert [round(cell["accuracy"]["top1"], 2) for cell in cells] == [88.00, 87.55]
    assert [cell["artifact"]["precision"] for cell in cells] == ["fp32", "int8"]
    assert cells[1]["accuracy"]["agreement"] > 0.95


def test_the_built_in_kernels_give_the_same_classes_as_xnnpack(
    shared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(shared / "models/mlperf_tiny_resnet8_fp32.tflite")
    data = f"npz:{shared}/cifar10/cifar10_test_2000A.npz"
    cells = _cells(capsys, PIXELS, data, path, "--samples", "500", "--runtime", "tflite,tflite-no-xnnpack")
    assert [cell["runtime"] for cell in cells] == ["tflite", "tflite-no-xnnpack"]
    assert ["XNNPACK" in cell["provider"] for cell in cells] == [True, False]
    assert cells[0]["accuracy"]["top1"] == cells[1]["accuracy"]["top1"]


def test_a_mobilenet_of_bytes_with_a_class_for_background(shared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(shared / "models/mobilenet_v1_0.25_128_quant.tflite")
    (cell,) = _cells(capsys, MOBILENET, f"csv:{shared}/imagenet/nips2017_A.csv", path)
    # SOURCES.md, for these 400 images.
    assert cell["accuracy"]["top1"] == pytest.approx(43.25)
    assert cell["accuracy"]["top5"] == pytest.approx(70.50)


def test_pixels_of_bytes_reach_the_model_as_they_are(shared: Path) -> None:
    path = shared / "models/mobilenet_v1_0.25_128_quant.tflite"
    session = tflite.open_session(str(path), 1)
    pixels = np.arange(128 * 128 * 3, dtype=np.uint32).astype(np.uint8).reshape(1, 128, 128, 3)
    ((_, given),) = session.adapt({"input": pixels.astype(np.float32) / 128 - 1})
    np.testing.assert_array_equal(given, pixels)


def test_a_detector_gives_the_boxes_of_its_onnx(shared: Path) -> None:
    stem = shared / "models/version-RFB-320_without_postprocessing"
    assert describe(Path(f"{stem}.tflite")).precision == "fp32"
    with Image.open(shared / "imagenet/ultraface_faces_1.jpg") as image:
        pixels = np.asarray(image.convert("RGB").resize((320, 240)), np.float32)
    x = ((pixels - 127) / 128)[None]
    expected = onnxruntime.open_session(f"{stem}.onnx", 1).run({"input": x.transpose(0, 3, 1, 2)})
    session = tflite.open_session(f"{stem}.tflite", 1)
    found = floats(session, session.run(session.adapt({"input": x})))
    for scores_or_boxes in expected:
        (same,) = [array for array in found if array.shape == scores_or_boxes.shape]
        np.testing.assert_allclose(same, scores_or_boxes, atol=1e-3)
