"""The command line from outside: what it imports, what it says, how it ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "torchvision", "onnx", "onnxruntime", "onnxsim", "numpy", "PIL", "rich", "psutil")


def _edgebench(*arguments: str, home: Path, blocked: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    code = (
        "import sys\n"
        f"sys.modules.update(dict.fromkeys({blocked!r}))\n"  # None in sys.modules: importing it raises ImportError
        "from edgebench.cli.main import main\n"
        "sys.exit(main())\n"
    )
    environment = {**os.environ, "EDGEBENCH_HOME": str(home), "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=home, env=environment, check=False
    )


def test_help_imports_nothing_heavy(tmp_path: Path) -> None:
    done = _edgebench("--help", home=tmp_path, blocked=HEAVY)
    assert done.returncode == 0, done.stderr
    for command in ("export", "bench", "profile", "inspect", "runs", "demo"):
        assert command in done.stdout


@pytest.mark.parametrize("command", ["export", "bench", "profile", "inspect", "runs", "demo"])
def test_the_help_of_every_command_imports_nothing_heavy(command: str, tmp_path: Path) -> None:
    done = _edgebench(command, "--help", home=tmp_path, blocked=HEAVY)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", ["export", "bench", "profile", "inspect", "demo"])
def test_every_option_states_its_default(command: str, tmp_path: Path) -> None:
    text = _edgebench(command, "--help", home=tmp_path).stdout
    options = text.partition("options:")[2].split("\n  -")[2:]
    assert options
    for option in options:
        assert "default" in option or "(default" in option, option


def test_importing_the_package_loads_no_library(tmp_path: Path) -> None:
    code = f"import sys; sys.modules.update(dict.fromkeys({HEAVY!r})); import edgebench; edgebench.__version__"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_no_command_is_a_usage_error(tmp_path: Path) -> None:
    assert _edgebench(home=tmp_path).returncode == 2


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("export", "none.pt"), 2, "none.pt"),
        (("export", "empty.pt"), 2, "empty"),
        (("export", "folder"), 2, "folder"),
        (("bench", "none.eb"), 2, "does not exist"),
        (("bench", "folder"), 2, "not a bundle"),
        (("bench", "folder", "--json", "none/run.json"), 2, "cannot be written"),
        (("bench", "folder", "--warmup", "-1"), 2, "--warmup"),
        (("runs", "show", "x"), 2, "no run `x`"),
        (("runs", "rm"), 2, "which run"),
        (("inspect", "none.pt"), 2, "none.pt"),
    ],
)
def test_bad_input_gets_one_error_and_a_next_step(
    arguments: tuple[str, ...], code: int, message: str, tmp_path: Path
) -> None:
    (tmp_path / "empty.pt").touch()
    (tmp_path / "folder").mkdir()
    done = _edgebench(*arguments, home=tmp_path)
    assert done.returncode == code
    assert message in done.stderr
    assert done.stderr.count("error: ") == 1
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_a_missing_extra_is_one_line_that_names_it(tmp_path: Path) -> None:
    done = _edgebench("export", "torchvision:resnet18", home=tmp_path, blocked=("torch", "torchvision"))
    assert done.returncode == 3
    assert "pip install 'edgebench[torch]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_comparing_runs_needs_no_torch(tmp_path: Path) -> None:
    done = _edgebench("runs", home=tmp_path, blocked=("torch", "torchvision", "onnx", "onnxsim", "PIL"))
    assert done.returncode == 0, done.stderr
    assert "no runs are stored yet" in done.stdout


def test_a_home_that_cannot_be_written_is_an_environment_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    environment = {**os.environ, "EDGEBENCH_HOME": str(tmp_path / "file"), "PYTHONPATH": str(ROOT)}
    code = "import sys; from edgebench.cli.main import main; sys.exit(main(['runs']))"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert "EDGEBENCH_HOME" in done.stderr
    assert json.dumps(done.stdout) == '""'
