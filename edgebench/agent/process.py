"""One worker process as its conductor sees it: started, asked, stopped and let go on, and what became of it."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from typing import Any, Callable, Dict, List, Optional

from .codec import encode
from .wire import WIRE_VERSION, Job, Measurement

# Of what a process that died had printed.
_LOG_TAIL_BYTES = 4000
_POLL_S = 0.1


class WorkerProcess:
    """A `worker` of one job. `failure` is the measurement of a process that can go no further, and its reason."""

    def __init__(self, job: Job, path: str) -> None:
        self.failure: Optional[Measurement] = None
        self._log_path = path + ".log"
        self._buffer = b""
        with open(path + ".job", "w", encoding="utf-8") as file:
            json.dump(encode(job), file)
        commands, self._commands_fd = os.pipe()
        self._answers_fd, answers = os.pipe()
        born_ns = str(time.perf_counter_ns())
        with open(self._log_path, "wb") as log:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "edgebench.agent",
                    "worker",
                    path + ".job",
                    str(commands),
                    str(answers),
                    born_ns,
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(commands, answers),
            )
        os.close(commands)
        os.close(answers)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def ask(
        self, command: Optional[Dict[str, Any]], timeout_s: float, meanwhile: Callable[[], None] = lambda: None
    ) -> Optional[Dict[str, Any]]:
        """Send `command`, or nothing, and wait for the answer; None when there will be none, and then `failure` says
        why. `meanwhile` is called ten times a second."""
        if command is not None:
            # One that died is found out when its answer is read.
            with suppress(BrokenPipeError):
                os.write(self._commands_fd, (json.dumps(command) + "\n").encode("ascii"))
        line = self._read_line(time.monotonic() + timeout_s, meanwhile)
        if line is None:
            self.kill()
            self._fail("no answer after %.0f s; the process was stopped" % timeout_s)
            return None
        if not line:
            self._fail(self._how_it_died())
            return None
        answer: Dict[str, Any] = json.loads(line)
        if answer.get("status", "ok") != "ok":
            self.failure = Measurement(WIRE_VERSION, answer["status"], answer["reason"])
            return None
        return answer

    def _read_line(self, deadline: float, meanwhile: Callable[[], None]) -> Optional[bytes]:
        """One line, b"" at the end of the stream, None when the time is over."""
        while b"\n" not in self._buffer:
            if not select.select([self._answers_fd], [], [], _POLL_S)[0]:
                if time.monotonic() > deadline:
                    return None
                meanwhile()
                continue
            chunk = os.read(self._answers_fd, 1 << 16)
            if not chunk:
                return b""
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def pause(self) -> None:
        """Stop all its threads; they have stopped when this returns."""
        self._signal(signal.SIGSTOP)
        if self._process.returncode is None:
            # Ends at once, whether it stopped or was gone already.
            _, status = os.waitpid(self._process.pid, os.WUNTRACED)
            if not os.WIFSTOPPED(status):
                self._process.returncode = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)

    def resume(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it, whatever it does."""
        self._signal(signal.SIGKILL)

    def wait_for_end(self, timeout_s: float) -> None:
        """Wait until one that was told to end, or that failed, is gone with all that it held; at last end it."""
        self.resume()
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            self._process.wait()

    def close(self) -> None:
        """End it and forget it."""
        self.kill()
        self._process.wait()
        for fd in (self._commands_fd, self._answers_fd):
            os.close(fd)

    def _signal(self, number: int) -> None:
        # poll() would take the status that pause() waits for.
        if self._process.returncode is None:
            os.kill(self._process.pid, number)

    def _fail(self, reason: str) -> None:
        self.failure = Measurement(WIRE_VERSION, "failed", reason)

    def _how_it_died(self) -> str:
        returncode = self._process.wait()
        if returncode == -signal.SIGKILL:
            return "the process was killed from outside, most likely because memory ran out"
        last = self._last_words()
        if returncode < 0:
            return "the runtime crashed with %s: %s" % (signal.Signals(-returncode).name, last)
        return "the process ended with %d in the middle of its work: %s" % (returncode, last)

    def _last_words(self) -> str:
        with open(self._log_path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _LOG_TAIL_BYTES))
            lines: List[str] = file.read().decode("utf-8", "replace").splitlines()
        return next((line.strip() for line in reversed(lines) if line.strip()), "it printed nothing")
