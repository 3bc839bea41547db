"""Scripts for devices without Python, run by real shells: what is printed, in which order processes take turns, what is
left."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from edgebench.agent.lock import beat
from edgebench.targets.native.script import Script
from edgebench.targets.native.shell import _LOCK, _TRIM

SHELLS = [[path] for name in ("dash", "bash", "mksh") if (path := shutil.which(name))]
SHELLS += [[path, "sh"] for name in ("busybox", "toybox") if (path := shutil.which(name))]
# Says its name, stops itself before each of its turns, and ends with its number.
TURNS = 'for turn in 1 2; do kill -STOP $$; echo "$1$turn" >>order; done; exit "$2"'


def _ids(shell: list[str]) -> str:
    return Path(shell[0]).name


@pytest.fixture(params=SHELLS, ids=_ids)
def shell(request: pytest.FixtureRequest) -> list[str]:
    return list(request.param)


def _run(script: Script, shell: list[str]) -> dict[str, str]:
    sections = script.sections(_output(script.text(), shell))
    return dict(sections)


def _output(text: bytes, shell: list[str], *arguments: str) -> str:
    done = subprocess.run(
        [*shell, "-s", *arguments], input=text, capture_output=True, timeout=20, check=False, start_new_session=True
    )
    return done.stdout.decode()


def test_a_command_has_its_streams_in_files_and_its_exit_code_told(tmp_path: Path, shell: list[str]) -> None:
    script = Script(str(tmp_path))
    script.call(["sh", "-c", "echo out; echo err >&2; exit 7"], out="out0", err="err0")
    script.call(["sh", "-c", "cat"], out="out1", err="err1")
    script.show("out* err* nothing*")
    assert _run(script, shell) == {
        "code out0": "7\n",
        "code out1": "0\n",
        "out0": "out\n\n",
        "out1": "\n",
        "err0": "err\n\n",
        "err1": "\n",
        "end": "",
    }


def test_words_of_a_command_are_only_words(tmp_path: Path, shell: list[str]) -> None:
    words = ["$HOME", "a b", "'", '"', "*", "`id`", "\\", "", "a\nb"]
    script = Script(str(tmp_path))
    script.call(["printf", "%s|", *words], out="a 'b'", err="$err")
    assert _run(script, shell)["code a 'b'"] == "0\n"
    assert (tmp_path / "a 'b'").read_text() == "".join(f"{word}|" for word in words)


def test_a_command_that_is_not_there_has_a_code_and_the_script_goes_on(tmp_path: Path, shell: list[str]) -> None:
    script = Script(str(tmp_path))
    script.call(["/nowhere/tool"], out="out0", err="err0")
    script.call(["true"], out="out1", err="err1")
    found = _run(script, shell)
    assert (found["code out0"], found["code out1"], found["end"]) == ("127\n", "0\n", "")


def test_a_command_that_is_killed_has_the_code_of_its_signal(tmp_path: Path, shell: list[str]) -> None:
    script = Script(str(tmp_path))
    script.call(["sh", "-c", "kill -9 $$"], out="out0", err="err0")
    assert _run(script, shell)["code out0"] == "137\n"


@pytest.mark.parametrize(
    "text",
    ["@@0123456789abcdef end\n", "@@ end\n", "code out0\n0\n", "no line break at the end", "\r\n\r\n", ""],
)
def test_what_a_tool_prints_is_no_mark(tmp_path: Path, text: str) -> None:
    script = Script(str(tmp_path))
    script.call(["printf", "%s", text], out="out0", err="err0")
    script.show("out0")
    found = script.sections(_output(script.text(), ["sh"]))
    assert found == [("code out0", "0\n"), ("out0", text + "\n"), ("end", "")]


def test_a_mark_that_a_tool_saw_elsewhere_is_not_that_of_the_next_script(tmp_path: Path) -> None:
    first, second = Script(str(tmp_path)), Script(str(tmp_path))
    second.call(["printf", "%s", first.text().decode()], out="out0", err="err0")
    second.show("out0")
    assert [name for name, _ in second.sections(_output(second.text(), ["sh"]))] == ["code out0", "out0", "end"]


def test_a_directory_that_is_not_there_ends_it_at_once(tmp_path: Path, shell: list[str]) -> None:
    script = Script(str(tmp_path / "nowhere"))
    script.call(["touch", str(tmp_path / "touched")], out="out0", err="err0")
    done = subprocess.run([*shell, "-s"], input=script.text(), capture_output=True, check=False)
    assert done.returncode == 90
    assert script.sections(done.stdout.decode()) == []
    assert not (tmp_path / "touched").exists()


def test_a_script_that_was_cut_has_no_end(tmp_path: Path) -> None:
    script = Script(str(tmp_path))
    script.call(["sh", "-c", "kill -9 $PPID"], out="out0", err="err0")
    script.show("out0")
    assert "end" not in dict(script.sections(_output(script.text(), ["sh"])))


def test_sections_of_a_link_that_ends_lines_with_cr_are_found(tmp_path: Path) -> None:
    script = Script(str(tmp_path))
    script.call(["true"], out="out0", err="err0")
    found = script.sections(_output(script.text(), ["sh"]).replace("\n", "\r\n"))
    assert [(name, text.strip()) for name, text in found] == [("code out0", "0"), ("end", "")]


def test_processes_take_their_turns_one_at_a_time(tmp_path: Path, shell: list[str]) -> None:
    script = Script(str(tmp_path))
    for number, name in enumerate("ab"):
        script.start(["sh", "-c", TURNS, "sh", name, str(number + 3)], number, err=f"err{number}")
    for number in (1, 0, 0):
        script.turn(number)
    script.show("order")
    for number in (1, 0):
        script.let_end(number)
    found = _run(script, shell)
    # b's second turn comes when it is let end, for it has had one only.
    assert found["order"] == "b1\na1\na2\n\n"
    assert (tmp_path / "order").read_text() == "b1\na1\na2\nb2\n"
    assert (found["code 0"], found["code 1"], found["end"]) == ("3\n", "4\n", "")


def test_a_process_that_ended_or_never_began_holds_nobody_up(tmp_path: Path, shell: list[str]) -> None:
    script = Script(str(tmp_path))
    script.start(["sh", "-c", "exit 5"], 0, err="err0")
    script.start(["/nowhere/tool"], 1, err="err1")
    script.start(["sh", "-c", "kill -9 $$"], 2, err="err2")
    for number in (0, 1, 2):
        script.turn(number)
    for number in (0, 1, 2):
        script.let_end(number)
    found = _run(script, shell)
    assert [found[f"code {number}"] for number in (0, 1, 2)] == ["5\n", "127\n", "137\n"]
    assert "not found" in (tmp_path / "err1").read_text() or "No such file" in (tmp_path / "err1").read_text()


def test_a_process_of_an_odd_name_is_seen_to_stop(tmp_path: Path, shell: list[str]) -> None:
    odd = tmp_path / "a) R (b"
    odd.write_text("#!/bin/sh\nkill -STOP $$\nexit 6\n")
    odd.chmod(0o755)
    script = Script(str(tmp_path))
    script.start([str(odd)], 0, err="err0")
    script.let_end(0)
    assert _run(script, shell)["code 0"] == "6\n"


def test_a_tool_that_reads_stdin_does_not_read_the_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A shell reads its script line by line from the same pipe.
    for name in ("vcgencmd", "dumpsys"):
        tool = tmp_path / name
        tool.write_text("#!/bin/sh\ncat >/dev/null\necho throttled=0x0\n")
        tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    script = Script(str(tmp_path))
    script.show_state("before")
    found = _run(script, ["sh"])
    assert found["vcgencmd get_throttled"].strip() == "throttled=0x0"
    assert found["end"] == ""


def test_the_group_that_is_noted_ends_all_with_it(tmp_path: Path, shell: list[str]) -> None:
    script = Script(str(tmp_path))
    script.start(["sh", "-c", "kill -STOP $$; sleep 60"], 0, err="err0")
    script.call(["sleep", "60"], out="out1", err="err1")
    process = subprocess.Popen([*shell, "-s"], stdin=subprocess.PIPE, start_new_session=True)
    assert process.stdin is not None
    process.stdin.write(script.text())
    process.stdin.close()
    _until((tmp_path / "out1").exists)
    pid = int((tmp_path / "pid").read_text())
    os.killpg(pid, signal.SIGKILL)
    process.wait(10)
    _until(lambda: not _lives(pid))


def _until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _lives(group: int) -> bool:
    """Whether a process of the group does, as more than a zombie."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[2] == str(group) and fields[0] != "Z":
            return True
    return False


def _wanting(directory: Path, owner: str, stale_s: int = 600, silence_s: int = 0) -> list[str]:
    work = directory / "work"
    return [str(work / "lock.d"), owner, str(stale_s), str(silence_s), str(work)]


def _lock(directory: Path, owner: str, shell: list[str], stale_s: int = 600, silence_s: int = 0) -> str:
    return _output(_LOCK.encode(), shell, *_wanting(directory, owner, stale_s, silence_s)).strip()


def test_a_lock_is_for_one_owner_at_a_time(tmp_path: Path, shell: list[str]) -> None:
    assert _lock(tmp_path, "a@x 1", shell) == "held"
    assert _lock(tmp_path, "a@x 1", shell) == "held"
    busy, age_s, silent_s, owner = _lock(tmp_path, "b@y 2", shell).split(" ", 3)
    assert (busy, owner) == ("busy", "a@x 1")
    assert 0 <= int(silent_s) <= int(age_s) < 20
    shutil.rmtree(tmp_path / "work/lock.d")
    assert _lock(tmp_path, "b@y 2", shell) == "held"


def test_a_lock_that_nobody_renewed_is_broken(tmp_path: Path, shell: list[str]) -> None:
    _lock(tmp_path, "a@x 1", shell)
    assert _lock(tmp_path, "b@y 2", shell, stale_s=-1) == "held"
    assert _lock(tmp_path, "a@x 1", shell).startswith("busy")
    assert [path.name for path in (tmp_path / "work").iterdir()] == ["lock.d"]


def test_a_lock_whose_owner_said_that_it_will_be_silent_is_not_broken(tmp_path: Path, shell: list[str]) -> None:
    _lock(tmp_path, "a@x 1", shell, silence_s=3600)
    assert _lock(tmp_path, "b@y 2", shell, stale_s=-1).startswith("busy")


def test_a_host_with_the_agent_has_the_device_while_its_heart_beats(tmp_path: Path, shell: list[str]) -> None:
    session = tmp_path / "work/sessions/s"
    session.mkdir(parents=True)
    (tmp_path / "work/lock").write_text('{"session": "s", "owner": "me@host, edgebench 0.1", "pid": 1}')
    beat(str(session))
    assert _lock(tmp_path, "b@y 2", shell).startswith("busy 0 0 me@host, edgebench 0.1")
    (session / "heartbeat").write_text(f"{time.monotonic() - 200!r}\n")
    assert _lock(tmp_path, "b@y 2", shell) == "held"


def test_a_lock_of_another_boot_is_broken(tmp_path: Path, shell: list[str]) -> None:
    _lock(tmp_path, "a@x 1", shell)
    owner = tmp_path / "work/lock.d/owner"
    _, rest = owner.read_text().split(" ", 1)
    owner.write_text(f"another-boot {rest}")
    assert _lock(tmp_path, "b@y 2", shell) == "held"


def test_a_lock_that_is_just_being_taken_is_not_taken_from_its_owner(tmp_path: Path) -> None:
    # The owner made the directory and has not said its name yet; it goes on after the other one looked.
    (tmp_path / "work/lock.d").mkdir(parents=True)
    second = subprocess.Popen(
        ["sh", "-s", *_wanting(tmp_path, "b@y 2")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert second.stdin is not None
    second.stdin.write(_LOCK)
    second.stdin.close()
    time.sleep(0.2)
    boot, uptime = Path("/proc/sys/kernel/random/boot_id").read_text().strip(), _uptime()
    if (tmp_path / "work/lock.d").is_dir():
        (tmp_path / "work/lock.d/owner.new").write_text(f"{boot} {uptime} {uptime} a@x 1\n")
        (tmp_path / "work/lock.d/owner.new").rename(tmp_path / "work/lock.d/owner")
    assert second.stdout is not None
    answer = second.stdout.read()
    second.stdout.close()
    second.wait()
    assert answer.startswith("busy"), f"{answer}: both hold it"


def _uptime() -> int:
    return int(float(Path("/proc/uptime").read_text().split()[0]))


@pytest.mark.parametrize("left", ["nothing", "stale"])
def test_of_many_that_want_a_lock_one_gets_it(tmp_path: Path, left: str) -> None:
    for attempt in range(4):
        directory = tmp_path / str(attempt)
        if left == "stale":
            _lock(directory, "old@x 0", ["sh"])
            owner = directory / "work/lock.d/owner"
            owner.write_text(f"another-boot {owner.read_text().split(' ', 1)[1]}")
        processes = [
            subprocess.Popen(
                ["sh", "-s", *_wanting(directory, f"h{number}@x {number}")],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            for number in range(6)
        ]
        for process in processes:
            assert process.stdin is not None
            process.stdin.write(_LOCK)
            process.stdin.flush()
        answers = [process.communicate(timeout=20)[0].strip() for process in processes]
        assert answers.count("held") <= 1, answers


def _trim(directory: Path, bound_kb: int, kept: str, shell: list[str]) -> str:
    return _output(_TRIM.encode(), shell, str(directory), str(bound_kb), kept).strip()


def test_a_cache_is_trimmed_of_what_was_used_least_lately(tmp_path: Path, shell: list[str]) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    for age, name in enumerate(["newest", "middle", "oldest.part", "kept.part"]):
        (cache / name).write_bytes(os.urandom(100 << 10))
        os.utime(cache / name, (1e9 - age, 1e9 - age))
    free_kb = _trim(cache, 250, "kept", shell)
    assert free_kb.isdigit()
    assert {path.name for path in cache.iterdir()} == {"newest", "middle", "kept.part"}


def test_a_cache_that_is_empty_or_not_there_is_no_fault(tmp_path: Path, shell: list[str]) -> None:
    assert _trim(tmp_path, 0, "x", shell).isdigit()
    assert _trim(tmp_path / "nowhere", 0, "x", shell) == ""
