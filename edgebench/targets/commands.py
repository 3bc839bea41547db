"""Commands of this machine: run to their end within a time, or with a file streamed into or out of them.

Everything that reaches a device is such a command too (`ssh ...`, `adb ...`). A cut link hangs both tools for ever, so
each wait has a limit, and a command is never left behind: its whole group goes when the wait for it ends.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

__all__ = ["Completed", "capture", "drain", "feed", "stop"]

# After SIGTERM a runtime gets this long to go by itself.
_GRACE_S = 2.0
_POLL_S = 0.02


@dataclass(frozen=True)
class Completed:
    """A command that ended. `returncode` is negative for a signal; `timed_out` when it was stopped for its time."""

    returncode: int
    stdout: str
    stderr: str
    timed_out: bool = False


def capture(
    argv: Sequence[str],
    *,
    timeout_s: float,
    environment: Mapping[str, str] | None = None,
    stdin: bytes | None = None,
    started: Callable[[subprocess.Popen[Any]], None] = lambda process: None,
) -> Completed:
    """Run `argv` to its end, or for `timeout_s`; `environment` is added to this process's own. `started` is called with
    the process, for whoever may have to stop it from another thread."""
    process = subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, **(environment or {})},
        start_new_session=True,
    )
    try:
        started(process)
        stdout, stderr = process.communicate(stdin, timeout=timeout_s)
    except subprocess.TimeoutExpired:
        stdout, stderr = stop(process)
        return Completed(process.returncode, _text(stdout), _text(stderr), timed_out=True)
    except BaseException:
        stop(process)
        raise
    return Completed(process.returncode, _text(stdout), _text(stderr))


def feed(argv: Sequence[str], path: Path, offset: int, *, stall_s: float, advance: Callable[[int], None]) -> Completed:
    """Run `argv` with the file's bytes from `offset` on as its stdin; stop it when it takes none for `stall_s`.
    `advance` is told how many more were taken."""
    with path.open("rb") as file:
        file.seek(offset)
        # The process shares the file's position, which so tells how far it is.
        return _transfer(argv, lambda: os.lseek(file.fileno(), 0, os.SEEK_CUR), stall_s, advance, stdin=file)


def drain(argv: Sequence[str], path: Path, *, stall_s: float, advance: Callable[[int], None]) -> Completed:
    """Run `argv` and append what it prints to the file; stop it when it prints nothing for `stall_s`."""
    with path.open("ab") as file:
        return _transfer(argv, lambda: os.fstat(file.fileno()).st_size, stall_s, advance, stdout=file)


def _transfer(
    argv: Sequence[str],
    position: Callable[[], int],
    stall_s: float,
    advance: Callable[[int], None],
    *,
    stdin: IO[bytes] | int = subprocess.DEVNULL,
    stdout: IO[bytes] | int = subprocess.PIPE,
) -> Completed:
    process = subprocess.Popen(argv, stdin=stdin, stdout=stdout, stderr=subprocess.PIPE, start_new_session=True)
    seen, moved = position(), time.monotonic()
    try:
        while True:
            with suppress(subprocess.TimeoutExpired):
                out, err = process.communicate(timeout=_POLL_S)
                advance(position() - seen)
                return Completed(process.returncode, _text(out), _text(err))
            here, now = position(), time.monotonic()
            if here > seen:
                advance(here - seen)
                seen, moved = here, now
            elif now - moved > stall_s:
                out, err = stop(process)
                return Completed(process.returncode, _text(out), _text(err), timed_out=True)
    except BaseException:
        stop(process)
        raise


def stop(process: subprocess.Popen[Any]) -> tuple[bytes, bytes]:
    """End a process that was started as a session of its own, and all in it; what it had printed."""
    ended = b"", b""
    # The second also where the first was enough for the leader: children that are stopped do not hear it.
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired, ValueError):
            ended = process.communicate(timeout=_GRACE_S)
    return ended


def _text(data: bytes | None) -> str:
    return (data or b"").decode("utf-8", "replace")
