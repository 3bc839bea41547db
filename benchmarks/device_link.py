"""What a link costs: `bench` of an artifact that is on the device already against the agent's own run there, the
commands that it takes, and files pushed against scp's and adb's own speed; over a real sshd and adbd on this machine.

A push is measured over the bare loopback, where copies and hashing are what takes time, and over a link that carries
1 Gbit/s, more than a board's cable does. The file's hash is known before, as it is in `bench`, which reads each
artifact to see that it is whole; what is pushed is verified on the device within the time. scp and adb verify nothing.

    python benchmarks/device_link.py [--repeats N]

Needs root, sshd, adb and mmdebstrap, as tests/device does, and lays its devices in network namespaces of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

from benchmarks.conv_chain import input_spec, write_network
from edgebench.agent.codec import encode
from edgebench.agent.wire import WIRE_VERSION, Job, Round
from edgebench.files import file_sha256
from edgebench.measure.bench import bench
from edgebench.measure.devices import open_target
from edgebench.measure.jobs import JobRunner
from edgebench.targets.remote import RemoteAgent
from edgebench.targets.zipapp import agent_zipapp
from edgebench.types import BenchSettings, DeviceProfile
from tests.device.beds.adb import AdbBed
from tests.device.beds.network import Network
from tests.device.beds.rootfs import amd64_rootfs, tree_cache
from tests.device.beds.ssh import SshBed

SIDE = 32
PUSHED_BYTES = 100 << 20
SLOW_LINK = ("tbf", "rate", "1gbit", "burst", "256kb", "latency", "50ms")
# What runs edgebench's commands, counted by a program of the same name before it on the PATH.
SHIM = '#!/bin/sh\nprintf "%s\\n" "$*" >>"{log}"\nexec {program} "$@"\n'
SETTINGS = BenchSettings(processes=3, warmup=5, iterations=50, max_wait_s=0)


def _timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _count_commands(scratch: Path, program: str, work: Callable[[], object]) -> int:
    """How often `program` ran while `work` did; the connection itself is one of them."""
    log, directory = scratch / f"{program}.log", scratch / f"{program}-shim"
    directory.mkdir()
    shim = directory / program
    shim.write_text(SHIM.format(log=log, program=shutil.which(program)))
    shim.chmod(0o755)
    before = os.environ["PATH"]
    os.environ["PATH"] = f"{directory}:{before}"
    try:
        work()
    finally:
        os.environ["PATH"] = before
    return len(log.read_text().splitlines())


def _agents_own_run(profile: DeviceProfile, model: Path, scratch: Path) -> Callable[[], object]:
    """The rounds of the same bench, each as one plain command of the agent on the device."""
    with closing(RemoteAgent(profile, open_target(profile), print)) as agent:
        agent.connect()
        files = JobRunner(agent, scratch).feeds_for((input_spec(SIDE),), [])
        there = agent.place([model, *(Path(file.path) for file in files)])
    target = open_target(profile)
    target.connect()
    job = Job(WIRE_VERSION, "measure", there[model], "onnxruntime", 1, ())
    feeds = tuple(file.__class__(file.spec, there[Path(file.path)], file.count) for file in files)
    job = job.__class__(**{**job.__dict__, "feeds": feeds})
    work = Round(WIRE_VERSION, (job,), "benchmark", laps=10, turn=5, max_time_s=10)
    program = f"{profile.work_dir}/agent/{agent_zipapp()[0]}"
    message, result = f"{profile.work_dir}/message.json", f"{profile.work_dir}/result.json"
    put = target.argv(["sh", "-c", f"cat >{message}"])
    subprocess.run(put, input=json.dumps(encode(work)).encode(), check=True)
    command = target.argv([profile.python, program, "round", message, result], {"PYTHONPATH": program})

    def run() -> None:
        for _ in range(SETTINGS.processes):
            subprocess.run(command, check=True, capture_output=True)

    return run


def _report_bench(name: str, profile: DeviceProfile, scratch: Path, repeats: int) -> None:
    own_scratch = scratch / name
    own_scratch.mkdir()
    model = own_scratch / "chain.onnx"
    write_network(model, layers=4, side=SIDE)

    def run() -> None:
        found = bench(model, devices=[str(scratch / f"{name}.toml")], threads=[1], settings=SETTINGS)
        assert all(cell.status == "ok" for cell in found.cells), found.cells

    run()
    own = _agents_own_run(profile, model, own_scratch)
    commands = _count_commands(own_scratch, name, run)
    pairs = [(_timed(own), _timed(run)) for _ in range(repeats)]
    more = statistics.median(whole - agents for agents, whole in pairs)
    ratio = statistics.median(whole / agents for agents, whole in pairs)
    print(
        f"{name}: bench of {SETTINGS.processes} rounds takes {more:+.2f} s against the agent's own run "
        f"({ratio:.2f} of it; limit +1.5 s), {commands} commands with the connection (limit 6)"
    )


def _report_pushes(
    name: str, network: Network, profile: DeviceProfile, own: Sequence[str], scratch: Path, repeats: int
) -> None:
    _report_push(name, "loopback", profile, own, scratch, repeats)
    interface = f"eb-{network.host_address.split('.')[2]}"
    subprocess.run(["tc", "qdisc", "add", "dev", interface, "root", *SLOW_LINK], check=True)
    try:
        _report_push(name, "1 Gbit/s", profile, own, scratch, repeats)
    finally:
        subprocess.run(["tc", "qdisc", "del", "dev", interface, "root"], check=True)


def _report_push(name: str, link: str, profile: DeviceProfile, own: Sequence[str], scratch: Path, repeats: int) -> None:
    agent = RemoteAgent(profile, open_target(profile), print)
    agent.connect()
    ratios = []
    with closing(agent):
        for index in range(repeats):
            files = [scratch / f"{name}-{index}-{side}" for side in ("ours", "theirs")]
            for file in files:
                file.write_bytes(os.urandom(PUSHED_BYTES))
                file_sha256(file)
            ours = _timed(lambda file=files[0]: agent.place([file]))  # type: ignore[misc]
            command = [word.replace("FILE", str(files[1])) for word in own]
            theirs = _timed(lambda command=command: subprocess.run(command, check=True, capture_output=True))  # type: ignore[misc]
            ratios.append(theirs / ours)
            for file in files:
                file.unlink()
    listed = ", ".join(f"{ratio:.2f}" for ratio in sorted(ratios))
    print(
        f"{name}, {link}: 100 MB pushed and verified at {statistics.median(ratios):.2f} of {own[0]}'s speed "
        f"(median of {listed}; limit 0.8)"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    with tempfile.TemporaryDirectory(prefix="edgebench-link-") as name:
        scratch = Path(name)
        os.environ["EDGEBENCH_HOME"] = str(scratch / "home")
        # In memory on both sides: a disk is no link.
        work_dir = f"/dev/shm/edgebench-link-{os.getpid()}"
        with closing(SshBed()) as bed:
            profile = DeviceProfile(
                "ssh", "ssh", address=bed.host, ssh_config=str(bed.config), work_dir=work_dir, python=sys.executable
            )
            _write(scratch / "ssh.toml", profile)
            _report_bench("ssh", profile, scratch, repeats)
            target = open_target(profile)
            target.connect()
            # Over a connection that stands, as ours is.
            control = target.argv(["true"])[2]
            scp = ["scp", "-q", "-F", str(bed.config), "-o", f"ControlPath={control}", "FILE", f"{bed.host}:{work_dir}"]
            _report_pushes("ssh", bed.network, profile, scp, scratch, repeats)
            target.close()
        with closing(AdbBed(amd64_rootfs(tree_cache()))) as adb_bed:
            os.environ.update(adb_bed.environment)
            profile = DeviceProfile("adb", "adb", serial=adb_bed.serial, work_dir=work_dir)
            _write(scratch / "adb.toml", profile)
            _report_bench("adb", profile, scratch, repeats)
            push = ["adb", "-s", adb_bed.serial, "push", "FILE", f"{work_dir}/pushed"]
            _report_pushes("adb", adb_bed.network, profile, push, scratch, repeats)
    shutil.rmtree(work_dir, ignore_errors=True)


def _write(path: Path, profile: DeviceProfile) -> None:
    values = {key: value for key, value in encode(profile).items() if value and key != "name"}
    path.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items()))


if __name__ == "__main__":
    main()
