"""Measuring bundles on this machine: real runtimes in real processes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image

import edgebench
from edgebench.bundle import load_bundle, save_bundle
from edgebench.cli.main import main
from edgebench.errors import DataError, UsageError
from edgebench.figures import figures
from edgebench.store import RunStore
from edgebench.types import Cell, Run
from tests.integration.conftest import ROOT, start_edgebench

QUICK = edgebench.BenchSettings(processes=2, warmup=1, iterations=10, max_time_s=2.0, max_wait_s=0.0)


@pytest.fixture
def bundle(tiny_net: str, photos: str) -> Path:
    return edgebench.export(tiny_net, calib=photos, preprocess="cifar10").path


def _cells(run: Run) -> dict[str, Cell]:
    return {cell.artifact.name: cell for cell in run.cells}


def test_every_artifact_is_measured_in_fresh_processes_and_scored(bundle: Path, photos: str) -> None:
    run = edgebench.bench(bundle, data=photos, settings=QUICK)
    cells = _cells(run)
    assert list(cells) == ["torchscript", "onnx", "onnx-sim", "onnx-int8"]
    assert run.baseline == "onnx"
    for cell in cells.values():
        assert cell.status == "ok", cell.reason
        assert [item.round for item in cell.measurements] == [0, 1]
        assert all(len(item.samples_ns) >= 10 for item in cell.measurements)
        assert cell.size is not None
        assert cell.size.bytes == (bundle / f"tiny.{_suffix(cell)}").stat().st_size
        assert cell.accuracy is not None
        assert cell.accuracy.samples == 24
        found = figures(run, cell)
        assert found.memory is not None
        assert found.memory.peak_bytes >= found.memory.baseline_bytes
        assert found.relative is not None
        assert found.drop is not None
    # The float artifacts are the same function, so they answer the same.
    assert cells["onnx"].accuracy == cells["onnx-sim"].accuracy == cells["torchscript"].accuracy
    assert "imagefolder:photos" in run.inputs


def _suffix(cell: Cell) -> str:
    return {
        "torchscript": "torchscript.pt",
        "onnx": "onnx",
        "onnx-sim": "sim.onnx",
        "onnx-int8": "int8.onnx",
    }[cell.artifact.format]


def test_a_run_is_stored_and_loads_by_id_and_from_json(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--processes", "2", "--iterations", "10", "--warmup", "1", "--json", "run.json"]
    assert main(["bench", str(bundle), *arguments]) == 0
    assert "× baseline" in capsys.readouterr().out
    from_file = edgebench.load_run("run.json")
    assert edgebench.load_run(from_file.id) == from_file
    document = json.loads(Path("run.json").read_text())
    for cell in document["cells"]:
        assert {"artifact", "device", "runtime", "provider", "threads", "batch_size", "scenario", "status"} <= set(cell)
        assert {"latency", "load_ms", "first_ms", "memory", "size", "accuracy", "relative", "samples_ns"} <= set(cell)


def test_json_on_stdout_is_alone_there(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--processes", "1", "--iterations", "5", "--runtime", "onnxruntime", "--json", "-"]
    assert main(["bench", str(bundle), *arguments]) == 0
    document = json.loads(capsys.readouterr().out)
    assert {cell["runtime"] for cell in document["cells"]} == {"onnxruntime"}


def test_a_cell_for_each_number_of_threads_compared_within_it(bundle: Path) -> None:
    run = edgebench.bench(bundle, runtimes=["onnxruntime"], threads=[1, 2], settings=QUICK)
    assert sorted((cell.artifact.name, cell.threads) for cell in run.cells) == [
        (name, threads) for name in ("onnx", "onnx-int8", "onnx-sim") for threads in (1, 2)
    ]


def test_what_failed_its_parity_is_not_measured_silently(bundle: Path) -> None:
    _mark_failed(bundle, "onnx-sim")
    skipped = _cells(edgebench.bench(bundle, runtimes=["onnxruntime"], settings=QUICK))["onnx-sim"]
    assert skipped.status == "skipped"
    assert "--include-failed" in (skipped.reason or "")
    assert skipped.measurements == ()
    asked = edgebench.bench(bundle, runtimes=["onnxruntime"], settings=QUICK, include_failed=True)
    assert _cells(asked)["onnx-sim"].status == "ok"


def _mark_failed(path: Path, name: str) -> None:
    bundle = load_bundle(path)
    artifacts = tuple(
        replace(artifact, status="failed", reason="step onnx-sim broke parity") if artifact.name == name else artifact
        for artifact in bundle.artifacts
    )
    save_bundle(path, replace(bundle, artifacts=artifacts))


def test_a_file_that_changed_since_its_export_is_not_measured(bundle: Path) -> None:
    other = bundle / "tiny.sim.onnx"
    content = other.read_bytes()
    other.unlink()
    other.write_bytes(content + b"\0")
    run = edgebench.bench(bundle, runtimes=["onnxruntime"], settings=QUICK)
    assert "not the file that was exported" in (_cells(run)["onnx-sim"].reason or "")


def test_a_runtime_that_crashes_fails_its_cell_and_no_other(bundle: Path) -> None:
    # A truncated model whose sha256 the bundle agrees with: the runtime itself must refuse it.
    from edgebench.files import file_sha256

    broken = bundle / "tiny.sim.onnx"
    content = broken.read_bytes()
    broken.unlink()
    broken.write_bytes(content[: len(content) // 2])
    known = load_bundle(bundle)
    artifacts = tuple(
        replace(artifact, sha256=file_sha256(broken)) if artifact.name == "onnx-sim" else artifact
        for artifact in known.artifacts
    )
    save_bundle(bundle, replace(known, artifacts=artifacts))
    cells = _cells(edgebench.bench(bundle, runtimes=["onnxruntime"], settings=QUICK))
    assert cells["onnx-sim"].status == "failed"
    assert cells["onnx-sim"].reason
    assert cells["onnx"].status == cells["onnx-int8"].status == "ok"


def test_two_bundles_stand_in_one_table(bundle: Path, photos: str) -> None:
    shutil.copy("tiny_net.py", "other_net.py")
    second = edgebench.export("other_net.py:tiny", "other.eb", calib=photos, preprocess="cifar10", formats=["onnx"])
    run = edgebench.bench(bundle, second, runtimes=["onnxruntime"], settings=QUICK)
    assert [cell.artifact.name for cell in run.cells] == ["tiny/onnx", "tiny/onnx-sim", "tiny/onnx-int8", "other/onnx"]
    assert run.baseline == "tiny/onnx"


def test_one_artifact_of_a_bundle_is_prepared_as_the_bundle_says(bundle: Path, photos: str) -> None:
    run = edgebench.bench(bundle / "tiny.int8.onnx", data=photos, settings=QUICK)
    (only,) = run.cells
    assert only.artifact.name == "onnx-int8"
    assert only.accuracy is not None


def test_a_lone_onnx_file_is_measured_with_images_prepared_as_asked(bundle: Path, photos: str) -> None:
    shutil.copy(bundle / "tiny.onnx", "lone.onnx")
    expected = _cells(edgebench.bench(bundle / "tiny.onnx", data=photos, settings=QUICK))["onnx"].accuracy
    run = edgebench.bench("lone.onnx", data=photos, preprocess="cifar10", settings=QUICK)
    assert run.cells[0].accuracy == expected
    with pytest.raises(DataError, match="nothing says how"):
        edgebench.bench("lone.onnx", data=photos, settings=QUICK)


def test_images_for_a_bundle_whose_inputs_were_ready_need_their_preparation_named(
    tiny_net: str, photos: str, tmp_path: Path
) -> None:
    ready = np.random.default_rng(0).standard_normal((4, 3, 16, 16)).astype(np.float32)
    np.savez(tmp_path / "ready.npz", x=ready, y=np.arange(4))
    exported = edgebench.export(tiny_net, calib="npz:ready.npz", formats=["onnx"])
    with pytest.raises(DataError, match="nothing says how onnx wants the images"):
        edgebench.bench(exported, data=photos, settings=QUICK)
    run = edgebench.bench(exported, data=photos, preprocess="cifar10", settings=QUICK)
    assert run.cells[0].accuracy is not None
    assert run.cells[0].accuracy.preprocess == "cifar10"


def test_a_model_of_free_size_is_not_measured_on_one_pixel(tmp_path: Path) -> None:
    size = ["n", 3, "h", "w"]
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, size)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, size)],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), tmp_path / "f.onnx")
    with pytest.raises(UsageError, match="does not say how large"):
        edgebench.bench("f.onnx", settings=QUICK)


def test_modules_in_the_users_directory_are_not_mistaken_for_the_agents(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('taken from the current directory')")
    run = edgebench.bench(bundle, runtimes=["onnxruntime"], settings=QUICK)
    assert {cell.status for cell in run.cells} == {"ok"}


def test_images_that_also_calibrated_are_warned_of(
    bundle: Path, photos: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", str(bundle), "--data", photos, "--processes", "1", "--iterations", "5"]) == 0
    assert "24 of the 24 images of imagefolder:photos also calibrated" in capsys.readouterr().err


def test_a_baseline_that_cannot_be_measured_is_not_chosen(bundle: Path) -> None:
    _mark_failed(bundle, "onnx")
    assert edgebench.bench(bundle, runtimes=["onnxruntime"], settings=QUICK).baseline == "onnx-sim"


def test_normalising_otherwise_than_the_bundle_is_refused(bundle: Path, photos: str) -> None:
    with pytest.raises(UsageError, match="exported with the preprocessing `cifar10`, not `imagenet`"):
        edgebench.bench(bundle, data=photos, preprocess="imagenet")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--data", "imagefolder:flat"), "no labels"),
        (("--data", "imagefolder:many"), "has labels from 0 to 4"),
        (("--data", "imagefolder:broken"), "broken.png"),
        (("--device", "rpi99"), "no device profile `rpi99`"),
        (("--runtime", "tensorrt9"), "unknown runtime `tensorrt9`"),
        (("--baseline", "onnx-int4"), "no artifact `onnx-int4`"),
        (("--resume", "2001"), "no run `2001`"),
    ],
)
def test_bad_input_costs_no_measurement(
    arguments: tuple[str, ...], message: str, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree("photos/class0", "flat")
    shutil.copytree("photos", "many")
    shutil.copytree("photos/class0", "many/class4")
    shutil.copytree("photos", "broken")
    (tmp_path / "broken" / "class0" / "0.png").unlink()
    (tmp_path / "broken" / "class0" / "0broken.png").write_bytes(b"\x89PNG\r\n\x1a\n but not really")
    assert main(["bench", str(bundle), *arguments]) == 2
    said = capsys.readouterr()
    assert message in said.err
    assert said.err.count("error: ") == 1
    assert said.out == ""
    assert list(RunStore().list()) == []


def test_an_interrupted_run_is_stored_and_goes_on(bundle: Path) -> None:
    arguments = ["--runtime", "onnxruntime", "--processes", "3", "--iterations", "1000000", "--max-time", "3"]
    process = start_edgebench("bench", str(bundle), *arguments)
    deadline = time.monotonic() + 120
    while not _measured() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "Traceback" not in said
    before = edgebench.load_run("latest")
    assert 0 < sum(len(cell.measurements) for cell in before.cells) < 9
    assert f"--resume {before.id}" in said
    with pytest.raises(UsageError, match="has other cells"):
        edgebench.bench(bundle, resume=before.id)
    assert edgebench.load_run(before.id) == before
    after = edgebench.bench(bundle, runtimes=["onnxruntime"], resume=before.id)
    assert after.id == before.id
    for old, new in zip(before.cells, after.cells, strict=True):
        assert new.status == "ok"
        assert len(new.measurements) == 3
        assert new.measurements[: len(old.measurements)] == old.measurements


def _measured() -> bool:
    return any(isinstance(run, Run) and any(cell.measurements for cell in run.cells) for _, run in RunStore().list())


def test_nothing_is_written_to_the_home_directory(bundle: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(home), "XDG_CACHE_HOME": str(home / ".cache")}
    code = (
        "import edgebench\n"
        "edgebench.export('tiny_net.py:tiny', 'fresh.eb', calib='imagefolder:photos', preprocess='cifar10', opset=20)\n"
        "edgebench.bench('fresh.eb', settings=edgebench.BenchSettings(processes=1, iterations=2))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert list(home.rglob("*")) == []


@pytest.mark.skipif(
    not shutil.which("qemu-x86_64") or not shutil.which("gcc"), reason="needs qemu-x86_64 (Debian: qemu-user) and gcc"
)
def test_counted_instructions_are_the_same_in_two_runs(bundle: Path) -> None:
    settings = replace(QUICK, count="instructions")
    runs = [edgebench.bench(bundle, runtimes=["onnxruntime"], settings=settings) for _ in range(2)]
    for first, second in zip(*(run.cells for run in runs), strict=True):
        one, other = figures(runs[0], first).instructions, figures(runs[1], second).instructions
        assert one is not None
        assert other == pytest.approx(one, rel=1e-3)
    assert edgebench.load_run(runs[0].id) == runs[0]


def test_where_nothing_counts_instructions_the_latency_stays_and_a_remedy_is_given(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "")
    quick = ("--processes", "1", "--iterations", "5", "--max-wait", "0", "--runtime", "onnxruntime")
    assert main(["bench", str(bundle), *quick, "--count", "instructions"]) == 0
    said = capsys.readouterr()
    counted = [cell.instructions for cell in edgebench.load_run("latest").cells]
    if None in counted:  # A machine with counters of its own needs nothing of the path.
        assert "apt-get install qemu-user" in said.err


def test_scenarios_are_cells_of_their_own(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scenarios = "single-stream,multi-stream:2,paced:200,offline"
    quick = ("--processes", "3", "--iterations", "10", "--max-wait", "0", "--runtime", "onnxruntime", "--threads", "1")
    assert main(["bench", str(bundle / "tiny.onnx"), *quick, "--scenario", scenarios, "--json", "run.json"]) == 0
    said = capsys.readouterr().out
    assert "← most" in said
    cells = {cell["scenario"]: cell for cell in json.loads(Path("run.json").read_text())["cells"]}
    assert set(cells) == set(scenarios.split(","))
    assert cells["paced:200"]["frames"]["offered"] >= 30
    single, multi = (cells[name]["latency"] for name in ("single-stream", "multi-stream:2"))
    assert multi["p50_ms"] > single["p50_ms"]
    assert multi["throughput_ci"][0] < multi["throughput_per_s"] < multi["throughput_ci"][1]


def test_offline_tries_numbers_of_threads_unless_told(bundle: Path) -> None:
    run = edgebench.bench(bundle / "tiny.onnx", scenarios=["offline"], settings=replace(QUICK, processes=1))
    cores = os.cpu_count() or 1
    assert run.cells[0].threads == 1
    assert max(cell.threads for cell in run.cells) <= cores


def test_a_sustained_run_has_a_curve(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    quick = ("--processes", "1", "--iterations", "5", "--max-wait", "0", "--sustained", "0.04", "--json", "run.json")
    assert main(["bench", str(bundle / "tiny.onnx"), *quick]) == 0
    assert "slower from" in capsys.readouterr().out
    (only,) = json.loads(Path("run.json").read_text())["cells"]
    assert len(only["curve"]["p50_ms"]) >= 10
    assert all(window["runs"] > 0 for window in only["sustained"])
    assert edgebench.load_run("run.json") == edgebench.load_run("latest")


def test_end_to_end_is_a_row_of_its_own_and_costs_the_preprocessing_too(bundle: Path, tmp_path: Path) -> None:
    # Large images, so that bringing them to size is most of the work.
    for label in range(2):
        (tmp_path / "large" / str(label)).mkdir(parents=True)
        Image.effect_noise((800, 600), 80).convert("RGB").save(tmp_path / "large" / str(label) / "0.png")
    (tmp_path / "small.toml").write_text('resize = [16, 16]\nchannels = "rgb"\nscale = 0.00392\n')
    exported = edgebench.export(
        "tiny_net.py:tiny",
        "e2e.eb",
        calib="imagefolder:large",
        preprocess="small.toml",
        formats=["onnx", "torchscript"],
    )
    run = edgebench.bench(
        exported, data="imagefolder:large", scenarios=["single-stream", "end-to-end"], threads=[1], settings=QUICK
    )
    p50 = {(cell.artifact.name, cell.scenario): figures(run, cell).latency for cell in run.cells}
    for name in ("onnx", "torchscript"):
        alone, whole = p50[name, "single-stream"], p50[name, "end-to-end"]
        assert alone is not None
        assert whole is not None
        assert whole.p50_ms > alone.p50_ms


def test_end_to_end_without_images_says_what_to_give(bundle: Path) -> None:
    with pytest.raises(UsageError, match="there are no images"):
        edgebench.bench(bundle, scenarios=["end-to-end"], settings=QUICK)


def test_a_scenario_with_a_typo_costs_no_measurement(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", str(bundle), "--scenario", "pased:30"]) == 2
    assert "`pased:30` is not a scenario" in capsys.readouterr().err
    assert list(RunStore().list()) == []


def test_each_batch_size_is_a_cell_whose_throughput_counts_inputs(bundle: Path, photos: str) -> None:
    run = edgebench.bench(bundle, data=photos, runtimes=["onnxruntime"], batch_sizes=[1, 4], settings=QUICK)
    cells = {(cell.artifact.name, cell.batch_size): cell for cell in run.cells}
    assert len(cells) == 6
    assert {cell.status for cell in run.cells} == {"ok"}
    assert cells["onnx", 4].size == cells["onnx", 1].size
    # One by one or four at once: the same answers.
    assert cells["onnx", 4].accuracy == cells["onnx", 1].accuracy
    latency = figures(run, cells["onnx", 4]).latency
    assert latency is not None
    assert latency.throughput_per_s == pytest.approx(4e3 / latency.mean_ms, rel=0.5)


def test_a_batch_that_a_file_cannot_take_is_a_cell_with_its_reason(tmp_path: Path) -> None:
    # The output mixes the rows of a batch, so that four at once are not four times one.
    graph = helper.make_graph(
        [helper.make_node("ReduceSum", ["x"], ["y"], keepdims=1)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), tmp_path / "s.onnx")
    one, four = edgebench.bench("s.onnx", batch_sizes=[1, 4], settings=QUICK).cells
    assert one.status == "ok"
    assert (four.status, four.batch_size) == ("skipped", 4)
    assert "--input-shape 4,8" in (four.reason or "")
