"""`profile` on real devices: the agent there reads the profiler, and this machine names the modules."""

from __future__ import annotations

from pathlib import Path

from edgebench.measure.profile import profile

from .conftest import Bed


def test_a_device_executes_the_operators_and_modules_of_this_machine(bed: Bed, bundle: Path) -> None:
    (path,) = bundle.glob("*.int8.onnx")
    (there,), (here,) = (profile([path], device=device, threads=1, runs=2) for device in ("bed", "local"))
    assert [(item.kind, item.module) for item in there.operators] == [
        (item.kind, item.module) for item in here.operators
    ]
    assert all(len(item.ns) == 2 for item in there.operators)
    assert bed.left() == set()
