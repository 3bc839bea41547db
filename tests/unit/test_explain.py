"""Explanations of small files by onnxruntime itself: what it joins, what it leaves, and what that costs."""

from __future__ import annotations

import io
import json
import platform
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx import helper
from rich.console import Console

from edgebench.cli.main import main
from edgebench.errors import EnvironmentFailure, UsageError
from edgebench.explaining.explanation import Explanation
from edgebench.explaining.findings import find
from edgebench.explaining.instructions import instructions
from edgebench.explaining.layers import Layer
from edgebench.measure.explain import explain
from edgebench.profiling.profile import Profile
from edgebench.report.explain_table import render
from tests.unit.quantized_files import SCALES, float_net, qdq_net, save

X86 = pytest.mark.skipif(
    platform.machine() != "x86_64", reason="needs an x86-64 CPU: its runtime joins other operators"
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A data directory, and in it four inputs within -2 to 2, `int8.onnx` and `float.onnx`."""
    directory = tmp_path_factory.mktemp("explained")
    values = np.random.default_rng(3).uniform(-2, 2, (4, 4, 4, 4)).astype(np.float32)
    np.savez(directory / "images.npz", x=values, y=np.zeros(4, np.int64))
    qdq_net(directory / "int8.onnx")
    float_net(directory / "float.onnx")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEBENCH_HOME", str(directory / "home"))
        yield directory


@pytest.fixture
def images(home: Path) -> str:
    return f"npz:{home / 'images.npz'}"


@pytest.fixture(scope="module")
def plain(home: Path) -> Explanation:
    """Of the plain pair."""
    data = f"npz:{home / 'images.npz'}"
    return explain(home / "int8.onnx", against=home / "float.onnx", data=data, threads=1, runs=2)


def _reasons(explained: Explanation) -> dict[str, str]:
    """By the names of operators."""
    return {name: group.reason for group in explained.unfused for name in group.names}


def _kinds(explained: Explanation) -> set[str]:
    return {finding.kind for finding in find(explained)}


def test_what_the_runtime_joins_is_not_named_and_what_it_leaves_is(plain: Explanation) -> None:
    assert _reasons(plain) == {"hard": "no-kernel"}
    layers = {layer.name: layer for layer in plain.layers}
    assert list(layers) == ["x", "conv1", "conv2", "add", "hard"]
    assert {name for name, layer in layers.items() if layer.ns is None} == {"x"}
    # The float runtime computes the addition within the convolution.
    assert {name for name, layer in layers.items() if layer.float_ns is not None} >= {"conv1", "conv2", "hard"}
    # The pair around it counts to it.
    assert layers["hard"].conversion_ns > 0
    assert layers["conv1"].conversion_ns == 0


def test_the_file_and_the_device_answer_the_same(plain: Explanation) -> None:
    assert plain.sqnr_db is not None
    assert plain.device_sqnr_db == pytest.approx(plain.sqnr_db, abs=0.5)
    # The weights are exact in int8, and no value is beyond its range.
    assert [layer.weight_noise for layer in plain.layers if layer.kind == "Conv"] == [0.0, 0.0]
    assert {layer.result.clipped for layer in plain.layers if layer.result is not None} == {0.0}


def test_the_layer_whose_range_is_too_small_is_found(tmp_path: Path, home: Path, images: str) -> None:
    scales = {**SCALES, "conv2": SCALES["conv2"] / 50}
    path = qdq_net(tmp_path / "int8.onnx", scales=scales)
    explained = explain(path, against=home / "float.onnx", data=images, threads=1, runs=1)
    worst = max(explained.layers, key=lambda layer: layer.added_noise)
    assert worst.name == "conv2"
    assert worst.result is not None
    assert worst.result.clipped is not None
    assert worst.result.clipped > 0.5
    (clipped,) = [finding for finding in find(explained) if finding.kind == "clipped"]
    assert "the result of conv2" in clipped.text
    assert clipped.remedy is not None
    assert f"edgebench export {home / 'float.onnx'} --calib DATA --samples 512 --method minmax" in clipped.remedy


def test_the_layer_whose_range_is_too_wide_is_found(tmp_path: Path, home: Path, images: str) -> None:
    path = qdq_net(tmp_path / "int8.onnx", scales={**SCALES, "conv2": SCALES["conv2"] * 30})
    explained = explain(path, against=home / "float.onnx", data=images, threads=1, runs=1)
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


@X86
def test_an_activation_between_an_operator_and_its_pair_is_no_other_reader(home: Path, tmp_path: Path) -> None:
    made = [
        *_pair("x", 1),
        helper.make_node("Add", ["d1", "d1"], ["a"], "a"),
        helper.make_node("Relu", ["a"], ["r"], "r"),
        *_pair("r", 2),
        # Two read it, so that it stays signed.
        helper.make_node("Exp", ["d2"], ["e"], "e"),
        helper.make_node("Sub", ["d2", "e"], ["y"], "y"),
    ]
    constants = {"s": np.asarray(1 / 32, np.float32), "z": np.asarray(0, np.int8)}
    explained = explain(save(tmp_path / "net.onnx", made, constants, (1, 4, 4, 4)), threads=1, runs=1)
    assert _reasons(explained)["a"] == "signed"


def test_sixteen_bits_are_computed_in_float(tmp_path: Path, home: Path, images: str) -> None:
    scales = {name: scale / 256 for name, scale in SCALES.items()}
    path = qdq_net(tmp_path / "int16.onnx", dtype="uint16", scales=scales)
    explained = explain(path, against=home / "float.onnx", data=images, threads=1, runs=1)
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


def test_without_inputs_nothing_is_said_of_values(tmp_path: Path, home: Path) -> None:
    explained = explain(home / "int8.onnx", against=home / "float.onnx", threads=1, runs=1)
    assert explained.inputs == 0
    assert explained.sqnr_db is None
    assert all(layer.result is None for layer in explained.layers)
    assert explained.profile.fed_with == "random numbers"
    (finding,) = [finding for finding in find(explained) if finding.kind == "no-values"]
    assert "--data" in finding.text


def test_a_float_file_is_answered_with_what_to_type(tmp_path: Path, home: Path) -> None:
    with pytest.raises(UsageError, match="not quantized") as caught:
        explain(home / "float.onnx")
    assert "edgebench profile" in str(caught.value.hint)


def test_a_float_model_of_other_inputs_is_refused(tmp_path: Path, home: Path) -> None:
    nodes = [helper.make_node("Relu", ["x"], ["y"], "relu")]
    other = save(tmp_path / "other.onnx", nodes, {}, (1, 4, 8, 8))
    with pytest.raises(UsageError, match="not one network"):
        explain(home / "int8.onnx", against=other)


def test_a_quantized_file_is_no_float_model(tmp_path: Path, home: Path) -> None:
    with pytest.raises(UsageError, match="float32"):
        explain(home / "int8.onnx", against=qdq_net(tmp_path / "twin.onnx"))


def test_a_device_that_is_not_there_is_named(tmp_path: Path, home: Path) -> None:
    with pytest.raises((UsageError, EnvironmentFailure), match="nowhere"):
        explain(home / "int8.onnx", device="nowhere")


def test_the_tables_show_what_it_is_what_runs_and_what_is_lost(plain: Explanation) -> None:
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(render(plain, top=10))
    shown = console.export_text()
    for text in ("QDQ", "5 uint8", "2 int8 per channel", "HardSigmoid", "no int8 kernel", "conv2", "SQNR dB", "exact"):
        assert text in shown


def test_the_command_writes_json_alone_to_stdout(home: Path, images: str, capsys: pytest.CaptureFixture[str]) -> None:
    files = [str(home / "int8.onnx"), "--against", str(home / "float.onnx")]
    assert main(["explain", *files, "--data", images, "--threads", "1", "--runs", "1", "--json", "-"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["artifact"]["form"] == "QDQ"
    assert [layer["name"] for layer in document["layers"]] == ["x", "conv1", "conv2", "add", "hard"]
    assert [layer["weights_sqnr_db"] for layer in document["layers"]] == [None, "inf", "inf", None, None]
    assert {finding["kind"] for finding in document["findings"]} >= {"no-kernel"}
    assert len(document["profiles"]) == 2


def test_a_cpu_whose_sums_saturate_is_named_with_what_to_type(plain: Explanation) -> None:
    cpu = instructions({"machine": "x86_64", "cpu": "an old CPU", "isa": ["avx2"]})
    (finding,) = [item for item in find(replace(plain, cpu=cpu, may_saturate=True)) if item.kind == "may-saturate"]
    assert "an old CPU: no VNNI" in finding.text
    assert finding.remedy is not None
    assert "--reduce-range" in finding.remedy


def test_a_device_that_answers_otherwise_than_its_file_says_is_named(plain: Explanation) -> None:
    assert plain.noise is not None
    # Four times the noise power is 6 dB.
    (finding,) = [item for item in find(replace(plain, device_noise=4 * plain.noise)) if item.kind == "device-differs"]
    assert "local" in finding.text


def _timed(profile: Profile, ms: float) -> Profile:
    """All inferences take `ms`, and so do their operators together."""
    ns = round(ms * 1e6)
    return replace(
        profile,
        unprofiled_ns=(ns,),
        whole_ns=(ns,),
        operators=(replace(profile.operators[0], ns=(ns,), started_ns=()),),
    )


@pytest.mark.parametrize(("factor", "kind"), [(0.5, "faster"), (1.0, "no-faster"), (2.0, "slower")])
def test_the_whole_time_is_compared_with_that_of_the_float_model(factor: float, kind: str, plain: Explanation) -> None:
    assert plain.parent_profile is not None
    explained = replace(plain, profile=_timed(plain.profile, factor), parent_profile=_timed(plain.parent_profile, 1))
    first = find(explained)[0]
    assert first.kind == kind
    assert first.remedy is not None
    assert f"edgebench compare {plain.parent} {plain.path}" in first.remedy


def test_times_of_a_busy_machine_are_not_compared(plain: Explanation) -> None:
    assert plain.parent_profile is not None
    quiet = _timed(plain.profile, 1)
    # An operator that takes 1 ms in most inferences, and 3 ms more elsewhere in each of them.
    first, second, third = (replace(quiet.operators[0], ns=ns) for ns in ((4, 1, 1), (1, 4, 1), (1, 1, 4)))
    disturbed = replace(quiet, operators=(first, second, third), whole_ns=(6, 6, 6))
    assert find(replace(plain, profile=disturbed, parent_profile=quiet))[0].kind == "busy"


def test_weights_below_their_rounding_are_named(plain: Explanation) -> None:
    # A hundredth of the power is 20 dB, a thousandth 30 dB.
    noisy = {"conv1": 0.01, "conv2": 0.001}
    layers = tuple(replace(layer, weight_noise=noisy.get(layer.name)) for layer in plain.layers)
    (finding,) = [item for item in find(replace(plain, layers=layers)) if item.kind == "weights"]
    assert "conv1" in finding.text
    assert "conv2" not in finding.text


def test_a_channel_that_is_lost_beside_a_large_one_is_named(plain: Explanation) -> None:
    def unequal(layer: Layer) -> Layer:
        if layer.name != "conv2" or layer.result is None:
            return layer
        values = replace(layer.result, channels=(100.0, 0.5, 90.0, 2.0), channel_noise=(0.0, 0.9, 0.0, 0.1))
        return replace(layer, result=values)

    explained = replace(plain, layers=tuple(map(unequal, plain.layers)), noise=0.1)
    (finding,) = [item for item in find(explained) if item.kind == "unequal-channels"]
    assert "the result of conv2: 1 of its 4 channels, the smallest by 200 times" in finding.text
    assert finding.remedy is not None
    assert "--equalize on" in finding.remedy
