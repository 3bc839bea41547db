"""The agent as one file: the same bytes each time, only the agent in it, and any Python runs it or says why not."""

from __future__ import annotations

import ast
import hashlib
import io
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from edgebench import agent
from edgebench.agent.wire import WIRE_VERSION
from edgebench.targets.zipapp import agent_zipapp

PACKAGE = Path(agent.__file__).parent


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    name, content = agent_zipapp()
    (tmp_path / "agent").mkdir()
    path = tmp_path / "agent" / name
    path.write_bytes(content)
    return path


def _empty(tmp_path: Path) -> Path:
    directory = tmp_path / "empty"
    directory.mkdir()
    return directory


def _run(archive: Path, *words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-I", str(archive), *words], cwd=cwd, capture_output=True, text=True, check=False, timeout=60
    )


def test_the_same_sources_give_the_same_bytes() -> None:
    code = "from edgebench.targets.zipapp import agent_zipapp; print(agent_zipapp()[0])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PACKAGE.parents[1]
    )
    assert done.stdout.strip() == agent_zipapp()[0]


def test_the_name_is_of_the_content() -> None:
    name, content = agent_zipapp()
    assert name == f"{hashlib.sha256(content).hexdigest()[:32]}.pyz"


def test_there_is_nothing_but_the_agent() -> None:
    with zipfile.ZipFile(io.BytesIO(agent_zipapp()[1])) as file:
        assert file.testzip() is None
        found = {name: file.read(name) for name in file.namelist()}
    sources = {
        f"edgebench/agent/{path.relative_to(PACKAGE).as_posix()}": path.read_bytes()
        for path in PACKAGE.rglob("*")
        if path.suffix in (".py", ".c")
    }
    assert found.pop("edgebench/__init__.py") == b""
    assert found.pop("__main__.py")
    assert found == sources


def test_it_is_written_in_the_grammar_of_python_3_8() -> None:
    with zipfile.ZipFile(io.BytesIO(agent_zipapp()[1])) as file:
        for name in file.namelist():
            if name.endswith(".py"):
                ast.parse(file.read(name), name, feature_version=(3, 8))


def test_it_runs_without_anything_of_edgebench_beside_it(archive: Path, tmp_path: Path) -> None:
    job = {"version": WIRE_VERSION, "kind": "library", "artifact": "", "runtime": "null", "threads": 1, "feeds": []}
    (tmp_path / "job.json").write_text(json.dumps(job))
    done = _run(archive, "library", str(tmp_path / "job.json"), str(tmp_path / "result.json"), cwd=_empty(tmp_path))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert json.loads((tmp_path / "result.json").read_text())["status"] == "ok"


def test_an_unknown_command_is_told(archive: Path, tmp_path: Path) -> None:
    done = _run(archive, "dance", "a", "b", cwd=_empty(tmp_path))
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "unknown command: dance\n")


def test_serve_unpacks_itself_once_and_its_jobs_run_from_there(archive: Path, tmp_path: Path) -> None:
    job = {"version": WIRE_VERSION, "kind": "library", "artifact": "", "runtime": "null", "threads": 1, "feeds": []}
    requests = [
        {"do": "start", "id": "1", "command": "library", "message": job, "limit_s": 60.0},
        {"do": "wait", "id": "1", "hold_s": 30.0},
        {"do": "end"},
    ]
    cwd = _empty(tmp_path)
    stamps = []
    for session in ("a", "b"):
        host = subprocess.Popen(
            [sys.executable, "-I", str(archive), "serve", str(tmp_path / "work"), session, "me", "1000000", "60"],
            cwd=cwd,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert host.stdin is not None
        assert host.stdout is not None
        answers = [json.loads(host.stdout.readline())]
        for request in requests:
            host.stdin.write(json.dumps(request) + "\n")
            host.stdin.flush()
            answers.append(json.loads(host.stdout.readline()))
        host.communicate(timeout=20)
        assert answers[2]["result"]["status"] == "ok", answers
        assert answers[3] == {"ended": True}
        unpacked = archive.with_name(archive.name + ".d")
        stamps.append((unpacked / "edgebench/agent/serve.py").stat().st_mtime_ns)
        assert sorted(path.name for path in archive.parent.iterdir()) == [archive.name, unpacked.name]
    assert stamps[0] == stamps[1]
    assert list(cwd.iterdir()) == []


@pytest.mark.parametrize("version", [(2, 7, 18, "final", 0), (3, 7, 16, "final", 0)])
def test_an_old_python_is_refused_in_words(archive: Path, tmp_path: Path, version: tuple[object, ...]) -> None:
    with zipfile.ZipFile(archive) as file:
        text = file.read("__main__.py").decode()
    # What older Pythons cannot even read would be told as a SyntaxError.
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.version_info = {version!r}; exec({text!r})"],
        cwd=_empty(tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3
    assert done.stderr == f"edgebench's agent needs Python 3.8 or newer, this is {version[0]}.{version[1]}\n"


def _pythons() -> list[Path]:
    """Other Pythons of this machine, where pyenv has them."""
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    return sorted(root.glob("versions/*/bin/python"))


@pytest.mark.skipif(not _pythons(), reason="needs other Pythons, from pyenv")
def test_each_python_here_runs_it_or_is_told(archive: Path, tmp_path: Path) -> None:
    cwd = _empty(tmp_path)
    for python in _pythons():
        version = tuple(map(int, python.parents[1].name.split(".")[:2]))
        done = subprocess.run(
            [str(python), str(archive), "dance", "a", "b"], cwd=cwd, capture_output=True, text=True, check=False
        )
        if version < (3, 8):
            assert (done.returncode, "needs Python 3.8" in done.stderr) == (3, True), done.stderr
        else:
            assert (done.returncode, done.stderr) == (2, "unknown command: dance\n"), python
