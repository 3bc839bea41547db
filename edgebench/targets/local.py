"""This machine as a target: commands run as child processes in a process group of their own."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

__all__ = ["Completed", "LocalTarget"]

# After SIGTERM a runtime gets this long to go by itself.
_GRACE_S = 2.0


@dataclass(frozen=True)
class Completed:
    """A command that ended. `returncode` is negative for a signal; `timed_out` when it was stopped for its time."""

    returncode: int
    stdout: str
    stderr: str
    timed_out: bool = False


class LocalTarget:
    """Runs commands here. A command is never left behind: its whole group goes when the wait for it ends."""

    def run(self, argv: Sequence[str], *, timeout_s: float, environment: Mapping[str, str] | None = None) -> Completed:
        """Run `argv` to its end, or for `timeout_s`; `environment` is added to this process's own."""
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env={**os.environ, **(environment or {})},
            start_new_session=True,
        )
        try:
            stdout, stderr = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            stdout, stderr = self._stop(process)
            return Completed(process.returncode, stdout, stderr, timed_out=True)
        except BaseException:
            self._stop(process)
            raise
        return Completed(process.returncode, stdout, stderr)

    def _stop(self, process: subprocess.Popen[str]) -> tuple[str, str]:
        ended = "", ""
        # The second also where the first was enough for the leader: children that are stopped do not hear it.
        for number in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            with suppress(subprocess.TimeoutExpired):
                ended = process.communicate(timeout=_GRACE_S)
        return ended
