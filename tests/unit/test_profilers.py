"""What runtimes' profilers write, as operators."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from edgebench.agent.profilers import onnxruntime as ort
from edgebench.agent.profilers import profile, take_turns, tflite
from edgebench.agent.profilers.litert_c import BUILT_IN, DELEGATED, WHOLE, ProfilerEvent, read_events
from edgebench.agent.profilers.onnx_nodes import OnnxNode, read_nodes
from edgebench.agent.runtimes import Unsupported
from edgebench.agent.wire import WIRE_VERSION, Job


def _field(number: int, data: bytes) -> bytes:
    # Key: field number and wire type 2, then the length; both below 128, so that each is one byte.
    return bytes([number << 3 | 2, len(data)]) + data


def test_nodes_of_an_onnx_file_are_read_without_onnx(tmp_path: Path) -> None:
    # onnx.proto3: NodeProto input 1, output 2, name 3, op_type 4, domain 7, metadata_props 9 (key 1, value 2).
    entry = _field(1, b"k") + _field(2, b"v")
    texts = [(1, b"x"), (1, b"w"), (2, b"y"), (3, b"n"), (4, b"Conv"), (7, b"com.microsoft"), (9, entry)]
    node = b"".join(_field(number, text) for number, text in texts)
    weight = _field(5, b"\x08\x01" * 20)  # GraphProto.initializer
    version = bytes([1 << 3, 0x8A, 0x01])  # ModelProto.ir_version = 138, a varint of two bytes
    path = tmp_path / "m.onnx"
    path.write_bytes(version + _field(7, weight + _field(1, node)))
    assert read_nodes(str(path)) == [OnnxNode("n", "Conv", "com.microsoft", ("x", "w"), ("y",), (("k", "v"),))]


@pytest.mark.parametrize("data", [b"", b"\x3a\x7f\x00", b"\xff" * 12, b"\x3b\x00"])
def test_what_is_no_protobuf_message_is_an_error(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"not a protobuf message|empty"):
        read_nodes(str(path))


def _node_event(name: str, operator: str, ts: int, dur: int, index: int = 0, kind: str = "float") -> dict[str, Any]:
    args = {
        "op_name": operator,
        "node_index": str(index),
        "provider": "CPUExecutionProvider",
        "input_type_shape": [{kind: [1]}],
    }
    return {"cat": "Node", "name": f"{name}_kernel_time", "ts": ts, "dur": dur, "args": args}


def _run_event(ts: int, dur: int) -> dict[str, Any]:
    return {"cat": "Session", "name": "model_run", "ts": ts, "dur": dur, "args": {}}


def _ort_node(name: str, operator: str, domain: str = "") -> OnnxNode:
    return OnnxNode(name, operator, domain, (), (f"{name}_out",), ())


def test_onnxruntimes_events_are_told_apart_by_inference_and_the_warm_up_is_left_out() -> None:
    events = [
        # The warm-up.
        _run_event(0, 50),
        _node_event("a", "Conv", 1, 40),
        _run_event(100, 30),
        _node_event("a", "Conv", 110, 7),
        _node_event("b", "Relu", 118, 2),
        _run_event(200, 30),
        _node_event("a", "Conv", 205, 9),
        _node_event("b", "Relu", 215, 3),
    ]
    nodes = [_ort_node("a", "Conv", "com.microsoft.nchwc"), _ort_node("", "Relu")]
    first, second = ort.operators_of(events, nodes, runs=2)
    assert (first.name, first.ns, first.started_ns) == ("a", (7000, 9000), (10_000, 5_000))
    assert (first.kernel, first.node, first.precision) == ("com.microsoft.nchwc Conv", 0, "fp32")
    assert (second.name, second.ns, second.node) == ("b", (2000, 3000), 1)


def test_what_runs_within_a_loop_is_not_counted_twice() -> None:
    events = [
        _run_event(0, 100),
        _node_event("loop", "Loop", 10, 50, index=0),
        _node_event("body", "Add", 15, 10, index=1),
        _node_event("body", "Add", 30, 10, index=1),
        _node_event("after", "Relu", 70, 5, index=2),
    ]
    found = {item.name: item for item in ort.operators_of(events, [], runs=1)}
    assert found["loop"].ns == (30_000,)
    assert found["body"].ns == (20_000,)
    assert found["body"].started_ns == ()
    assert found["after"].ns == (5_000,)


def test_an_event_that_contradicts_the_graphs_order_is_found_by_its_name_or_stays_without_a_node() -> None:
    events = [_run_event(0, 100), _node_event("b", "Relu", 10, 1), _node_event("c", "Add", 20, 1, index=1)]
    nodes = [_ort_node("a", "Conv"), _ort_node("b", "Relu"), _ort_node("c", "Mul")]
    assert [item.node for item in ort.operators_of(events, nodes, runs=1)] == [1, None]


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        ([{"float": [1]}, {"float": [2]}], "fp32"),
        ([{"uint8": [1]}, {"float": []}, {"int8": [1]}], "int8"),
        ([{"float16": [1]}], "fp16"),
        ([{"int64": [1]}], None),
        ([], None),
    ],
)
def test_an_operators_precision_is_of_what_it_reads(inputs: list[dict[str, Any]], expected: str | None) -> None:
    assert ort.precision_of(inputs) == expected


@pytest.mark.parametrize(
    ("kernel", "expected"),
    [
        ("Convolution (NHWC, F32) IGEMM", "fp32"),
        ("Convolution (NHWC, QC8) IGEMM", "int8"),
        ("Fully Connected (NC, F16) GEMM", "fp16"),
        ("Add (ND)", None),
        ("Transpose (ND, X32) Transpose", None),
    ],
)
def test_xnnpacks_kernels_say_what_they_compute_in(kernel: str, expected: str | None) -> None:
    assert tflite.precision_of(kernel) == expected


def _inference(start: int, lengths: Sequence[int]) -> list[ProfilerEvent]:
    conv, pad = lengths
    return [
        ProfilerEvent("LiteRT::Run[buffer registration]", WHOLE, start - 5, 1, 0, 0),
        ProfilerEvent("Invoke", WHOLE, start, 100, 0, 0),
        ProfilerEvent("Convolution (NHWC, F32) IGEMM", DELEGATED, 0, conv, 4, 0),
        ProfilerEvent("PADV2", BUILT_IN, start + 60, pad, 3, 0),
        # Within a graph of another operator.
        ProfilerEvent("ADD", BUILT_IN, start + 61, 1, 0, 1),
        ProfilerEvent("Invoke", 32, 0, 1 << 32, 0, 0),
    ]


def test_litrts_events_are_told_apart_by_inference() -> None:
    events = [*_inference(10, (9, 9)), *_inference(200, (5, 2)), *_inference(400, (6, 3))]
    conv, pad = tflite.operators_of(events, runs=2)
    assert (conv.operator, conv.ns, conv.started_ns, conv.node) == ("Convolution", (5000, 6000), (), None)
    assert conv.kernel == "XNNPACK Convolution (NHWC, F32) IGEMM"
    assert (pad.operator, pad.ns, pad.started_ns, pad.node) == ("PADV2", (2000, 3000), (60_000, 60_000), 3)


def test_inferences_that_executed_different_operators_are_an_error() -> None:
    events = [*_inference(10, (1, 1)), *_inference(200, (1, 1))[:3]]
    with pytest.raises(ValueError, match="different operators"):
        tflite.operators_of(events, runs=2)


def _packed(tag: ctypes.Array[ctypes.c_char], kind: int, start: int, length: int, number: int) -> bytes:
    # litert_profiler_event.h: tag, event_type, start, elapsed, two MemoryUsage of 24 bytes, two numbers, event_source.
    address = ctypes.addressof(tag)
    return struct.pack("<QixxxxQQ48xQQixxxx", address, kind, start, length, number, 0, 0)


def test_litrts_structures_are_read() -> None:
    tag = ctypes.create_string_buffer(b"PADV2")
    raw = (_packed(tag, BUILT_IN, 7, 3, 5) * 2).ljust(2 * 2 * 104, b"\xa5")
    assert read_events(raw, 2) == [ProfilerEvent("PADV2", BUILT_IN, 7, 3, 5, 0)] * 2


@pytest.mark.parametrize(
    "changed",
    [lambda raw: raw + b"\x01" * 16, lambda raw: raw[:90], lambda raw: raw[:8] + b"\x03" + raw[9:]],
    ids=["longer", "shorter", "an unknown type"],
)
def test_structures_of_another_layout_are_refused(changed: Callable[[bytes], bytes]) -> None:
    tag = ctypes.create_string_buffer(b"PADV2")
    raw = changed(_packed(tag, BUILT_IN, 7, 3, 5)).ljust(2 * 104, b"\xa5")
    with pytest.raises(Unsupported, match="another layout"):
        read_events(raw, 1)


def test_the_profiled_inferences_lie_between_the_two_halves_of_the_others() -> None:
    calls: list[str] = []
    unprofiled, whole = take_turns(lambda feed: calls.append("plain"), lambda feed: calls.append(feed), ["p"], runs=3)
    assert (len(unprofiled), len(whole)) == (3, 3)
    # Five calls warm up before each part.
    assert calls == ["plain"] * 7 + ["p"] * 8 + ["plain"] * 6


def test_a_runtime_without_a_profiler_says_so() -> None:
    job = Job(version=WIRE_VERSION, kind="profile", artifact="", runtime="null", threads=1, feeds=(), runs=1)
    with pytest.raises(Unsupported, match="reads no profiler of null"):
        profile(job)
