"""The first look at a device by its shell, run by real shells among stand-ins for the device's commands."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from edgebench.targets.probe import Probe, probe
from edgebench.targets.target import LinkLost, remote_line

SHELLS = [name for name in ("dash", "bash", "busybox", "mksh") if shutil.which(name)]
# What is real there; all else is what the device's are told to say.
REAL = ("tr", "tail", "mkdir", "chmod", "rm", "cat")
BOARD = {
    "uname": "case $1 in -m) echo aarch64 ;; -s) echo Linux ;; esac",
    "date": "echo $(($(/bin/date +%s) + 3600))",
    "getconf": "echo 64",
    "nproc": "echo 4",
    "python3": "echo 3.11.2",
    "df": 'echo "Filesystem 1024-blocks Used Available Capacity Mounted on"; echo "/dev/root 100 40 2000 40% /"',
}


class Device:
    """This machine's shell with nothing on its PATH but the given commands, each a script."""

    address = "here"

    def __init__(self, directory: Path, shell: str, commands: Mapping[str, str]) -> None:
        self._bin = directory / "bin"
        self._bin.mkdir()
        for name in REAL:
            (self._bin / name).symlink_to(shutil.which(name) or "")
        for name, script in commands.items():
            (self._bin / name).write_text(f"#!/bin/sh\n{script}\n")
            (self._bin / name).chmod(0o755)
        if "sh" not in commands:
            (self._bin / "sh").symlink_to(shutil.which(shell) or "")

    def connect(self) -> None: ...

    def argv(self, command: Sequence[str], environment: Mapping[str, str] | None = None) -> list[str]:
        return ["/usr/bin/env", "-i", f"PATH={self._bin}", "/bin/sh", "-c", remote_line(command, environment)]

    def is_lost(self, returncode: int, stderr: str) -> bool:
        return False

    def close(self) -> None: ...


def _probe(tmp_path: Path, commands: Mapping[str, str], *, shell: str = "dash", python: str = "python3") -> Probe:
    return probe(Device(tmp_path, shell, commands), str(tmp_path / "work dir"), python)


@pytest.mark.parametrize("shell", SHELLS)
def test_a_board_is_seen_as_it_says(tmp_path: Path, shell: str) -> None:
    found = _probe(tmp_path, BOARD, shell=shell)
    assert (found.machine, found.system, found.bits, found.cores) == ("aarch64", "Linux", 64, 4)
    assert (found.python, found.python_version) == (str(tmp_path / "bin/python3"), (3, 11, 2))
    assert (found.writable, found.executable, found.free_bytes) == (True, True, 2000 * 1024)
    assert found.android is None
    assert found.clock_ahead_s == pytest.approx(3600, abs=30)
    # Nothing is left but the directory.
    assert list((tmp_path / "work dir").iterdir()) == []


@pytest.mark.parametrize("shell", SHELLS)
def test_a_phone_without_python_is_seen_as_it_says(tmp_path: Path, shell: str) -> None:
    phone = {
        **BOARD,
        "getprop": "case $1 in ro.build.version.release) echo 14 ;; ro.product.model) echo 'Pixel = 8' ;; esac",
    }
    for name in ("python3", "getconf"):
        del phone[name]
    found = _probe(tmp_path, phone, shell=shell)
    assert (found.android, found.bits, found.python, found.python_version) == ("14", None, None, None)
    if not Path("/proc/device-tree/model").exists():
        assert found.model == "Pixel = 8"


@pytest.mark.parametrize("shell", SHELLS)
def test_a_device_with_next_to_nothing_is_seen_all_the_same(tmp_path: Path, shell: str) -> None:
    found = _probe(tmp_path, {"uname": BOARD["uname"]}, shell=shell)
    assert found.machine == "aarch64"
    if shell != "busybox":  # Which finds its own.
        assert (found.cores, found.free_bytes, found.bits) == (None, None, None)


def test_the_python_of_the_profile_comes_first(tmp_path: Path) -> None:
    own = tmp_path / "own python"
    own.write_text("#!/bin/sh\necho 3.12.1\n")
    own.chmod(0o755)
    found = _probe(tmp_path, BOARD, python=str(own))
    assert (found.python, found.python_version) == (str(own), (3, 12, 1))


def test_a_python_that_does_not_start_is_passed_over(tmp_path: Path) -> None:
    found = _probe(tmp_path, {**BOARD, "python3.9": "exit 1", "python": "echo 2.7.18"}, python="python3.9")
    assert found.python_version == (3, 11, 2)
    (tmp_path / "second").mkdir()
    assert _probe(tmp_path / "second", {**BOARD, "python3": "exit 1", "python": "echo 2.7.18"}).python_version == (
        2,
        7,
        18,
    )


@pytest.mark.parametrize("said", ["", "Python 3.11.2", "$(id)"])
def test_something_else_of_that_name_is_no_python(tmp_path: Path, said: str) -> None:
    found = _probe(tmp_path, {**BOARD, "python3": f"echo '{said}'"})
    assert (found.python, found.python_version) == (None, None)


def test_a_python_that_says_more_is_one_all_the_same(tmp_path: Path) -> None:
    found = _probe(tmp_path, {**BOARD, "python3": "echo 'sitecustomize: hello'; echo 3.11.2"})
    assert found.python_version in ((3, 11, 2), None)


def test_a_clock_that_cannot_be_read_is_not_told_to_be_wrong(tmp_path: Path) -> None:
    found = _probe(tmp_path, {**BOARD, "date": "echo 'date: bad date +%s' >&2; exit 1"})
    assert found.clock_ahead_s == 0


def test_lines_may_end_as_old_adb_ends_them(tmp_path: Path) -> None:
    shell = {"sh": '/bin/dash "$@" | /bin/sed "s/\\$/\\r/"'}
    found = _probe(tmp_path, {**BOARD, **shell})
    assert (found.machine, found.cores, found.free_bytes) == ("aarch64", 4, 2000 * 1024)


def test_a_banner_before_it_is_passed_over(tmp_path: Path) -> None:
    shell = {"sh": 'echo "Welcome to lab=1"; echo ===; exec /bin/dash "$@"'}
    assert _probe(tmp_path, {**BOARD, **shell}).machine == "aarch64"


def test_a_directory_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "work dir").write_text("a file")
    found = _probe(tmp_path, BOARD)
    assert (found.writable, found.executable) == (False, False)


def test_a_shell_that_says_nothing_is_a_lost_link(tmp_path: Path) -> None:
    with pytest.raises(LinkLost, match="closed by remote host"):
        _probe(tmp_path, {"sh": "echo 'Connection closed by remote host' >&2; exit 255"})


@pytest.mark.parametrize("lines", [1, 5, 8, 10])
def test_a_link_that_is_lost_in_the_middle_is_a_lost_link(tmp_path: Path, lines: int) -> None:
    with pytest.raises(LinkLost):
        _probe(tmp_path, {**BOARD, "sh": f'/bin/dash "$@" | /usr/bin/head -n {lines}; exit 255'})


def test_the_file_that_is_tried_is_only_ours(tmp_path: Path) -> None:
    work = tmp_path / "work dir"
    work.mkdir()
    (work / "kept").write_text("x")
    _probe(tmp_path, BOARD)
    assert [path.name for path in work.iterdir()] == ["kept"]
