"""Profiles of real artifacts by real profilers."""

from __future__ import annotations

import json
import shutil
import warnings
from collections import Counter
from importlib import util
from pathlib import Path

import pytest

import edgebench
from edgebench.agent.profilers.onnx_nodes import read_nodes
from edgebench.cli.main import main
from edgebench.errors import EnvironmentFailure, UsageError
from edgebench.measure.profile import profile
from edgebench.profiling.onnx_modules import INSERTED
from tests.integration.conftest import SWISH_NET, write_photos

LEAVES = {"stem", "blocks.0.conv", "blocks.1.conv", "head"}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every form of the net; tests leave it as it is."""
    directory = tmp_path_factory.mktemp("exported")
    # ONNX Runtime has no int8 kernel for this one, and nothing to rewrite it with.
    (directory / "swish_net.py").write_text(SWISH_NET.replace("Hardswish", "ELU"))
    write_photos(directory / "photos")
    formats = ["torchscript", "onnx", "onnx-sim", "onnx-int8"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEBENCH_HOME", str(directory / "home"))
        patch.chdir(directory)
        result = edgebench.export(
            "swish_net.py:net", "net.eb", formats=formats, calib="imagefolder:photos", samples=8, preprocess="none"
        )
    return directory / result.path


def test_every_operator_of_the_exported_forms_has_its_module(bundle: Path) -> None:
    found = profile([bundle / "net.onnx", bundle / "net.sim.onnx", bundle / "net.int8.onnx"], threads=1, runs=3)
    for one in found:
        modules = {operator.module for operator in one.operators}
        assert modules >= LEAVES, one.name
        assert modules <= {*LEAVES, "", "blocks.0", "blocks.1", "blocks.0.act", "blocks.1.act", INSERTED}, one.name
        assert {len(operator.ns) for operator in one.operators} == {3}
        assert 0 < one.accounted <= 1
        # Operators run one after the other, within their inference.
        for number, whole in enumerate(one.whole_ns):
            spans = [(op.started_ns[number], op.started_ns[number] + op.ns[number]) for op in one.operators]
            assert spans == sorted(spans)
            # Two clocks: the profiler's begins within the call, in steps of a microsecond.
            assert spans[-1][1] <= whole + 1000


def test_an_int8_artifact_says_what_it_computes_in_float(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = ("--json", "p.json", "--trace", "t.json")
    both = (str(bundle / "net.sim.onnx"), str(bundle / "net.int8.onnx"))
    assert main(["profile", *both, "--threads", "1", "--runs", "3", *files]) == 0
    said = capsys.readouterr().out
    assert "found no int8 kernel for Elu" in " ".join(said.split())
    floating, int8 = json.loads(Path("p.json").read_text())["profiles"]
    assert floating["shares"]["int8"] == 0
    floats = [item for item in int8["operators"] if item["kind"] == "Elu"]
    assert [item["module"] for item in floats] == ["blocks.0.act", "blocks.1.act"]
    assert all(item["work"] == "float" for item in floats)
    assert {item["kind"] for item in int8["operators"] if item["module"] == "stem"} >= {"QLinearConv"}
    assert {item["pid"] for item in json.loads(Path("t.json").read_text())["traceEvents"]} == {1, 2}
    # Profilers write files where they are started.
    assert not list(Path.cwd().glob("*profile*"))


def test_nodes_are_read_as_onnx_reads_them(bundle: Path) -> None:
    onnx = pytest.importorskip("onnx")
    for path in bundle.glob("*.onnx"):
        theirs = [
            (node.name, node.op_type, node.domain, tuple(node.input), tuple(node.output),
             tuple((entry.key, entry.value) for entry in node.metadata_props))
            for node in onnx.load(path).graph.node
        ]  # fmt: skip
        ours = [
            (node.name, node.operator, node.domain, node.inputs, node.outputs, node.metadata)
            for node in read_nodes(str(path))
        ]
        assert ours == theirs


def test_torchscript_is_profiled_by_operators(bundle: Path) -> None:
    (found,) = profile([bundle / "net.torchscript.pt"], threads=1, runs=3)
    kinds = [operator.kind for operator in found.operators]
    assert kinds.count("aten::_convolution") == 3
    kernels = {str(operator.kernel) for operator in found.operators if operator.kind == "aten::_convolution"}
    # Which one it is depends on the size and the machine.
    assert kernels and all("conv" in kernel and kernel != "aten::_convolution" for kernel in kernels)


def test_a_source_is_profiled_by_its_modules(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "swish_net.py").write_text(SWISH_NET)
    with warnings.catch_warnings():
        # torch.profiler's own.
        warnings.simplefilter("ignore")
        (found,) = profile(["swish_net.py:net"], threads=1, runs=3)
    kinds = [(operator.module, operator.kind) for operator in found.operators]
    assert kinds == [
        ("stem", "aten::conv2d"),
        ("", "aten::relu"),
        *((f"blocks.{number}{part}", kind) for number in range(2) for part, kind in (
            (".conv", "aten::conv2d"), (".act", "aten::hardswish"), ("", "aten::add"))),
        ("", "aten::mean"),
        ("head", "aten::linear"),
    ]  # fmt: skip
    assert capfd.readouterr().out == ""


def test_a_tflite_file_is_profiled_also_within_its_delegate(shared: Path) -> None:
    if util.find_spec("ai_edge_litert") is None:
        pytest.skip("needs ai-edge-litert")
    (found,) = profile([shared / "models" / "mlperf_tiny_resnet8_int8.tflite"], threads=1, runs=3)
    operators = found.operators
    assert sum(str(operator.kernel).startswith("XNNPACK Convolution") for operator in operators) == 9
    assert all(len(operator.ns) == 3 for operator in operators)
    # MLPerf Tiny's ResNet-8: a stem, three stacks of two convolutions with two shortcuts of one pixel.
    kinds = Counter(operator.kind for operator in operators)
    assert (kinds["CONV_2D"], kinds["FULLY_CONNECTED"], kinds["AVERAGE_POOL_2D"], kinds["SOFTMAX"]) == (9, 1, 1, 1)
    assert {operator.work for operator in operators if operator.kind == "CONV_2D"} == {"int8"}


def test_a_runtime_without_a_profiler_is_named(bundle: Path) -> None:
    with pytest.raises(EnvironmentFailure, match="reads no profiler of onnxruntime-cuda"):
        profile([bundle / "net.onnx"], runtime="onnxruntime-cuda")


def test_a_file_of_a_bundle_that_was_changed_is_refused(bundle: Path, tmp_path: Path) -> None:
    changed = shutil.copytree(bundle, tmp_path / "changed.eb")
    with (changed / "net.onnx").open("ab") as file:
        file.write(b"\x00")
    with pytest.raises(UsageError, match="not the file that was exported"):
        profile([changed / "net.onnx"])


def test_a_bundle_is_answered_with_its_artifacts(bundle: Path) -> None:
    with pytest.raises(UsageError) as caught:
        profile([bundle])
    assert "net.int8.onnx" in str(caught.value.hint)


def test_an_artifact_that_failed_its_parity_is_refused_with_the_reason(bundle: Path, tmp_path: Path) -> None:
    failed = shutil.copytree(bundle, tmp_path / "failed.eb")
    described = json.loads((failed / "bundle.json").read_text())
    for artifact in described["artifacts"]:
        artifact.update(status="failed", reason="it answers otherwise")
    (failed / "bundle.json").write_text(json.dumps(described))
    with pytest.raises(UsageError, match="it answers otherwise"):
        profile([failed / "net.onnx"])


def test_two_artifacts_of_one_name_are_called_by_their_paths(bundle: Path, tmp_path: Path) -> None:
    other = shutil.copytree(bundle, tmp_path / "other.eb")
    found = profile([bundle / "net.onnx", other / "net.onnx"], threads=1, runs=1)
    assert [one.name for one in found] == [str(bundle / "net.onnx"), str(other / "net.onnx")]
