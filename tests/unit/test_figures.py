"""What a run says about its cells."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edgebench.agent.wire import Energy, Turn
from edgebench.figures import baseline_cell, figures
from edgebench.types import LedgerEntry
from tests.unit.runs import cell, measurement, run


def test_a_cell_is_compared_with_the_baseline_of_its_own_threads() -> None:
    slow, fast = cell("onnx", (4,), threads=1), cell("onnx", (2,), threads=2)
    ours = cell("onnx-int8", (1,), threads=2)
    assert baseline_cell(run(slow, fast, ours), ours) is fast


def test_without_a_baseline_nothing_is_compared() -> None:
    only = cell("torchscript", (1,))
    found = figures(run(only), only)
    assert found.relative is None
    assert found.drop is None


def test_a_cell_that_was_not_measured_has_no_figures() -> None:
    empty = cell("onnx", status="skipped")
    found = figures(run(empty), empty)
    assert (found.latency, found.load_ms, found.first_ms, found.memory) == (None, None, None, None)


def test_memory_is_the_median_process() -> None:
    measured = cell("onnx", (1,), (1,), (1,))
    memory = figures(run(measured), measured).memory
    assert memory is not None
    assert memory.peak_bytes - memory.baseline_bytes == 60_000_000


def test_agreement_takes_the_same_class_under_two_numberings_for_the_same() -> None:
    theirs, ours = cell("onnx", (1,), correct="1100"), cell("onnx-int8", (1,), correct="1100")
    assert ours.accuracy is not None
    shifted = replace(ours.accuracy, label_offset=1, predictions=tuple(p + 1 for p in ours.accuracy.predictions))
    ours = replace(ours, accuracy=shifted)
    drop = figures(run(theirs, ours), ours).drop
    assert drop is not None
    assert drop.agreement == pytest.approx(1.0)


def test_two_answers_that_are_none_do_not_agree() -> None:
    theirs, ours = cell("onnx", (1,), correct="00"), cell("onnx-int8", (1,), correct="00")
    assert theirs.accuracy is not None
    assert ours.accuracy is not None
    theirs = replace(theirs, accuracy=replace(theirs.accuracy, predictions=(-1, -1)))
    ours = replace(ours, accuracy=replace(ours.accuracy, predictions=(-1, -1)))
    drop = figures(run(theirs, ours), ours).drop
    assert drop is not None
    assert drop.agreement == 0.0


def test_agreement_compares_answers_not_correctness() -> None:
    baseline, ours = cell("onnx", (1,), correct="1100"), cell("onnx-int8", (1,), correct="1010")
    drop = figures(run(baseline, ours), ours).drop
    assert drop is not None
    assert drop.drop_points == pytest.approx(0.0)
    assert drop.agreement == pytest.approx(0.5)
    assert drop.ci[0] < 0 < drop.ci[1]


def test_energy_per_inference_is_what_the_device_took_above_its_idle_power() -> None:
    # 12 J in 2 s at 1 W of idling, by 100 inferences: (12 - 2) / 100 = 100 mJ each.
    turn = Turn(0, 0, (1,) * 90, energy=Energy(12_000_000, 2_000_000_000, 100))
    measured = cell("onnx", measurements=tuple(measurement(number=number, turns=(turn,)) for number in range(3)))
    ledger = tuple(LedgerEntry("local", number, (), (), "RAPL package-0", 1_000_000) for number in range(3))
    found = figures(replace(run(measured), ledger=ledger), measured).energy
    assert found is not None
    assert found.millijoules == pytest.approx(100.0)
    assert found.ci == pytest.approx((100.0, 100.0))
    assert found.method == "RAPL package-0"


def test_energy_that_was_not_metered_is_none() -> None:
    only = cell("onnx", (1,))
    assert figures(run(only), only).energy is None
