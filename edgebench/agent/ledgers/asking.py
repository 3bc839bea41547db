"""Asks a program of the device for its answer, briefly, and not again once it failed."""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from typing import List, Optional, Set, Tuple

# The longest answer known, a Pixel's `dumpsys thermalservice`, has about 20 kB.
_MOST_BYTES = 1 << 18
_GRACE_S = 0.2


class Tool:
    """A program by its name on PATH.

    Where it is absent, or was silent for `timeout_s`, it counts as absent from then on, and what it answered with an
    exit code is not asked again: each costs once a process.
    """

    def __init__(self, name: str, *, timeout_s: float = 2.0) -> None:
        self._name = name
        self._timeout_s = timeout_s
        self._looked = False
        self._path: Optional[str] = None
        self._refused: Set[Tuple[str, ...]] = set()

    def ask(self, *arguments: str) -> Optional[str]:
        """All that it prints until it ends with exit code 0."""
        return self._answer(arguments, None)

    def first_lines(self, count: int, *arguments: str) -> Optional[str]:
        """Its first `count` lines; it is ended then. For a program that runs until it is stopped."""
        return self._answer(arguments, count)

    def _answer(self, arguments: Tuple[str, ...], lines: Optional[int]) -> Optional[str]:
        if not self._looked:
            self._looked, self._path = True, shutil.which(self._name)
        if self._path is None or arguments in self._refused:
            return None
        try:
            answer = _run([self._path, *arguments], self._timeout_s, lines)
        except (OSError, subprocess.TimeoutExpired):
            self._path = None
            return None
        if answer is None:
            self._refused.add(arguments)
        return answer


def _run(argv: List[str], timeout_s: float, lines: Optional[int]) -> Optional[str]:
    """What `argv` prints; None for an exit code, too few lines, or more than any tool says.

    Raises:
        subprocess.TimeoutExpired: it took longer than `timeout_s`.
    """
    deadline = time.monotonic() + timeout_s
    # A session of its own, so that a script is ended together with what it started and holds the pipe open.
    process = subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    ended = False
    try:
        assert process.stdout is not None
        descriptor = process.stdout.fileno()
        said = b""
        while lines is None or said.count(b"\n") < lines:
            left_s = deadline - time.monotonic()
            if left_s <= 0 or not select.select([descriptor], [], [], left_s)[0]:
                raise subprocess.TimeoutExpired(argv, timeout_s)
            piece = os.read(descriptor, 65536)
            if not piece:
                ended = process.wait(max(0.0, deadline - time.monotonic())) == 0
                break
            said += piece
            if len(said) > _MOST_BYTES:
                return None
        if lines is not None:
            whole = said.split(b"\n")[:-1]
            if len(whole) < lines:
                return None
            said = b"\n".join(whole[:lines]) + b"\n"
        elif not ended:
            return None
        return said.decode("utf-8", "replace")
    finally:
        if not ended:
            _end(process)
        if process.stdout is not None:
            process.stdout.close()


def _end(process: "subprocess.Popen[bytes]") -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(OSError):
            os.killpg(process.pid, number)
        # What hangs inside the kernel cannot be ended; it is not waited for either.
        with suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE_S)
