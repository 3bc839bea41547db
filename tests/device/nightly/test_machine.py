"""A true second machine, whose cable is pulled, whose reset is pressed, whose memory and disk run out.

A machine's boot takes 6 s and every Python on it some seconds, so that these run at night: `.ci/nightly`. It has no
cpufreq, so a governor that is held through a reset is not among them.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import edgebench
from edgebench.agent.wire import WIRE_VERSION, Job, TensorSpec
from edgebench.config import find_device
from edgebench.errors import DeviceError
from edgebench.measure.devices import open_agent
from edgebench.measure.jobs import JobRunner, read_output
from edgebench.progress import Silent
from edgebench.targets.agent import Agent
from edgebench.types import BenchSettings, Run

from ..beds.machine import Machine
from ..beds.rootfs import tree_cache
from ..test_bench import assert_answers_as_here, bench_on

if os.environ.get("EDGEBENCH_NIGHTLY") != "1":
    pytest.skip("takes a quarter of an hour: needs EDGEBENCH_NIGHTLY=1, or run .ci/nightly", allow_module_level=True)

ONCE = BenchSettings(processes=1, warmup=1, iterations=1, max_wait_s=0)
# Bytes that take an emulated machine five seconds to take or give.
LARGE = 60_000_000
# The shorter one TCP gets over; after the longer one OpenSSH has given the connection up.
CUTS_S = [4, 25]


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    """One for all tests that do not need another size of it."""
    with closing(Machine(tree_cache())) as machine:
        yield machine


@dataclass
class Place:
    """An empty work directory on the machine, which the profile `machine` in the current directory names."""

    machine: Machine
    work_dir: str

    def shell(self, command: str) -> str:
        """What it prints, in the work directory."""
        done = self.machine.shell(f"cd {self.work_dir} && {command}")
        assert done.returncode == 0, done.stderr
        return done.stdout

    def runs(self, pattern: str) -> bool:
        """Whether a process runs there whose command line has this."""
        return self.machine.shell(f"pgrep -f '{pattern}'").returncode == 0

    def wait_for_round(self) -> None:
        """Until one is measured."""
        deadline = time.monotonic() + 120
        # A bracket in each pattern, so that the shell that asks is not found.
        while not self.runs("edgebench[.]agent worker"):
            assert time.monotonic() < deadline, "nothing is measured"

    def left(self) -> list[str]:
        """Parts of files, sessions, and processes of the agent."""
        # Those of a link that was cut go when they hear of its end.
        deadline = time.monotonic() + 30
        while (runs := self.runs("edgebench[.]agent|[.]pyz")) and time.monotonic() < deadline:
            time.sleep(0.5)
        found = self.shell("find . -name '*.part' -o -name '*.new' -o -path './sessions/*'").split()
        return [*found, *(["a process"] if runs else [])]


@contextmanager
def _placed(machine: Machine, *, file_system: str | None = None) -> Iterator[Place]:
    """With `file_system`, options of a tmpfs that is mounted there."""
    place = Place(machine, "/var/eb")
    _write_profile(machine, place.work_dir)
    mount = "true" if file_system is None else f"mount -t tmpfs -o {file_system} small {place.work_dir}"
    made = machine.shell(f"mkdir {place.work_dir} && {mount}")
    assert made.returncode == 0, made.stderr
    try:
        yield place
    finally:
        machine.shell(f"umount {place.work_dir}; rm -rf {place.work_dir}")


@pytest.fixture
def place(machine: Machine) -> Iterator[Place]:
    with _placed(machine) as place:
        yield place


def _write_profile(machine: Machine, work_dir: str) -> None:
    values = {"transport": "ssh", "address": machine.host, "ssh_config": str(machine.config), "work_dir": work_dir}
    lines = [f"{key} = {json.dumps(value)}\n" for key, value in values.items()]
    Path("devices").mkdir(exist_ok=True)
    # A whole emulated machine does not know that it is one.
    Path("devices/machine.toml").write_text("".join([*lines, "emulated = true\n"]))


@contextmanager
def _agent(warnings: list[str] | None = None) -> Iterator[Agent]:
    agent = open_agent(find_device("machine"), Path(), [].append if warnings is None else warnings.append)
    with closing(agent):
        yield agent


@dataclass
class Watch(Silent):
    """Keeps what the user is warned of."""

    warnings: list[str] = field(default_factory=list)

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def _large_file() -> Path:
    path = Path("large.bin")
    path.write_bytes(os.urandom(LARGE))
    return path


def _measure(*paths: Path, watch: Watch | None = None) -> Run:
    """Every process that the bundle or the files get."""
    return edgebench.bench(
        *paths,
        devices=["machine"],
        runtimes=["onnxruntime"],
        threads=[1],
        settings=ONCE,
        progress=watch or Watch(),
    )


def _measure_meanwhile(bundle: Path, watch: Watch, fault: Callable[[], None]) -> Run:
    with ThreadPoolExecutor(1) as pool:
        happened = pool.submit(fault)
        run = _measure(bundle, watch=watch)
        happened.result()
    return run


def _assert_measured_once(run: Run) -> None:
    assert [(cell.status, cell.reason) for cell in run.cells] == [("ok", None)] * 3
    assert all(len(cell.measurements) == 1 and cell.measurements[0].samples_ns for cell in run.cells)
    assert [entry.round for entry in run.ledger] == [0]
    assert [device.error for device in run.devices] == [None]


def test_a_reset_keeps_the_disk_and_the_address(place: Place) -> None:
    before = place.machine.boot_id()
    place.shell("echo kept >file && sync")

    place.machine.reset()

    assert place.machine.boot_id() not in ("", before)
    assert place.shell("cat file") == "kept\n"


def test_it_answers_as_this_machine(place: Place, bundle: Path) -> None:
    run = bench_on(bundle, "machine", settings=ONCE, runtimes=["onnxruntime"])

    assert_answers_as_here(run, bench_on(bundle, "local", runtimes=["onnxruntime"]), processes=1)
    assert run.devices[0].fingerprint["machine"] == "aarch64"
    assert run.devices[0].emulated
    assert place.left() == []


def test_its_memory_is_its_own(place: Place, bundle: Path) -> None:
    run = _measure(bundle)

    for cell in run.cells:
        memory = cell.measurements[0].memory
        assert memory is not None
        # A Python with numpy and onnxruntime, and then a model of a few kilobytes; qemu-user would show hundreds.
        assert 20 << 20 < memory.baseline_bytes < memory.peak_bytes < 150 << 20
        assert memory.baseline_bytes <= memory.loaded_bytes <= memory.peak_bytes
    assert all(900 << 20 < state.available_bytes + (200 << 20) < 1200 << 20 for state in run.ledger[0].states)


@pytest.mark.parametrize("seconds", CUTS_S)
def test_cable_pulled_in_the_middle_of_a_push(place: Place, seconds: float) -> None:
    file = _large_file()
    sent: list[int] = []

    def pull(count: int) -> None:
        before = sum(sent)
        sent.append(count)
        if before <= LARGE // 3 < before + count:
            place.machine.cut()
            threading.Timer(seconds, place.machine.mend).start()

    with _agent(warnings := []) as agent:
        there = agent.place([file], pull)

    assert place.shell(f"sha256sum <{there[file]}").split()[0] == hashlib.sha256(file.read_bytes()).hexdigest()
    # What had arrived is not sent again; what was on its way is a few megabytes at most.
    assert LARGE <= sum(sent) < 1.2 * LARGE
    assert ["link was lost" in warning for warning in warnings] == [True] * (seconds > 20)
    assert place.left() == []


@pytest.mark.parametrize("seconds", CUTS_S)
def test_cable_pulled_in_the_middle_of_a_job(place: Place, bundle: Path, seconds: float) -> None:
    def pull() -> None:
        place.wait_for_round()
        place.machine.cut()
        time.sleep(seconds)
        place.machine.mend()

    run = _measure_meanwhile(bundle, watch := Watch(), pull)

    _assert_measured_once(run)
    # The job went on meanwhile.
    assert not any("anew" in warning for warning in watch.warnings)
    assert place.left() == []


@pytest.mark.parametrize("seconds", CUTS_S)
def test_cable_pulled_in_the_middle_of_a_fetch(place: Place, tmp_path: Path, seconds: float) -> None:
    artifact = _widening(tmp_path / "wide.onnx", LARGE // 4)

    def pull() -> None:
        while not any(path.stat().st_size > LARGE // 3 for path in tmp_path.glob("outputs-*/*")):
            time.sleep(0.02)
        place.machine.cut()
        time.sleep(seconds)
        place.machine.mend()

    with _agent() as agent, ThreadPoolExecutor(1) as pool:
        runner = JobRunner(agent, tmp_path)
        feeds = runner.feeds_for((TensorSpec("x", (1, 1), "float32"),), [{"x": np.ones((1, 1), np.float32)}])
        happened = pool.submit(pull)
        found = runner.job(Job(WIRE_VERSION, "predict", str(artifact), "onnxruntime", 1, feeds), timeout_s=120)
        happened.result()

    assert found.status == "ok", found.reason
    np.testing.assert_array_equal(read_output(found.outputs[0]).ravel(), 1 + np.arange(LARGE // 4, dtype=np.float32))
    assert place.left() == []


def test_reset_in_the_middle_of_a_job_is_measured_again(place: Place, bundle: Path) -> None:
    def reset() -> None:
        # At once after its first deployment: what a reset finds in no cache but the kernel's is gone.
        place.wait_for_round()
        place.machine.reset(wait=False)

    run = _measure_meanwhile(bundle, watch := Watch(), reset)

    _assert_measured_once(run)
    assert any("the device was started anew in the middle; measuring again" in warning for warning in watch.warnings)
    assert place.left() == []


def test_reset_in_the_middle_of_a_push_is_resumed(place: Place) -> None:
    file = _large_file()
    sent: list[int] = []

    def reset(count: int) -> None:
        before = sum(sent)
        sent.append(count)
        if before <= LARGE // 3 < before + count:
            place.machine.reset(wait=False)

    with _agent() as agent:
        there = agent.place([file], reset)

    assert place.shell(f"sha256sum <{there[file]}").split()[0] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert place.left() == []


def _widening(path: Path, numbers: int) -> Path:
    """A small file of a model that adds 0, 1, 2, ... to one number."""
    constants = [helper.make_tensor(name, TensorProto.FLOAT, [], [value]) for name, value in (("first", 0), ("by", 1))]
    constants.append(helper.make_tensor("end", TensorProto.FLOAT, [], [numbers]))
    nodes = [helper.make_node("Range", ["first", "end", "by"], ["r"]), helper.make_node("Add", ["x", "r"], ["y"])]
    return _save(path, nodes, constants, (1, 1), (1, numbers))


def _needs_memory(path: Path, buffers: int, megabytes: int) -> Path:
    """A model of some hundred bytes that holds so many buffers at once."""
    floats = megabytes * (1 << 20) // 4
    nodes = [helper.make_node("Expand", ["x", "shape"], ["wide"])]
    # Each is another function of x, so that none is taken for another.
    nodes += [helper.make_node("Add", ["wide", f"c{i}"], [f"wide{i}"]) for i in range(buffers)]
    nodes += [helper.make_node("Sum", [f"wide{i}" for i in range(buffers)], ["sum"])]
    nodes += [helper.make_node("ReduceMean", ["sum", "axes"], ["y"], keepdims=1)]
    constants = [
        helper.make_tensor("shape", TensorProto.INT64, [2], [floats // 4, 4]),
        helper.make_tensor("axes", TensorProto.INT64, [1], [0]),
        *(helper.make_tensor(f"c{i}", TensorProto.FLOAT, [1], [float(i + 1)]) for i in range(buffers)),
    ]
    return _save(path, nodes, constants, (1, 4), (1, 4))


def _save(
    path: Path,
    nodes: list[onnx.NodeProto],
    constants: list[onnx.TensorProto],
    x: tuple[int, ...],
    y: tuple[int, ...],
) -> Path:
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, x)]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, y)]
    graph = helper.make_graph(nodes, "graph", inputs, outputs, constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


@pytest.mark.parametrize(
    ("buffers", "megabytes", "reason"),
    [
        # The kernel promises the first and cannot keep it; the second it refuses.
        (3, 40, "memory ran out"),
        (1, 400, "memory"),
    ],
    ids=["killed", "refused"],
)
def test_a_model_that_does_not_fit_into_memory_stops_no_other(
    bundle: Path, tmp_path: Path, buffers: int, megabytes: int, reason: str
) -> None:
    large = _needs_memory(tmp_path / "large.onnx", buffers, megabytes)

    with closing(Machine(tree_cache(), memory_mb=200)) as small, _placed(small) as place:
        run = _measure(large, bundle)

        failed, *others = run.cells
        assert failed.status == "failed"
        assert reason in str(failed.reason)
        assert [(cell.status, cell.reason) for cell in others] == [("ok", None)] * 3
        assert ("Out of memory" in small.shell("dmesg").stdout) == (reason == "memory ran out")
        assert place.left() == []


def test_a_file_that_does_not_fit_on_the_disk_is_refused_before_it_is_pushed(machine: Machine) -> None:
    file = _large_file()
    with _placed(machine, file_system="size=100m") as place:
        sent: list[int] = []
        with _agent() as agent, pytest.raises(DeviceError, match=r"has no room: .* MB are needed"):
            agent.place([file], sent.append)

        assert sent == []
        assert place.shell("ls -A cache") == ""
        assert place.left() == []


def test_a_disk_that_runs_full_in_the_middle_of_a_push(machine: Machine) -> None:
    file = _large_file()
    with _placed(machine, file_system="size=130m") as place:
        sent: list[int] = []

        def fill(count: int) -> None:
            if not sent:
                place.shell("fallocate -l 125M other")
            sent.append(count)

        with _agent() as agent, pytest.raises(DeviceError, match=r"room|space") as error:
            agent.place([file], fill)

        assert "free some space" in str(error.value.hint)
        assert place.shell("ls -A cache") == ""
        assert place.left() == []


def test_a_disk_that_is_full_from_the_start(machine: Machine) -> None:
    with (
        _placed(machine, file_system="size=16k"),
        pytest.raises(DeviceError, match="No space left") as error,
        _agent(),
    ):
        pass

    assert "make room there" in str(error.value.hint)


def test_a_disk_that_runs_full_in_the_middle_of_a_job(machine: Machine, bundle: Path) -> None:
    with _placed(machine, file_system="size=100m") as place:

        def fill() -> None:
            place.wait_for_round()
            place.machine.shell(f"cat /dev/zero >{place.work_dir}/other")

        run = _measure_meanwhile(bundle, watch := Watch(), fill)

        assert all("No space left" in str(cell.reason) for cell in run.cells), watch.warnings
        place.shell("rm other")
        _assert_measured_once(_measure(bundle))
        assert place.left() == []
