"""Explanations of a network of our own export, and files that onnxruntime's own quantizer made: all of them go through
every command."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)

import edgebench
from edgebench.bundle import load_bundle, load_inputs
from edgebench.cli.main import main
from edgebench.errors import UsageError
from edgebench.explaining.findings import find
from edgebench.measure.explain import explain
from tests.integration.conftest import SWISH_NET, write_photos

QUICK = edgebench.BenchSettings(processes=1, warmup=1, iterations=3, max_time_s=2.0, max_wait_s=0.0)
FORMS = {"default": "QDQ", "qoperator": "QOperator", "dynamic": "dynamic"}


class _Inputs(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, feeds: list[dict[str, Any]]) -> None:
        self._feeds: Iterator[dict[str, Any]] = iter(feeds)

    def get_next(self) -> dict[str, Any] | None:
        return next(self._feeds, None)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle `net.eb`, and files of its simplified ONNX beside it that onnxruntime quantized."""
    directory = tmp_path_factory.mktemp("explained")
    (directory / "net.py").write_text(SWISH_NET)
    write_photos(directory / "photos")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEBENCH_HOME", str(directory / "home"))
        patch.chdir(directory)
        edgebench.export(
            "net.py:net", "net.eb", formats=["onnx-int8"], calib="imagefolder:photos", samples=8, preprocess="none"
        )
        feeds = load_inputs(Path("net.eb"), load_bundle(Path("net.eb")).inputs)
        logging.disable(logging.WARNING)
        quantize_static("net.eb/net.sim.onnx", "default.onnx", _Inputs(feeds))
        quantize_static(
            "net.eb/net.sim.onnx",
            "qoperator.onnx",
            _Inputs(feeds),
            quant_format=QuantFormat.QOperator,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
        )
        quantize_dynamic("net.eb/net.sim.onnx", "dynamic.onnx")
        logging.disable(logging.NOTSET)
    return directory


def test_our_own_int8_is_explained_with_what_its_bundle_knows(made: Path) -> None:
    explained = explain(made / "net.eb" / "net.int8.onnx", threads=1, runs=3)
    assert explained.exported
    assert explained.calibration == "minmax, 8 images of imagefolder:photos"
    assert explained.parent == str(made / "net.eb" / "net.sim.onnx")
    assert explained.inputs == 4
    # A Hardswish was rewritten as what has int8 kernels.
    assert not [group for group in explained.unfused if group.kind.startswith("Hard")]
    by_module = {layer.module: layer for layer in explained.layers if layer.kind in ("Conv", "Gemm")}
    assert by_module.keys() == {"stem", "blocks.0.conv", "blocks.1.conv", "head"}
    for layer in by_module.values():
        assert layer.ns is not None
        assert layer.float_ns is not None
        assert layer.sqnr_db is not None
        assert layer.weight_noise is not None
        # Uniform within +-a, as torch makes them, in steps of a/127: signal a^2/3, noise (a/127)^2/12: 48.1 dB.
        assert -10 * np.log10(layer.weight_noise) == pytest.approx(48.1, abs=2)
    assert explained.sqnr_db is not None
    assert explained.sqnr_db == pytest.approx(explained.device_sqnr_db, abs=3)


@pytest.mark.parametrize("name", FORMS)
def test_files_of_others_are_explained_beside_their_float_model(name: str, made: Path) -> None:
    explained = explain(made / f"{name}.onnx", against=made / "net.eb" / "net.sim.onnx", threads=1, runs=3)
    assert explained.scheme.form == FORMS[name]
    assert explained.inputs == 4
    assert explained.ratio is not None
    assert explained.sqnr_db is not None
    assert explained.sqnr_db > 10
    assert any(layer.result is not None and layer.result.noise for layer in explained.layers)
    remedies = [finding.remedy for finding in find(explained) if finding.remedy is not None]
    assert any(f"edgebench export {made / 'net.eb' / 'net.sim.onnx'} --calib DATA" in text for text in remedies)


@pytest.mark.parametrize("name", FORMS)
def test_files_of_others_are_inspected_profiled_and_measured_with_accuracy(
    name: str, made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(made / f"{name}.onnx")
    assert main(["inspect", path]) == 0
    assert f"{FORMS[name]}; activations" in capsys.readouterr().out
    assert main(["profile", path, "--runs", "2", "--threads", "1"]) == 0
    run = edgebench.bench(path, data=f"imagefolder:{made / 'photos'}", preprocess="none", threads=[1], settings=QUICK)
    (cell,) = run.cells
    assert cell.status == "ok", cell.reason
    assert cell.artifact.precision == "int8"
    assert cell.accuracy is not None


@pytest.mark.parametrize("name", FORMS)
def test_a_file_that_is_quantized_already_is_not_quantized_twice(name: str, made: Path) -> None:
    exported = edgebench.export(
        made / f"{name}.onnx", "again.eb", calib=f"imagefolder:{made / 'photos'}", samples=8, preprocess="none"
    )
    artifacts = {artifact.name: artifact for artifact in exported.bundle.artifacts}
    assert (artifacts["onnx"].status, artifacts["onnx"].precision) == ("ok", "int8")
    assert artifacts["onnx-int8"].status == "skipped"
    assert "quantized already" in str(artifacts["onnx-int8"].reason)
    assert "edgebench explain" in str(artifacts["onnx-int8"].reason)


def test_a_file_in_half_precision_is_not_quantized(made: Path, tmp_path: Path) -> None:
    model = onnx.load(made / "net.eb" / "net.sim.onnx")
    half = onnx.TensorProto.FLOAT16
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            tensor.CopyFrom(
                onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor).astype(np.float16), tensor.name)
            )
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT:
            value.type.tensor_type.elem_type = half
    onnx.save(model, tmp_path / "half.onnx")
    exported = edgebench.export(
        tmp_path / "half.onnx", "half.eb", formats=["onnx-int8"], calib=f"imagefolder:{made / 'photos'}", samples=8,
        preprocess="none",
    )  # fmt: skip
    (int8,) = [artifact for artifact in exported.bundle.artifacts if artifact.name == "onnx-int8"]
    assert int8.status == "skipped"
    assert "float32 model" in str(int8.reason)


def test_a_bundle_is_answered_with_its_int8_artifacts(made: Path) -> None:
    with pytest.raises(UsageError, match="name one of its int8") as caught:
        explain(made / "net.eb")
    assert str(made / "net.eb" / "net.int8.onnx") in str(caught.value.hint)


def test_images_of_data_take_the_place_of_kept_inputs(made: Path, tmp_path: Path) -> None:
    assert (
        main(
            [
                *("explain", str(made / "net.eb" / "net.int8.onnx"), "--data", f"imagefolder:{made / 'photos'}"),
                *("--samples", "6", "--runs", "1", "--json", str(tmp_path / "explained.json")),
            ]
        )
        == 0
    )
    document = json.loads((tmp_path / "explained.json").read_text())
    assert document["inputs"] == {"from": f"imagefolder:{made / 'photos'}", "count": 6, "why_none": None}


def test_a_tflite_file_is_explained_by_its_tensors_its_profile_and_its_answers(shared: Path, tmp_path: Path) -> None:
    pytest.importorskip("ai_edge_litert", reason="needs ai-edge-litert (the extra `tflite`)")
    (tmp_path / "pixels.toml").write_text('channels = "rgb"\nscale = 1.0\nlayout = "nhwc"\n')
    models = shared / "models"
    explained = explain(
        models / "mlperf_tiny_resnet8_int8.tflite",
        against=models / "mlperf_tiny_resnet8_fp32.tflite",
        data=f"npz:{shared}/cifar10/cifar10_calib_500A.npz",
        preprocess=str(tmp_path / "pixels.toml"),
        samples=4,
        threads=1,
        runs=2,
    )
    assert explained.scheme.form == "TFLite"
    # Nine convolutions, and a matrix product whose weights have one scale.
    assert explained.scheme.weights == (("int8", True, 9), ("int8", False, 1))
    assert explained.parent_profile is not None
    assert explained.device_sqnr_db is not None
    assert explained.device_sqnr_db > 10
    assert {"float", "no-values"} <= {finding.kind for finding in find(explained)}
