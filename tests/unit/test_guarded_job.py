"""A job's process group, with a stand-in for the agent's command that does what a runtime may do."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgebench.agent.guarded import GuardedJob

ROOT = Path(__file__).resolve().parents[2]
# Starts a child that hears neither hang-up nor SIGTERM, notes it beside its result, and does as its command says.
STAND_IN = """
import os, signal, subprocess, sys, time
command, message, result = sys.argv[1:]
child = subprocess.Popen([sys.executable, "-c", (
    "import signal, time\\n"
    "for number in (signal.SIGHUP, signal.SIGTERM): signal.signal(number, signal.SIG_IGN)\\n"
    "print('ready', flush=True); time.sleep(60)")], stdout=subprocess.PIPE)
child.stdout.readline()
open(result + ".child", "w").write(str(child.pid))
if "stopped" in command:
    os.kill(child.pid, signal.SIGSTOP)
if "deaf" in command:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if "quick" in command:
    print("done, and a child is left")
    os._exit(3)
time.sleep(60)
"""

Start = Callable[..., GuardedJob]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts the stand-in's command as the job `tmp_path / "job"`, and waits until it has its child."""
    package = tmp_path / "path/edgebench/agent"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").touch()
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(STAND_IN)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "path"), "PYTHONSAFEPATH": "1"}

    def start(command: str, *, elsewhere: bool = False) -> GuardedJob:
        job = GuardedJob(str(tmp_path / "job"))
        if elsewhere:
            # By a process that has gone since, as when the link was lost.
            code = "import json, sys; from edgebench.agent.guarded import GuardedJob; "
            code += "GuardedJob(sys.argv[1]).start(sys.argv[2], None, 60.0, json.loads(sys.argv[3]), None)"
            words = [str(tmp_path / "job"), command, json.dumps(environment)]
            subprocess.run([sys.executable, "-W", "ignore", "-c", code, *words], check=True, cwd=ROOT)
        else:
            job.start(command, None, 60.0, environment, None)
        _until((tmp_path / "job/result.json.child").exists)
        _until(lambda: bool((tmp_path / "job/result.json.child").read_text()))
        return job

    yield start
    for path in tmp_path.glob("job/result.json.child"):
        if _lives(int(path.read_text())):
            os.kill(int(path.read_text()), signal.SIGKILL)


def _child(tmp_path: Path) -> int:
    return int((tmp_path / "job/result.json.child").read_text())


def _leader(tmp_path: Path) -> int:
    return int(json.loads((tmp_path / "job/process.json").read_text())["pid"])


def _until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < deadline, "it did not come to be"
        time.sleep(0.02)


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("command", ["wait", "wait stopped", "wait deaf stopped"])
def test_stopping_a_job_ends_all_of_it(start: Start, tmp_path: Path, command: str) -> None:
    job = start(command)
    job.stop()
    assert not _lives(_leader(tmp_path))
    _until(lambda: not _lives(_child(tmp_path)))


def test_what_a_job_leaves_goes_when_its_end_is_seen(start: Start, tmp_path: Path) -> None:
    job = start("quick")
    _until(lambda: job.poll() is not None)
    assert job.poll() == {"returncode": 3, "timed_out": False, "last_words": "done, and a child is left"}
    _until(lambda: not _lives(_child(tmp_path)))


def test_what_a_job_leaves_goes_when_it_is_stopped_by_another_process(start: Start, tmp_path: Path) -> None:
    job = start("quick", elsewhere=True)
    _until(lambda: not _lives(_leader(tmp_path)))
    job.stop()
    _until(lambda: not _lives(_child(tmp_path)))


def test_another_process_sees_it_run_and_end(start: Start, tmp_path: Path) -> None:
    job = start("wait", elsewhere=True)
    assert job.poll() is None
    os.kill(_leader(tmp_path), signal.SIGKILL)
    _until(lambda: job.poll() is not None)
    assert job.poll() == {"returncode": None, "timed_out": False, "last_words": "it printed nothing"}


def test_a_later_process_of_the_same_number_is_not_touched(start: Start, tmp_path: Path) -> None:
    job = start("wait")
    job.stop()
    # Somebody else's group, which has the number that the job had.
    stranger = subprocess.Popen(["sleep", "60"], start_new_session=True)
    try:
        noted = json.loads((tmp_path / "job/process.json").read_text())
        (tmp_path / "job/process.json").write_text(json.dumps({**noted, "pid": stranger.pid}))
        GuardedJob(str(tmp_path / "job")).stop()
        GuardedJob(str(tmp_path / "job")).poll()
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()
