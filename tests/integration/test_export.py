"""From a model to a bundle, with real exporters."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

import edgebench
from edgebench.bundle import load_bundle, load_inputs
from edgebench.cli.main import main
from edgebench.errors import DataError, EnvironmentFailure, UsageError
from edgebench.model_inputs import CalibrationImages, ModelInputs
from edgebench.types import Artifact
from tests.integration.conftest import ROOT, TINY_NET, start_edgebench


def _write_net(name: str, *forward: str, init: str = "self.head = torch.nn.Linear(768, 4)") -> None:
    """`NAME.py` with a factory `net` of a network over 3x16x16 = 768 values, whose forward pass is these lines."""
    Path(f"{name}.py").write_text(
        "import torch\n"
        "class Net(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        f"        {init}\n"
        "    def forward(self, x):\n"
        + "".join(f"        {line}\n" for line in forward)
        + "def net():\n    return Net()\n"
    )


def _by_name(result: edgebench.Exported) -> dict[str, Artifact]:
    return {artifact.name: artifact for artifact in result.bundle.artifacts}


def test_every_format_is_made_and_proved_on_real_images(tiny_net: str, photos: str) -> None:
    result = edgebench.export(tiny_net, calib=photos, preprocess="cifar10")
    made = _by_name(result)
    assert list(made) == ["torchscript", "onnx", "onnx-sim", "onnx-int8"]
    assert {artifact.status for artifact in made.values()} == {"ok"}
    assert [made[name].parent for name in made] == [None, None, "onnx", "onnx-sim"]
    for artifact in made.values():
        assert artifact.parity is not None
        assert artifact.parity.inputs == "calibration"
        assert artifact.file is not None
        assert (result.path / artifact.file).stat().st_size == artifact.bytes
    assert made["onnx-int8"].parity is not None
    assert made["onnx-int8"].parity.samples == 24
    assert result.bundle.calibration is not None
    assert result.bundle.calibration.samples == 24
    assert load_bundle(result.path) == result.bundle


def test_the_files_say_what_the_bundle_says(tiny_net: str, photos: str) -> None:
    result = edgebench.export(tiny_net, calib=photos, preprocess="cifar10", opset=19)
    made = _by_name(result)
    model = onnx.load(result.path / str(made["onnx"].file))
    assert made["onnx"].opset == model.opset_import[0].version == 19
    assert model.ir_version <= 10
    quantized = onnx.load(result.path / str(made["onnx-int8"].file))
    kinds = {node.op_type for node in quantized.graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= kinds


def test_an_opset_that_dynamo_cannot_write_is_written_by_the_legacy_exporter_and_said_so(tiny_net: str) -> None:
    made = _by_name(edgebench.export(tiny_net, formats=["onnx"], opset=13))
    assert made["onnx"].opset == 13
    assert "legacy exporter" in made["onnx"].notes[0]


def test_without_images_int8_is_skipped_and_parity_is_labelled_random(tiny_net: str) -> None:
    made = _by_name(edgebench.export(tiny_net))
    assert made["onnx-int8"].status == "skipped"
    assert "--calib" in (made["onnx-int8"].reason or "")
    assert made["onnx"].parity is not None
    assert made["onnx"].parity.inputs == "random"


def test_the_second_export_reuses_everything_without_importing_torch(tiny_net: str, photos: str) -> None:
    edgebench.export(tiny_net, calib=photos, preprocess="cifar10")
    code = (
        "import sys, edgebench\n"
        f"result = edgebench.export({tiny_net!r}, 'again.eb', calib={photos!r}, preprocess='cifar10')\n"
        "print(sorted(result.reused), {'torch', 'onnx', 'onnxruntime'} & set(sys.modules))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"{sorted(['torchscript', 'onnx', 'onnx-sim', 'onnx-int8'])} set()"
    assert (Path("again.eb") / "again.int8.onnx").is_file()


def test_changed_code_or_images_are_exported_anew(tiny_net: str, photos: str) -> None:
    edgebench.export(tiny_net, calib=photos, preprocess="cifar10", formats=["onnx"])
    source = Path("tiny_net.py")
    source.write_text(source.read_text().replace("nn.Linear(16, classes)", "nn.Linear(16, classes, bias=False)"))
    assert not edgebench.export(tiny_net, calib=photos, preprocess="cifar10", formats=["onnx"]).reused
    shutil.copyfile("photos/class0/0.png", "photos/class3/0.png")
    assert not edgebench.export(tiny_net, calib=photos, preprocess="cifar10", formats=["onnx"]).reused


def test_the_same_file_beside_other_code_is_another_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = []
    for folder, width in (("a", 3), ("b", 5)):
        (tmp_path / folder).mkdir()
        monkeypatch.chdir(tmp_path / folder)
        Path("parts.py").write_text(f"WIDTH = {width}\n")
        Path("net.py").write_text(
            "import torch\nfrom parts import WIDTH\n"
            "def net():\n    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, WIDTH))\n"
        )
        counts.append(
            edgebench.export("net.py:net", input_shape=(1, 3, 2, 2), formats=["onnx"]).bundle.source.parameters
        )
        del sys.modules["parts"]  # as in a process of its own
    assert counts == [12 * 3 + 3, 12 * 5 + 5]


def test_real_inputs_are_kept_also_by_an_export_out_of_the_cache(tiny_net: str, photos: str) -> None:
    for out in ("first.eb", "again.eb"):
        result = edgebench.export(tiny_net, out, calib=photos, preprocess="cifar10", formats=["onnx"])
        assert len(load_inputs(result.path, result.bundle.inputs)) == 4
    without = edgebench.export(tiny_net, "again.eb", formats=["onnx"])
    assert load_inputs(without.path, without.bundle.inputs) == []


def test_an_export_that_fails_on_its_images_leaves_the_earlier_bundle_as_it_was(tiny_net: str, photos: str) -> None:
    result = edgebench.export(tiny_net, calib=photos, preprocess="cifar10", formats=["onnx"])
    before = {path.name: path.read_bytes() for path in result.path.iterdir()}
    Path("photos/class3/5.png").write_bytes(b"not an image")
    with pytest.raises(DataError, match=r"5\.png"):
        edgebench.export(tiny_net, calib=photos, preprocess="none", input_shape=(1, 3, 16, 16), formats=["onnx"])
    assert {path.name: path.read_bytes() for path in result.path.iterdir()} == before


def test_a_network_that_works_in_place_spoils_no_inputs(photos: str) -> None:
    _write_net("inplace", "return self.head(x.sub_(100).flatten(1))")
    result = edgebench.export("inplace.py:net", calib=photos, preprocess="cifar10")
    assert {artifact.status for artifact in result.bundle.artifacts} == {"ok"}, result.bundle.artifacts
    kept = load_inputs(result.path, result.bundle.inputs)
    assert min(float(feed["input"].min()) for feed in kept) > -10


def test_parity_is_measured_on_images_of_all_classes(tiny_net: str, photos: str) -> None:
    images = CalibrationImages.open(photos, None, 0)
    facts = edgebench.export(tiny_net, calib=photos, preprocess="cifar10", formats=["onnx"]).bundle
    feeds = ModelInputs(facts.inputs, facts.preprocess, images, 0).first(8)
    # The classes of these images differ in brightness.
    assert len({round(float(feed["input"].mean())) for feed in feeds}) >= 3


def test_a_calibration_set_and_a_checkpoint_that_disagree_on_preparation_are_not_guessed_between(
    tmp_path: Path, photos: str
) -> None:
    (tmp_path / "calib").mkdir()
    (tmp_path / "calib" / "mine.toml").write_text(f'data = "{photos}"\nsamples = 8\npreprocess = "none"\n')
    (tmp_path / "own.py").write_text(TINY_NET + '\nPREPROCESS = "cifar10"\n')
    with pytest.raises(DataError, match="prepared as `cifar10`, the calibration set mine says `none`"):
        edgebench.export("own.py:tiny", calib="mine")
    result = edgebench.export("own.py:tiny", calib="mine", preprocess="none", formats=["onnx"])
    assert result.bundle.preprocess is not None
    assert result.bundle.preprocess.name == "none"


def test_an_own_print_of_a_network_stays_out_of_the_data(tiny_net: str, capsys: pytest.CaptureFixture[str]) -> None:
    source = Path("tiny_net.py")
    source.write_text(source.read_text().replace("return self.head", "print('hello'); return self.head"))
    assert main(["export", tiny_net, "--formats", "torchscript"]) == 0
    assert "hello" not in capsys.readouterr().out


def test_a_step_that_breaks_parity_fails_and_names_itself(tiny_net: str, photos: str) -> None:
    made = _by_name(edgebench.export(tiny_net, calib=photos, preprocess="cifar10", atol=0.0, rtol=0.0))
    failed = [artifact for artifact in made.values() if artifact.status == "failed"]
    assert failed, "folding batch norms rounds differently, so not every step can be exact"
    for artifact in failed:
        assert f"step {artifact.step} broke parity" in (artifact.reason or "")
    if made["onnx"].status == "failed":
        assert made["onnx-sim"].status == "skipped"
        assert "its parent onnx failed" in (made["onnx-sim"].reason or "")


def test_a_step_that_fails_does_not_stop_the_others(photos: str) -> None:
    _write_net(
        "branchy",
        "# Neither exporter knows this operator; the tracer does.",
        "return self.head(torch.special.bessel_j0(x).flatten(1))",
    )
    made = _by_name(edgebench.export("branchy.py:net", calib=photos, preprocess="cifar10", input_shape=(1, 3, 16, 16)))
    assert made["torchscript"].status == "ok"
    assert made["onnx"].status == "failed"
    assert "step onnx failed" in (made["onnx"].reason or "")
    assert made["onnx-int8"].status == "skipped"
    assert main(["export", "branchy.py:net", "--calib", photos, "--preprocess", "cifar10"]) == 1


def test_a_network_whose_answer_depends_on_its_input_fails_parity_as_torchscript(photos: str) -> None:
    _write_net("deciding", "y = self.head(x.flatten(1))", "return y if bool(x.mean() > 0) else -y")
    made = _by_name(edgebench.export("deciding.py:net", calib=photos, preprocess="cifar10", formats=["torchscript"]))
    assert made["torchscript"].status == "failed"
    assert made["torchscript"].parity is not None
    assert made["torchscript"].parity.max_abs_error > 0.01
    assert any("tracer warned" in note for note in made["torchscript"].notes)


def test_networks_that_answer_with_a_dictionary_flow_through(photos: str) -> None:
    _write_net(
        "detr",
        "x = x.flatten(1)",
        "return {'pred_logits': self.logits(x), 'pred_boxes': self.boxes(x).sigmoid()}",
        init="self.logits, self.boxes = torch.nn.Linear(768, 5), torch.nn.Linear(768, 4)",
    )
    result = edgebench.export("detr.py:net", calib=photos, preprocess="cifar10")
    assert {artifact.status for artifact in result.bundle.artifacts} == {"ok"}
    assert [spec.shape for spec in result.bundle.outputs] == [(1, 5), (1, 4)]


def test_torchscript_and_trusted_pt2_sources_flow_through(tmp_path: Path, photos: str) -> None:
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(784, 4)
    ).eval()
    example = torch.zeros(1, 3, 16, 16)
    torch.export.save(torch.export.export(network, (example,)), tmp_path / "net.pt2")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(network, example), tmp_path / "net.ts")
    for source in ("net.pt2", "net.ts"):
        result = edgebench.export(source, f"{source}.eb", calib=photos, preprocess="cifar10", trust=True)
        statuses = {artifact.name: (artifact.status, artifact.reason) for artifact in result.bundle.artifacts}
        assert {status for status, _ in statuses.values()} == {"ok"}, statuses


def _onnx_source(path: Path, *, external: str | None = None) -> None:
    weight = numpy_helper.from_array(np.linspace(-1, 1, 3072, dtype=np.float32).reshape(768, 4), "w")
    graph = helper.make_graph(
        [helper.make_node("Flatten", ["x"], ["f"]), helper.make_node("Gemm", ["f", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 16, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    if external is None:
        onnx.save(model, path)
    else:
        onnx.save(model, path, save_as_external_data=True, location=external, size_threshold=0)


def test_an_onnx_source_starts_at_its_own_step(tmp_path: Path, photos: str) -> None:
    _onnx_source(tmp_path / "linear.onnx")
    result = edgebench.export("linear.onnx", calib=photos, preprocess="cifar10")
    assert list(_by_name(result)) == ["onnx", "onnx-sim", "onnx-int8"]
    assert {artifact.status for artifact in result.bundle.artifacts} == {"ok"}
    assert result.bundle.inputs[0].shape == (1, 3, 16, 16)


def test_weights_beside_an_onnx_source_are_taken_into_the_bundle(tmp_path: Path, photos: str) -> None:
    _onnx_source(tmp_path / "linear.onnx", external="linear.data")
    result = edgebench.export("linear.onnx", calib=photos, preprocess="cifar10")
    (tmp_path / "linear.data").unlink()
    for artifact in result.bundle.artifacts:
        assert artifact.status == "ok"
        onnx.load(result.path / str(artifact.file))


def test_what_onnxsim_gained_is_said(tiny_net: str) -> None:
    made = _by_name(edgebench.export(tiny_net, formats=["onnx-sim"]))
    assert list(made) == ["onnx", "onnx-sim"]
    assert "nodes" in made["onnx-sim"].notes[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--input-shape", "1,1,16,16"), "does not take an input of shape [1, 1, 16, 16]"),
        (("--calib", "imagefolder:empty"), "no images"),
        (("--calib", "imagefolder:broken"), "broken.png"),
        (("--calib", "imagefolder:nowhere"), "nowhere"),
        (("--calib", "photos"), "did you mean `imagefolder:photos`"),
        (("--calib", "imagefolder:photos"), "--preprocess"),
        (("--formats", "onnx,tflight"), "unknown format `tflight`"),
        (("--preprocess", "imagenett"), "imagenett"),
        (("-o", "tiny_net.py/x.eb"), "is a file"),
        (("-o", "full.eb"), "holds something that is not a bundle"),
        (("--arch", "resnet18"), "--arch"),
    ],
)
def test_bad_input_gets_one_error_and_leaves_nothing(
    arguments: tuple[str, ...],
    message: str,
    tiny_net: str,
    photos: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "empty").mkdir()
    shutil.copytree("photos", "broken")
    (tmp_path / "broken" / "class0" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n but not really")
    (tmp_path / "full.eb").mkdir()
    (tmp_path / "full.eb" / "thesis.tex").touch()
    preprocess = () if arguments == ("--calib", photos) or "--preprocess" in arguments else ("--preprocess", "cifar10")
    code = main(["export", tiny_net, *preprocess, *arguments])
    said = capsys.readouterr()
    assert code == 2
    assert message in said.err
    assert said.err.count("error: ") == 1
    assert said.err.count("hint: ") == 1
    assert said.out == ""
    assert not Path("tiny.eb").exists()
    assert [path.name for path in Path("full.eb").iterdir()] == ["thesis.tex"]


def test_external_data_outside_its_folder_is_refused_before_it_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "model").mkdir()
    _onnx_source(tmp_path / "model" / "linear.onnx", external="linear.data")
    model = onnx.load(tmp_path / "model" / "linear.onnx", load_external_data=False)
    for entry in model.graph.initializer[0].external_data:
        if entry.key == "location":
            entry.value = "../secret"
    onnx.save(model, tmp_path / "model" / "linear.onnx")
    (tmp_path / "secret").write_bytes(b"\0" * 20000)
    assert main(["export", "model/linear.onnx"]) == 2
    assert "outside" in capsys.readouterr().err
    assert not Path("linear.eb").exists()


def test_a_full_disk_is_said_and_keeps_what_was_made(tmp_path: Path, tiny_net: str, photos: str) -> None:
    mount = tmp_path / "small-disk"
    mount.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24k", "none", str(mount)], capture_output=True, check=False
    )
    if made.returncode != 0:
        pytest.skip("needs to be allowed to mount a small tmpfs")
    try:
        with pytest.raises(EnvironmentFailure, match="cannot be written"):
            edgebench.export(tiny_net, mount / "tiny.eb", calib=photos, preprocess="cifar10")
        left = sorted(path.name for path in (mount / "tiny.eb").glob("*")) if (mount / "tiny.eb").exists() else []
        assert not [name for name in left if "partial" in name]
        for artifact in load_bundle(mount / "tiny.eb").artifacts if left else ():
            assert (mount / "tiny.eb" / str(artifact.file)).stat().st_size == artifact.bytes
    finally:
        subprocess.run(["umount", str(mount)], check=True)


def test_an_interrupted_export_leaves_a_valid_bundle_and_goes_on(tiny_net: str, photos: str) -> None:
    # The source slows its own forward pass down, so that the signal arrives in the middle of the chain.
    source = Path("tiny_net.py")
    source.write_text(source.read_text().replace("return self.head", "import time; time.sleep(0.3); return self.head"))
    process = start_edgebench("export", tiny_net, "--calib", photos, "--preprocess", "cifar10")
    bundle = Path("tiny.eb") / "bundle.json"
    deadline = time.monotonic() + 120
    while not (bundle.is_file() and load_bundle(bundle.parent).artifacts) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "Traceback" not in said
    done = load_bundle(Path("tiny.eb")).artifacts
    assert 1 <= len(done) < 4
    assert not list(Path("tiny.eb").glob(".*partial"))
    result = edgebench.export(tiny_net, calib=photos, preprocess="cifar10")
    assert {artifact.name for artifact in done} <= result.reused
    assert len(result.bundle.artifacts) == 4


def test_the_command_prints_the_table_and_the_next_step(
    tiny_net: str, photos: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", tiny_net, "--calib", photos, "--preprocess", "cifar10"]) == 0
    said = capsys.readouterr()
    assert "next: edgebench bench tiny.eb" in said.out
    assert "onnx-int8" in said.out
    assert "24 images of imagefolder:photos" in said.out
    assert "torchscript: made in" in said.err


def test_bundle_json_has_the_keys_of_the_contract(tiny_net: str, photos: str) -> None:
    edgebench.export(tiny_net, calib=photos, preprocess="cifar10")
    document = json.loads((Path("tiny.eb") / "bundle.json").read_text())
    assert {"schema", "name", "source", "inputs", "preprocess", "calibration", "artifacts"} <= set(document)
    assert {"path", "sha256", "kind", "architecture", "parameters"} <= set(document["source"])
    assert {"data", "sha256", "samples", "method"} <= set(document["calibration"])
    wanted = (
        "name format precision file sha256 bytes parent step options tool_versions opset seconds peak_rss_bytes status "
        "reason parity"
    )
    for artifact in document["artifacts"]:
        assert set(wanted.split()) <= set(artifact)
        assert {"samples", "max_abs_error", "sqnr_db", "top1_agreement"} <= set(artifact["parity"])


def test_an_unknown_method_is_refused(tiny_net: str) -> None:
    with pytest.raises(UsageError, match="unknown calibration method"):
        edgebench.export(tiny_net, method="magic")
