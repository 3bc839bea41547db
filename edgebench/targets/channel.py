"""The long command to a device's agent: requests and files in, answers and files out, each within a time."""

from __future__ import annotations

import fcntl
import json
import os
import select
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from edgebench.targets.commands import stop
from edgebench.targets.target import LinkLost

__all__ = ["Channel", "last_line"]

_STALL_S = 30.0
_CHUNK = 1 << 20
# Of a login before it comes to the command.
_MOST_LINES = 1000


class Channel:
    """The command `argv`, which answers line by line."""

    def __init__(self, argv: Sequence[str]) -> None:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the channel
        self._process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, start_new_session=True
        )
        self._buffer = b""
        _widen(self._process)

    def read_line(self, timeout_s: float) -> bytes:
        """One line; b"" at the end.

        Raises:
            LinkLost: nothing came for so long.
        """
        assert self._process.stdout is not None
        deadline = time.monotonic() + timeout_s
        while b"\n" not in self._buffer:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._process.stdout], [], [], left)[0]:
                raise LinkLost(f"no answer within {timeout_s:.0f} s")
            chunk = os.read(self._process.stdout.fileno(), 1 << 16)
            if not chunk:
                return b""
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def greeting(self, timeout_s: float) -> dict[str, Any] | None:
        """The agent's first line, after what the device's login may print; None where there is none."""
        for _ in range(_MOST_LINES):
            line = self.read_line(timeout_s)
            if not line:
                return None
            with suppress(ValueError):
                found = json.loads(line)
                if isinstance(found, dict) and found.keys() & {"version", "busy", "error", "no_room"}:
                    return found
        return None

    def answer(self, timeout_s: float) -> dict[str, Any]:
        """What the device answers.

        Raises:
            LinkLost: it did not.
        """
        line = self.read_line(timeout_s)
        if not line:
            raise LinkLost(last_line(self.said()))
        found: dict[str, Any] = json.loads(line)
        return found

    def write(self, request: Mapping[str, Any]) -> None:
        """Send a request.

        Raises:
            LinkLost: nobody takes it.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        except OSError as error:
            raise LinkLost(str(error)) from error

    def write_file(self, path: Path, offset: int, advance: Callable[[int], None]) -> None:
        """The file's bytes from `offset` on.

        Raises:
            LinkLost: nobody took any for too long.
        """
        assert self._process.stdin is not None
        pipe = self._process.stdin.fileno()
        os.set_blocking(pipe, False)
        try:
            with path.open("rb") as file:
                left = os.fstat(file.fileno()).st_size - offset
                while left:
                    if not select.select([], [pipe], [], _STALL_S)[1]:
                        raise LinkLost(f"nothing was taken for {_STALL_S:.0f} s")
                    count = _move(file, pipe, offset, min(left, _CHUNK))
                    offset, left = offset + count, left - count
                    advance(count)
        except BrokenPipeError as error:
            raise LinkLost(str(error)) from error
        finally:
            os.set_blocking(pipe, True)

    def read_file(self, path: Path, size: int) -> None:
        """Append so many bytes to the file.

        Raises:
            LinkLost: they did not come; what came is kept.
        """
        assert self._process.stdout is not None
        with path.open("ab") as file:
            while size > 0:
                if not self._buffer and select.select([self._process.stdout], [], [], _STALL_S)[0]:
                    self._buffer = os.read(self._process.stdout.fileno(), _CHUNK)
                if not self._buffer:
                    raise LinkLost("the file was cut")
                count = file.write(self._buffer[:size])
                self._buffer, size = self._buffer[count:], size - count

    def said(self) -> str:
        """What it printed to stderr."""
        self._log.seek(0)
        return self._log.read().decode("utf-8", "replace")

    def ended(self, timeout_s: float) -> tuple[int, str]:
        """Its exit code, and what it printed to stderr."""
        return self._process.wait(timeout_s), self.said()

    def close(self) -> None:
        """End the command."""
        stop(self._process)
        self._log.close()


def _move(file: BinaryIO, pipe: int, offset: int, count: int) -> int:
    """Write a part of the file into the pipe, and as much of it as there is room for; how much that was."""
    try:
        if hasattr(os, "splice"):
            # Without a copy through this process.
            return os.splice(file.fileno(), pipe, count, offset_src=offset)
        file.seek(offset)
        return os.write(pipe, file.read(count))
    except BlockingIOError:
        return 0


def _widen(process: subprocess.Popen[bytes]) -> None:
    """Files go through in fewer pieces, where the system lets us."""
    if hasattr(fcntl, "F_SETPIPE_SZ"):
        for stream in (process.stdin, process.stdout):
            assert stream is not None
            with suppress(OSError):
                fcntl.fcntl(stream, fcntl.F_SETPIPE_SZ, _CHUNK)


def last_line(text: str) -> str:
    """What was said last, for a message."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"
