"""Devices that are measured without Python there: by edgebench's own runner, and by a tool that speaks for itself."""

from __future__ import annotations

import importlib.util
import json
from contextlib import closing
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

import edgebench
from edgebench.figures import figures
from edgebench.report.run_table import render
from edgebench.types import BenchSettings, Run

from ..unit.tflite_files import dense
from .beds.adb import AdbBed
from .conftest import Bed, profile_of

QUICK = BenchSettings(processes=3, warmup=1, iterations=10, max_wait_s=0)

# As benchmark_model of 2024 prints it; the time grows with each call, so that processes differ.
BENCHMARK_MODEL = """#!/bin/sh
case "$*" in *--graph=*) ;; *) echo "no graph" >&2; exit 1 ;; esac
echo "INFO: count=1 curr=5000 p5=5000 median=5000 p95=5000"
echo "INFO: count=10 first=4100 curr=4000 min=3900 max=4200 avg=4020 std=50 p5=3910 median=4010 p95=4150"
echo "INFO: Inference timings in us: Init: 579, First inference: 5000, Warmup (avg): 5000, Inference (avg): 4020"
"""


def _without_python(bed: Bed, tools: str) -> None:
    """The same device by another profile, in which Python is not named and could not be found."""
    profile = Path("devices/bed.toml")
    kept = [line for line in profile.read_text().splitlines() if not line.startswith("python")]
    profile.write_text("\n".join([*kept, 'python = "nopython"', tools]) + "\n")


def _bench(bundle: Path, settings: BenchSettings = QUICK) -> Run:
    photos = f"imagefolder:{bundle.parent / 'photos'}"
    return edgebench.bench(bundle, devices=["bed"], data=photos, settings=settings, threads=[1])


def _left(bed: Bed) -> set[str]:
    return bed.left() - {"lock.d"}


def test_our_runner_gives_single_times_memory_and_answers(bed: Bed, bundle: Path) -> None:
    _without_python(bed, "[tools.ort_runner]")

    run = _bench(bundle)

    torchscript, *others = run.cells
    assert torchscript.status == "unsupported"
    for cell in others:
        assert cell.status == "ok", cell.reason
        assert len(cell.measurements) == 3
        assert all(len(item.samples_ns) >= 10 and item.memory is not None for item in cell.measurements)
        assert {item.tool for item in cell.measurements} == {"ort_runner"}
        assert cell.accuracy is not None and cell.accuracy.disagreement is not None
        assert cell.accuracy.disagreement.classes == 0
    # Turns of one lap were taken side by side, so that the ratio is one of pairs.
    assert all(figures(run, cell).relative is not None for cell in others)
    assert all(len(entry.states) == 2 for entry in run.ledger)
    assert _left(bed) == set()


@pytest.mark.skipif(importlib.util.find_spec("ziglang") is None, reason="needs ziglang (the extra `native`)")
def test_our_runner_is_built_for_another_cpu(slow_bed: Bed, bundle: Path) -> None:
    if isinstance(slow_bed.device, AdbBed):
        pytest.skip("takes a minute, and ssh has shown it")
    _without_python(slow_bed, "[tools.ort_runner]")

    run = _bench(bundle, BenchSettings(processes=1, warmup=1, iterations=1, max_wait_s=0))

    for cell in run.cells[1:]:
        assert cell.status == "ok", cell.reason
        assert cell.accuracy is not None and cell.accuracy.disagreement is not None
        assert cell.accuracy.disagreement.classes == 0
    assert run.devices[0].fingerprint["machine"] == "aarch64"
    assert _left(slow_bed) == set()


def test_what_a_tool_tells_is_shown_as_told(bed: Bed, tmp_path: Path) -> None:
    pytest.importorskip("ai_edge_litert", reason="needs ai-edge-litert (the extra `tflite`)")
    (tmp_path / "benchmark_model").write_text(BENCHMARK_MODEL)
    _without_python(bed, f"[tools.benchmark_model]\npush = {json.dumps(str(tmp_path / 'benchmark_model'))}")
    model = tmp_path / "a $(touch pwned) 'model\".tflite"
    dense(model)

    run = edgebench.bench(model, devices=["bed"], settings=QUICK, threads=[1])

    (cell,) = run.cells
    assert cell.status == "ok", cell.reason
    found = figures(run, cell)
    assert found.latency is None
    assert found.told is not None
    assert (found.told.statistic, found.told.ms, found.told.runs) == ("p50", pytest.approx(4.01), 30)
    assert not list(tmp_path.rglob("pwned")) and not list(bed.work_dir.rglob("pwned"))
    assert _left(bed) == set()


def test_a_second_host_is_told_who_has_the_device(bed: Bed, bundle: Path) -> None:
    _without_python(bed, "[tools.ort_runner]")
    (bed.work_dir / "lock.d").mkdir(parents=True)
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    uptime = int(float(Path("/proc/uptime").read_text().split()[0]))
    (bed.work_dir / "lock.d" / "owner").write_text(f"{boot} {uptime} {uptime - 7} anna@desk 1234\n")

    with pytest.raises(edgebench.errors.DeviceError, match="in use by anna@desk"):
        _bench(bundle)


def test_a_lock_of_another_life_of_the_device_is_broken(bed: Bed, bundle: Path) -> None:
    _without_python(bed, "[tools.ort_runner]")
    (bed.work_dir / "lock.d").mkdir(parents=True)
    (bed.work_dir / "lock.d" / "owner").write_text("another-boot-id 5 5 anna@desk 1234\n")

    run = _bench(bundle)

    assert [cell.status for cell in run.cells[1:]] == ["ok"] * 3
    assert _left(bed) == set()


@pytest.mark.parametrize("tools", ["", "[tools.ort_runner]\n"], ids=["agent", "runner"])
def test_a_phone_tells_its_state_and_is_called_a_background_process(
    tools: str, amd64: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(AdbBed(amd64, android=True)) as phone:
        for name, value in phone.environment.items():
            monkeypatch.setenv(name, value)
        Path("devices").mkdir()
        # The bed has a phone's tools and not its environment.
        profile = profile_of(phone, work_dir="/data/local/tmp/eb") + '[environment]\nANDROID_ROOT = "/system"\n' + tools
        Path("devices/bed.toml").write_text(profile)

        run = edgebench.bench(bundle, devices=["bed"], runtimes=["onnxruntime"], settings=QUICK, threads=[1])

    assert {cell.status for cell in run.cells} == {"ok"}
    assert run.devices[0].background
    for entry in run.ledger:
        for state in (entry.states[0], entry.states[-1]):
            assert state.thermal_status == 0
            assert state.temperatures_mc["TYPE_SKIN"] == 25_300
            assert "TYPE_NPU" not in state.temperatures_mc
            assert state.power == "mains"
    console = Console(width=200, record=True, file=StringIO())
    console.print(render(run))
    assert "bed: from adb shell, as a background process" in console.export_text()
