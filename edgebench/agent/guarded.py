"""A job as a process group of its own, whose end is seen also by a process that did not start it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from typing import Any, Dict, Optional, Sequence

from .sysfs import read_text

# After SIGTERM a runtime gets this long to go by itself.
_GRACE_S = 2.0
_LOG_TAIL_BYTES = 4000


class GuardedJob:
    """The job in `directory`, which this process started, or one of the same session before it."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._process: Optional[subprocess.Popen[bytes]] = None

    @property
    def result_path(self) -> str:
        """Where the job's answer is once it ended well."""
        return os.path.join(self._directory, "result.json")

    def start(
        self, command: str, message: Any, limit_s: float, environment: Dict[str, str], cpus: Optional[Sequence[int]]
    ) -> None:
        """Run the agent's `command`, for `limit_s` at most; a second call for one directory does nothing."""
        if self._noted() is not None:
            return
        # A start that was cut before its process was noted.
        shutil.rmtree(self._directory, ignore_errors=True)
        preparing = self._directory + ".new"
        os.makedirs(os.path.join(preparing, "outputs"), exist_ok=True)
        with open(os.path.join(preparing, "message.json"), "w", encoding="utf-8") as file:
            json.dump(message, file)
        os.rename(preparing, self._directory)
        with open(os.path.join(self._directory, "log"), "wb") as log:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "edgebench.agent",
                    command,
                    os.path.join(self._directory, "message.json"),
                    self.result_path,
                ],
                cwd=self._directory,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # A group of its own, so that all that it starts can be ended together.
                start_new_session=True,
            )
        try:
            self._note(pid=self._process.pid, born=_born(self._process.pid), deadline=time.monotonic() + limit_s)
            if cpus is not None:
                os.sched_setaffinity(self._process.pid, cpus)
        except OSError:
            # Nobody would know of it.
            _signal_group(self._process.pid, signal.SIGKILL)
            self._process.wait()
            raise

    def poll(self) -> Optional[Dict[str, Any]]:
        """None while it runs; then how it ended: `returncode` (None where nobody saw it), `timed_out`, `last_words`."""
        noted = self._noted()
        if noted is None:
            return {"returncode": None, "timed_out": False, "last_words": "it was never started"}
        ended = noted.get("ended")
        if ended is not None:
            return dict(ended)
        timed_out = self._lives(noted) and time.monotonic() > noted["deadline"]
        if timed_out:
            self.stop()
        if self._process is not None:
            returncode = self._process.poll()
            if returncode is None:
                return None
        elif _born(noted["pid"]) == noted["born"]:
            return None
        else:
            returncode = None
        # What it started and did not end goes with it.
        if self._process is not None or not _is_reused(noted):
            _signal_group(noted["pid"], signal.SIGKILL)
        ended = {"returncode": returncode, "timed_out": timed_out, "last_words": self._last_words()}
        self._note(**noted, ended=ended)
        return ended

    def stop(self) -> None:
        """End it and all that it started."""
        noted = self._noted()
        if noted is None or noted.get("ended") is not None:
            return
        if self._process is None and _is_reused(noted):
            return
        _signal_group(noted["pid"], signal.SIGTERM)
        deadline = time.monotonic() + _GRACE_S
        while time.monotonic() < deadline and self._lives(noted):
            time.sleep(0.02)
        # Also where the leader has gone: children that are stopped did not hear the first.
        _signal_group(noted["pid"], signal.SIGKILL)
        if self._process is not None:
            self._process.wait()

    def _lives(self, noted: Dict[str, Any]) -> bool:
        if self._process is not None:
            return self._process.poll() is None
        return bool(_born(noted["pid"]) == noted["born"])

    def _note(self, **values: Any) -> None:
        path = os.path.join(self._directory, "process.json")
        with open(path + ".new", "w", encoding="utf-8") as file:
            json.dump(values, file)
        os.replace(path + ".new", path)

    def _noted(self) -> Optional[Dict[str, Any]]:
        with suppress(OSError, ValueError):
            with open(os.path.join(self._directory, "process.json"), encoding="utf-8") as file:
                noted: Dict[str, Any] = json.load(file)
            return noted
        return None

    def _last_words(self) -> str:
        with open(os.path.join(self._directory, "log"), "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _LOG_TAIL_BYTES))
            lines = file.read().decode("utf-8", "replace").splitlines()
        return next((line.strip() for line in reversed(lines) if line.strip()), "it printed nothing")


def _signal_group(leader: int, number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, number)


def _is_reused(noted: Dict[str, Any]) -> bool:
    """Whether its number is another process's by now; that of a group which still has members cannot be."""
    return _born(noted["pid"]) not in (None, noted["born"])


def _born(pid: int) -> Optional[str]:
    """The process's start in ticks since boot, by which it is told from a later one of its number; None if it is gone
    or only waits to be forgotten."""
    stat = read_text("/proc", str(pid), "stat")
    if stat is None:
        return None
    # The name may hold blanks and brackets.
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] == "Z" else fields[19]
