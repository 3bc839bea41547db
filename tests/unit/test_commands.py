"""Commands on this machine."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from edgebench.targets.commands import capture


def test_streams_and_exit_code_stay_apart() -> None:
    code = "import sys; print('out'); print('err', file=sys.stderr); sys.exit(7)"
    done = capture([sys.executable, "-c", code], timeout_s=30)
    assert (done.stdout, done.stderr, done.returncode, done.timed_out) == ("out\n", "err\n", 7, False)


def test_environment_is_added() -> None:
    code = "import os; print(os.environ['ADDED'], 'PATH' in os.environ)"
    done = capture([sys.executable, "-c", code], timeout_s=30, environment={"ADDED": "yes"})
    assert done.stdout == "yes True\n"


def test_a_command_that_hangs_is_stopped_with_its_children(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    code = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        f"open({str(pid_file)!r}, 'w').write(str(child.pid))\n"
        "time.sleep(60)\n"
    )
    done = capture([sys.executable, "-c", code], timeout_s=3)
    assert done.timed_out
    assert _gone(int(pid_file.read_text()))


def test_a_child_that_was_stopped_goes_with_its_command(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    code = (
        "import os, signal, subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        f"open({str(pid_file)!r}, 'w').write(str(child.pid))\n"
        "os.kill(child.pid, signal.SIGSTOP)\n"
        "time.sleep(60)\n"
    )
    done = capture([sys.executable, "-c", code], timeout_s=3)
    assert done.timed_out
    assert _gone(int(pid_file.read_text()))


def _gone(pid: int) -> bool:
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        # A killed orphan may wait as a zombie for whoever adopted it.
        if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
            return True
        time.sleep(0.05)
    return False
