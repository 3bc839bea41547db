"""Parity of outputs, by hand calculation."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgebench.agent.codec import encode
from edgebench.exporters.parity import Comparison, OutputParity, compare, judge, remarks
from edgebench.types import Tolerance

STRICT = Tolerance(0.0, 0.0)
LOOSE = Tolerance(1.0, 1.0)


def _outputs(*rows: list[float]) -> list[list[NDArray[Any]]]:
    return [[np.array([row], dtype=np.float32)] for row in rows]


def test_error_sqnr_and_agreement_are_those_of_the_definition() -> None:
    found = compare(_outputs([3, 4], [0, 1]), _outputs([3, 4.5], [2, 1]))
    parity = found.parity(inputs="calibration", samples=2)
    # Errors 0, 0.5, 2, 0; signal 9 + 16 + 1 = 26; noise 0.25 + 4 = 4.25; the second row's class changes.
    assert parity.max_abs_error == pytest.approx(2.0)
    assert parity.relative_error == pytest.approx(2.0 / 4.0)
    assert parity.sqnr_db == pytest.approx(10 * math.log10(26 / 4.25))
    assert parity.top1_agreement == pytest.approx(0.5)


def test_identical_outputs_have_no_finite_sqnr_and_no_error() -> None:
    found = compare(_outputs([1, 2]), _outputs([1, 2]))
    assert found.parity(inputs="random", samples=1).max_abs_error == 0
    assert found.parity(inputs="random", samples=1).sqnr_db is None
    assert judge(found, lossy=False, tolerance=STRICT) is None


def test_each_output_has_a_tolerance_of_its_own() -> None:
    parents, children = [[np.full((1, 4, 1), 1000.0)]], [[np.full((1, 4, 1), 1000.5)]]
    zeros, tiny = np.zeros((1, 4, 1)), np.full((1, 4, 1), 1e-7)
    found = compare([[parents[0][0], zeros]], [[children[0][0], tiny]])
    # 0.5 of 1000 is within 1e-3 of it, 1e-7 of nothing is within 1e-5.
    assert judge(found, lossy=False, tolerance=Tolerance(1e-5, 1e-3)) is None
    assert "output 0" in (judge(found, lossy=False, tolerance=Tolerance(1e-5, 1e-4)) or "")
    assert "output 1" in (judge(found, lossy=False, tolerance=Tolerance(1e-8, 1e-3)) or "")


def test_small_outputs_cannot_hide_behind_the_absolute_tolerance() -> None:
    found = compare(_outputs([1e-9, 2e-9]), _outputs([2e-9, 1e-9]))
    assert "small" in (judge(found, lossy=False, tolerance=Tolerance()) or "")
    rounded = compare(_outputs([1e-9, 2e-9]), _outputs([1e-9, 2.0000002e-9]))
    assert judge(rounded, lossy=False, tolerance=Tolerance()) is None


@pytest.mark.parametrize("lossy", [False, True])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_and_should_be_fails_in_any_output(value: float, lossy: bool) -> None:
    good = np.array([[1.0, 2.0]])
    found = compare([[good, good]], [[good, np.array([[1.0, value]])]])
    assert "not finite" in (judge(found, lossy=lossy, tolerance=LOOSE) or "")
    json.dumps(encode(found.parity(inputs="calibration", samples=1)), allow_nan=False)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_where_the_parent_is_not_finite_either_it_is_agreement(value: float) -> None:
    found = compare(_outputs([1, value]), _outputs([1, value]))
    assert judge(found, lossy=False, tolerance=STRICT) is None


@pytest.mark.parametrize(
    ("parents", "children", "message"),
    [
        (_outputs([1, 2]), _outputs([1, 2, 3]), r"float32 \[1, 3\], its parent's are float32 \[1, 2\]"),
        (_outputs([1, 2]), [[np.array([[1, 2]])]], "int64"),
        (_outputs([1, 2]), [[*_outputs([1, 2])[0], *_outputs([1, 2])[0]]], "its outputs are"),
        ([[np.zeros((1, 0), np.float32)]], [[np.zeros((1, 0), np.float32)]], "every output is empty"),
        (_outputs([math.nan, math.nan]), _outputs([math.nan, math.nan]), "nothing finite"),
    ],
)
def test_what_cannot_be_compared_is_refused(parents: Any, children: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compare(parents, children)


def test_boxes_have_no_top1() -> None:
    boxes = [[np.ones((1, 100, 4), np.float32)]]
    assert compare(boxes, boxes).agreement is None


def _comparison(sqnr_db: float | None, agreement: float | None, classes: int | None = 10) -> Comparison:
    return Comparison((OutputParity(1.0, 10.0, sqnr_db),), agreement, classes)


@pytest.mark.parametrize(
    ("comparison", "fails"),
    [
        (_comparison(40, 1.0), False),
        (_comparison(6, 0.60), False),
        (_comparison(6, 0.50), True),  # of ten classes: halfway between 10 % and always is 55 %
        (_comparison(6, 0.50, classes=2), True),  # a constant answer
        (_comparison(48, 0.0), False),  # tied classes
        (_comparison(6, None, classes=None), False),
        (_comparison(1, None, classes=None), True),
        (Comparison((OutputParity(0.1, 10, 40), OutputParity(5, 5, 0)), 1.0, 10), True),  # the boxes are noise
    ],
)
def test_int8_is_judged_by_agreement_and_by_noise_where_there_are_no_classes(
    comparison: Comparison, fails: bool
) -> None:
    assert (judge(comparison, lossy=True, tolerance=STRICT) is not None) is fails


def test_a_low_agreement_that_passes_is_remarked_on() -> None:
    assert remarks(_comparison(15, 0.95)) == ()
    assert "84%" in remarks(_comparison(15, 0.84))[0]
