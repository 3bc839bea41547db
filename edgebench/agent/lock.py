"""One user at a time: the lock of a device's work directory, with its owner and age.

The kernel holds it (flock), so it goes with the process that took it, whatever ends that. A host that has lost its link
keeps its claim all the same for as long as it may come back: while its session's heartbeat is young.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import time
from contextlib import suppress
from typing import Any, Dict, Optional

from .sysfs import read_text

_TAKE_OVER_S = 5.0
# A lock that a host without the agent did not renew for so long is of one that has gone.
NATIVE_STALE_S = 600


class Busy(Exception):
    """Another session has the device. `age_s`: since it took it; `silent_s`: since its host was last heard."""

    def __init__(self, owner: str, age_s: float, silent_s: float) -> None:
        super().__init__(owner)
        self.owner = owner
        self.age_s = age_s
        self.silent_s = silent_s


def boot_id() -> str:
    """Changes whenever the device was started anew; monotonic times are comparable within one."""
    return read_text("/proc/sys/kernel/random/boot_id") or ""


def beat(session_directory: str) -> None:
    """Note that the session's host was heard now."""
    # In its place and always as long, so that a full disk takes it too.
    path = os.path.join(session_directory, "heartbeat")
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        os.pwrite(descriptor, b"%-31r\n" % time.monotonic(), 0)
    finally:
        os.close(descriptor)


def silent_s(session_directory: str) -> float:
    """Seconds since the session's host was heard; endless where it never was."""
    with suppress(OSError, ValueError), open(os.path.join(session_directory, "heartbeat")) as file:
        return time.monotonic() - float(file.read())
    return float("inf")


class DeviceLock:
    """The lock on `work_directory` for `session`. What an earlier session left is the caller's to clear away."""

    def __init__(self, work_directory: str, session: str, owner: str, grace_s: float) -> None:
        """Take it, or take it over from an earlier process of the same session. A claim that nobody holds counts for
        `grace_s` after its host was last heard.

        Raises:
            Busy: another session has it.
        """
        self._descriptor = os.open(os.path.join(work_directory, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            self._take(work_directory, session, grace_s)
        except BaseException:
            os.close(self._descriptor)
            raise
        claim = {"session": session, "owner": owner, "boot": boot_id(), "since": time.monotonic(), "pid": os.getpid()}
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, json.dumps(claim).encode("utf-8"), 0)

    def _take(self, work_directory: str, session: str, grace_s: float) -> None:
        deadline = time.monotonic() + _TAKE_OVER_S
        while True:
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                held = False
            except BlockingIOError:
                held = True
            if not held:
                _see_others(work_directory)
            claim = self._claim()
            ours = claim is not None and claim["session"] == session
            if not held and (claim is None or ours):
                return
            heard = float("inf") if claim is None else silent_s(session_path(work_directory, claim["session"]))
            if not held and heard > grace_s:
                return
            if claim is not None and held and ours:
                # Its link is cut and nobody reads what it says; its job goes on without it.
                with suppress(ProcessLookupError):
                    os.kill(claim["pid"], signal.SIGTERM)
            elif claim is not None:
                raise Busy(claim["owner"], time.monotonic() - claim["since"], heard)
            if time.monotonic() > deadline:
                raise Busy("a process that does not say its name", 0.0, 0.0)
            time.sleep(0.02)

    def _claim(self) -> Optional[Dict[str, Any]]:
        """Whose it is, or was in this boot; None where nobody claims it."""
        with suppress(ValueError, KeyError):
            claim: Dict[str, Any] = json.loads(os.pread(self._descriptor, 4096, 0).decode("utf-8"))
            if claim["boot"] == boot_id():
                return claim
        return None

    def release(self) -> None:
        """Give it up, and the claim with it."""
        os.ftruncate(self._descriptor, 0)
        os.close(self._descriptor)


def _see_others(work_directory: str) -> None:
    """A host that measures without this agent (targets.native) takes a directory, with its name and time in a file."""
    words = (read_text(work_directory, "lock.d", "owner") or "").split(" ", 3)
    uptime = (read_text("/proc/uptime") or "0").split(".")[0]
    told = len(words) == 4 and words[1].isdigit() and words[2].isdigit()
    if told and words[0] == boot_id() and int(words[1]) > int(uptime) - NATIVE_STALE_S:
        raise Busy(words[3].rpartition(" ")[0], float(int(uptime) - int(words[2])), 0.0)


def session_path(work_directory: str, session: str) -> str:
    """The directory of what a session has on the device until it ends."""
    return os.path.join(work_directory, "sessions", session)
