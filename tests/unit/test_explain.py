"""Explanations of small files by onnxruntime itself: what it joins, what it leaves, and what that costs."""

from __future__ import annotations

import json
import platform
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from edgebench.cli.main import main
from edgebench.errors import EnvironmentFailure, UsageError
from edgebench.explaining.explanation import Explanation
from edgebench.explaining.findings import find
from edgebench.measure.explain import explain
from tests.unit.quantized_files import SCALES, float_net, qdq_net, save

X86 = pytest.mark.skipif(
    platform.machine() != "x86_64", reason="needs an x86-64 CPU: its runtime joins other operators"
)


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEBENCH_HOME", str(tmp_path / "home"))


@pytest.fixture
def images(tmp_path: Path) -> str:
    """Four inputs within -2 to 2."""
    values = np.random.default_rng(3).uniform(-2, 2, (4, 4, 4, 4)).astype(np.float32)
    np.savez(tmp_path / "images.npz", x=values, y=np.zeros(4, np.int64))
    return f"npz:{tmp_path / 'images.npz'}"


def _reasons(explained: Explanation) -> dict[str, str]:
    """By the names of operators."""
    return {name: group.reason for group in explained.unfused for name in group.names}


def _kinds(explained: Explanation) -> set[str]:
    return {finding.kind for finding in find(explained)}


def test_what_the_runtime_joins_is_not_named_and_what_it_leaves_is(tmp_path: Path, images: str) -> None:
    path, parent = qdq_net(tmp_path / "int8.onnx"), float_net(tmp_path / "float.onnx")
    explained = explain(path, against=parent, data=images, threads=1, runs=2)
    assert _reasons(explained) == {"hard": "no-kernel"}
    layers = {layer.name: layer for layer in explained.layers}
    assert list(layers) == ["x", "conv1", "conv2", "add", "hard"]
    assert {name for name, layer in layers.items() if layer.ns is None} == {"x"}
    # The float runtime computes the addition within the convolution.
    assert {name for name, layer in layers.items() if layer.float_ns is not None} >= {"conv1", "conv2", "hard"}
    # The pair around it counts to it.
    assert layers["hard"].conversion_ns > 0
    assert layers["conv1"].conversion_ns == 0


def test_the_file_and_the_device_answer_the_same(tmp_path: Path, images: str) -> None:
    explained = explain(
        qdq_net(tmp_path / "int8.onnx"), against=float_net(tmp_path / "float.onnx"), data=images, threads=1, runs=1
    )
    assert explained.sqnr_db is not None
    assert explained.device_sqnr_db == pytest.approx(explained.sqnr_db, abs=0.5)
    # The weights are exact in int8, and the values of no layer are beyond its range.
    noises = [layer.weight_noise for layer in explained.layers if layer.kind == "Conv"]
    assert noises == [0.0, 0.0]
    assert {layer.result.clipped for layer in explained.layers if layer.result is not None} == {0.0}


def test_the_layer_whose_range_is_too_small_is_found(tmp_path: Path, images: str) -> None:
    scales = {**SCALES, "conv2": SCALES["conv2"] / 50}
    path = qdq_net(tmp_path / "int8.onnx", scales=scales)
    explained = explain(path, against=float_net(tmp_path / "float.onnx"), data=images, threads=1, runs=1)
    worst = max(explained.layers, key=lambda layer: layer.added_noise)
    assert worst.name == "conv2"
    assert worst.result is not None
    assert worst.result.clipped is not None
    assert worst.result.clipped > 0.5
    (clipped,) = [finding for finding in find(explained) if finding.kind == "clipped"]
    assert "the result of conv2" in clipped.text
    assert clipped.remedy is not None
    assert f"edgebench export {tmp_path / 'float.onnx'} --calib DATA --samples 512 --method minmax" in clipped.remedy


def test_the_layer_whose_range_is_too_wide_is_found(tmp_path: Path, images: str) -> None:
    path = qdq_net(tmp_path / "int8.onnx", scales={**SCALES, "conv2": SCALES["conv2"] * 30})
    explained = explain(path, against=float_net(tmp_path / "float.onnx"), data=images, threads=1, runs=1)
    (wide,) = [finding for finding in find(explained) if finding.kind == "unused-range"]
    assert "the result of conv2" in wide.text
    assert wide.remedy is not None
    assert "--method mse" in wide.remedy


@X86
def test_signed_activations_are_named_where_the_runtime_could_not_make_them_unsigned(
    tmp_path: Path, images: str
) -> None:
    explained = explain(qdq_net(tmp_path / "int8.onnx", dtype="int8"), data=images, threads=1, runs=1)
    # relu feeds two operators, conv2 one: so what reads or writes relu's values stays in float.
    assert _reasons(explained)["conv1"] == "signed"
    assert "signed" in _kinds(explained)
    (finding,) = [finding for finding in find(explained) if finding.kind == "signed"]
    assert finding.remedy is not None
    assert "--activations uint8" in finding.remedy


def test_sixteen_bits_are_computed_in_float(tmp_path: Path, images: str) -> None:
    scales = {name: scale / 256 for name, scale in SCALES.items()}
    path = qdq_net(tmp_path / "int16.onnx", dtype="uint16", scales=scales)
    explained = explain(path, against=float_net(tmp_path / "float.onnx"), data=images, threads=1, runs=1)
    reasons = _reasons(explained)
    assert {reasons["conv1"], reasons["conv2"], reasons["add"]} == {"16-bit"}
    assert explained.sqnr_db is not None
    assert explained.sqnr_db > 60


def _pair(tensor: str, number: int) -> list[object]:
    return [
        helper.make_node("QuantizeLinear", [tensor, "s", "z"], [f"q{number}"], f"q{number}"),
        helper.make_node("DequantizeLinear", [f"q{number}", "s", "z"], [f"d{number}"], f"d{number}"),
    ]


@pytest.mark.parametrize(
    ("nodes", "reasons"),
    [
        # Its second input has no pair.
        ([*_pair("x", 1), ("Neg", ["x"], "n"), ("Add", ["d1", "n"], "a"), *_pair("a", 2), ("Neg", ["d2"], "y")],
         {"a": "float-input"}),
        # Its result has none.
        ([*_pair("x", 1), ("Add", ["d1", "d1"], "a"), ("Neg", ["a"], "y")], {"a": "float-output"}),
        # Its result is also read as it is.
        ([*_pair("x", 1), ("Add", ["d1", "d1"], "a"), *_pair("a", 2), ("Exp", ["a"], "e"), ("Sub", ["d2", "e"], "y")],
         {"a": "shared"}),
    ],
)  # fmt: skip
def test_pairs_that_the_file_left_out_are_the_reason(
    nodes: list[object], reasons: dict[str, str], tmp_path: Path, images: str
) -> None:
    made = [
        helper.make_node(node[0], node[1], [node[2]], node[2]) if isinstance(node, tuple) else node for node in nodes
    ]
    constants = {"s": np.asarray(1 / 32, np.float32), "z": np.asarray(128, np.uint8)}
    explained = explain(save(tmp_path / "net.onnx", made, constants, (1, 4, 4, 4)), data=images, threads=1, runs=1)
    found = _reasons(explained)
    assert {name: found[name] for name in reasons} == reasons


def test_without_inputs_nothing_is_said_of_values(tmp_path: Path) -> None:
    explained = explain(qdq_net(tmp_path / "int8.onnx"), against=float_net(tmp_path / "float.onnx"), threads=1, runs=1)
    assert explained.inputs == 0
    assert explained.sqnr_db is None
    assert all(layer.result is None for layer in explained.layers)
    assert explained.profile.fed_with == "random numbers"
    (finding,) = [finding for finding in find(explained) if finding.kind == "no-values"]
    assert "--data" in finding.text


def test_a_float_file_is_answered_with_what_to_type(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not quantized") as caught:
        explain(float_net(tmp_path / "float.onnx"))
    assert "edgebench profile" in str(caught.value.hint)


def test_a_float_model_of_other_inputs_is_refused(tmp_path: Path) -> None:
    nodes = [helper.make_node("Relu", ["x"], ["y"], "relu")]
    other = save(tmp_path / "other.onnx", nodes, {}, (1, 4, 8, 8))
    with pytest.raises(UsageError, match="not one network"):
        explain(qdq_net(tmp_path / "int8.onnx"), against=other)


def test_a_quantized_file_is_no_float_model(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="float32"):
        explain(qdq_net(tmp_path / "int8.onnx"), against=qdq_net(tmp_path / "twin.onnx"))


def test_a_device_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises((UsageError, EnvironmentFailure), match="nowhere"):
        explain(qdq_net(tmp_path / "int8.onnx"), device="nowhere")


def test_the_command_prints_tables_and_writes_json(
    tmp_path: Path, images: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path, parent = qdq_net(tmp_path / "int8.onnx"), float_net(tmp_path / "float.onnx")
    arguments = ["explain", str(path), "--against", str(parent), "--data", images, "--threads", "1", "--runs", "2"]
    assert main([*arguments, "--json", str(tmp_path / "explained.json")]) == 0
    shown = capsys.readouterr().out
    for text in ("QDQ", "5 uint8", "2 int8 per channel", "HardSigmoid", "no int8 kernel", "conv2", "SQNR dB"):
        assert text in shown
    document = json.loads((tmp_path / "explained.json").read_text())
    assert document["artifact"]["form"] == "QDQ"
    assert [layer["name"] for layer in document["layers"]] == ["x", "conv1", "conv2", "add", "hard"]
    assert {finding["kind"] for finding in document["findings"]} >= {"no-kernel"}
    assert len(document["profiles"]) == 2


def test_json_on_stdout_stands_alone(tmp_path: Path, images: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", str(qdq_net(tmp_path / "int8.onnx")), "--data", images, "--runs", "1", "--json", "-"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["float_model"] is None
    assert document["ratio"] is None
