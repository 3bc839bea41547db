"""TFLite's operators by LiteRT's profiler, those within the XNNPACK delegate included.

XNNPACK names its kernel and not the operator that it stands for, nor when it began; so the file's graph comes along,
for the host to find the operator by the order of both. The inferences without the profiler are the interpreter's, which
is what `bench` measures.
"""

from __future__ import annotations

import re
from typing import Any, Dict, List, Optional, Sequence, Tuple

from ..feeds import read_feeds
from ..operator_times import GraphNode, OperatorTime, OperatorTimes
from ..wire import Job
from . import take_turns
from .litert_c import BUILT_IN, DELEGATED, WHOLE, CompiledModel, ProfilerEvent

_NS = 1000
_IN_A_KERNELS_NAME = re.compile(r"\b(?:(Q[A-Z]8|QC4)|(F32)|(F16)|(BF16))")
_PRECISIONS = ("int8", "fp32", "fp16", "bf16")
_DTYPES = {"int8": "int8", "uint8": "int8", "int16": "int16", "float32": "fp32", "float16": "fp16"}


def profile(job: Job, runtime: Any) -> OperatorTimes:
    """One interpreter, and the compiled model of the same file that is profiled."""
    session = runtime.open_session(job.artifact, job.threads)
    feeds = [session.adapt(runtime.prepare(feed)) for feed in read_feeds(job.feeds)]
    raw = {id(feed): [array.tobytes() for _, array in feed] for feed in feeds}
    compiled = CompiledModel(job.artifact, job.threads)
    lengths = [len(data) for data in raw[id(feeds[0])]]
    if compiled.input_bytes() != lengths:
        raise ValueError("the profiled model's inputs have %s bytes, not %s" % (compiled.input_bytes(), lengths))
    unprofiled_ns, whole_ns = take_turns(session.run, lambda feed: compiled.run(raw[id(feed)]), feeds, job.runs)
    return OperatorTimes(
        method="LiteRT's profiler, in steps of 1 µs",
        operators=tuple(operators_of(compiled.events(), job.runs)),
        whole_ns=tuple(whole_ns),
        unprofiled_ns=tuple(unprofiled_ns),
        graph=tuple(_graph(runtime.open_interpreter(job.artifact, 1, delegates=False))),
        notes=(
            "profiled with LiteRT's C library, as its Python interpreter has no profiler; "
            "the inferences without the profiler are the interpreter's",
        ),
    )


def operators_of(events: Sequence[ProfilerEvent], runs: int) -> List[OperatorTime]:
    """The operators of the last `runs` inferences.

    Raises:
        ValueError: the inferences executed different operators.
    """
    inferences: List[List[ProfilerEvent]] = []
    starts: List[int] = []
    for event in events:
        if event.kind == WHOLE and event.tag == "Invoke":
            inferences.append([])
            starts.append(event.started_us)
        # Operators of other graphs are within one of the first.
        elif inferences and (event.kind == DELEGATED or (event.kind == BUILT_IN and event.graph == 0)):
            inferences[-1].append(event)
    inferences, starts = inferences[-runs:], starts[-runs:]
    if len({tuple((event.tag, event.number) for event in inference) for inference in inferences}) != 1:
        raise ValueError("the profiled inferences executed different operators")
    found = []
    for same in zip(*inferences):
        first, built_in = same[0], same[0].kind == BUILT_IN
        found.append(
            OperatorTime(
                name="%s %d" % (first.tag, first.number),
                operator=first.tag if built_in else first.tag.partition(" (")[0],
                ns=tuple(event.length_us * _NS for event in same),
                started_ns=tuple((event.started_us - start) * _NS for event, start in zip(same, starts))
                if built_in
                else (),
                kernel="built-in" if built_in else "XNNPACK %s" % first.tag,
                precision=None if built_in else precision_of(first.tag),
                node=first.number if built_in else None,
            )
        )
    return found


def precision_of(kernel: str) -> Optional[str]:
    """As in `Convolution (NHWC, QC8) IGEMM`; None where XNNPACK's name does not tell."""
    found = _IN_A_KERNELS_NAME.search(kernel)
    return None if found is None else next(name for name, part in zip(_PRECISIONS, found.groups()) if part)


def _graph(interpreter: Any) -> List[GraphNode]:
    tensors: Dict[int, Dict[str, Any]] = {tensor["index"]: tensor for tensor in interpreter.get_tensor_details()}

    def named(indices: Sequence[int]) -> Tuple[str, ...]:
        return tuple(tensors[index]["name"] for index in indices if index in tensors)

    def precision(indices: Sequence[int]) -> Optional[str]:
        kinds = (tensors[index]["dtype"].__name__ for index in indices if index in tensors)
        return next((_DTYPES[kind] for kind in kinds if kind in _DTYPES), None)

    return [
        GraphNode(
            str(node["index"]),
            node["op_name"],
            named(node["inputs"]),
            named(node["outputs"]),
            precision(node["outputs"]),
        )
        for node in interpreter._get_ops_details()
    ]
