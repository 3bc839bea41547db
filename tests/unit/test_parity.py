"""Parity of outputs, by hand calculation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from edgebench.exporters.parity import compare, judge
from edgebench.types import Parity


def _outputs(*rows: list[float]) -> list[list[NDArray[np.float32]]]:
    return [[np.array([row], dtype=np.float32)] for row in rows]


def test_error_sqnr_and_agreement_are_those_of_the_definition() -> None:
    parity = compare(_outputs([3, 4], [0, 1]), _outputs([3, 4.5], [2, 1]), inputs="calibration")
    # Errors 0, 0.5, 2, 0; signal 9 + 16 + 1 = 26; noise 0.25 + 4 = 4.25; the second row's class changes.
    assert parity.max_abs_error == pytest.approx(2.0)
    assert parity.relative_error == pytest.approx(2.0 / 4.0)
    assert parity.sqnr_db == pytest.approx(10 * math.log10(26 / 4.25))
    assert parity.top1_agreement == pytest.approx(0.5)
    assert parity.samples == 2


def test_identical_outputs_have_no_finite_sqnr_and_no_error() -> None:
    parity = compare(_outputs([1, 2]), _outputs([1, 2]), inputs="random")
    assert parity.max_abs_error == 0
    assert parity.sqnr_db is None
    assert judge(parity, precision="fp32", atol=0, rtol=0) is None


def test_the_worst_of_several_outputs_counts() -> None:
    small, large = np.array([[1.0, 2.0]], np.float32), np.array([[100.0, 0.0]], np.float32)
    parity = compare([[large, small]], [[large, small + 0.5]], inputs="random")
    assert parity.relative_error == pytest.approx(0.25)


def test_a_nan_that_the_parent_does_not_have_fails() -> None:
    parity = compare(_outputs([1, 2]), _outputs([1, math.nan]), inputs="calibration")
    assert judge(parity, precision="fp32", atol=1.0, rtol=1.0) is not None


def test_nan_where_the_parent_has_it_too_is_agreement() -> None:
    parity = compare(_outputs([1, math.nan]), _outputs([1, math.nan]), inputs="calibration")
    assert parity.max_abs_error == 0


def test_outputs_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match="shapes"):
        compare(_outputs([1, 2]), _outputs([1, 2, 3]), inputs="random")


def test_boxes_have_no_top1() -> None:
    boxes = [[np.zeros((1, 100, 4), np.float32)]]
    assert compare(boxes, boxes, inputs="calibration").top1_agreement is None


def _parity(error: float, relative: float, sqnr: float | None, agreement: float | None) -> Parity:
    return Parity("calibration", 10, error, relative, sqnr, agreement)


@pytest.mark.parametrize(
    ("parity", "precision", "fails"),
    [
        (_parity(0.001, 0.0001, 80, 1.0), "fp32", False),
        (_parity(0.1, 0.01, 40, 1.0), "fp32", True),
        (_parity(0.1, 0.01, 40, 1.0), "int8", False),
        (_parity(5.0, 0.5, 6, 0.49), "int8", True),
        (_parity(5.0, 0.5, 48, 0.0), "int8", False),
        (_parity(5.0, 0.5, 6, None), "int8", False),
        (_parity(5.0, 0.9, 1, None), "int8", True),
    ],
)
def test_float_is_judged_by_error_and_int8_by_agreement(parity: Parity, precision: str, fails: bool) -> None:
    assert (judge(parity, precision=precision, atol=1e-5, rtol=1e-3) is not None) is fails
