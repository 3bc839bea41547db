"""Runtimes with their real libraries: what they answer, in what precision they really compute, what they refuse."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

import edgebench
from edgebench.agent.feeds import Tensor
from edgebench.agent.runtimes import find
from edgebench.agent.wire import TensorSpec
from edgebench.bundle import load_inputs
from edgebench.types import Artifact, BenchSettings, Cell
from tests.integration.conftest import ROOT

SETTINGS = BenchSettings(processes=1, warmup=1, iterations=5, max_wait_s=0)

# A strided slice, which ncnn's Crop cannot do, as the shortcuts of CIFAR ResNets have.
STRIDED_NET = """
import torch

INPUT_SHAPE = (1, 3, 16, 16)


class Strided(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first = torch.nn.Conv2d(3, 4, 3)

    def forward(self, x):
        return self.first(x)[:, :, ::2, ::2].mean((2, 3))


def strided():
    return Strided()
"""


def _needs(module: str, install: str) -> None:
    pytest.importorskip(module, reason=f"needs {module} (pip install {install})")


@pytest.fixture(autouse=True)
def agent_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers are started in the test's directory."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def _export(net: str, photos: str, *formats: str) -> tuple[edgebench.Exported, dict[str, Artifact]]:
    exported = edgebench.export(net, "tiny.eb", formats=list(formats), calib=photos, preprocess="cifar10")
    return exported, {artifact.format: artifact for artifact in exported.bundle.artifacts}


def _bench(exported: edgebench.Exported, data: str, *runtimes: str) -> dict[tuple[str, str], Cell]:
    run = edgebench.bench(exported, data=data, settings=SETTINGS, runtimes=list(runtimes), threads=[1])
    return {(cell.artifact.format, cell.runtime): cell for cell in run.cells}


def _same_answers(one: Cell, other: Cell) -> None:
    assert one.status == "ok", one.reason
    assert other.status == "ok", other.reason
    assert one.accuracy is not None and other.accuracy is not None
    assert one.accuracy.predictions == other.accuracy.predictions


def test_openvino_answers_as_onnxruntime_and_says_in_what_it_computes(tiny_net: str, photos: str) -> None:
    _needs("openvino", "openvino")
    exported, _ = _export(tiny_net, photos, "onnx", "onnx-int8")

    cells = _bench(exported, photos, "onnxruntime", "openvino")

    _same_answers(cells["onnx", "openvino"], cells["onnx", "onnxruntime"])
    assert cells["onnx", "openvino"].provider == "CPU, f32 hint"
    # Two convolutions and a linear layer.
    assert cells["onnx-int8", "openvino"].provider == "CPU, f32 hint, int8 in 3 of 3 compute layers"


def test_openvino_leaves_nothing_in_the_home_directory(tmp_path: Path) -> None:
    _needs("openvino", "openvino")
    home = tmp_path / "home"
    home.mkdir()
    code = "from edgebench.agent.runtimes import find; find('openvino').load_library(); import openvino.tools.ovc"

    subprocess.run([sys.executable, "-c", code], env={**os.environ, "HOME": str(home)}, check=True)

    assert list(home.iterdir()) == []


def test_onnxruntime_runs_in_openvino_or_not_at_all(tiny_net: str, photos: str) -> None:
    if "OpenVINOExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip(
            "needs onnxruntime-openvino in place of onnxruntime: "
            "pip uninstall -y onnxruntime && pip install onnxruntime-openvino"
        )
    exported, _ = _export(tiny_net, photos, "onnx", "onnx-int8")

    cells = _bench(exported, photos, "onnxruntime", "onnxruntime-openvino")

    _same_answers(cells["onnx", "onnxruntime-openvino"], cells["onnx", "onnxruntime"])
    assert (cells["onnx-int8", "onnxruntime-openvino"].provider or "").startswith("OpenVINOExecutionProvider (")


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="needs x86-64, where QNN simulates")
def test_qnn_runs_a_whole_network_in_its_simulator(tiny_net: str, photos: str) -> None:
    _needs("onnxruntime_qnn", "onnxruntime-qnn")
    exported, _ = _export(tiny_net, photos, "onnx", "onnx-int8")
    qnn = find("onnxruntime-qnn")
    qnn.register()

    session = qnn.open_session(str(exported.path / "tiny.int8.onnx"), 1)

    assert session.provider.startswith("QNNExecutionProvider (")
    assert session.provider.endswith(", HTP)")


def test_ncnn_answers_as_its_parent_and_in_float32(tiny_net: str, photos: str) -> None:
    _needs("ncnn", "ncnn")
    _needs("pnnx", "pnnx")
    exported, artifacts = _export(tiny_net, photos, "onnx", "ncnn")
    assert artifacts["ncnn"].status == "ok", artifacts["ncnn"].reason
    parity = artifacts["ncnn"].parity
    # float16, with its 11 bits, is at 1e-3.
    assert parity is not None and parity.relative_error is not None and parity.relative_error < 2e-5

    cells = _bench(exported, photos, "onnxruntime", "ncnn")

    _same_answers(cells["ncnn", "ncnn"], cells["onnx", "onnxruntime"])
    assert cells["ncnn", "ncnn"].provider == "CPU, fp32 storage and arithmetic"


def test_an_ncnn_artifact_is_what_ncnn_itself_reads(tiny_net: str, photos: str) -> None:
    _needs("ncnn", "ncnn")
    _needs("pnnx", "pnnx")
    import ncnn

    exported, artifacts = _export(tiny_net, photos, "ncnn")
    path = exported.path / (artifacts["ncnn"].file or "")
    with zipfile.ZipFile(path) as archive:
        archive.extractall("unpacked")

    net = ncnn.Net()

    assert net.load_param("unpacked/model.param") == 0
    assert net.load_model(str(path)) == 0
    image = load_inputs(exported.path, exported.bundle.inputs)[0]["input"]
    extractor = net.create_extractor()
    extractor.input("in0", ncnn.Mat(image[0]).clone())
    code, matrix = extractor.extract("out0")
    assert code == 0
    runtime = find("ncnn")
    session = runtime.open_session(str(path), 1)
    feed = {"input": Tensor(TensorSpec("input", image.shape, "float32"), memoryview(image.tobytes()))}
    ((spec, data),) = session.named_outputs(session.run(runtime.prepare(feed)))
    assert spec.shape == (1, 4)
    np.testing.assert_allclose(np.frombuffer(data, np.float32), np.array(matrix), rtol=1e-2, atol=1e-2)


def test_an_onnx_source_becomes_ncnn_by_its_simplified_form(tiny_net: str, photos: str) -> None:
    _needs("ncnn", "ncnn")
    _needs("pnnx", "pnnx")
    exported, _ = _export(tiny_net, photos, "onnx")
    shutil.copyfile(exported.path / "tiny.onnx", "alone.onnx")

    again = edgebench.export("alone.onnx", "alone.eb", formats=["ncnn"], calib=photos, preprocess="cifar10")

    found = {artifact.format: artifact for artifact in again.bundle.artifacts}
    assert found["ncnn"].status == "ok", found["ncnn"].reason
    assert found["ncnn"].parent == "onnx-sim"


def test_a_layer_that_ncnn_has_not_is_named(tmp_path: Path, photos: str) -> None:
    _needs("ncnn", "ncnn")
    _needs("pnnx", "pnnx")
    (tmp_path / "strided.py").write_text(STRIDED_NET)

    _, artifacts = _export("strided.py:strided", photos, "ncnn")

    assert artifacts["ncnn"].status == "failed"
    assert "ncnn has no layer for Tensor.slice" in (artifacts["ncnn"].reason or "")


def test_a_batch_cannot_become_ncnn(tiny_net: str, photos: str) -> None:
    _needs("ncnn", "ncnn")
    _needs("pnnx", "pnnx")

    exported = edgebench.export(
        tiny_net, "tiny.eb", formats=["ncnn"], calib=photos, preprocess="cifar10", input_shape=(2, 3, 16, 16)
    )

    (refused,) = [artifact for artifact in exported.bundle.artifacts if artifact.format == "ncnn"]
    assert refused.status == "failed"
    assert "one sample of float32 at a time, and `input` is float32 [2, 3, 16, 16]" in (refused.reason or "")


def test_executorch_answers_as_its_parent_in_float32_and_int8(tiny_net: str, photos: str) -> None:
    _needs("executorch", "executorch")
    exported, artifacts = _export(tiny_net, photos, "onnx", "executorch", "executorch-int8")
    for format in ("executorch", "executorch-int8"):
        assert artifacts[format].status == "ok", artifacts[format].reason
        assert any(note.startswith("XNNPACK has ") for note in artifacts[format].notes)

    cells = _bench(exported, photos, "onnxruntime", "executorch")

    _same_answers(cells["executorch", "executorch"], cells["onnx", "onnxruntime"])
    assert cells["executorch", "executorch"].provider == "CPU, XnnpackBackend"
    assert cells["executorch-int8", "executorch"].status == "ok"


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler (apt install g++)")
def test_a_program_compiled_ahead_of_time_answers_as_its_source(tiny_net: str, photos: str) -> None:
    exported, _ = _export(tiny_net, photos, "torch-export", "onnx")

    cells = _bench(exported, photos, "onnxruntime", "torch-aot")

    _same_answers(cells["torch-export", "torch-aot"], cells["onnx", "onnxruntime"])
    assert cells["torch-export", "torch-aot"].provider == "AOTInductor, CPU"
