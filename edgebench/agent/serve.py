"""The agent's side of a host's session: one command that stays, answers line by line, and clears away after itself.

Requests are JSON lines on stdin, answers JSON lines on stdout, on which nothing else prints: jobs are processes whose
output is a log file. The bytes of a file follow the line that says how many they are, in either direction. Each request
may come twice, because a host that lost its link asks again over a new one, where another `serve` of the same session
goes on. While the link is cut the job runs on, and this process watches it; a host that is silent for too long has
gone, and everything of its session but the cache of files is removed.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import sys
import time
import zipfile
from contextlib import suppress
from typing import Any, Dict, Optional, Sequence

from .environment import TELEMETRY_OFF, describe_machine
from .file_cache import NO_SPACE, FileCache, NoRoom
from .governor import hold, restore
from .guarded import GuardedJob
from .lock import Busy, DeviceLock, beat, boot_id, session_path, silent_s
from .sysfs import read_text
from .wire import WIRE_VERSION

_TICK_S = 0.5
_BEAT_S = 5.0


def serve(work_directory: str, session: str, owner: str, cache_bytes: int, grace_s: float) -> int:
    """Answer a host's requests until it says that it is done, or was not heard for `grace_s`.

    Args:
        work_directory: what is written is written below it.
        session: the host's name for this session; `owner` is what others are told of it.
        cache_bytes: bound of the files that stay.
    """
    # A hang-up is the link's end and not the host's.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    work_directory = os.path.abspath(work_directory)
    os.makedirs(work_directory, exist_ok=True)
    try:
        lock = DeviceLock(work_directory, session, owner, grace_s)
    except Busy as busy:
        _say({"busy": {"owner": busy.owner, "age_s": busy.age_s, "silent_s": _finite(busy.silent_s)}})
        return 0
    server = None
    try:
        server = _Server(work_directory, session, cache_bytes, grace_s)
        return server.run(lock)
    except OSError as error:
        # Mostly a disk that is full: nothing can be kept for the host, so its session is over.
        if server is not None:
            server.clear()
        lock.release()
        _say(_failure(error, work_directory))
        return 1


def _failure(error: OSError, work_directory: str) -> Dict[str, Any]:
    kind = "no_room" if error.errno in NO_SPACE else "error"
    return {kind: "%s: %s" % (error.filename or work_directory, error.strerror)}


def _say(answer: Dict[str, Any]) -> None:
    # Whoever does not listen any more will ask again.
    with suppress(BrokenPipeError):
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def _finite(seconds: float) -> Optional[float]:
    return None if seconds == float("inf") else seconds


class _Gone(Exception):
    """The link's end, or a host that takes nothing any more."""


class _Server:
    def __init__(self, work_directory: str, session: str, cache_bytes: int, grace_s: float) -> None:
        self._grace_s = grace_s
        self._sessions = os.path.join(work_directory, "sessions")
        self._directory = session_path(work_directory, session)
        self._journal = os.path.join(work_directory, "governor.json")
        self._cache = FileCache(os.path.join(work_directory, "cache"), cache_bytes)
        self._jobs: Dict[str, GuardedJob] = {}
        # The profile's PYTHONPATH may be where the runtimes are.
        search = os.pathsep.join(filter(None, (_unpacked(), os.environ.get("PYTHONPATH"))))
        self._environment = {**os.environ, **TELEMETRY_OFF, "PYTHONPATH": search, "PYTHONSAFEPATH": "1"}
        self._cpus: Optional[Sequence[int]] = None
        self._work_directory = work_directory
        self._buffer = b""
        # Another process of this session goes on in this one's place.
        self._succeeded = False
        self._woken = self._wakeup()

    def run(self, lock: DeviceLock) -> int:
        # Of this boot: what another one left has no processes any more.
        boot_path = os.path.join(self._directory, "boot")
        resumed = read_text(boot_path) == boot_id()
        if not resumed:
            self.clear()
            os.makedirs(self._directory)
            with open(boot_path, "w") as file:
                file.write(boot_id())
        beat(self._directory)
        # A host that takes nothing must not hold this up.
        os.set_blocking(1, False)
        greeting = {
            "version": WIRE_VERSION,
            "boot": boot_id(),
            "resumed": resumed,
            "work_directory": self._work_directory,
            "device": describe_machine(),
        }
        # When the host is silent for too long, its session ends as if it had said so.
        if self._answer_until_the_end(greeting) or self._linger():
            self.clear()
            self._cache.trim()
            lock.release()
            with suppress(_Gone):
                self._answer({"ended": True})
        return 0

    def _answer_until_the_end(self, greeting: Dict[str, Any]) -> bool:
        """Whether the host said that it is done; else its link is cut."""
        try:
            self._answer(greeting)
            while True:
                request = json.loads(self._read_line())
                beat(self._directory)
                if request["do"] == "end":
                    return True
                self._answer(self._do(request.pop("do"), request))
        except _Gone:
            return False

    def _do(self, name: str, request: Dict[str, Any]) -> Dict[str, Any]:
        try:
            answer: Dict[str, Any] = getattr(self, "_do_" + name)(**request)
        except NoRoom as error:
            return {"no_room": str(error)}
        except OSError as error:
            return _failure(error, self._work_directory)
        return answer

    def _answer(self, answer: Dict[str, Any]) -> None:
        self._write(json.dumps(answer).encode("utf-8") + b"\n")

    def _write(self, data: bytes) -> None:
        """To the host.

        Raises:
            _Gone: it is not there any more.
        """
        view = memoryview(data)
        while view:
            if select.select([], [1], [], _TICK_S)[1]:
                try:
                    view = view[os.write(1, view) :]
                except BlockingIOError:
                    pass
                except OSError as error:
                    raise _Gone from error
            else:
                self._poll_jobs()
                if self._succeeded or silent_s(self._directory) > self._grace_s:
                    raise _Gone

    def _linger(self) -> bool:
        """Watch the job until the host is heard by another process, which then ends this one, or is silent for too
        long: then True."""
        while silent_s(self._directory) <= self._grace_s:
            if self._succeeded:
                return False
            self._poll_jobs()
            self._sleep()
        return True

    def _read_line(self) -> bytes:
        """One line of the host.

        Raises:
            _Gone: the link ended, or the host is silent for too long.
        """
        while b"\n" not in self._buffer:
            if self._host_speaks(_TICK_S):
                chunk = _read(1 << 16)
                if not chunk:
                    raise _Gone
                self._buffer += chunk
            else:
                self._poll_jobs()
                if self._succeeded or silent_s(self._directory) > self._grace_s:
                    raise _Gone
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def _host_speaks(self, timeout_s: float) -> bool:
        """Whether there is something to read, or the link ended, before a job ended or the time was over."""
        ready = select.select([0, self._woken], [], [], timeout_s)[0]
        if self._woken in ready:
            os.read(self._woken, 4096)
        return 0 in ready

    def _sleep(self) -> None:
        """Until a job ends, for a moment at most."""
        if select.select([self._woken], [], [], _TICK_S)[0]:
            os.read(self._woken, 4096)

    def _wakeup(self) -> int:
        """The reading end of a pipe into which a byte is written when a child ends or a successor asks for the lock."""

        def go(number: int, frame: Any) -> None:
            self._succeeded = True

        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.signal(signal.SIGTERM, go)
        return reading

    def _poll_jobs(self) -> None:
        """Jobs that took too long are ended by it."""
        for job in self._jobs.values():
            job.poll()

    def _do_ping(self) -> Dict[str, Any]:
        return {"pong": True}

    def _do_hold(self, governor: Optional[str], cpus: Optional[Sequence[int]]) -> Dict[str, Any]:
        """Until the session ends; `reason` says why it is not held."""
        # Of a process's own CPUs, as a container may leave fewer than there are.
        absent = sorted(set(cpus or ()) - os.sched_getaffinity(0))
        if absent:
            return {"error": "there is no CPU %s to bind to (`cpus`)" % ", ".join(map(str, absent))}
        self._cpus = cpus
        return {"reason": None if governor is None else hold(governor, self._journal)}

    def _do_missing(self, sizes: Dict[str, int]) -> Dict[str, Any]:
        """What is to be pushed, and where what is there lies."""
        return {"missing": self._cache.missing(sizes), "paths": {name: self._cache.path(name) for name in sizes}}

    def _do_receive(self, sha256: str, size: int, offset: int) -> Dict[str, Any]:
        """The file's bytes from `offset` on follow the request."""
        left = size - offset

        def read(buffer: memoryview) -> int:
            nonlocal left
            count = self._read_bytes(buffer)
            left -= count
            return count

        try:
            return {"received": self._cache.receive(sha256, size, offset, read)}
        finally:
            # What comes though it is not wanted any more is no request.
            waste = memoryview(bytearray(1 << 16))
            while left > 0 and read(waste[: min(left, len(waste))]):
                pass

    def _read_bytes(self, buffer: memoryview) -> int:
        """Fill it with what comes; less at the link's end, or when nothing came for too long."""
        count = min(len(buffer), len(self._buffer))
        buffer[:count] = self._buffer[:count]
        self._buffer = self._buffer[count:]
        while count < len(buffer) and self._host_speaks(self._grace_s):
            try:
                taken = os.readv(0, [buffer[count:]])
            except OSError:
                break
            if not taken:
                break
            count += taken
        if silent_s(self._directory) > _BEAT_S:
            beat(self._directory)
        return count

    def _do_send(self, id: str, name: str, offset: int) -> Dict[str, Any]:
        """An output of a job; its bytes from `offset` on follow the answer."""
        path = os.path.join(self._directory, id, "outputs", os.path.basename(name))
        with open(path, "rb") as file:
            self._answer({"bytes": os.fstat(file.fileno()).st_size - offset})
            file.seek(offset)
            for chunk in iter(lambda: file.read(1 << 20), b""):
                self._write(chunk)
                beat(self._directory)
        return {"sent": True}

    def _do_start(self, id: str, command: str, message: Any, limit_s: float) -> Dict[str, Any]:
        self._job(id).start(command, message, limit_s, self._environment, self._cpus)
        return {}

    def _do_wait(self, id: str, hold_s: float) -> Dict[str, Any]:
        """Answers when the job has ended, or after `hold_s`, with `ended` None."""
        job = self._job(id)
        deadline = time.monotonic() + hold_s
        ended = job.poll()
        while ended is None and time.monotonic() < deadline:
            # Woken and not looking all the time, which a job would feel. A host that speaks has changed its mind.
            if self._host_speaks(_TICK_S) or self._succeeded:
                break
            ended = job.poll()
        if ended is None:
            return {"ended": None}
        result = None
        with suppress(OSError, ValueError), open(job.result_path, encoding="utf-8") as file:
            result = json.load(file)
        return {"ended": ended, "result": result}

    def _do_forget(self, id: str) -> Dict[str, Any]:
        job = self._job(id)
        job.stop()
        del self._jobs[id]
        shutil.rmtree(os.path.join(self._directory, id), ignore_errors=True)
        return {}

    def _job(self, id: str) -> GuardedJob:
        if id not in self._jobs:
            self._jobs[id] = GuardedJob(os.path.join(self._directory, id))
        return self._jobs[id]

    def clear(self) -> None:
        """End what all sessions left, this one's included, and put back what they held."""
        for job in self._jobs.values():
            job.stop()
        with suppress(FileNotFoundError):
            for session in os.listdir(self._sessions):
                directory = os.path.join(self._sessions, session)
                for name in os.listdir(directory):
                    if os.path.isdir(os.path.join(directory, name)):
                        GuardedJob(os.path.join(directory, name)).stop()
                shutil.rmtree(directory, ignore_errors=True)
        restore(self._journal)


def _read(count: int) -> bytes:
    """From the host; nothing at the link's end, as which a connection that was reset counts too."""
    try:
        return os.read(0, count)
    except OSError:
        return b""


def _unpacked() -> str:
    """A directory from which `edgebench.agent` can be imported: that of this file, or of what its zip file holds,
    unpacked beside it once, so that a worker's start is not spent on compiling."""
    archive = os.path.abspath(__file__).rpartition(os.path.join(os.sep, "edgebench", "agent"))[0]
    if not zipfile.is_zipfile(archive):
        return archive
    directory = archive + ".d"
    with zipfile.ZipFile(archive) as file:
        if _is_whole(directory, file):
            return directory
        preparing = "%s.%d" % (directory, os.getpid())
        file.extractall(preparing)
    # A device that loses its power afterwards must not have the name without the content.
    os.sync()
    shutil.rmtree(directory, ignore_errors=True)
    try:
        os.rename(preparing, directory)
    except OSError:
        # Another one was faster.
        shutil.rmtree(preparing, ignore_errors=True)
    return directory


def _is_whole(directory: str, archive: zipfile.ZipFile) -> bool:
    """Whether all of it lies there, and no file was emptied by a loss of power."""
    try:
        return all(
            os.stat(os.path.join(directory, info.filename)).st_size == info.file_size for info in archive.infolist()
        )
    except OSError:
        return False
