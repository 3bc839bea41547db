"""ONNX at lower precision and onnxruntime's own format, through the whole program: export, bench, a lone file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

import edgebench
from edgebench.agent.runtimes import find
from edgebench.errors import SourceError, UsageError
from edgebench.measure.profile import profile
from edgebench.types import Artifact, BenchSettings
from tests.integration.conftest import ROOT

SETTINGS = BenchSettings(processes=1, warmup=1, iterations=5, max_wait_s=0)
FORMS = ("onnx-fp16", "onnx-w8", "onnx-dynamic", "ort", "ort-int8")

# Wide enough for weights that are worth storing in int8.
WIDE_NET = """
import torch
from torch import nn

INPUT_SHAPE = (1, 3, 16, 16)


class Wide(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 64, 3)
        self.head = nn.Linear(64, 32)

    def forward(self, x):
        return self.head(self.conv(x).relu().mean((2, 3)))


def wide():
    return Wide()


def large():
    net = Wide()
    net.conv.weight.data *= 1e5
    return net
"""


@pytest.fixture(autouse=True)
def agent_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers are started in the test's directory."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    (tmp_path / "wide_net.py").write_text(WIDE_NET)


def _export(photos: str, *formats: str, factory: str = "wide") -> tuple[edgebench.Exported, dict[str, Artifact]]:
    exported = edgebench.export(
        f"wide_net.py:{factory}", "wide.eb", formats=list(formats), calib=photos, preprocess="cifar10"
    )
    return exported, {artifact.format: artifact for artifact in exported.bundle.artifacts}


def test_each_is_made_only_when_it_is_asked_for_and_then_measured(photos: str) -> None:
    _, usual = _export(photos, "onnx", "onnx-int8")
    exported, made = _export(photos, "onnx", *FORMS)

    assert not set(FORMS) & set(usual)
    assert {format: (made[format].status, made[format].reason) for format in FORMS} == dict.fromkeys(
        FORMS, ("ok", None)
    )
    assert [made[format].precision for format in FORMS] == ["fp16", "int8-weights", "int8-dynamic", "fp32", "int8"]
    assert [made[format].parent for format in FORMS] == ["onnx", "onnx", "onnx", "onnx", "onnx-int8"]
    assert all(made[format].notes and made[format].costs for format in FORMS)
    run = edgebench.bench(exported.path, settings=SETTINGS)
    cells = {cell.artifact.name: cell for cell in run.cells}
    assert {format: cells[format].status for format in FORMS} == dict.fromkeys(FORMS, "ok")


def test_a_file_in_onnxruntimes_own_format_is_measured_alone_and_by_any_name(photos: str, tmp_path: Path) -> None:
    exported, _ = _export(photos, "ort")
    pushed = tmp_path / "0123abcd"
    pushed.write_bytes((exported.path / "wide.ort").read_bytes())

    run = edgebench.bench(pushed, settings=SETTINGS)

    assert [(cell.artifact.format, cell.status) for cell in run.cells] == [("ort", "ok")]


def test_its_operators_are_profiled_with_the_modules_that_they_come_from(photos: str) -> None:
    exported, _ = _export(photos, "ort")

    (found,) = profile([exported.path / "wide.ort"], runs=2)

    assert {operator.module for operator in found.operators} >= {"conv", "head"}


def test_a_damaged_one_is_an_error_in_words(photos: str, tmp_path: Path) -> None:
    exported, _ = _export(photos, "ort")
    cut = tmp_path / "cut.ort"
    cut.write_bytes((exported.path / "wide.ort").read_bytes()[:3000])

    with pytest.raises(SourceError, match=r"cut\.ort does not load: .*verification failed"):
        edgebench.bench(cut, settings=SETTINGS)


def test_its_batch_cannot_be_changed(photos: str) -> None:
    exported, _ = _export(photos, "ort")

    run = edgebench.bench(exported.path / "wide.ort", settings=SETTINGS, batch_sizes=[2])

    assert "the batch of the format `ort` cannot be changed" in str(run.cells[0].reason)


def test_other_providers_do_not_take_what_was_optimised_for_the_cpu(photos: str) -> None:
    exported, _ = _export(photos, "ort")

    assert "ort" not in find("onnxruntime-openvino").FORMATS
    with pytest.raises(UsageError, match="there is nothing to measure"):
        edgebench.bench(exported.path / "wide.ort", settings=SETTINGS, runtimes=["onnxruntime-openvino"])


def test_int8_is_fused_in_the_file_already(photos: str) -> None:
    """A minimal build optimises nothing."""
    exported, _ = _export(photos, "ort-int8")
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.enable_profiling = True
    session = onnxruntime.InferenceSession(str(exported.path / "wide.int8.ort"), options)
    spec = session.get_inputs()[0]
    session.run(None, {spec.name: np.zeros(spec.shape, np.float32)})

    text = Path(session.end_profiling()).read_text()
    assert '"QLinearConv"' in text
    assert '"Conv"' not in text


def test_a_network_that_overflows_float16_fails_in_words(photos: str) -> None:
    _, made = _export(photos, "onnx-fp16", "onnx", factory="large")

    assert made["onnx-fp16"].status == "failed"
    assert "and float16 ends at 65504" in str(made["onnx-fp16"].reason)
    assert made["onnx"].status == "ok"
