"""The strict codec behind every file that edgebench reads."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgebench.agent.codec import DecodeError, decode, encode
from edgebench.agent.wire import FeedFile, Job, TensorSpec


@dataclass(frozen=True)
class _Inner:
    size: int | tuple[int, int] | None = None
    kind: Literal["a", "b"] = "a"


@dataclass(frozen=True)
class _Outer:
    name: str
    parts: tuple[_Inner, ...] = ()
    ratio: float = 1.0


@given(
    st.builds(
        _Outer,
        name=st.text(),
        parts=st.lists(st.builds(_Inner, size=st.none() | st.integers() | st.tuples(st.integers(), st.integers()))).map(
            tuple
        ),
        ratio=st.floats(allow_nan=False, allow_infinity=False),
    )
)
def test_what_was_encoded_is_decoded_through_json(value: _Outer) -> None:
    assert decode(_Outer, json.loads(json.dumps(encode(value)))) == value


def test_a_job_survives_the_wire() -> None:
    spec = TensorSpec("input", (1, 3, 32, 32), "float32")
    job = Job(1, "measure", "a.onnx", "onnxruntime", 2, (FeedFile(spec, "in.raw", 4),))
    assert decode(Job, json.loads(json.dumps(encode(job)))) == job


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"name": "x", "colour": 1}, "file: unknown key `colour`"),
        ({}, "`name` is missing"),
        ({"name": 3}, "file.name: expected str"),
        ({"name": "x", "parts": [{"kind": "c"}]}, r"file.parts\[0\].kind: 'c' is not one of a, b"),
        ({"name": "x", "parts": [{"size": [1]}]}, "expected 2 values"),
        ({"name": "x", "ratio": True}, "file.ratio: expected float"),
        ([], "expected a table"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_place(value: object, message: str) -> None:
    with pytest.raises(DecodeError, match=message):
        decode(_Outer, value, "file")


def test_a_whole_number_is_taken_for_a_float() -> None:
    assert decode(_Outer, {"name": "x", "ratio": 2}).ratio == 2.0
