"""Comparing real artifacts that are measured now, and stored runs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

import edgebench
from edgebench.cli.main import main
from edgebench.errors import UsageError
from edgebench.store import RunStore
from edgebench.types import BenchSettings

QUICK = ("--processes", "3", "--iterations", "10", "--max-time", "3", "--max-wait", "0", "--threads", "1")
SETTINGS = BenchSettings(processes=3, iterations=10, max_time_s=3.0, max_wait_s=0.0)

BIGGER_NET = """
from torch import nn

INPUT_SHAPE = (1, 3, 16, 16)


def bigger():
    layers = [nn.Conv2d(3, 32, 3, padding=1)]
    for _ in range(12):
        layers += [nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 4))
"""


@pytest.fixture
def small(tiny_net: str) -> Path:
    return edgebench.export(tiny_net, "small.eb", formats=["onnx"]).path


@pytest.fixture
def large(tmp_path: Path) -> Path:
    (tmp_path / "bigger_net.py").write_text(BIGGER_NET)
    return edgebench.export("bigger_net.py:bigger", "large.eb", formats=["onnx"]).path


def test_a_model_with_far_more_work_is_slower_and_fails_the_gate(
    small: Path, large: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outputs = ("--json", "c.json", "--markdown", "c.md", "--junit", "c.xml", "--github", "g.json")
    assert main(["compare", str(small), str(large), *QUICK, "--fail-if", "p50>5%,size>5%", *outputs]) == 1
    assert "slower" in capsys.readouterr().out
    document = json.loads(Path("c.json").read_text())
    assert document["pairs"][0]["verdict"] == "slower"
    assert [gate["outcome"] for gate in document["gates"]] == ["failed", "failed"]
    assert ElementTree.parse("c.xml").getroot().get("failures") == "2"
    assert "❌ p50>5%" in Path("c.md").read_text()
    assert {entry["name"] for entry in json.loads(Path("g.json").read_text())} >= {"onnx p50", "onnx size"}
    # The run that was measured for it is stored like any other.
    stored = edgebench.load_run("latest")
    assert [cell.artifact.name for cell in stored.cells] == ["A/onnx", "B/onnx"]


def test_a_model_against_itself_is_measured_with_its_noise_floor(small: Path) -> None:
    found = edgebench.compare(small, small, noise_floor=True, threads=[1], settings=SETTINGS)
    assert found.paired
    assert found.noise_floor is not None
    assert [cell.artifact.name for cell in found.before.cells] == ["A/onnx", "B/onnx", "A again/onnx"]
    size = found.pairs[0].changes["size"]
    assert size.ci == (0.0, 0.0)


def test_two_stored_runs_are_compared_by_id_and_by_file(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = edgebench.bench(small, threads=[1], settings=SETTINGS)
    assert main(["bench", str(small), *QUICK, "--json", "second.json"]) == 0
    assert main(["compare", first.id, "second.json"]) == 0
    said = capsys.readouterr().out
    assert first.id in said
    assert "between is in no interval" in said


def test_runs_with_other_threads_are_refused_unless_told(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = (edgebench.bench(small, threads=[count], settings=SETTINGS) for count in (1, 2))
    assert main(["compare", one.id, two.id]) == 2
    assert "threads: 1 → 2" in capsys.readouterr().err
    assert main(["compare", one.id, two.id, "--allow", "threads"]) == 0
    assert "differs: threads: 1 → 2" in capsys.readouterr().out


def test_runs_of_two_machines_are_refused_unless_told(small: Path) -> None:
    run = edgebench.bench(small, threads=[1], settings=SETTINGS)
    elsewhere = replace(
        run, devices=(replace(run.devices[0], fingerprint={**run.devices[0].fingerprint, "cpu": "Cortex-A72"}),)
    )
    with pytest.raises(UsageError, match="Cortex-A72"):
        edgebench.compare(run, elsewhere)
    assert edgebench.compare(run, elsewhere, allow=["device"]).pairs


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("small.eb", "small.eb", "--fail-if", "p5O>5%"), "no metric `p5O`"),
        (("small.eb", "nowhere.eb"), "nowhere.eb does not exist"),
        (("small.eb", "20260101"), "not of one kind"),
        (("20260101", "20260102"), "no run `20260101`"),
        (("small.eb", "small.eb", "--json", "-", "--junit", "-"), "cannot both go to stdout"),
        (("small.eb", "small.eb", "--allow", "everything"), "cannot be allowed to differ"),
    ],
)
def test_bad_input_costs_no_measurement(
    arguments: tuple[str, ...], message: str, small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", *arguments]) == 2
    said = capsys.readouterr()
    assert message in said.err
    assert said.out == ""
    assert list(RunStore().list()) == []


def test_a_precision_that_was_not_reached_ends_with_4_and_says_so(
    small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = (
        "--precision",
        "0.000001%",
        "--processes",
        "3",
        "--iterations",
        "5",
        "--max-time",
        "1",
        "--max-wait",
        "0",
    )
    assert main(["bench", str(small), *arguments]) == 4
    assert "not reached in time: onnx; give more with --max-time" in capsys.readouterr().out


def test_a_precision_that_is_wide_enough_is_reached(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("--precision", "900%", "--processes", "3", "--iterations", "5", "--max-wait", "0")
    assert main(["bench", str(small), *arguments]) == 0
    assert "of its ratio; reached" in capsys.readouterr().out


def test_the_doctor_tells_what_the_harness_adds(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["devices", "doctor"]) in (0, 1)  # 1 where this machine is busy.
    said = capsys.readouterr().out
    assert "ns are in every latency" in said
    assert "onnxruntime" in said
