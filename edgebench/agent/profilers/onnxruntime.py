"""ONNX Runtime's own profiler: a JSON file of events, one for each node and inference, in microseconds.

Its names are those of the graph after ONNX Runtime's optimisations, which the session writes to a file as well. The
n-th node of that file is the n-th that is executed; where an event contradicts that, it stays without a node.
"""

from __future__ import annotations

import json
import os
import tempfile
from bisect import bisect_right
from typing import Any, Dict, List, Optional, Sequence, Tuple

from ..feeds import read_feeds
from ..operator_times import GraphNode, OperatorTime, OperatorTimes
from ..wire import Job
from . import take_turns
from .onnx_nodes import OnnxNode, read_nodes

_SUFFIX = "_kernel_time"
_NS = 1000
# Their events contain those of the graphs within them.
_CONTROL_FLOW = ("If", "Loop", "Scan")
_EIGHT_BITS = {"int8", "uint8"}
_FLOATS = {"float": "fp32", "float16": "fp16", "double": "fp64", "bfloat16": "bf16"}

Event = Dict[str, Any]


def profile(job: Job, runtime: Any) -> OperatorTimes:
    """Two sessions of one file, of which the second profiles."""
    import onnxruntime

    feeds = [runtime.prepare(feed) for feed in read_feeds(job.feeds)]
    with tempfile.TemporaryDirectory() as scratch:
        plain = onnxruntime.InferenceSession(
            job.artifact, runtime.options_for(job.artifact, job.threads), providers=[runtime.PROVIDER]
        )
        options = runtime.options_for(job.artifact, job.threads)
        options.enable_profiling = True
        options.profile_file_prefix = os.path.join(scratch, "profile")
        optimised = os.path.join(scratch, "optimised.onnx")
        options.optimized_model_filepath = optimised
        profiled = onnxruntime.InferenceSession(job.artifact, options, providers=[runtime.PROVIDER])
        unprofiled_ns, whole_ns = take_turns(
            lambda feed: plain.run(None, feed), lambda feed: profiled.run(None, feed), feeds, job.runs
        )
        with open(profiled.end_profiling(), encoding="utf-8") as file:
            events: List[Event] = json.load(file)
        nodes = read_nodes(optimised)
    return OperatorTimes(
        method="onnxruntime's profiler, in steps of 1 µs",
        operators=tuple(operators_of(events, nodes, job.runs)),
        whole_ns=tuple(whole_ns),
        unprofiled_ns=tuple(unprofiled_ns),
        graph=tuple(GraphNode(node.name, node.operator, node.inputs, node.outputs, None) for node in nodes),
    )


def operators_of(events: Sequence[Event], nodes: Sequence[OnnxNode], runs: int) -> List[OperatorTime]:
    """The operators of the last `runs` inferences in `events`, in the order of the last one. An operator of a graph
    within another has its own time, and the outer one what is left."""
    spans = sorted((event["ts"], event["dur"]) for event in events if event["name"] == "model_run")[-runs:]
    starts = [start for start, _ in spans]
    inferences: List[List[Event]] = [[] for _ in spans]
    for event in sorted((event for event in events if event["cat"] == "Node"), key=lambda item: item["ts"]):
        number = bisect_right(starts, event["ts"]) - 1
        if number >= 0 and event["name"].endswith(_SUFFIX):
            inferences[number].append(event)
    times: Dict[Tuple[str, str], List[int]] = {}
    begun: Dict[Tuple[str, str], List[int]] = {}
    for number, inference in enumerate(inferences):
        for event, own in zip(inference, _own_times(inference)):
            times.setdefault(_key(event), [0] * len(spans))[number] += own * _NS
            begun.setdefault(_key(event), []).append((event["ts"] - starts[number]) * _NS)
    last = {_key(event): event for event in (inferences[-1] if inferences else [])}
    places = _places(inferences[-1], nodes) if inferences else {}
    found = []
    for key, event in last.items():
        node = places.get(key)
        found.append(
            OperatorTime(
                name=event["name"][: -len(_SUFFIX)],
                operator=event["args"]["op_name"],
                ns=tuple(times[key]),
                # One that runs several times in an inference has no one beginning.
                started_ns=tuple(begun[key]) if len(begun[key]) == len(spans) else (),
                kernel=_kernel(event, None if node is None else nodes[node]),
                precision=precision_of(event["args"].get("input_type_shape", ())),
                node=node,
            )
        )
    return found


def _key(event: Event) -> Tuple[str, str]:
    return event["name"], str(event["args"].get("node_index"))


def _own_times(inference: Sequence[Event]) -> List[int]:
    own = [int(event["dur"]) for event in inference]
    around: List[int] = []
    for number, event in enumerate(inference):
        while around and event["ts"] >= inference[around[-1]]["ts"] + inference[around[-1]]["dur"]:
            around.pop()
        if around:
            own[around[-1]] -= int(event["dur"])
        if event["args"]["op_name"] in _CONTROL_FLOW:
            around.append(number)
    return [max(0, value) for value in own]


def _places(inference: Sequence[Event], nodes: Sequence[OnnxNode]) -> Dict[Tuple[str, str], int]:
    """Of each event its node's number, where the order says so and the names agree; else by names that are unique."""

    def agree(event: Event, node: OnnxNode) -> bool:
        return event["args"]["op_name"] == node.operator and node.name in ("", event["name"][: -len(_SUFFIX)])

    if len(inference) == len(nodes) and all(map(agree, inference, nodes)):
        return {_key(event): number for number, event in enumerate(inference)}
    numbers: Dict[str, Optional[int]] = {}
    for number, node in enumerate(nodes):
        numbers[node.name] = None if node.name in numbers or not node.name else number
    by_name = ((event, numbers.get(event["name"][: -len(_SUFFIX)])) for event in inference)
    return {_key(event): number for event, number in by_name if number is not None and agree(event, nodes[number])}


def _kernel(event: Event, node: Optional[OnnxNode]) -> Optional[str]:
    if node is None:
        return None
    provider = event["args"].get("provider", "")
    return "%s %s" % (node.domain or "ai.onnx", node.operator) + (
        "" if provider == "CPUExecutionProvider" else " (%s)" % provider
    )


def precision_of(inputs: Sequence[Dict[str, Any]]) -> Optional[str]:
    """What an operator with such inputs (`[{"uint8": [1, 64, 56, 56]}, ...]`) computes in: 8 bits where one of them
    is, whose scales are float beside it; None where it computes no such numbers, as with shapes."""
    kinds = [kind for entry in inputs for kind in entry]
    if _EIGHT_BITS & set(kinds):
        return "int8"
    return next((_FLOATS[kind] for kind in kinds if kind in _FLOATS), None)
