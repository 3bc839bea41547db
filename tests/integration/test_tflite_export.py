"""Networks to TFLite by the real converter: what each file holds, computes and says, and what goes wrong without it."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

import edgebench
from edgebench.agent.runtimes import tflite
from edgebench.bundle import load_bundle, load_inputs
from edgebench.cli.main import main
from edgebench.errors import UsageError
from edgebench.exporters import litert
from edgebench.exporters.parity import open_runner
from edgebench.source.tflite_file import TfliteOperator, describe
from edgebench.types import Artifact
from tests.conftest import TFLITE_CONVERTER
from tests.integration.conftest import start_edgebench, write_photos

pytest.importorskip("ai_edge_quantizer", reason="needs ai-edge-quantizer (the extra `tflite`)")

with_converter = pytest.mark.skipif(
    TFLITE_CONVERTER is None and not litert.is_installed(),
    reason=f"needs litert-torch, here or in the Python that {litert.PYTHON_VARIABLE} names",
)


@pytest.fixture(autouse=True, scope="module")
def converter() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        if TFLITE_CONVERTER is not None:
            patch.setenv(litert.PYTHON_VARIABLE, TFLITE_CONVERTER)
        yield


FORMATS = ("tflite", "tflite-fp16", "tflite-dynamic", "tflite-int8", "tflite-int8-io")
QUICK = edgebench.BenchSettings(processes=1, warmup=1, iterations=3, max_wait_s=0.0)

NETS = """
import torch
from torch import nn

INPUT_SHAPE = (1, 3, 32, 32)


def _norm(channels):
    norm = nn.BatchNorm2d(channels)
    nn.init.uniform_(norm.running_mean, -0.2, 0.2)
    nn.init.uniform_(norm.running_var, 0.5, 1.5)
    return norm


def mobile():
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, stride=2, padding=1, bias=False), _norm(16), nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1, groups=16, bias=False), _norm(16), nn.Hardswish(),
        nn.Conv2d(16, 32, 1, bias=False), _norm(32), nn.Hardswish(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 4),
    )


class Heads(nn.Module):
    # The first output is computed last, and both are of one shape.
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, 4), nn.Linear(3, 4)

    def forward(self, x):
        pooled = x.mean((2, 3))
        second = self.second(pooled)
        return self.first(pooled), second


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.patch = nn.Conv2d(3, 16, 8, stride=8)
        self.norm, self.qkv, self.out = nn.LayerNorm(16), nn.Linear(16, 48), nn.Linear(16, 16)
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        query, key, value = self.qkv(self.norm(x)).chunk(3, -1)
        x = x + self.out(torch.softmax(query @ key.transpose(1, 2) / 4, -1) @ value)
        return self.head(x.mean(1))


def heads():
    return Heads()


def attention():
    return Attention()
"""
PREPARED = 'resize = [32, 32]\nchannels = "rgb"\nscale = 0.00392156862745098\nmean = [0.5]\nstd = [0.25]\n'


@dataclass(frozen=True)
class Made:
    """A bundle with the arguments that made it."""

    path: Path
    arguments: dict[str, Any]
    home: Path
    made_in: Path

    @property
    def artifacts(self) -> dict[str, Artifact]:
        return {artifact.format: artifact for artifact in load_bundle(self.path).artifacts}

    def file(self, format: str) -> Path:
        return self.path / str(self.artifacts[format].file)

    def operators(self, format: str, kind: str) -> list[TfliteOperator]:
        return [operator for operator in describe(self.file(format)).operators if operator.kind == kind]

    def answers(self, format: str) -> list[list[NDArray[Any]]]:
        """The outputs for each input that the bundle keeps."""
        run = open_runner(format, path=self.file(format))
        return [run(feed) for feed in load_inputs(self.path, load_bundle(self.path).inputs)]


def _write_sources(directory: Path) -> None:
    (directory / "nets.py").write_text(NETS)
    (directory / "prepared.toml").write_text(PREPARED)
    write_photos(directory / "photos")


def _made(directory: Path, factory: str, formats: Sequence[str]) -> Iterator[Made]:
    """Converted once for all tests: it takes half a minute."""
    _write_sources(directory)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEBENCH_HOME", str(directory / "home"))
        arguments: dict[str, Any] = {
            "model": f"{directory / 'nets.py'}:{factory}",
            "formats": formats,
            "calib": f"imagefolder:{directory / 'photos'}",
            "preprocess": str(directory / "prepared.toml"),
        }
        exported = edgebench.export(out=directory / f"{factory}.eb", **arguments)
        yield Made(exported.path, arguments, directory / "home", Path.cwd())


@pytest.fixture(scope="module")
def mobile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    """Convolutions, a depthwise one, hard-swish."""
    yield from _made(tmp_path_factory.mktemp("mobile"), "mobile", ("onnx", "onnx-int8", *FORMATS))


@pytest.fixture(scope="module")
def heads(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    """Two outputs."""
    yield from _made(tmp_path_factory.mktemp("heads"), "heads", ("torchscript", *FORMATS))


@pytest.fixture(scope="module")
def attention(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    """One head of attention."""
    yield from _made(tmp_path_factory.mktemp("attention"), "attention", ("onnx", "onnx-int8", *FORMATS))


@with_converter
@pytest.mark.parametrize("name", ["mobile", "heads", "attention"])
def test_every_format_is_made_and_proved(name: str, request: pytest.FixtureRequest) -> None:
    made = request.getfixturevalue(name)
    artifacts = made.artifacts
    assert [artifacts[format].status for format in FORMATS] == ["ok"] * 5, [item.reason for item in artifacts.values()]
    assert [artifacts[format].parent for format in FORMATS] == [None, *["tflite"] * 4]
    parities = {format: artifacts[format].parity for format in FORMATS}
    for format, least_db in (("tflite", 100), ("tflite-fp16", 50), ("tflite-dynamic", 25), ("tflite-int8", 25)):
        parity = parities[format]
        assert parity is not None
        assert parity.sqnr_db is None or parity.sqnr_db > least_db, format
    assert parities["tflite"] is not None
    assert parities["tflite"].relative_error < 1e-4
    for format in FORMATS:
        assert describe(made.file(format)).precision == artifacts[format].precision


@with_converter
@pytest.mark.parametrize("name", ["mobile", "attention"])
def test_int8_is_as_faithful_as_in_onnx(name: str, request: pytest.FixtureRequest) -> None:
    artifacts = request.getfixturevalue(name).artifacts
    one, other = (artifacts[format].parity.sqnr_db for format in ("onnx-int8", "tflite-int8"))
    assert one == pytest.approx(other, abs=3.0)


@with_converter
@pytest.mark.parametrize("name", ["mobile", "attention"])
def test_int8_has_the_range_that_onnx_has_of_the_same_images(name: str, request: pytest.FixtureRequest) -> None:
    """At the input: ONNX ends in float."""
    made = request.getfixturevalue(name)
    ours = describe(made.file("tflite-int8-io")).inputs[0]
    graph = onnx.load(made.file("onnx-int8")).graph
    constants = {item.name: numpy_helper.to_array(item) for item in graph.initializer}
    theirs = next(
        node for node in graph.node if node.op_type == "QuantizeLinear" and node.input[0] == graph.input[0].name
    )
    scale, zero_point = (constants[value] for value in theirs.input[1:3])
    assert ours.scales[0] == pytest.approx(float(scale), rel=1e-5)
    # int8 is 128 below uint8, which ONNX has on some machines.
    offset = 128 if zero_point.dtype == np.uint8 else 0
    assert ours.zero_points[0] == pytest.approx(int(zero_point) - offset, abs=1)


@with_converter
def test_the_layout_of_the_source_is_kept(mobile: Made) -> None:
    for format in FORMATS:
        (only,) = describe(mobile.file(format)).inputs
        assert only.shape == (1, 3, 32, 32)


@with_converter
def test_hard_swish_stays_float_among_integers_and_all_is_one_part_of_xnnpack(mobile: Made) -> None:
    for format in ("tflite-int8", "tflite-int8-io"):
        swishes = mobile.operators(format, "HARD_SWISH")
        assert [item.dtype for node in swishes for item in (node.inputs[0], *node.outputs) if item] == ["float32"] * 4
        for kind in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"):
            assert {node.inputs[0].dtype for node in mobile.operators(format, kind) if node.inputs[0]} == {"int8"}
        assert "HARD_SWISH" in mobile.artifacts[format].notes[0]
        assert tflite.open_session(str(mobile.file(format)), 1).provider == "CPU, XNNPACK in 1 part"


@with_converter
def test_weights_are_quantized_per_channel(mobile: Made) -> None:
    (depthwise,) = mobile.operators("tflite-int8", "DEPTHWISE_CONV_2D")
    assert depthwise.inputs[1] is not None
    assert len(depthwise.inputs[1].scales) == 16


@with_converter
def test_attention_stays_float_and_products_with_weights_do_not(attention: Made) -> None:
    operators = describe(attention.file("tflite-int8")).operators
    kinds = {node.kind for node in operators}
    assert {"SOFTMAX", "BATCH_MATMUL"} <= kinds
    for node in operators:
        if node.kind in ("QUANTIZE", "DEQUANTIZE"):
            continue
        values = [item for item in node.inputs if item is not None and item.dtype != "int32"]
        # The converter makes a product of two activations a FULLY_CONNECTED where there is one head.
        weighted = node.kind in ("CONV_2D", "FULLY_CONNECTED") and values[1].constant
        assert {item.dtype for item in values} == ({"int8"} if weighted else {"float32"}), node.kind


@with_converter
def test_two_outputs_keep_their_order(heads: Made) -> None:
    expected = heads.answers("torchscript")
    assert not np.allclose(expected[0][0], expected[0][1], atol=0.1)
    for format, tolerance in (("tflite", 1e-5), ("tflite-int8", 0.05), ("tflite-int8-io", 0.05)):
        for theirs, ours in zip(expected, heads.answers(format), strict=True):
            np.testing.assert_allclose(ours, theirs, atol=tolerance)


@with_converter
@pytest.mark.parametrize("name", ["mobile", "heads", "attention"])
def test_integer_inputs_and_outputs_change_no_answer_by_more_than_a_step(
    name: str, request: pytest.FixtureRequest
) -> None:
    made = request.getfixturevalue(name)
    found = describe(made.file("tflite-int8-io"))
    assert {item.dtype for item in (*found.inputs, *found.outputs)} == {"int8"}
    assert {item.dtype for item in describe(made.file("tflite-int8")).inputs} == {"float32"}
    steps = [item.scales[0] for item in found.outputs]
    for floats, integers in zip(made.answers("tflite-int8"), made.answers("tflite-int8-io"), strict=True):
        for one, other, step in zip(floats, integers, steps, strict=True):
            assert np.abs(one - other).max() <= 1.01 * step


@with_converter
def test_the_second_export_converts_nothing(mobile: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEBENCH_HOME", str(mobile.home))
    # Elsewhere the source's own imports could be others, and it would be looked at anew.
    monkeypatch.chdir(mobile.made_in)
    again = edgebench.export(out=tmp_path / "again.eb", **mobile.arguments)
    assert set(again.reused) >= set(FORMATS)
    for format in FORMATS:
        sha256 = {artifact.format: artifact.sha256 for artifact in again.bundle.artifacts}[format]
        assert sha256 == mobile.artifacts[format].sha256


@with_converter
def test_the_agent_answers_as_the_parity_did_and_top_1_follows(mobile: Made) -> None:
    folder = f"imagefolder:{mobile.path.parent / 'photos'}"
    run = edgebench.bench(mobile.path, data=folder, threads=[1], settings=QUICK)
    cells = {cell.artifact.format: cell for cell in run.cells}
    assert {cell.status for cell in run.cells} == {"ok"}
    for format in FORMATS:
        assert cells[format].provider is not None
        assert "XNNPACK" in cells[format].provider
    assert cells["tflite"].accuracy is not None
    assert cells["onnx"].accuracy is not None
    assert cells["tflite"].accuracy.predictions == cells["onnx"].accuracy.predictions
    for format in FORMATS:
        answers = open_runner(format, path=mobile.file(format))
        accuracy = cells[format].accuracy
        assert accuracy is not None
        classes = [int(np.argmax(answers(feed)[0])) for feed in _feeds(mobile)]
        assert list(accuracy.predictions) == classes


def _feeds(made: Made) -> list[dict[str, NDArray[Any]]]:
    """The photos as inputs, in the order of their folders."""
    from PIL import Image

    (spec,) = load_bundle(made.path).inputs
    feeds = []
    for path in sorted((made.path.parent / "photos").glob("*/*.png")):
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB").resize((32, 32), Image.Resampling.BILINEAR), np.float32)
        x = ((pixels * np.float32(1 / 255) - 0.5) / 0.25).transpose(2, 0, 1)[None]
        feeds.append({spec.name: np.ascontiguousarray(x, np.float32)})
    return feeds


@with_converter
def test_a_network_that_the_converter_does_not_take_fails_with_its_words_and_others_are_made(tmp_path: Path) -> None:
    Path("odd.py").write_text(
        "import torch\n"
        "class Odd(torch.nn.Module):\n"
        "    def forward(self, x):\n"
        "        return torch.linalg.eigvals(x[:, 0]).real\n"
        "def odd():\n    return Odd()\n"
    )
    exported = edgebench.export("odd.py:odd", formats=["torchscript", "tflite"], input_shape=(1, 1, 4, 4))
    made = {artifact.format: artifact for artifact in exported.bundle.artifacts}
    assert made["torchscript"].status == "ok", made["torchscript"].reason
    assert made["tflite"].status == "failed"
    assert (made["tflite"].reason or "").startswith("step tflite failed: ")
    assert list(exported.path.glob("*.tflite")) == []


@with_converter
def test_torchscript_cannot_become_tflite_and_says_so(tmp_path: Path) -> None:
    _write_sources(tmp_path)
    exported = edgebench.export("nets.py:heads", "heads.eb", formats=["torchscript"])
    (script,) = exported.bundle.artifacts
    again = edgebench.export(
        exported.path / str(script.file), "script.eb", formats=["tflite"], input_shape=(1, 3, 32, 32)
    )
    (only,) = again.bundle.artifacts
    assert only.status in ("failed", "skipped")
    assert "TorchScript" in (only.reason or "")


def test_onnx_cannot_become_tflite_and_says_what_it_can(tmp_path: Path) -> None:
    _write_sources(tmp_path)
    exported = edgebench.export("nets.py:heads", "heads.eb", formats=["onnx"])
    with pytest.raises(UsageError, match="an ONNX source cannot become `tflite`") as refused:
        edgebench.export(exported.path / str(exported.bundle.artifacts[0].file), "onnx.eb", formats=["tflite"])
    assert "onnx-int8" in (refused.value.hint or "")


@pytest.mark.parametrize("python", ["/no/such/python", sys.executable, "/"], ids=["no file", "without it", "directory"])
@pytest.mark.parametrize("formats", [[], ["--formats", "tflite"]], ids=["usual", "tflite"])
def test_a_converter_that_does_not_run_is_one_error_with_a_hint_and_nothing_is_half_made(
    python: str,
    formats: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if python == sys.executable:
        pytest.importorskip("torch")
        if _has_litert_torch():
            pytest.skip("needs a Python without litert-torch, and this one has it")
    _write_sources(tmp_path)
    monkeypatch.setenv(litert.PYTHON_VARIABLE, python)
    assert main(["export", "nets.py:heads", "-o", "out.eb", *formats]) == 2
    told = capsys.readouterr().err
    assert told.count("error: ") == 1
    assert python in told
    assert litert.PYTHON_VARIABLE in told
    assert "hint: " in told
    assert "Traceback" not in told
    assert not Path("out.eb").exists()


def _has_litert_torch() -> bool:
    import importlib.util

    return importlib.util.find_spec("litert_torch") is not None


@pytest.mark.skipif(_has_litert_torch(), reason="needs a Python without litert-torch, and this one has it")
def test_without_a_converter_tflite_is_made_only_when_asked_for_and_says_what_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _write_sources(tmp_path)
    monkeypatch.delenv(litert.PYTHON_VARIABLE, raising=False)
    usual = edgebench.export("nets.py:heads", "usual.eb")
    assert not any(artifact.format.startswith("tflite") for artifact in usual.bundle.artifacts)
    asked = edgebench.export("nets.py:heads", "asked.eb", formats=["tflite"])
    (only,) = asked.bundle.artifacts
    assert only.status == "skipped"
    assert "pip install 'edgebench[tflite-export]'" in (only.reason or "")


@with_converter
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs /proc to look for processes")
def test_ctrl_c_during_the_conversion_ends_the_converter_and_leaves_a_bundle_that_goes_on(tmp_path: Path) -> None:
    _write_sources(tmp_path)
    command = ("export", "nets.py:heads", "-o", "out.eb", "--formats", "torchscript,tflite")
    process = start_edgebench(*command)
    try:
        child = _converter_of(process.pid)
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "Traceback" not in told
    _await_the_end_of(child)
    assert [artifact.format for artifact in load_bundle(Path("out.eb")).artifacts] == ["torchscript"]
    assert list(Path("out.eb").glob(".*")) == []
    again = edgebench.export("nets.py:heads", "out.eb", formats=["torchscript", "tflite"])
    assert set(again.reused) == {"torchscript"}
    assert {artifact.status for artifact in again.bundle.artifacts} == {"ok"}


def _converter_of(pid: int) -> int:
    """The process that converts, once it does."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            words = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
            if any(word.endswith(b".pt2") for word in words):
                return int(child)
        time.sleep(0.05)
    raise AssertionError("no conversion was started")


def _await_the_end_of(pid: int) -> None:
    """It was killed; until the system has taken away its memory, and its new parent its entry, it is still listed."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return
        except OSError:
            return
        time.sleep(0.05)
    raise AssertionError("the converter goes on")
