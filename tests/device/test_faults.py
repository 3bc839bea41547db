"""What goes wrong between a host and a device: the run goes on or says why not, and nothing of it is left on either."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import numpy as np
import onnx
import psutil
import pytest
from onnx import TensorProto, helper, numpy_helper

import edgebench
from edgebench.agent.wire import WIRE_VERSION, Job, Round, RoundResult, TensorSpec
from edgebench.cli.main import main
from edgebench.config import find_device
from edgebench.errors import DeviceError
from edgebench.measure.devices import open_agent, open_target
from edgebench.measure.jobs import JobRunner, read_output
from edgebench.progress import Silent
from edgebench.store import RunStore
from edgebench.targets.remote import RemoteAgent
from edgebench.targets.zipapp import agent_zipapp
from edgebench.types import BenchSettings
from tests.integration.conftest import start_edgebench

from .beds.adb import AdbBed
from .beds.ssh import SshBed
from .conftest import Bed, profile_of

T = TypeVar("T")

QUICK = BenchSettings(processes=1, warmup=1, iterations=5, max_wait_s=0)
QUICK_OPTIONS = ("--processes", "1", "--warmup", "1", "--iterations", "5", "--max-wait", "0", "--threads", "1")
MB = 1 << 20


class Warnings(Silent):
    """Keeps what a user would be warned of."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def warn(self, text: str) -> None:
        self.texts.append(text)


def wait_until(found: Callable[[], T], *, timeout_s: float = 30) -> T:
    """The first answer that says yes."""
    deadline = time.monotonic() + timeout_s
    while not (answer := found()):
        if time.monotonic() > deadline:
            raise TimeoutError("it did not come to that")
        time.sleep(0.01)
    return answer


def model(path: Path, *, numbers: int = 1, padding: int = 0) -> Path:
    """An ONNX file that adds `numbers` random floats to as many, and as much more as `padding` other floats make."""
    generator = np.random.default_rng(numbers)
    weights = {
        "w": generator.standard_normal(numbers).astype(np.float32),
        "p": generator.standard_normal(max(1, padding)).astype(np.float32),
        "zero": np.zeros(1, np.float32),
    }
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMax", ["p"], ["m"], keepdims=0),
            helper.make_node("Mul", ["m", "zero"], ["z"]),
            helper.make_node("Add", ["x", "w"], ["s"]),
            helper.make_node("Add", ["s", "z"], ["y"]),
        ],
        "add",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, numbers])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, numbers])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def random_file(path: Path, size: int) -> tuple[Path, str]:
    """A file of random bytes, and their sha256."""
    data = np.random.default_rng(size).bytes(size)
    path.write_bytes(data)
    return path, hashlib.sha256(data).hexdigest()


@contextmanager
def agent_on(name: str, warnings: list[str] | None = None) -> Iterator[RemoteAgent]:
    agent = open_agent(find_device(name), Path(), (warnings if warnings is not None else []).append)
    assert isinstance(agent, RemoteAgent)
    try:
        yield agent
    finally:
        agent.close()


def work(bed: Bed, seconds: float) -> dict[str, object]:
    """The message of a round that keeps a worker busy for so long."""
    feed = bed.work_dir / "cache/feed"
    feed.parent.mkdir(parents=True, exist_ok=True)
    feed.write_bytes(bytes(4))
    spec = {"name": "x", "shape": [1], "dtype": "float32"}
    feeds = [{"spec": spec, "path": f"/tmp/{bed.work_dir.name}/cache/feed", "count": 1}]
    job = {"version": WIRE_VERSION, "kind": "measure", "artifact": "", "runtime": "null", "threads": 1, "feeds": feeds}
    rounds = {"seed": "faults", "warmup": 0, "max_warmup_s": 0.1, "laps": 1, "sustained_s": seconds, "window_s": 0.5}
    return {"version": WIRE_VERSION, "jobs": [job], **rounds}


def busy(agent: RemoteAgent, scratch: Path, seconds: float) -> RoundResult:
    """The result of a round that keeps the device busy for so long."""
    runner = JobRunner(agent, scratch)
    job = Job(WIRE_VERSION, "measure", "", "null", 1, runner.feeds_for((TensorSpec("x", (1,), "float32"),), []))
    sustained = {"sustained_s": seconds, "window_s": seconds / 8}
    return runner.measure(Round(WIRE_VERSION, (job,), "faults", warmup=0, max_warmup_s=0.1, laps=1, **sustained))


def processes(bed: Bed, *words: str) -> list[int]:
    """Those on the device whose command line has all these words."""
    found = []
    for pid in bed.device.network.pids():
        with suppress(OSError):
            line = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if all(word.encode() in line for word in words):
                found.append(pid)
    return found


def end_agent(bed: Bed) -> None:
    """Kill all of it on the device."""
    for pid in (*processes(bed, "serve"), *processes(bed, "edgebench.agent")):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def drop(device: SshBed | AdbBed) -> None:
    """End the connection in its middle, as a restart of what serves it does."""
    if isinstance(device, AdbBed):
        device.server.run("disconnect", device.serial)
        return
    for pid in device.network.pids():
        with suppress(OSError):
            if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"sshd: root"):
                os.kill(pid, signal.SIGKILL)


@contextmanager
def counted(bed: Bed, command: str) -> Iterator[set[int]]:
    """Every job of that agent's command that runs on the device meanwhile, each a session of its own: what a job is
    about to start has its command line for a moment."""
    seen: set[int] = set()
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.05):
            for pid in processes(bed, "edgebench.agent", command):
                with suppress(ProcessLookupError):
                    seen.add(os.getsid(pid))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


@contextmanager
def mounted(bed: Bed, *options: str) -> Iterator[None]:
    """A tmpfs of its own as the device's work directory."""
    bed.work_dir.mkdir(exist_ok=True)
    in_guest(bed, ["mount", "-t", "tmpfs", *options, "tmpfs", place_in_guest(bed)])
    try:
        yield
    finally:
        in_guest(bed, ["umount", "--lazy", place_in_guest(bed)])


def place_in_guest(bed: Bed) -> str:
    """The work directory for `in_guest`."""
    return str(Path("/", *bed.work_dir.parts[4:]))


def in_guest(bed: Bed, argv: Sequence[str]) -> None:
    """Run a command of this machine where the device's mounts are."""
    init = bed.device.root.parts[2]
    subprocess.run(["nsenter", f"--target={init}", "--mount", "--pid", *argv], check=True)


def profile(name: str, bed: Bed, **values: object) -> None:
    """Another profile for the bed, with these values."""
    path = Path(f"devices/{name}.toml")
    path.write_text('extends = "bed"\n' + "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items()))


# The link.


def test_a_link_that_was_cut_is_found_again_and_the_job_ran_once(
    ssh_bed: SshBed, adb_bed: AdbBed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Both at once, because it takes 20 s until a silence is taken for a cut.
    for name, value in adb_bed.environment.items():
        monkeypatch.setenv(name, value)
    Path("devices").mkdir()
    beds = {}
    for name, device in (("ssh", ssh_bed), ("adb", adb_bed)):
        work_dir = f"/tmp/eb-{tmp_path.name[:20]}-{name}"
        beds[name] = Bed(device, Path(device.root, work_dir.lstrip("/")))
        python = {"python": sys.executable} if name == "ssh" else {}
        Path(f"devices/{name}.toml").write_text(profile_of(device, work_dir=work_dir, **python))
    warnings = Warnings()
    artifact = model(tmp_path / "m.onnx")
    settings = BenchSettings(processes=1, warmup=1, iterations=1, max_wait_s=0, sustained_min=0.1)
    with (
        ThreadPoolExecutor(1) as pool,
        counted(beds["ssh"], "round") as on_ssh,
        counted(beds["adb"], "round") as on_adb,
    ):
        run = pool.submit(
            edgebench.bench, artifact, devices=["ssh", "adb"], settings=settings, threads=[1], progress=warnings
        )
        try:
            for bed in beds.values():
                wait_until(lambda bed=bed: processes(bed, "edgebench.agent", "worker"))  # type: ignore[misc]
                bed.device.network.cut()
            time.sleep(24)
        finally:
            for bed in beds.values():
                bed.device.network.mend()
        done = run.result(timeout=90)

    assert {(cell.device, cell.status) for cell in done.cells} == {("ssh", "ok"), ("adb", "ok")}
    assert all(cell.sustained for cell in done.cells)
    assert {text.partition(":")[0] for text in warnings.texts if "the link was lost" in text} == {"ssh", "adb"}
    # The measured round, and the sustained one.
    assert [len(on_ssh), len(on_adb)] == [2, 2]
    assert [bed.left() for bed in beds.values()] == [set(), set()]


def test_a_connection_that_was_dropped_is_made_anew_and_the_job_runs_on(bed: Bed, tmp_path: Path) -> None:
    warnings: list[str] = []
    with (
        agent_on("bed", warnings) as agent,
        ThreadPoolExecutor(1) as pool,
        counted(bed, "round") as rounds,
    ):
        result = pool.submit(busy, agent, tmp_path, 4)
        wait_until(lambda: processes(bed, "edgebench.agent", "worker"))
        drop(bed.device)
        (measurement,) = result.result(timeout=60).measurements

    assert measurement.status == "ok", measurement.reason
    assert len(rounds) == 1
    assert len([text for text in warnings if "the link was lost" in text]) == 1
    assert bed.left() == set()


def test_a_name_that_is_not_found_while_the_network_is_away_is_asked_for_again(bed: Bed, tmp_path: Path) -> None:
    if not isinstance(bed.device, SshBed):
        pytest.skip("needs names: adb has none")
    config = tmp_path / "config"
    reached = bed.device.config.read_text()
    config.write_text(reached)
    profile("named", bed, ssh_config=str(config))
    warnings: list[str] = []
    with agent_on("named", warnings) as agent, ThreadPoolExecutor(1) as pool:
        result = pool.submit(busy, agent, tmp_path, 5)
        wait_until(lambda: processes(bed, "edgebench.agent", "worker"))
        config.write_text(reached.replace(bed.device.network.address, "away.invalid"))
        drop(bed.device)
        time.sleep(2)
        config.write_text(reached)
        (measurement,) = result.result(timeout=60).measurements

    assert measurement.status == "ok", measurement.reason
    assert len([text for text in warnings if "the link was lost" in text]) == 1


# Files on their way.


@pytest.mark.parametrize("name", ["bed", "tool"])
def test_a_push_goes_on_where_it_was_cut(bed: Bed, name: str, tmp_path: Path) -> None:
    Path("devices/tool.toml").write_text('extends = "bed"\n[tools.ort_runner]\n')
    path, sha256 = random_file(tmp_path / "large.raw", 60 * MB)
    sent: list[int] = []
    dropped: list[int] = []

    def advance(count: int) -> None:
        sent.append(count)
        if not dropped and sum(sent) > 30 * MB:
            dropped.append(sum(sent))
            drop(bed.device)

    agent = open_agent(find_device(name), tmp_path, lambda text: None)
    with closing(agent):
        there = agent.place([path], advance)[path]
        pushed = (bed.work_dir / "cache" / Path(there).name).read_bytes()

    assert dropped
    assert hashlib.sha256(pushed).hexdigest() == sha256
    # What was under way when it was cut goes twice, and no more.
    assert 60 * MB <= sum(sent) < 85 * MB
    assert [file.name for file in (bed.work_dir / "cache").iterdir()] == [sha256]


@pytest.mark.parametrize("damage", ["other bytes", "all there, other bytes", "too many bytes"])
def test_a_push_that_was_damaged_on_the_device_is_made_anew(bed: Bed, damage: str, tmp_path: Path) -> None:
    path, sha256 = random_file(tmp_path / "file.raw", 2 * MB)
    cache = bed.work_dir / "cache"
    cache.mkdir(parents=True)
    sizes = {"other bytes": MB, "all there, other bytes": 2 * MB, "too many bytes": 3 * MB}
    (cache / f"{sha256}.part").write_bytes(bytes(sizes[damage]))

    with agent_on("bed") as agent:
        agent.place([path])

    assert {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in cache.iterdir()} == {sha256: sha256}


def test_a_fetch_goes_on_where_it_was_cut(bed: Bed, tmp_path: Path) -> None:
    artifact = model(tmp_path / "wide.onnx", numbers=2 * MB)
    spec = TensorSpec("x", (1, 2 * MB), "float32")
    with agent_on("bed") as agent, ThreadPoolExecutor(1) as pool:
        runner = JobRunner(agent, tmp_path)
        feeds = runner.feeds_for((spec,), [])
        job = Job(WIRE_VERSION, "predict", str(artifact), "onnxruntime", 1, feeds)
        found = pool.submit(runner.job, job, timeout_s=60)
        directory = tmp_path / "outputs-2"
        wait_until(lambda: any(file.stat().st_size for file in directory.glob("*")))
        at = [file.stat().st_size for file in directory.glob("*")]
        drop(bed.device)
        measurement = found.result(timeout=60)

    assert measurement.status == "ok", measurement.reason
    (output,) = measurement.outputs
    answers = read_output(output)
    inputs = np.fromfile(feeds[0].path, dtype=np.float32).reshape(answers.shape)
    weights = numpy_helper.to_array(onnx.load(artifact).graph.initializer[0])
    assert 0 < at[0] < answers.nbytes
    np.testing.assert_array_equal(answers, inputs + weights)


def test_ctrl_c_while_outputs_are_fetched_leaves_nothing(bed: Bed, tmp_path: Path) -> None:
    artifact = model(tmp_path / "wide.onnx", numbers=4 * MB)
    directory = tmp_path / "outputs-2"
    main_thread = threading.main_thread().ident
    assert main_thread is not None

    def press() -> None:
        wait_until(lambda: any(file.stat().st_size for file in directory.glob("*")))
        signal.pthread_kill(main_thread, signal.SIGINT)

    with pytest.raises(KeyboardInterrupt), ThreadPoolExecutor(1) as pool, agent_on("bed") as agent:
        runner = JobRunner(agent, tmp_path)
        feeds = runner.feeds_for((TensorSpec("x", (1, 4 * MB), "float32"),), [])
        pool.submit(press)
        runner.job(Job(WIRE_VERSION, "predict", str(artifact), "onnxruntime", 1, feeds), timeout_s=60)

    assert 0 < sum(file.stat().st_size for file in directory.glob("*")) < 4 * 4 * MB
    wait_until(lambda: not processes(bed, "serve"), timeout_s=5)
    assert bed.left() == set()


# Hosts that go.


def greeted(bed: Bed, grace_s: float) -> subprocess.Popen[bytes]:
    """A host's long command, which the device gives up after `grace_s`. The agent must be there."""
    target = open_target(find_device("bed"))
    target.connect()
    python = find_device("bed").python
    name, _ = agent_zipapp()
    place = f"/tmp/{bed.work_dir.name}"
    command = [python, f"{place}/agent/{name}", "serve", place, "session", "someone@elsewhere", str(MB), str(grace_s)]
    process = subprocess.Popen(target.argv(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    process.target = target  # type: ignore[attr-defined]
    assert process.stdout is not None
    assert not json.loads(process.stdout.readline()).get("busy")
    return process


def ask(process: subprocess.Popen[bytes], **request: object) -> dict[str, object]:
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(json.dumps(request).encode() + b"\n")
    process.stdin.flush()
    return dict(json.loads(process.stdout.readline()))


@pytest.mark.parametrize("way", ["killed", "cut", "cut while it is sent a file"])
def test_a_host_that_is_gone_for_too_long_leaves_nothing(bed: Bed, way: str) -> None:
    with agent_on("bed"):
        pass
    host = greeted(bed, grace_s=2)
    try:
        ask(host, do="start", id="1", command="round", message=work(bed, 60), limit_s=100)
        wait_until(lambda: processes(bed, "edgebench.agent", "worker"))
        time.sleep(1)
        assert processes(bed, "edgebench.agent", "worker")
        if way == "killed":
            host.kill()
        elif way == "cut":
            bed.device.network.cut()
        else:
            # More than any buffer on the way holds.
            with (bed.work_dir / "sessions/session/1/outputs/large").open("wb") as file:
                file.truncate(64 * MB)
            assert host.stdin is not None
            host.stdin.write(json.dumps({"do": "send", "id": "1", "name": "large", "offset": 0}).encode() + b"\n")
            host.stdin.flush()
            time.sleep(0.5)
            bed.device.network.cut()
        wait_until(lambda: not processes(bed, "edgebench.agent"), timeout_s=20)
        wait_until(lambda: not processes(bed, "serve"), timeout_s=20)
        assert bed.left() == set()
    finally:
        bed.device.network.mend()
        host.kill()
        host.communicate()
        host.target.close()  # type: ignore[attr-defined]
    with agent_on("bed"):
        pass


@pytest.mark.parametrize("moment", ["measuring", "pushing", "connecting"])
def test_ctrl_c_leaves_nothing_on_the_device_and_the_run_goes_on_later(bed: Bed, moment: str, tmp_path: Path) -> None:
    artifact = model(tmp_path / "m.onnx", padding=15 * MB if moment == "pushing" else 0)
    options = ["--processes", "1", "--warmup", "1", "--iterations", "1", "--max-wait", "0", "--threads", "1"]
    if moment == "measuring":
        options = ["--processes", "1", "--iterations", "10000000", "--max-time", "0.5", "--max-wait", "0"]
    if moment == "connecting":
        with agent_on("bed"):
            pass
        wait_until(lambda: not processes(bed, "serve"))

    def is_there() -> bool:
        if moment == "measuring":
            return bool(processes(bed, "edgebench.agent", "worker"))
        if moment == "connecting":
            return bool(processes(bed, "serve"))
        cache = bed.work_dir / "cache"
        return cache.is_dir() and any(path.name.endswith(".part") and path.stat().st_size for path in cache.iterdir())

    host = start_edgebench("bench", str(artifact), "--device", "bed", *options)
    try:
        wait_until(is_there)
        host.send_signal(signal.SIGINT)
        _, said = host.communicate(timeout=30)
    finally:
        host.kill()

    assert host.returncode == 130, said
    assert "Traceback" not in said
    wait_until(lambda: not processes(bed, "edgebench.agent") and not processes(bed, "serve"), timeout_s=5)
    assert bed.left() == set()
    if moment == "measuring":
        ((run_id, _),) = RunStore().list()
        assert f"--resume {run_id}" in said
        assert main(["bench", str(artifact), "--device", "bed", *options, "--resume", run_id]) == 0


def test_ctrl_c_while_another_device_does_not_answer_yet_frees_those_that_did(bed: Bed, tmp_path: Path) -> None:
    with closing(SshBed(host="away")) as away:
        Path("devices/away.toml").write_text(profile_of(away))
        away.network.cut()
        host = start_edgebench("bench", str(model(tmp_path / "m.onnx")), "--device", "bed", "--device", "away")
        try:
            wait_until(lambda: processes(bed, "serve"))
            time.sleep(1)
            own = [process.pid for process in psutil.Process(host.pid).children(recursive=True)]
            host.send_signal(signal.SIGINT)
            _, said = host.communicate(timeout=60)
        finally:
            host.kill()

    assert host.returncode == 130, said
    assert "Traceback" not in said
    wait_until(lambda: not any(map(psutil.pid_exists, own)), timeout_s=5)
    wait_until(lambda: not processes(bed, "serve"), timeout_s=5)
    assert bed.left() == set()


def test_a_host_that_was_killed_leaves_no_process_here(bed: Bed, tmp_path: Path) -> None:
    host = start_edgebench("bench", str(model(tmp_path / "m.onnx")), "--device", "bed", "--sustained", "1")
    own: list[int] = []
    try:
        wait_until(lambda: processes(bed, "edgebench.agent", "worker"))
        own = [process.pid for process in psutil.Process(host.pid).children(recursive=True)]
        host.kill()
        host.communicate()
        # The device would wait for its host for two minutes.
        end_agent(bed)
        wait_until(lambda: not any(map(psutil.pid_exists, own)), timeout_s=5)
    finally:
        host.kill()
        for pid in own:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    assert own


def test_a_second_host_hears_who_is_there_and_disturbs_nobody(
    bed: Bed, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    warnings: list[str] = []
    with agent_on("bed", warnings) as agent, ThreadPoolExecutor(1) as pool, counted(bed, "round") as rounds:
        result = pool.submit(busy, agent, tmp_path, 4)
        wait_until(lambda: processes(bed, "edgebench.agent", "worker"))
        code = main(["bench", str(model(tmp_path / "m.onnx")), "--device", "bed", *QUICK_OPTIONS])
        said = capsys.readouterr().err
        (measurement,) = result.result(timeout=60).measurements

    assert code == 3
    assert "is in use by" in said and os.uname().nodename in said
    assert measurement.status == "ok", measurement.reason
    assert warnings == []
    assert len(rounds) == 1


def test_a_host_without_its_agent_does_not_break_in(bed: Bed, tmp_path: Path) -> None:
    """Profiles with and without `tools` share the work directory."""
    Path("devices/tool.toml").write_text('extends = "bed"\n[tools.ort_runner]\n')
    with agent_on("bed") as agent, ThreadPoolExecutor(1) as pool:
        result = pool.submit(busy, agent, tmp_path, 3)
        wait_until(lambda: processes(bed, "edgebench.agent", "worker"))
        with pytest.raises(DeviceError, match="is in use by"):
            open_agent(find_device("tool"), tmp_path, lambda text: None).close()
        (measurement,) = result.result(timeout=60).measurements

    assert measurement.status == "ok", measurement.reason
    native = open_agent(find_device("tool"), tmp_path, lambda text: None)
    try:
        with pytest.raises(DeviceError, match="is in use by"), agent_on("bed"):
            pass
    finally:
        native.close()


# What is wrong on the device.


def test_a_worker_that_is_killed_fails_its_cell_alone(bed: Bed, tmp_path: Path) -> None:
    paths = [model(tmp_path / "one.onnx", numbers=1), model(tmp_path / "two.onnx", numbers=2)]
    settings = BenchSettings(processes=1, warmup=1, iterations=10_000_000, max_time_s=0.5, max_wait_s=0)
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(edgebench.bench, *paths, devices=["bed"], settings=settings, threads=[1])
        workers = wait_until(lambda: len(pids := processes(bed, "edgebench.agent", "worker")) == 2 and pids)
        os.kill(workers[0], signal.SIGKILL)
        run = found.result(timeout=60)

    failed, other = sorted(run.cells, key=lambda cell: cell.status)
    assert (failed.status, other.status) == ("failed", "ok")
    assert "killed" in str(failed.reason)
    assert bed.left() == set()


def test_a_disk_that_is_too_small_is_named(bed: Bed, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with mounted(bed, "-o", "size=60m"):
        code = main(["bench", str(model(tmp_path / "m.onnx", numbers=8 * MB)), "--device", "bed", *QUICK_OPTIONS])
        said = capsys.readouterr().err

        assert code == 3
        assert "has no room" in said and "MB" in said
        assert "work_dir" in said
        assert "--resume" in said
        assert bed.left() == set()


def test_a_disk_that_fills_up_while_it_is_pushed_to_is_named(bed: Bed, tmp_path: Path) -> None:
    path, _ = random_file(tmp_path / "large.raw", 40 * MB)
    filler = bed.work_dir / "filler"

    def advance(count: int) -> None:
        if not filler.exists():
            with suppress(OSError), filler.open("wb") as file:
                while file.write(bytes(MB)):
                    file.flush()

    with mounted(bed, "-o", "size=110m"):
        with pytest.raises(DeviceError, match=r"room|space") as refused, agent_on("bed") as agent:
            agent.place([path], advance)
        assert refused.value.exit_code == 3
        assert bed.left() == {"filler"}


def test_a_disk_that_fills_up_while_it_measures_does_not_end_the_session(bed: Bed) -> None:
    """What is written then is what says that the host is there."""
    filler = bed.work_dir / "filler"
    with mounted(bed, "-o", "size=20m"):
        with agent_on("bed") as agent:
            agent.ask({"do": "start", "id": "9", "command": "round", "message": work(bed, 8), "limit_s": 60})
            worker = wait_until(lambda: processes(bed, "edgebench.agent", "worker"))
            with suppress(OSError), filler.open("wb") as file:
                while file.write(bytes(4096)):
                    file.flush()
            for _ in range(3):
                assert agent.ask({"do": "wait", "id": "9", "hold_s": 0.2})["ended"] is None
            filler.unlink()
            assert processes(bed, "edgebench.agent", "worker") == worker
        wait_until(lambda: not processes(bed, "edgebench.agent"), timeout_s=5)
        assert bed.left() == set()


def test_a_disk_without_room_for_the_agent_is_named(
    bed: Bed, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with mounted(bed, "-o", "size=200k"):
        code = main(["bench", str(model(tmp_path / "m.onnx")), "--device", "bed", *QUICK_OPTIONS])

    said = capsys.readouterr().err
    assert code == 3
    assert "No space left on device" in said
    assert "work_dir" in said


@pytest.mark.parametrize("agent_is_there", [False, True])
def test_a_work_directory_that_is_read_only_is_named(
    bed: Bed, agent_is_there: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with mounted(bed):
        if agent_is_there:
            with agent_on("bed"):
                pass
        in_guest(bed, ["mount", "-o", "remount,ro", place_in_guest(bed)])
        code = main(["bench", str(model(tmp_path / "m.onnx")), "--device", "bed", *QUICK_OPTIONS])

    said = capsys.readouterr().err
    assert code == 3
    assert "Read-only file system" in said
    assert "work_dir" in said


def test_files_that_stay_are_within_their_bound(bed: Bed, tmp_path: Path) -> None:
    profile("small", bed, cache_mb=1)
    paths = [random_file(tmp_path / f"{index}.raw", 700_000 + index)[0] for index in range(3)]

    for path in paths:
        with agent_on("small") as agent:
            agent.place([path])
    kept = [path.stat().st_size for path in (bed.work_dir / "cache").iterdir()]
    with agent_on("small") as agent:
        agent.place(paths)
        together = len(list((bed.work_dir / "cache").iterdir()))

    assert kept == [700_002]
    # What one measurement needs is there for as long as it needs it.
    assert together == 3
    assert sum(path.stat().st_size for path in (bed.work_dir / "cache").iterdir()) <= MB


@pytest.mark.parametrize("damage", ["emptied", "cut", "emptied where it is unpacked"])
def test_an_agent_that_was_damaged_on_the_device_is_put_there_anew(bed: Bed, damage: str) -> None:
    """As by a power cut soon after it was written."""
    with agent_on("bed"):
        pass
    name, content = agent_zipapp()
    if damage == "emptied where it is unpacked":
        (bed.work_dir / "agent" / f"{name}.d" / "edgebench/agent/conductor.py").write_bytes(b"")
    else:
        (bed.work_dir / "agent" / name).write_bytes(b"" if damage == "emptied" else content[: len(content) // 2])

    with agent_on("bed") as agent:
        ended = agent.execute("round", lambda: work(bed, 0), 60)

    assert ended.result is not None, ended.last_words
    assert ended.result["measurements"][0]["status"] == "ok", ended.result


# What a user may write.


@pytest.mark.parametrize("name", ["a b 'c' \"d\" $(touch pwned) `touch pwned`;touch pwned\nline.onnx", "-rf.onnx"])
def test_a_name_of_a_model_is_a_name(bed: Bed, name: str, tmp_path: Path) -> None:
    run = edgebench.bench(model(tmp_path / name), devices=["bed"], settings=QUICK, threads=[1])

    assert [(cell.status, cell.reason) for cell in run.cells] == [("ok", None)]
    assert not [path for path in (*tmp_path.iterdir(), *bed.work_dir.iterdir()) if path.name == "pwned"]


def test_a_name_of_a_work_directory_is_a_name(bed: Bed, tmp_path: Path) -> None:
    ending = "a b 'c' \"d\" $(touch pwned) `touch pwned`;touch pwned \\ü *"
    profile("odd", bed, work_dir=f"/tmp/{bed.work_dir.name}/{ending}")

    run = edgebench.bench(model(tmp_path / "m.onnx"), devices=["odd"], settings=QUICK, threads=[1])

    assert [(cell.status, cell.reason) for cell in run.cells] == [("ok", None)]
    assert [path.name for path in bed.work_dir.iterdir()] == [ending]


@pytest.mark.parametrize(
    "line",
    [
        'transport = "ssh"\naddress = "-oProxyCommand=touch pwned"',
        'transport = "ssh"\naddress = "host; touch pwned"',
        'transport = "ssh"\naddress = "$(touch pwned)"',
        'transport = "adb"\nserial = "1234;touch pwned"',
        'transport = "adb"\nserial = "-s"',
        'transport = "ssh"\naddress = "host"\nwork_dir = "a\\nb"',
        'transport = "ssh"\naddress = "host"\n[environment]\n"A=1;touch pwned" = "1"',
        'transport = "ssh"\naddress = "host"\n[environment]\nA = "1\\n2"',
    ],
)
def test_a_profile_with_what_a_shell_would_read_is_refused(
    line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("devices").mkdir()
    Path("devices/odd.toml").write_text(line)

    code = main(["bench", str(model(tmp_path / "m.onnx")), "--device", "odd", *QUICK_OPTIONS])

    assert code == 2
    assert "devices/odd.toml" in capsys.readouterr().err
    assert not Path("pwned").exists()


def test_one_device_by_two_names_is_refused(bed: Bed, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    profile("other", bed)

    code = main(["bench", str(model(tmp_path / "m.onnx")), "--device", "bed", "--device", "other", *QUICK_OPTIONS])

    assert code == 2
    assert "`bed` and `other` are one and the same" in capsys.readouterr().err


def test_cpus_that_the_device_does_not_have_are_named(
    bed: Bed, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    profile("pinned", bed, cpus=[1000])

    code = main(["bench", str(model(tmp_path / "m.onnx")), "--device", "pinned", *QUICK_OPTIONS])

    assert code == 3
    assert "cpu" in capsys.readouterr().err.lower()
    assert not processes(bed, "edgebench.agent")
    assert bed.left() == set()


def test_a_login_that_talks_is_not_taken_for_the_agent(bed: Bed, tmp_path: Path) -> None:
    """As by an `echo` in a .bashrc."""
    talking = bed.work_dir / "python"
    bed.work_dir.mkdir()
    talking.write_text(f'#!/bin/sh\necho Welcome to this device\nexec {find_device("bed").python} "$@"\n')
    talking.chmod(0o755)
    profile("talking", bed, python=f"/tmp/{bed.work_dir.name}/python")

    run = edgebench.bench(model(tmp_path / "m.onnx"), devices=["talking"], settings=QUICK, threads=[1])

    assert [(cell.status, cell.reason) for cell in run.cells] == [("ok", None)]
