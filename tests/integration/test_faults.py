"""What goes wrong while artifacts are measured: the cell says what it was, the rest goes on, nothing is lost."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch

import edgebench
from edgebench.bundle import load_bundle, save_bundle
from edgebench.cli.main import main
from edgebench.files import file_sha256
from edgebench.types import BenchSettings, Cell, Run
from tests.integration.conftest import ROOT, start_edgebench

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")

SETTINGS = BenchSettings(processes=3, warmup=1, iterations=10, max_time_s=6.0, max_wait_s=0.0)


class Fault(torch.nn.Module):
    """Answers like the tiny net, and misbehaves from its 12th run on: in its first process it warms up before."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.runs = 0
        self.held = [torch.zeros(1)]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.runs += 1
        if self.kind == "prints":
            print("a runtime that talks", self.runs)  # noqa: T201
        if self.runs > 12:
            if self.kind == "raises":
                raise ValueError("the model gave up")
            if self.kind == "hangs":
                while self.runs > 0:
                    self.runs += 1
            if self.kind == "grows":
                self.held.append(torch.full((64, 1024, 1024), float(self.runs)))
        return x.mean((2, 3))[:, :1].repeat(1, 4)


@pytest.fixture
def bundle(tiny_net: str, photos: str) -> Path:
    return edgebench.export(tiny_net, calib=photos, preprocess="cifar10", formats=["torchscript", "onnx"]).path


def _with_fault(bundle: Path, kind: str) -> None:
    """The bundle's TorchScript file becomes one with that fault, which the bundle takes for its own."""
    path = bundle / "tiny.torchscript.pt"
    path.unlink()
    torch.jit.script(Fault(kind)).save(str(path))
    known = load_bundle(bundle)
    artifacts = tuple(
        replace(artifact, sha256=file_sha256(path)) if artifact.name == "torchscript" else artifact
        for artifact in known.artifacts
    )
    save_bundle(bundle, replace(known, artifacts=artifacts))


def _cells(run: Run) -> dict[str, Cell]:
    return {cell.artifact.name: cell for cell in run.cells}


@pytest.mark.parametrize(("kind", "reason"), [("raises", "the model gave up"), ("hangs", "no answer after 20 s")])
def test_a_model_that_breaks_in_its_turn_fails_its_cell_alone(kind: str, reason: str, bundle: Path) -> None:
    _with_fault(bundle, kind)
    # The limit holds for importing torch as well.
    timeout_s = 20.0 if kind == "hangs" else SETTINGS.timeout_s
    cells = _cells(edgebench.bench(bundle, settings=replace(SETTINGS, warmup=0, timeout_s=timeout_s)))
    assert cells["torchscript"].status == "failed"
    assert reason in (cells["torchscript"].reason or "")
    assert cells["onnx"].status == "ok"
    assert len(cells["onnx"].measurements) == 3


def test_a_model_that_prints_is_measured_and_stdout_stays_the_documents(
    bundle: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    _with_fault(bundle, "prints")
    quick = ("--processes", "1", "--iterations", "5", "--max-wait", "0")
    assert main(["bench", str(bundle), *quick, "--json", "-"]) == 0
    statuses = {cell["artifact"]["name"]: cell["status"] for cell in json.loads(capfd.readouterr().out)["cells"]}
    assert statuses == {"torchscript": "ok", "onnx": "ok"}


def test_a_model_that_takes_all_memory_fails_its_cell_alone(bundle: Path) -> None:
    _with_fault(bundle, "grows")
    code = "import sys; from edgebench.cli.main import main; sys.exit(main())"
    quick = ("--processes", "1", "--iterations", "1000", "--warmup", "0", "--max-wait", "0")
    limit = 12 << 30  # Of addresses, of which torch takes some for itself.
    done = subprocess.run(
        [sys.executable, "-c", code, "bench", str(bundle), *quick, "--json", "run.json"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
    )
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    cells = _cells(edgebench.load_run("run.json"))
    assert cells["torchscript"].status == "failed"
    assert "memory" in (cells["torchscript"].reason or "")
    assert cells["torchscript"].measurements[0].samples_ns
    assert cells["onnx"].status == "ok"


def test_a_process_killed_from_outside_fails_its_cell_and_resume_goes_on_from_there(bundle: Path) -> None:
    arguments = ("--processes", "3", "--iterations", "1000000", "--max-time", "9", "--max-wait", "0")
    command = ("bench", str(bundle), "--runtime", "onnxruntime")
    process = start_edgebench(*command, *arguments)
    os.kill(_worker_of(process.pid), signal.SIGKILL)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 1, said
    run = edgebench.load_run("latest")
    assert run.cells[0].status == "failed"
    assert "killed from outside" in (run.cells[0].reason or "")
    assert main([*command, "--resume", run.id]) == 0
    (mended,) = edgebench.load_run(run.id).cells
    assert mended.status == "ok"
    assert sum(item.status == "ok" for item in mended.measurements) == 3
    assert mended.measurements[: len(run.cells[0].measurements)] == run.cells[0].measurements


def _worker_of(pid: int) -> int:
    """A worker that has begun its turns, which is when it has been there for a second."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in psutil.Process(pid).children(recursive=True):
                if "worker" in child.cmdline():
                    time.sleep(1.0)
                    return child.pid
        time.sleep(0.05)
    raise AssertionError("no worker was started")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda text: text[: len(text) // 2], "is not JSON"),
        (lambda text: text.replace('"schema": 2', '"schema": 99'), "schema 99"),
        (
            lambda text: text.replace('"threads": 2', '"threads": "two"').replace('"threads": 1', '"threads": "two"'),
            "not a run",
        ),
        (lambda text: text.replace('"lap":', '"lab":'), "unknown key `lab`"),
    ],
)
def test_a_run_file_that_was_damaged_is_refused_with_its_place(
    damage: object, said: str, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quick = ("--processes", "1", "--iterations", "5", "--max-wait", "0", "--runtime", "onnxruntime")
    assert main(["bench", str(bundle), *quick, "--json", "run.json"]) == 0
    Path("bad.json").write_text(damage(Path("run.json").read_text()))  # type: ignore[operator]
    capsys.readouterr()
    assert main(["compare", "run.json", "bad.json"]) == 2
    found = capsys.readouterr()
    assert said in found.err
    assert found.out == ""
