"""What a runtime's own profiler says of single inferences: the time of each operator that it executed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional, Tuple


@dataclass(frozen=True)
class GraphNode:
    """One operator as the runtime's graph has it, with the names of the tensors that it reads and writes. `precision`
    is of what it computes in (`fp32`, `int8`), None where that is not told."""

    name: str
    operator: str
    inputs: Tuple[str, ...]
    outputs: Tuple[str, ...]
    precision: Optional[str] = None


@dataclass(frozen=True)
class OperatorTime:
    """One operator as the runtime executes it, after its own fusions.

    `name` is the runtime's own, `operator` the kind (`Conv`, `CONV_2D`). `ns` has one entry for each profiled
    inference, and `started_ns` when it began in each of them, empty where that is not told. `kernel` is what executed
    it, where the runtime tells; `precision` as of a GraphNode. `node` is its place in the graph, None where the
    runtime does not tell it. `module` is the PyTorch module, where the profiler itself knows it.
    """

    name: str
    operator: str
    ns: Tuple[int, ...]
    started_ns: Tuple[int, ...] = ()
    kernel: Optional[str] = None
    precision: Optional[str] = None
    node: Optional[int] = None
    module: Optional[str] = None


@dataclass(frozen=True)
class OperatorTimes:
    """The operators in the order of their execution; `whole_ns` are the same inferences as the clock saw them, and
    `unprofiled_ns` others of the same process without the profiler, so that its own cost is seen. `method` names the
    profiler. `graph` is the one that was executed, or the file's where a delegate replaced parts of it. `notes` are
    what the user should know of this profiler."""

    method: str
    operators: Tuple[OperatorTime, ...]
    whole_ns: Tuple[int, ...]
    unprofiled_ns: Tuple[int, ...] = ()
    graph: Tuple[GraphNode, ...] = ()
    notes: Tuple[str, ...] = ()
