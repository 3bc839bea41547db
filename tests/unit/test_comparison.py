"""What changed between two cells, and gates on it."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
import scipy.stats

from edgebench.agent.wire import InstructionCount, Memory, Turn
from edgebench.comparison import Comparison, compare_runs, compare_within
from edgebench.errors import UsageError
from edgebench.gate import decide, parse_gates
from edgebench.report import ci
from edgebench.report.comparison import markdown, verdict_words
from edgebench.stats import paired_ratio, unpaired_ratio
from edgebench.types import ArtifactRef, Cell, Run, Size
from tests.unit.runs import cell, measurement, run


def _timed(name: str, *medians_ms: float, **changes: object) -> Cell:
    measurements = tuple(
        measurement(number=number, turns=tuple(Turn(lap, 0, (round(ms * 1e6),) * 30) for lap in range(5)))
        for number, ms in enumerate(medians_ms)
    )
    return cell(name, measurements=measurements, **changes)


def _sides(before: Cell, after: Cell) -> Comparison:
    return compare_within(run(before, after))


SAME = (10.0, 10.02, 9.98, 10.01, 9.99)


def _compared(factor: float) -> Comparison:
    return _sides(_timed("A/onnx", *SAME), _timed("B/onnx", *(factor * ms for ms in SAME)))


def test_the_two_sides_of_a_run_are_paired_by_their_names() -> None:
    (pair,) = _compared(1.1).pairs
    assert pair.name == "onnx"
    assert pair.changes["p50"].worse == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("factor", "words"), [(1.1, "slower"), (0.9, "faster"), (1.0, "same within 0.0 %"), (1.005, "same within 0.5 %")]
)
def test_a_verdict_needs_the_whole_interval_on_its_side(factor: float, words: str) -> None:
    assert verdict_words(_compared(factor).pairs[0], 0.01) == words


def test_an_interval_that_holds_both_is_not_known() -> None:
    noisy = _sides(_timed("A/onnx", *SAME), _timed("B/onnx", 9.0, 11.0, 10.0, 12.0, 8.0))
    assert noisy.pairs[0].verdict(0.01) == "not known"


def test_fewer_than_three_rounds_are_not_known() -> None:
    assert _sides(_timed("A/onnx", 10.0, 10.0), _timed("B/onnx", 20.0, 20.0)).pairs[0].verdict(0.01) == "not known"


@pytest.mark.parametrize(
    ("expression", "factor", "outcome"),
    [("p50>5%", 1.1, "failed"), ("p50>5%", 1.0, "held"), ("p50>15%", 1.1, "held"), ("p50>5%", 0.5, "held")],
)
def test_a_gate_is_decided_by_the_interval(expression: str, factor: float, outcome: str) -> None:
    (gate,) = parse_gates([expression])
    assert decide(gate, _compared(factor).pairs[0]).outcome == outcome


def test_a_gate_within_the_interval_is_undecided_and_says_so() -> None:
    (gate,) = parse_gates(["p50>5%"])
    found = decide(gate, _sides(_timed("A/onnx", *SAME), _timed("B/onnx", 10.0, 11.0, 10.5, 11.2, 9.9)).pairs[0])
    assert found.outcome == "undecided"
    assert "--max-time" in found.reason


def test_what_was_not_measured_decides_no_gate() -> None:
    (gate,) = parse_gates(["accuracy>1pt"])
    found = decide(gate, _compared(1.0).pairs[0])
    assert (found.outcome, found.reason) == ("undecided", "not measured: give --data")
    (tail,) = parse_gates(["p99>5%"])
    assert "needs 662 samples" not in decide(tail, _compared(1.0).pairs[0]).reason  # 750 samples a side
    short = _sides(cell("A/onnx", *[(10,)] * 3), cell("B/onnx", *[(10,)] * 3))
    assert "p99 needs 662 samples" in decide(tail, short.pairs[0]).reason


def test_size_and_instructions_are_exact_and_accuracy_is_in_points() -> None:
    before = replace(_timed("A/onnx", *SAME, correct="1" * 100), instructions=InstructionCount((1_000_000,) * 3, "q"))
    after = replace(
        _timed("B/onnx", *SAME, correct="1" * 90 + "0" * 10),
        size=Size(49_280_000, 1),
        instructions=InstructionCount((1_000_900, 1_001_000, 1_001_100), "q"),
    )
    changes = _sides(before, after).pairs[0].changes
    assert changes["size"].ci == pytest.approx((0.1, 0.1))
    assert changes["instructions"].worse == pytest.approx(0.001)
    assert changes["accuracy"].worse == pytest.approx(10.0)
    gates = parse_gates(["size>5%,instructions>0.2%,accuracy>1pt"])
    pair = _sides(before, after).pairs[0]
    assert [decide(gate, pair).outcome for gate in gates] == ["failed", "held", "failed"]


def test_counts_of_two_methods_are_not_compared() -> None:
    before = replace(_timed("A/onnx", *SAME), instructions=InstructionCount((1,), "perf"))
    after = replace(_timed("B/onnx", *SAME), instructions=InstructionCount((1,), "qemu"))
    assert "counted by perf and by qemu" in (_sides(before, after).pairs[0].changes["instructions"].reason or "")


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("memroy>5%", "did you mean memory?"),
        ("p5O>5%", "there is no metric `p5O` there are: p50"),
        ("p50>5", "is not a gate"),
        ("p50<5%", "is not a gate"),
        ("latency>5%", "there are: p50"),
        ("accuracy>1%", "the limit of accuracy is in points"),
        ("size>1pt", "the limit of size is in percent"),
        ("", "is not a gate"),
    ],
)
def test_a_gate_with_a_typo_says_what_was_expected(expression: str, said: str) -> None:
    with pytest.raises(UsageError) as raised:
        parse_gates([expression])
    assert said in f"{raised.value} {raised.value.hint}"


def _two_runs(factor: float, **changes: object) -> tuple[Run, Run]:
    ours = ArtifactRef("onnx", "onnx", "fp32", "other")
    after = run(_timed("onnx", *(factor * ms for ms in SAME), artifact=ours, **changes), identifier="b")
    return run(_timed("onnx", *SAME), identifier="a"), after


def test_two_runs_are_compared_by_welchs_interval() -> None:
    comparison = compare_runs(*_two_runs(1.1))
    low, high = comparison.pairs[0].changes["p50"].ci or (0.0, 0.0)
    logs = np.log([np.multiply(SAME, 1.1), SAME])
    expected = scipy.stats.ttest_ind(*logs, equal_var=False).confidence_interval()
    # Their neighbours do not resemble each other, and the degrees of freedom are rounded down.
    assert (math.log1p(low), math.log1p(high)) == pytest.approx((expected.low, expected.high), abs=2e-4)
    assert not comparison.paired


def test_threads_and_devices_that_differ_are_listed() -> None:
    before, after = _two_runs(1.0, threads=2)
    machine = replace(after.devices[0], fingerprint={"machine": "aarch64", "usable_cpus": 2, "kernel": "6"})
    differs = compare_runs(before, replace(after, devices=(machine,))).differs
    assert "threads: 1 → 2" in differs
    assert "device: local's machine: x86_64 → aarch64" in differs
    assert "environment: local's kernel: None → 6" in differs


def test_artifacts_that_did_not_change_widen_the_intervals_of_those_that_did() -> None:
    same, moved = _timed("same", *SAME), _timed("same", *(1.2 * ms for ms in SAME))
    before, after = _two_runs(1.1)
    comparison = compare_runs(replace(before, cells=(*before.cells, same)), replace(after, cells=(*after.cells, moved)))
    changed, unchanged = comparison.pairs
    assert comparison.noise_floor == pytest.approx(0.2, abs=0.01)
    assert changed.verdict(0.01) == "not known"
    assert unchanged.verdict(0.01) == "slower"


def test_an_artifact_on_one_side_only_is_named() -> None:
    before, after = _two_runs(1.0)
    comparison = compare_runs(before, replace(after, cells=(*after.cells, _timed("int8", *SAME, runtime="other"))))
    assert comparison.missing == ("int8: only in B",)


def test_the_noise_floor_is_what_the_interval_of_a_against_a_allows() -> None:
    again = _timed("A again/onnx", 10.1, 10.2, 9.9, 10.1, 10.0)
    comparison = compare_within(run(_timed("A/onnx", *SAME), _timed("B/onnx", *SAME), again))
    assert len(comparison.pairs) == 1
    assert comparison.noise_floor is not None
    assert 0.005 < comparison.noise_floor < 0.05


def test_ratios_of_single_figures_are_paired_by_round() -> None:
    found = paired_ratio([(1.0, 2.0), (10.0, 20.0), (5.0, 10.0)])
    assert found is not None
    assert found.ci == pytest.approx((2.0, 2.0))
    assert paired_ratio([]) is None
    assert unpaired_ratio([1.0], []) is None


def test_junit_tells_failures_from_what_is_undecided() -> None:
    comparison = _compared(1.1)
    decisions = [decide(gate, comparison.pairs[0]) for gate in parse_gates(["p50>5%", "p50>50%", "accuracy>1pt"])]
    suite = ElementTree.fromstring(ci.junit(comparison, decisions, 0.01))
    assert {name: suite.get(name) for name in ("tests", "failures", "errors")} == {
        "tests": "3",
        "failures": "1",
        "errors": "1",
    }
    assert [[child.tag for child in case] for case in suite] == [["failure"], [], ["error"]]


def test_documents_for_programs_hold_the_figures() -> None:
    comparison = _compared(1.1)
    text = json.dumps(ci.document(comparison, [], 0.01), allow_nan=False)
    (pair,) = json.loads(text)["pairs"]
    assert pair["verdict"] == "slower"
    assert pair["changes"]["p50"]["worse"] == pytest.approx(0.1)
    entries = {entry["name"]: entry for entry in ci.github_benchmark(comparison)}
    assert entries["onnx p50"]["value"] == pytest.approx(11.0, rel=1e-3)
    assert entries["onnx p50"]["unit"] == "ms"
    assert entries["onnx p50"]["range"].startswith("± ")


def test_markdown_has_the_verdict_and_the_gates() -> None:
    comparison = _compared(1.1)
    text = markdown(comparison, [decide(gate, comparison.pairs[0]) for gate in parse_gates(["p50>5%"])], 0.01)
    assert "| onnx | 10.000 ± 0.020 |" in text
    assert "| slower |" in text
    assert "❌ p50>5%: onnx: failed" in text


def test_a_side_that_failed_is_no_pair_and_fails_the_comparison() -> None:
    broken = _timed("B/onnx", *SAME, status="failed", reason="the runtime crashed")
    found = _sides(_timed("A/onnx", *SAME), broken)
    assert found.pairs == ()
    assert found.failed == ("onnx: failed in B: the runtime crashed",)
    assert ElementTree.fromstring(ci.junit(found, [], 0.01)).get("errors") == "1"


def test_what_neither_side_could_measure_is_no_difference() -> None:
    skipped = {"status": "skipped", "reason": "not exported", "measurements": ()}
    sides = [_timed(f"{side}/onnx", *SAME) for side in "AB"] + [cell(f"{side}/int8", **skipped) for side in "AB"]
    found = compare_within(run(*sides))
    assert [pair.name for pair in found.pairs] == ["onnx"]
    assert (found.failed, found.missing) == ((), ())


def test_two_artifacts_of_other_names_are_compared_for_each_number_of_threads() -> None:
    sides = [_timed(name, *SAME, threads=count) for name in ("A/old", "B/new") for count in (1, 2)]
    found = compare_within(run(*sides))
    assert [(pair.name, pair.after.threads) for pair in found.pairs] == [("old → new", 1), ("old → new", 2)]


def test_artifacts_that_have_nothing_in_common_are_not_compared() -> None:
    sides = [_timed(name, *SAME) for name in ("A/onnx", "A/sim", "B/onnx", "B/int8")]
    found = compare_within(run(*sides))
    assert [pair.name for pair in found.pairs] == ["onnx"]
    assert found.missing == ("sim: only in A", "int8: only in B")


def test_scenarios_are_never_compared_with_each_other() -> None:
    assert compare_runs(*_two_runs(1.0, scenario="paced:30")).pairs == ()


def test_a_process_without_memory_of_its_own_is_told_and_no_error() -> None:
    nothing = Memory(100, 100, 100, "VmHWM")
    flat = tuple(replace(item, memory=nothing) for item in _timed("onnx", *SAME).measurements)
    before = run(_timed("onnx", *SAME), identifier="a")
    after = run(cell("onnx", measurements=flat, artifact=ArtifactRef("onnx", "onnx", "fp32", "x")), identifier="b")
    assert "too small" in (compare_runs(before, after).pairs[0].changes["memory"].reason or "")


def test_a_side_that_was_calibrated_on_random_numbers_is_named() -> None:
    made_up = ArtifactRef("onnx-int8", "onnx-int8", "int8", "ff", "random")
    comparison = _sides(_timed("A/onnx", *SAME), _timed("B/onnx", *SAME, artifact=made_up))
    assert "onnx-int8: calibrated on RANDOM numbers" in markdown(comparison, [], 0.01)
