"""Energy by a RAPL counter that stands where the kernel's would, in a mount namespace of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import edgebench
from edgebench.figures import figures
from tests.integration.conftest import ROOT

WATTS = 20


def _can_mount() -> bool:
    return (
        os.name == "posix"
        and subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode == 0
    )


@pytest.mark.skipif(not _can_mount(), reason="needs a mount namespace: root, and unshare")
def test_a_constant_power_is_all_idle_and_costs_an_inference_nothing(tiny_net: str, tmp_path: Path) -> None:
    edgebench.export(tiny_net, "tiny.eb", formats=["onnx"])
    zone = tmp_path / "class" / "powercap" / "intel-rapl:0"
    zone.mkdir(parents=True)
    (zone / "name").write_text("package-0")
    (zone / "max_energy_range_uj").write_text("262143328850")
    counter = zone / "energy_uj"
    done = threading.Event()

    def count() -> None:
        started = time.monotonic()
        while not done.is_set():
            partial = zone / "partial"
            partial.write_text(str(round((time.monotonic() - started) * WATTS * 1e6)))
            partial.replace(counter)
            time.sleep(0.0005)

    counter.write_text("0")
    thread = threading.Thread(target=count)
    thread.start()
    try:
        command = 'mount --bind class /sys/class && exec "$0" -c "$1" bench tiny.eb'
        code = "import sys; from edgebench.cli.main import main; sys.exit(main())"
        options = "--processes 3 --iterations 50 --max-wait 0 --json run.json"
        ended = subprocess.run(
            ["unshare", "-m", "sh", "-c", f"{command} {options}", sys.executable, code],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        done.set()
        thread.join()
    assert ended.returncode == 0, ended.stderr
    assert "above its idle power, by RAPL" in ended.stdout
    run = edgebench.load_run("run.json")
    for entry in run.ledger:
        assert entry.idle_microwatts == pytest.approx(WATTS * 1e6, rel=0.1)
    turns = [turn for item in run.cells[0].measurements for turn in item.turns if turn.energy is not None]
    whole = sum(turn.energy.microjoules for turn in turns if turn.energy)
    span_ns = sum(turn.energy.span_ns for turn in turns if turn.energy)
    assert whole / span_ns * 1e3 == pytest.approx(WATTS, rel=0.2)
    found = figures(run, run.cells[0]).energy
    assert found is not None
    assert abs(found.millijoules) < 0.2 * whole / 1e3 / sum(turn.energy.runs for turn in turns if turn.energy)
