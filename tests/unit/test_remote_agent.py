"""The agent of a device that is this machine behind a real shell: what is pushed is there when a job wants it."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from edgebench.agent.codec import encode
from edgebench.agent.wire import WIRE_VERSION, Job, OutputFile, TensorSpec
from edgebench.errors import DeviceError
from edgebench.targets.remote import RemoteAgent
from edgebench.targets.target import LinkLost, remote_line
from edgebench.types import DeviceProfile


class Here:
    """A link to this machine: commands go through its shell, and `cut` breaks the way there."""

    address = "here"

    def __init__(self) -> None:
        self.is_cut = False

    def connect(self) -> None:
        if self.is_cut:
            raise LinkLost("there is no way")

    def argv(self, command: Sequence[str], environment: Mapping[str, str] | None = None) -> list[str]:
        return ["sh", "-c", remote_line(command, environment)]

    def is_lost(self, returncode: int, stderr: str) -> bool:
        return self.is_cut

    def close(self) -> None: ...


PROFILE = DeviceProfile("here", "ssh", address="here", python=sys.executable, cache_mb=1)


@pytest.fixture
def warned() -> list[str]:
    return []


@pytest.fixture
def device(tmp_path: Path, warned: list[str]) -> Iterator[RemoteAgent]:
    profile = DeviceProfile(**{**vars(PROFILE), "work_dir": str(tmp_path / "work")})
    agent = RemoteAgent(profile, Here(), warned.append)
    agent.connect()
    yield agent
    agent.close()


def _file(tmp_path: Path, name: str, kilobytes: int) -> Path:
    path = tmp_path / name
    path.write_bytes(os.urandom(kilobytes << 10))
    return path


def test_a_file_is_pushed_once(device: RemoteAgent, tmp_path: Path) -> None:
    path, sent = _file(tmp_path, "a", 300), []
    first = device.place([path], sent.append)
    assert device.place([path], sent.append) == first
    assert sum(sent) == 300 << 10
    assert Path(first[path]).read_bytes() == path.read_bytes()


def test_a_file_of_this_session_is_there_when_it_is_wanted_again(device: RemoteAgent, tmp_path: Path) -> None:
    # As when artifacts take turns with portions of images, in a cache that does not hold them all: 1 MB.
    a, b = _file(tmp_path, "a", 300), _file(tmp_path, "b", 300)
    portions = [_file(tmp_path, f"images-{number}", 300) for number in range(3)]
    for portion in portions:
        for artifact in (a, b):
            time.sleep(0.01)
            for place in device.place([artifact, portion], lambda count: None).values():
                assert Path(place).exists(), "it was thrown away"


def test_a_job_gives_its_answer(device: RemoteAgent) -> None:
    job = encode(Job(WIRE_VERSION, "library", "", "null", 1, ()))
    for _ in range(2):
        ended = device.execute("library", lambda: job, 60.0)
        assert ended.result is not None
        assert (ended.result["status"], ended.returncode, ended.timed_out) == ("ok", 0, False)


def test_an_output_that_is_shorter_than_promised_is_an_error(device: RemoteAgent, tmp_path: Path) -> None:
    device.execute("library", lambda: encode(Job(WIRE_VERSION, "library", "", "null", 1, ())), 60.0)
    outputs = tmp_path / "work/sessions"
    (directory,) = outputs.glob("*/*/outputs")
    (directory / "output-0.raw").write_bytes(bytes(6))
    (tmp_path / "here").mkdir()
    with pytest.raises(DeviceError, match="did not give back"):
        device.fetch(
            [OutputFile(TensorSpec("y", (1, 2), "float32"), str(directory / "output-0.raw"), 1)], tmp_path / "here"
        )


def test_nothing_but_agent_and_cache_is_left(tmp_path: Path, warned: list[str]) -> None:
    agent = RemoteAgent(DeviceProfile(**{**vars(PROFILE), "work_dir": str(tmp_path / "work")}), Here(), warned.append)
    agent.connect()
    agent.execute("library", lambda: encode(Job(WIRE_VERSION, "library", "", "null", 1, ())), 60.0)
    agent.close()
    assert sorted(path.name for path in (tmp_path / "work").iterdir()) == ["agent", "cache", "lock", "sessions"]
    assert list((tmp_path / "work/sessions").iterdir()) == []
    assert (tmp_path / "work/lock").read_text() == ""
    assert warned == []


def test_a_second_host_is_told_who_is_there(device: RemoteAgent, tmp_path: Path) -> None:
    profile = DeviceProfile(**{**vars(PROFILE), "work_dir": str(tmp_path / "work")})
    with pytest.raises(DeviceError, match="is in use by"):
        RemoteAgent(profile, Here(), lambda text: None).connect()


def test_a_device_without_that_python_says_so(tmp_path: Path) -> None:
    profile = DeviceProfile(**{**vars(PROFILE), "work_dir": str(tmp_path / "work"), "python": "/nowhere/python3"})
    with pytest.raises(DeviceError, match="has no `/nowhere/python3`"):
        RemoteAgent(profile, Here(), lambda text: None).connect()


def test_a_directory_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    profile = DeviceProfile(**{**vars(PROFILE), "work_dir": str(tmp_path / "file/work")})
    with pytest.raises(DeviceError, match="does not let us write") as caught:
        RemoteAgent(profile, Here(), lambda text: None).connect()
    assert "work_dir" in (caught.value.hint or "")


def test_cpus_that_are_not_there_are_told_in_words(tmp_path: Path) -> None:
    profile = DeviceProfile(**{**vars(PROFILE), "work_dir": str(tmp_path / "work"), "cpus": (4095,)})
    agent, warned = RemoteAgent(profile, Here(), lambda text: warned.append(text)), list[str]()
    try:
        agent.connect()
        agent.execute("library", lambda: encode(Job(WIRE_VERSION, "library", "", "null", 1, ())), 60.0)
        said = " ".join(warned)
    except DeviceError as error:
        said = str(error)
    finally:
        agent.close()
    assert "4095" in said


def test_files_that_are_wanted_together_are_there_together(device: RemoteAgent, tmp_path: Path) -> None:
    # More than the cache may keep: what is too much goes when the session ends.
    files = [_file(tmp_path, f"artifact-{number}", 500) for number in range(3)]
    for place in device.place(files, lambda count: None).values():
        assert Path(place).exists(), "it was thrown away"
