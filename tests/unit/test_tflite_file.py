"""TFLite files read as data; they are written here by the schema, tensor by tensor."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgebench.errors import SourceError
from edgebench.source.tflite_file import TfliteDescription, describe, is_tflite
from edgebench.types import TensorSpec
from tests.unit.tflite_files import dense, int8_dense, model, operator, subtraction, tensor

pytest.importorskip("ai_edge_litert", reason="needs ai-edge-litert (the extra `tflite`)")


def test_inputs_outputs_and_operators_are_told(tmp_path: Path) -> None:
    found = describe(dense(tmp_path / "dense.tflite"))
    assert [item.spec for item in found.inputs] == [TensorSpec("x", (1, 4), "float32")]
    assert [item.spec for item in found.outputs] == [TensorSpec("y", (1, 3), "float32")]
    (only,) = found.operators
    assert only.kind == "FULLY_CONNECTED"
    assert [(item.name, item.constant, item.bytes) for item in only.inputs if item is not None] == [
        ("x", False, 0),
        ("weights", True, 48),  # 3 * 4 floats
        ("bias", True, 12),
    ]
    assert found.parameters == 15
    assert (found.subgraphs, found.kinds, found.precision) == (1, {"FULLY_CONNECTED": 1}, "fp32")


def test_inputs_keep_the_order_of_the_graph_and_not_that_of_its_tensors(tmp_path: Path) -> None:
    path = model(
        tmp_path / "model.tflite",
        [tensor("difference", (1, 2)), tensor("left", (1, 2)), tensor("right", (1, 2))],
        [operator("SUB", (2, 1), (0,))],
        inputs=(2, 1),
        outputs=(0,),
    )
    assert [item.name for item in describe(path).inputs] == ["right", "left"]


def test_a_free_batch_is_told(tmp_path: Path) -> None:
    found = describe(dense(tmp_path / "dense.tflite", free_batch=True))
    assert (found.inputs[0].shape, found.outputs[0].shape) == ((-1, 4), (-1, 3))


def test_scales_and_zero_points_are_told(tmp_path: Path) -> None:
    found = describe(int8_dense(tmp_path / "int8.tflite"))
    assert (found.inputs[0].dtype, found.inputs[0].scales, found.inputs[0].zero_points) == ("int8", (0.5,), (-1,))
    assert (found.outputs[0].scales, found.outputs[0].zero_points) == ((0.5,), (10,))
    assert found.parameters == 15  # int8 weights and the int32 bias


def test_scales_per_channel_are_all_told(tmp_path: Path) -> None:
    path = model(
        tmp_path / "model.tflite",
        [
            tensor("x", (1, 4)),
            tensor("weights", (2, 4), "int8", data=np.ones((2, 4), np.int8), scale=(0.25, 0.5)),
            tensor("y", (1, 2)),
        ],
        [operator("FULLY_CONNECTED", (0, 1, -1), (2,))],
        inputs=(0,),
        outputs=(2,),
    )
    (only,) = describe(path).operators
    assert only.inputs[1] is not None
    assert only.inputs[1].scales == (0.25, 0.5)
    assert only.inputs[2] is None  # the bias is left out
    assert describe(path).precision == "int8-dynamic"


def test_indices_and_shapes_are_no_parameters(tmp_path: Path) -> None:
    path = model(
        tmp_path / "model.tflite",
        [tensor("x", (1, 4)), tensor("shape", (2,), "int32", data=np.array([2, 2], np.int32)), tensor("y", (2, 2))],
        [operator("RESHAPE", (0, 1), (2,))],
        inputs=(0,),
        outputs=(2,),
    )
    assert describe(path).parameters == 0


def test_a_constant_that_two_operators_use_counts_once(tmp_path: Path) -> None:
    weights = tensor("weights", (4, 4), data=np.eye(4, dtype=np.float32))
    path = model(
        tmp_path / "model.tflite",
        [tensor("x", (1, 4)), weights, tensor("between", (1, 4)), tensor("y", (1, 4))],
        [operator("FULLY_CONNECTED", (0, 1, -1), (2,)), operator("FULLY_CONNECTED", (2, 1, -1), (3,))],
        inputs=(0,),
        outputs=(3,),
    )
    assert describe(path).parameters == 16


def test_float16_weights_are_fp16(tmp_path: Path) -> None:
    path = model(
        tmp_path / "model.tflite",
        [
            tensor("x", (1, 4)),
            tensor("halves", (2, 4), "float16", data=np.ones((2, 4), np.float16)),
            tensor("weights", (2, 4)),
            tensor("y", (1, 2)),
        ],
        [operator("DEQUANTIZE", (1,), (2,)), operator("FULLY_CONNECTED", (0, 2, -1), (3,))],
        inputs=(0,),
        outputs=(3,),
    )
    found = describe(path)
    assert (found.precision, found.parameters) == ("fp16", 8)


def test_a_file_that_quantizes_its_float_inputs_itself_is_int8(tmp_path: Path) -> None:
    path = model(
        tmp_path / "model.tflite",
        [
            tensor("x", (1, 4)),
            tensor("q", (1, 4), "int8", scale=0.5),
            tensor("weights", (2, 4), "int8", data=np.ones((2, 4), np.int8), scale=0.25),
            tensor("y", (1, 2), "int8", scale=0.5),
        ],
        [operator("QUANTIZE", (0,), (1,)), operator("FULLY_CONNECTED", (1, 2, -1), (3,))],
        inputs=(0,),
        outputs=(3,),
    )
    assert describe(path).precision == "int8"


def test_precision_is_that_of_most_operators_with_weights(tmp_path: Path) -> None:
    weights = tensor("weights", (4, 4), data=np.eye(4, dtype=np.float32))
    narrow = tensor("narrow", (4, 4), "int8", data=np.eye(4, dtype=np.int8), scale=0.25)
    path = model(
        tmp_path / "model.tflite",
        [tensor("x", (1, 4)), weights, narrow, tensor("a", (1, 4)), tensor("b", (1, 4)), tensor("y", (1, 4))],
        [
            operator("FULLY_CONNECTED", (0, 1, -1), (3,)),
            operator("FULLY_CONNECTED", (3, 1, -1), (4,)),
            operator("FULLY_CONNECTED", (4, 2, -1), (5,)),
        ],
        inputs=(0,),
        outputs=(5,),
    )
    assert describe(path).precision == "fp32"


def test_a_model_without_weights_is_fp32(tmp_path: Path) -> None:
    found = describe(subtraction(tmp_path / "sub.tflite"))
    assert (found.precision, found.parameters) == ("fp32", 0)


def test_a_custom_operator_has_its_own_name(tmp_path: Path) -> None:
    path = model(
        tmp_path / "model.tflite",
        [tensor("x", (1, 4)), tensor("y", (1, 4))],
        [operator("TFLite_Detection_PostProcess", (0,), (1,))],
        inputs=(0,),
        outputs=(1,),
    )
    assert describe(path).kinds == {"TFLite_Detection_PostProcess": 1}


@pytest.mark.parametrize(
    "content", [b"", b"TFL3", b"a text that is no model", b"\x08\x0a\x12\x07pytorch", b"PK\x03\x04" + bytes(40)]
)
def test_what_is_no_tflite_file_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.tflite"
    path.write_bytes(content)
    assert not is_tflite(path)
    with pytest.raises(SourceError, match="is not a TFLite model") as refused:
        describe(path)
    assert refused.value.hint


@pytest.mark.parametrize("length", [8, 12, 20, 64])
def test_a_file_that_is_cut_off_is_damaged(length: int, tmp_path: Path) -> None:
    path = dense(tmp_path / "model.tflite")
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(SourceError, match="damaged") as refused:
        describe(path)
    assert refused.value.hint


def _content(write: object) -> bytes:
    with tempfile.TemporaryDirectory() as name:
        return write(Path(name) / "model.tflite").read_bytes()  # type: ignore[operator, no-any-return]


def _described(content: bytes) -> TfliteDescription | None:
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "model.tflite"
        path.write_bytes(content)
        try:
            return describe(path)
        except SourceError:
            return None


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_whatever_byte_is_changed_the_file_is_read_or_refused(data: st.DataObject) -> None:
    content = bytearray(_content(data.draw(st.sampled_from([dense, int8_dense, subtraction]))))
    places = st.integers(0, len(content) - 1)
    for place, value in data.draw(st.lists(st.tuples(places, st.integers(0, 255)), min_size=1, max_size=4)):
        content[place] = value
    found = _described(bytes(content))
    if found is not None:
        assert found.precision in {"fp32", "fp16", "int8", "int8-dynamic"}
        assert sum(found.kinds.values()) == len(found.operators)


@settings(max_examples=100, deadline=None)
@given(share=st.floats(0, 1, exclude_max=True))
def test_wherever_it_is_cut_off_the_file_is_read_or_refused(share: float) -> None:
    content = _content(int8_dense)
    found = _described(content[: int(share * len(content))])
    assert found is None or found == _described(content)
