"""TFLite at lower precision, from files of which every number is known."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgebench.agent.runtimes import tflite as runtime
from edgebench.source.tflite_file import describe
from tests.unit.tflite_files import dense, floats, subtraction

pytest.importorskip("ai_edge_quantizer", reason="needs ai-edge-quantizer (the extra `tflite`)")

from edgebench.quantize import tflite
from edgebench.quantize.statistics import BINS, Kept, Statistics

Feeds = Callable[[], Iterable[dict[str, Any]]]


def _feeds(*rows: tuple[float, float, float, float]) -> Feeds:
    return lambda: ({"x": np.array([row], np.float32)} for row in rows)


# y = (x0 + 1, x1, x3): x is in -3..7 and y in -3..6.
ROWS = _feeds((1, 2, 7, 4), (-3, -3, 0, 5), (5, 0, 0, 0))


def _extremes(found: Statistics) -> dict[str, tuple[float, float]]:
    return {name: (item.low, item.high) for name, item in found.tensors.items()}


def _quantize(
    path: Path, out: Path, *, method: str = "minmax", feeds: Feeds = ROWS, integer_io: bool = False
) -> tuple[str, ...]:
    kept = Kept(path.with_name("kept.npz"), "these rows")
    return tflite.quantize(path, out, feeds, {"method": method, "percentile": 75.0}, kept, integer_io=integer_io)


def _answer(path: Path, *row: float) -> list[float]:
    session = runtime.open_session(str(path), 1)
    found: list[float] = floats(session, session.run(session.adapt({"x": np.array([row], np.float32)})))[0][0].tolist()
    return found


def test_ranges_hold_the_extremes_of_all_inputs_in_any_order(tmp_path: Path) -> None:
    path = dense(tmp_path / "dense.tflite")
    expected = {"x": (-3, 7), "y": (-3, 6)}
    assert _extremes(tflite.collect(path, ROWS())) == expected
    assert _extremes(tflite.collect(path, reversed(list(ROWS())))) == expected


def test_the_statistics_count_every_value_of_a_small_tensor(tmp_path: Path) -> None:
    found = tflite.collect(dense(tmp_path / "dense.tflite"), ROWS())
    values = [1, 2, 7, 4, -3, -3, 0, 5, 5, 0, 0, 0]
    item = found.tensors["x"]
    edges = np.arange(-BINS, BINS + 1) * item.bin_width
    np.testing.assert_array_equal(item.counts, np.histogram(values, edges)[0])
    assert found.inputs == 3


def test_a_value_that_is_no_number_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the tensor x values from nan"):
        tflite.collect(dense(tmp_path / "dense.tflite"), _feeds((1, 2, 7, 4), (np.nan, 0, 0, 0), (0, 0, 0, 0))())


def test_an_infinity_is_left_out_of_a_range(tmp_path: Path) -> None:
    right = np.array([[1, 2]], np.float32)
    feeds = [{"left": np.array([left], np.float32), "right": right} for left in ((0, -np.inf), (np.inf, 3))]
    found = tflite.collect(subtraction(tmp_path / "sub.tflite"), feeds)
    assert _extremes(found) == {"left": (0, 3), "right": (1, 2), "difference": (-1, 1)}
    # One of the two on the left is finite each time.
    assert found.tensors["left"].counts.sum() == 2


@pytest.mark.parametrize("feeds", [_feeds(), _feeds((0, np.nan, 0, 0))], ids=["no inputs", "no number"])
def test_inputs_that_give_no_range_are_refused(feeds: Feeds, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"the calibration inputs give|no calibration inputs"):
        tflite.collect(dense(tmp_path / "dense.tflite"), feeds())


def test_int8_has_the_scales_of_the_ranges(tmp_path: Path) -> None:
    notes = _quantize(dense(tmp_path / "dense.tflite"), tmp_path / "int8.tflite", integer_io=True)
    found = describe(tmp_path / "int8.tflite")
    # 255 steps from -3 to 7: -3 is -128, so 0 is -128 + 3 * 25.5 = -51.5, which rounds to the even -52.
    assert found.inputs[0].scales[0] == pytest.approx(10 / 255)
    assert found.inputs[0].zero_points[0] in (-52, -51)
    # From -3 to 6: 0 is -128 + 3 * 255 / 9 = -43.
    assert found.outputs[0].scales[0] == pytest.approx(9 / 255)
    assert found.outputs[0].zero_points == (-43,)
    assert {item.dtype for item in (*found.inputs, *found.outputs)} == {"int8"}
    assert notes == (
        "int8 activations, int8 weights per channel, all operators",
        "ranges by minmax over 3 inputs; their statistics are in kept.npz",
    )
    # Within a step of the input and one of the output.
    np.testing.assert_allclose(_answer(tmp_path / "int8.tflite", 1, 2, 7, 4), [2, 2, 4], atol=(10 + 9) / 255)


def test_int8_with_float_ends_converts_them_itself(tmp_path: Path) -> None:
    _quantize(dense(tmp_path / "dense.tflite"), tmp_path / "int8.tflite", integer_io=False)
    found = describe(tmp_path / "int8.tflite")
    assert {item.dtype for item in (*found.inputs, *found.outputs)} == {"float32"}
    assert found.kinds == {"QUANTIZE": 1, "FULLY_CONNECTED": 1, "DEQUANTIZE": 1}
    assert found.precision == "int8"


def test_another_method_takes_the_statistics_and_runs_no_input(tmp_path: Path) -> None:
    path = dense(tmp_path / "dense.tflite")
    _quantize(path, tmp_path / "int8.tflite")
    notes = _quantize(
        path, tmp_path / "other.tflite", method="percentile", integer_io=True, feeds=lambda: pytest.fail("it ran one")
    )
    assert notes[1] == "ranges by percentile, from the statistics in kept.npz, which were not collected again"
    # An eighth of the 12 values of x is left out at each end, the outermost one: -3 is there twice, then comes 5.
    # Bins are 1/256 wide.
    (scale,) = describe(tmp_path / "other.tflite").inputs[0].scales
    assert scale == pytest.approx((5 + 1 / 256 + 3) / 255)


def test_dynamic_weights_have_a_scale_per_row_and_activations_none(tmp_path: Path) -> None:
    tflite.write_dynamic(dense(tmp_path / "dense.tflite"), tmp_path / "dynamic.tflite")
    found = describe(tmp_path / "dynamic.tflite")
    (only,) = found.operators
    assert only.inputs[1] is not None
    assert (only.inputs[1].dtype, len(only.inputs[1].scales)) == ("int8", 3)
    assert found.precision == "int8-dynamic"
    # The largest of |x| is 7, in 127 steps.
    np.testing.assert_allclose(_answer(tmp_path / "dynamic.tflite", 1, 2, 7, 4), [2, 2, 4], atol=7 / 127)


def test_an_old_runtime_that_would_answer_wrongly_is_told_so_by_the_version(tmp_path: Path) -> None:
    from ai_edge_litert import schema_py_generated as schema

    tflite.write_dynamic(dense(tmp_path / "dense.tflite"), tmp_path / "dynamic.tflite")
    model = schema.Model.GetRootAs((tmp_path / "dynamic.tflite").read_bytes(), 0)
    # tensorflow/lite/tools/versioning/op_version.cc: float inputs with int8 weights per channel are version 12.
    # tflite-runtime 2.14 takes the first scale for all of them where the file says 5.
    assert model.OperatorCodes(0).Version() >= 12


def test_float16_weights_are_half_as_large_and_compute_in_float(tmp_path: Path) -> None:
    tflite.write_fp16(dense(tmp_path / "dense.tflite"), tmp_path / "fp16.tflite")
    found = describe(tmp_path / "fp16.tflite")
    assert found.precision == "fp16"
    assert found.kinds["FULLY_CONNECTED"] == 1
    # Weights of 0 and 1 lose nothing.
    assert _answer(tmp_path / "fp16.tflite", 1, 2, 7, 4) == [2, 2, 4]


def test_nothing_is_printed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    _quantize(dense(tmp_path / "dense.tflite"), tmp_path / "int8.tflite", integer_io=False)
    tflite.write_dynamic(tmp_path / "dense.tflite", tmp_path / "dynamic.tflite")
    assert capfd.readouterr().out == ""
