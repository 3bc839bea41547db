"""`bench` on real devices: a bundle that was exported here runs there, and answers as it does here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import edgebench
from edgebench.figures import figures
from edgebench.types import BenchSettings, Run

from ..unit.tflite_files import int8_dense
from .beds.adb import AdbBed
from .conftest import Bed

QUICK = BenchSettings(processes=3, warmup=1, iterations=5, max_wait_s=0)


def bench_on(bundle: Path, *devices: str, settings: BenchSettings = QUICK, **options: object) -> Run:
    photos = f"imagefolder:{bundle.parent / 'photos'}"
    return edgebench.bench(bundle, devices=devices, data=photos, settings=settings, threads=[1], **options)


def assert_answers_as_here(run: Run, here: Run, processes: int) -> None:
    expected = {cell.artifact.name: cell for cell in here.cells}
    assert {cell.artifact.name for cell in run.cells} == {"onnx", "onnx-sim", "onnx-int8"}
    for cell in run.cells:
        assert cell.status == "ok", cell.reason
        assert len(cell.measurements) == processes
        assert all(item.samples_ns for item in cell.measurements)
        assert cell.size == expected[cell.artifact.name].size
        accuracy, known = cell.accuracy, expected[cell.artifact.name].accuracy
        assert accuracy is not None and known is not None and accuracy.disagreement is not None
        assert accuracy.disagreement.classes == 0
        assert accuracy.correct == known.correct
        # Floats are summed in another order on another CPU; int8 rounds to steps.
        assert accuracy.disagreement.max_abs_error < (0.05 if cell.artifact.name == "onnx-int8" else 1e-4)
    assert all(entry.states for entry in run.ledger)


def test_a_device_answers_as_this_machine(bed: Bed, bundle: Path) -> None:
    run = bench_on(bundle, "bed", runtimes=["onnxruntime"])

    assert_answers_as_here(run, bench_on(bundle, "local", runtimes=["onnxruntime"]), processes=3)
    assert not run.devices[0].emulated
    assert [item.threads for item in run.devices[0].rooflines] == [1]
    assert all(figures(run, cell).relative is not None for cell in run.cells)
    assert bed.left() == set()


def test_an_aarch64_device_answers_as_this_machine_and_is_not_ranked(slow_bed: Bed, bundle: Path) -> None:
    run = bench_on(bundle, "bed", settings=replace(QUICK, processes=1, iterations=1))

    torchscript, *others = run.cells
    assert torchscript.status == "unsupported"
    assert "pip install" in str(torchscript.reason)
    here = bench_on(bundle, "local", runtimes=["onnxruntime"])
    assert_answers_as_here(replace(run, cells=tuple(others)), here, processes=1)
    (device,) = run.devices
    assert device.fingerprint["machine"] == "aarch64"
    assert device.fingerprint["emulated_by"] == "qemu-aarch64"
    assert device.emulated
    assert all(figures(run, cell).relative is None for cell in run.cells)
    assert slow_bed.left() == set()


@pytest.mark.parametrize("runtime", ["tflite", "tflite-no-xnnpack"])
def test_tflite_runs_on_a_device(bed: Bed, tmp_path: Path, runtime: str) -> None:
    pytest.importorskip("ai_edge_litert", reason="needs ai-edge-litert (the extra `tflite`)")

    run = edgebench.bench(
        int8_dense(tmp_path / "dense.tflite"), devices=["bed"], runtimes=[runtime], settings=QUICK, threads=[1]
    )

    (cell,) = run.cells
    assert cell.status == "ok", cell.reason
    assert cell.artifact.precision == "int8"
    assert cell.measurements[0].runtime_version is not None and "ai-edge-litert" in cell.measurements[0].runtime_version
    assert ("XNNPACK" in str(cell.provider)) is (runtime == "tflite")
    assert bed.left() == set()


def test_what_is_there_is_not_pushed_again(bed: Bed, bundle: Path) -> None:
    bench_on(bundle, "bed", runtimes=["onnxruntime"])
    pushed = {path.name: path.stat().st_ino for path in (bed.work_dir / "cache").iterdir()}

    bench_on(bundle, "bed", runtimes=["onnxruntime"])

    assert {path.name: path.stat().st_ino for path in (bed.work_dir / "cache").iterdir()} == pushed


def test_devices_are_measured_side_by_side_and_one_that_is_away_stops_none(bed: Bed, bundle: Path) -> None:
    away = (
        'transport = "adb"\nserial = "127.0.0.1:1"\n'
        if isinstance(bed.device, AdbBed)
        else ('transport = "ssh"\naddress = "nobody.invalid"\n')
    )
    Path("devices/away.toml").write_text(away)

    run = bench_on(bundle, "bed", "away", "local", runtimes=["onnxruntime"])

    status = {(cell.device, cell.status) for cell in run.cells}
    assert status == {("bed", "ok"), ("local", "ok"), ("away", "skipped")}
    assert all("away" in str(cell.reason) for cell in run.cells if cell.device == "away")
    assert [device.error is not None for device in run.devices] == [False, True, False]


def test_a_device_that_was_away_is_measured_by_resuming(bed: Bed, bundle: Path) -> None:
    profile = Path("devices/bed.toml")
    right = profile.read_text()
    profile.write_text('transport = "ssh"\naddress = "nobody.invalid"\n')
    first = edgebench.bench(bundle, devices=["local", "bed"], runtimes=["onnxruntime"], settings=QUICK)

    # Reached at last, it turns out to have a number of threads of its own.
    profile.write_text(f"threads = [2]\n{right}")
    run = edgebench.bench(bundle, devices=["local", "bed"], runtimes=["onnxruntime"], settings=QUICK, resume=first.id)

    assert {cell.status for cell in first.cells if cell.device == "bed"} == {"skipped"}
    assert {(cell.device, cell.status) for cell in run.cells} == {("local", "ok"), ("bed", "ok")}
    assert {cell.threads for cell in run.cells if cell.device == "bed"} == {2}
    before = [cell.measurements for cell in first.cells if cell.device == "local"]
    assert [cell.measurements for cell in run.cells if cell.device == "local"] == before
    assert all(device.error is None for device in run.devices)
