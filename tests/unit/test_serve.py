"""The agent's side of a session, as a process behind two pipes: what stays, what ends, and who may take over."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgebench.agent.codec import encode
from edgebench.agent.guarded import GuardedJob
from edgebench.agent.wire import WIRE_VERSION, FeedFile, Job, Round, TensorSpec

ROOT = Path(__file__).resolve().parents[2]
LONG = 60.0


class Host:
    """A `serve` and the pipes to it."""

    def __init__(self, work: Path, session: str = "s", *, grace_s: float = LONG, cache_bytes: int = 1 << 30) -> None:
        words = [str(work), session, f"owner of {session}", str(cache_bytes), str(grace_s)]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "edgebench.agent", "serve", *words],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._buffer = b""
        self.greeting = self.hear()

    def tell(self, **request: Any) -> None:
        self.write(json.dumps(request).encode() + b"\n")

    def write(self, data: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(data)
        self.process.stdin.flush()

    def hear(self) -> dict[str, Any]:
        """One answer; {} at the end."""
        line = self._line()
        return dict(json.loads(line)) if line else {}

    def _line(self) -> bytes:
        while b"\n" not in self._buffer:
            chunk = self._chunk()
            if not chunk:
                return b""
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def bytes(self, count: int) -> bytes:
        while len(self._buffer) < count:
            self._buffer += self._chunk()
        found, self._buffer = self._buffer[:count], self._buffer[count:]
        return found

    def _chunk(self) -> bytes:
        assert self.process.stdout is not None
        if not select.select([self.process.stdout], [], [], 20)[0]:
            raise AssertionError("no answer")
        return os.read(self.process.stdout.fileno(), 1 << 16)

    def ask(self, **request: Any) -> dict[str, Any]:
        self.tell(**request)
        return self.hear()

    def cut(self) -> None:
        """The link is lost: nothing comes any more, and nobody listens."""
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            stream.close()

    def end(self) -> None:
        assert self.ask(do="end") == {"ended": True}
        assert self.process.wait(20) == 0
        assert self.said() == ""

    def said(self) -> str:
        assert self.process.stderr is not None
        return self.process.stderr.read().decode()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()


Begin = Callable[..., Host]


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Begin]:
    """Starts `serve` in the work directory `tmp_path / "work"`."""
    hosts: list[Host] = []

    def begin(*arguments: Any, **options: Any) -> Host:
        hosts.append(Host(tmp_path / "work", *arguments, **options))
        return hosts[-1]

    yield begin
    for host in hosts:
        host.close()
    for noted in (tmp_path / "work").glob("sessions/*/*/process.json"):
        GuardedJob(str(noted.parent)).stop()


def _quick() -> dict[str, Any]:
    """The message of a job that ends at once."""
    return dict(encode(Job(WIRE_VERSION, "library", "", "null", 1, ())))


def _endless(tmp_path: Path) -> dict[str, Any]:
    """The message of a round that goes on for a minute, with two workers of which one at least is stopped."""
    feed = tmp_path / "x.raw"
    feed.write_bytes(bytes(4))
    job = Job(WIRE_VERSION, "measure", "", "null", 1, (FeedFile(TensorSpec("x", (1,), "float32"), str(feed), 1),))
    return dict(encode(Round(WIRE_VERSION, (job, job), "a", laps=10**6, max_time_s=60.0)))


def _wait(host: Host, identifier: str = "1") -> dict[str, Any]:
    for _ in range(20):
        answer = host.ask(do="wait", id=identifier, hold_s=1.0)
        if answer["ended"] is not None:
            return answer
    raise AssertionError("the job did not end")


def _start_limited(host: Host, tmp_path: Path, limit_s: float) -> int:
    """Its process id."""
    assert "error" not in host.ask(do="start", id="1", command="round", message=_endless(tmp_path), limit_s=limit_s)
    return int(json.loads((tmp_path / "work/sessions/s/1/process.json").read_text())["pid"])


def _start_endless(host: Host, tmp_path: Path) -> int:
    """Its process id, once both workers are there and one of them is stopped."""
    pid = _start_limited(host, tmp_path, LONG)
    _until(lambda: [_state(child) for child in _children(pid)].count("T") > 0 and len(_children(pid)) == 2)
    return pid


def _until(holds: Callable[[], bool], limit_s: float = 20.0) -> None:
    deadline = time.monotonic() + limit_s
    while not holds():
        assert time.monotonic() < deadline, "it did not come to be"
        time.sleep(0.02)


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _state(pid: int) -> str:
    """One letter, as ps shows it; Z where it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"


def _group(leader: int) -> list[int]:
    """The living processes of the group."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[2] == str(leader) and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


def _is_free(work: Path) -> bool:
    with (work / "lock").open("r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return (work / "lock").read_text() == ""


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _push(host: Host, content: bytes, offset: int = 0) -> dict[str, Any]:
    host.tell(do="receive", sha256=_sha256(content), size=len(content), offset=offset)
    host.write(content[offset:])
    return host.hear()


def test_the_greeting_says_what_the_device_is(begin: Begin, tmp_path: Path) -> None:
    host = begin()
    assert host.greeting["version"] == WIRE_VERSION
    assert host.greeting["resumed"] is False
    assert host.greeting["work_directory"] == str(tmp_path / "work")
    assert host.greeting["device"]["machine"] == os.uname().machine
    assert host.ask(do="ping") == {"pong": True}
    host.end()


def test_nothing_but_the_cache_is_left_after_the_end(begin: Begin, tmp_path: Path) -> None:
    host, content = begin(), b"an artifact"
    assert host.ask(do="missing", sizes={_sha256(content): len(content)})["missing"] == {_sha256(content): 0}
    assert _push(host, content) == {"received": "whole"}
    host.ask(do="start", id="1", command="library", message=_quick(), limit_s=LONG)
    pid = json.loads((tmp_path / "work/sessions/s/1/process.json").read_text())["pid"]
    answer = _wait(host)
    assert answer["ended"] == {"returncode": 0, "timed_out": False, "last_words": "it printed nothing"}
    assert answer["result"]["status"] == "ok"
    host.end()
    left = sorted(str(path.relative_to(tmp_path / "work")) for path in (tmp_path / "work").rglob("*") if path.is_file())
    assert left == [f"cache/{_sha256(content)}", "lock"]
    assert list((tmp_path / "work/sessions").iterdir()) == []
    assert _group(pid) == []
    assert _is_free(tmp_path / "work")


def test_every_request_may_come_twice(begin: Begin, tmp_path: Path) -> None:
    host, content = begin(), bytes(3000)
    sizes = {_sha256(content): len(content)}
    assert host.ask(do="missing", sizes=sizes) == host.ask(do="missing", sizes=sizes)
    assert _push(host, content) == _push(host, content) == {"received": "whole"}
    assert host.ask(do="missing", sizes=sizes)["missing"] == {}
    start = {"do": "start", "id": "1", "command": "library", "message": _quick(), "limit_s": LONG}
    first = host.ask(**start)
    pid = json.loads((tmp_path / "work/sessions/s/1/process.json").read_text())["pid"]
    assert host.ask(**start) == first
    assert json.loads((tmp_path / "work/sessions/s/1/process.json").read_text())["pid"] == pid
    assert _wait(host) == _wait(host)
    assert host.ask(do="hold", governor=None, cpus=None) == host.ask(do="hold", governor=None, cpus=None)
    assert host.ask(do="forget", id="1") == host.ask(do="forget", id="1") == {}
    host.end()


def test_requests_that_come_in_pieces_or_together_are_answered_one_by_one(begin: Begin) -> None:
    host = begin()
    host.write(b'{"do": "pi')
    time.sleep(0.05)
    host.write(b'ng"}\n{"do": "ping"}\n{"do": "missing", "sizes": {}}\n')
    assert [host.hear() for _ in range(3)] == [{"pong": True}, {"pong": True}, {"missing": {}, "paths": {}}]


def test_a_file_goes_on_where_it_was_cut(begin: Begin, tmp_path: Path) -> None:
    content = os.urandom(300_000)
    host = begin()
    host.tell(do="receive", sha256=_sha256(content), size=len(content), offset=0)
    host.write(content[:200_000])
    part = tmp_path / "work/cache" / f"{_sha256(content)}.part"
    _until(lambda: part.exists())
    host.cut()
    host = begin()
    there = host.ask(do="missing", sizes={_sha256(content): len(content)})["missing"][_sha256(content)]
    # What was in the pipe when the link was cut came as well, or a part of it.
    assert 0 <= there <= 200_000
    assert _push(host, content, there) == {"received": "whole"}
    assert part.with_suffix("").read_bytes() == content
    host.end()


def test_a_damaged_file_is_not_kept(begin: Begin, tmp_path: Path) -> None:
    host, content = begin(), b"abcdefgh"
    host.tell(do="receive", sha256=_sha256(content), size=len(content), offset=0)
    host.write(b"abcdefgX")
    assert host.hear() == {"received": "damaged"}
    assert list((tmp_path / "work/cache").iterdir()) == []
    assert _push(host, content) == {"received": "whole"}


def test_a_file_that_cannot_go_on_there_does_not_spoil_the_next_request(begin: Begin) -> None:
    host, content = begin(), b'{"do": "nothing"}\n' * 1000
    # Nothing of it is there, so that it cannot go on at 10; its bytes come all the same.
    assert _push(host, content, 10) == {"received": "cut"}
    assert host.ask(do="ping") == {"pong": True}
    host.end()


def test_a_file_that_cannot_be_written_does_not_spoil_the_next_request(begin: Begin, tmp_path: Path) -> None:
    host, content = begin(), b'{"do": "nothing"}\n' * 1000
    (tmp_path / "work/cache" / f"{_sha256(content)}.part").mkdir()
    assert "error" in _push(host, content)
    assert host.ask(do="ping") == {"pong": True}
    host.end()


def test_an_output_is_given_from_where_it_is_wanted(begin: Begin, tmp_path: Path) -> None:
    host, content = begin(), os.urandom(200_000)
    host.ask(do="start", id="1", command="library", message=_quick(), limit_s=LONG)
    (tmp_path / "work/sessions/s/1/outputs/output-0.raw").write_bytes(content)
    for offset in (0, 123_456, 200_000):
        assert host.ask(do="send", id="1", name="output-0.raw", offset=offset) == {"bytes": 200_000 - offset}
        assert host.bytes(200_000 - offset) == content[offset:]
        assert host.hear() == {"sent": True}
    assert "error" in host.ask(do="send", id="1", name="output-1.raw", offset=0)
    _wait(host)
    host.end()


def test_a_job_that_runs_is_taken_over_with_its_result(begin: Begin, tmp_path: Path) -> None:
    first = begin()
    first.ask(do="start", id="1", command="library", message=_quick(), limit_s=LONG)
    first.cut()
    second = begin()
    assert second.greeting["resumed"] is True
    first.process.wait(20)
    answer = _wait(second)
    assert answer["result"]["status"] == "ok"
    assert answer["ended"]["timed_out"] is False
    second.end()


def test_a_serve_that_was_killed_is_taken_over_and_its_job_runs_on(begin: Begin, tmp_path: Path) -> None:
    first = begin()
    pid = _start_endless(first, tmp_path)
    first.process.kill()
    second = begin()
    assert second.greeting["resumed"] is True
    assert _state(pid) != "Z"
    assert second.ask(do="wait", id="1", hold_s=0.0) == {"ended": None}
    second.end()
    assert _group(pid) == []


def test_a_job_that_ended_while_nobody_watched_did_not_take_too_long(begin: Begin, tmp_path: Path) -> None:
    first = begin()
    first.ask(do="start", id="1", command="library", message=_quick(), limit_s=1.2)
    first.process.kill()
    _until((tmp_path / "work/sessions/s/1/result.json").exists)
    time.sleep(1.2)
    answer = _wait(begin())
    assert answer["result"]["status"] == "ok"
    assert answer["ended"]["timed_out"] is False


def test_a_host_that_is_silent_for_too_long_has_gone(begin: Begin, tmp_path: Path) -> None:
    host = begin(grace_s=0.8)
    pid = _start_limited(host, tmp_path, LONG)
    host.cut()
    assert host.process.wait(20) == 0
    assert _group(pid) == []
    assert list((tmp_path / "work/sessions").iterdir()) == []
    assert _is_free(tmp_path / "work")


def test_a_host_whose_link_only_seems_to_be_there_has_gone_too(begin: Begin, tmp_path: Path) -> None:
    host = begin(grace_s=0.3)
    assert host.process.wait(20) == 0
    assert host.hear() == {"ended": True}
    assert _is_free(tmp_path / "work")


def test_another_session_is_told_who_has_the_device(begin: Begin) -> None:
    begin()
    other = begin("t")
    assert other.greeting["busy"]["owner"] == "owner of s"
    assert 0 <= other.greeting["busy"]["silent_s"] < 20
    assert other.process.wait(20) == 0


def test_a_link_that_was_cut_keeps_the_device_within_grace(begin: Begin) -> None:
    first = begin()
    first.cut()
    assert begin("t").greeting["busy"]["owner"] == "owner of s"
    # As well without the process that watched.
    first.process.kill()
    first.process.wait()
    assert begin("t").greeting["busy"]["owner"] == "owner of s"
    assert begin("s").greeting["resumed"] is True


def test_after_grace_another_session_clears_away_what_a_killed_one_left(begin: Begin, tmp_path: Path) -> None:
    first = begin(grace_s=LONG)
    pid = _start_endless(first, tmp_path)
    first.process.kill()
    first.process.wait()
    time.sleep(0.3)
    # How long a claim counts is the taker's to say.
    second = begin("t", grace_s=0.2)
    assert "busy" not in second.greeting
    assert _group(pid) == []
    assert [path.name for path in (tmp_path / "work/sessions").iterdir()] == ["t"]


def test_a_job_without_its_leader_is_cleared_away_too(begin: Begin, tmp_path: Path) -> None:
    first = begin()
    pid = _start_endless(first, tmp_path)
    first.process.kill()
    first.process.wait()
    stopped = [child for child in _children(pid) if _state(child) == "T"]
    # As when memory ran out: what it had stopped cannot hear that it is gone.
    os.kill(pid, signal.SIGKILL)
    _until(lambda: _state(pid) == "Z")
    try:
        begin("t", grace_s=0.0)
        _until(lambda: all(_state(child) == "Z" for child in stopped), 5)
    finally:
        for child in stopped:
            if _state(child) != "Z":
                os.kill(child, signal.SIGKILL)


def test_a_job_that_takes_too_long_is_ended_with_its_workers(begin: Begin, tmp_path: Path) -> None:
    host = begin()
    pid = _start_limited(host, tmp_path, 1.0)
    answer = _wait(host)
    assert answer["ended"]["timed_out"] is True
    assert answer["result"] is None
    assert _group(pid) == []
    host.end()


def test_a_limit_holds_while_the_link_is_cut(begin: Begin, tmp_path: Path) -> None:
    host = begin()
    pid = _start_limited(host, tmp_path, 1.0)
    host.cut()
    _until(lambda: _group(pid) == [], 10)


def test_a_job_that_is_forgotten_is_ended(begin: Begin, tmp_path: Path) -> None:
    host = begin()
    pid = _start_endless(host, tmp_path)
    assert host.ask(do="forget", id="1") == {}
    assert _group(pid) == []
    assert not (tmp_path / "work/sessions/s/1").exists()


def test_what_a_job_said_last_is_told(begin: Begin) -> None:
    host = begin()
    host.ask(do="start", id="1", command="no-such-command", message=None, limit_s=LONG)
    assert _wait(host)["ended"] == {
        "returncode": 2,
        "timed_out": False,
        "last_words": "unknown command: no-such-command",
    }


def test_a_job_is_bound_to_the_cpus_of_the_profile(begin: Begin, tmp_path: Path) -> None:
    cpu = max(os.sched_getaffinity(0))
    host = begin()
    assert host.ask(do="hold", governor=None, cpus=[cpu]) == {"reason": None}
    host.ask(do="start", id="1", command="examine", message=None, limit_s=LONG)
    assert _wait(host)["result"]["usable_cpus"] == 1


def test_cpus_that_are_not_there_leave_no_job_behind(begin: Begin, tmp_path: Path) -> None:
    host = begin()
    # It may be refused here already.
    host.ask(do="hold", governor=None, cpus=[4095])
    before = _agents(tmp_path)
    answer = host.ask(do="start", id="1", command="round", message=_endless(tmp_path), limit_s=LONG)
    host.tell(do="end")
    while host.hear():
        pass
    host.process.wait(20)
    try:
        assert _agents(tmp_path) == before
        assert "None" not in answer.get("error", "")
    finally:
        for pid in _agents(tmp_path):
            os.kill(pid, signal.SIGKILL)


def _agents(tmp_path: Path) -> list[int]:
    """Processes of jobs below the directory."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes()
        except OSError:
            continue
        if str(tmp_path / "work/sessions").encode() in line:
            found.append(int(path.parent.name))
    return found


def test_a_start_that_was_cut_before_the_process_is_begun_again(begin: Begin, tmp_path: Path) -> None:
    first = begin()
    first.process.kill()
    first.process.wait()
    # What is there when it was killed between making the directory and starting the process.
    (tmp_path / "work/sessions/s/1/outputs").mkdir(parents=True)
    (tmp_path / "work/sessions/s/1/message.json").write_text(json.dumps(_quick()))
    second = begin()
    second.ask(do="start", id="1", command="library", message=_quick(), limit_s=LONG)
    answer = _wait(second)
    assert answer["result"] is not None, answer["ended"]["last_words"]


def test_jobs_of_another_boot_are_gone(begin: Begin, tmp_path: Path) -> None:
    first = begin()
    first.ask(do="start", id="1", command="library", message=_quick(), limit_s=LONG)
    _wait(first)
    first.process.kill()
    first.process.wait()
    (tmp_path / "work/sessions/s/boot").write_text("another")
    second = begin()
    assert second.greeting["resumed"] is False
    assert _wait(second)["ended"]["last_words"] == "it was never started"


def test_a_claim_of_another_boot_is_none(begin: Begin, tmp_path: Path) -> None:
    (tmp_path / "work/sessions/old").mkdir(parents=True)
    (tmp_path / "work/sessions/old/heartbeat").write_text("1e12")
    claim = {"session": "old", "owner": "x", "boot": "another", "since": 0.0, "pid": 1}
    (tmp_path / "work/lock").write_text(json.dumps(claim))
    assert "busy" not in begin().greeting
    assert not (tmp_path / "work/sessions/old").exists()


def test_a_lock_that_says_nothing_sensible_is_taken(begin: Begin, tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work/lock").write_text('{"session": ')
    assert "busy" not in begin().greeting


def test_too_little_room_is_told_in_words(begin: Begin) -> None:
    host = begin()
    answer = host.ask(do="missing", sizes={"0" * 64: 1 << 60})
    assert "MB are free" in answer["no_room"]
    assert host.ask(do="ping") == {"pong": True}
