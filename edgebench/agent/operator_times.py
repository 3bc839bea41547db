"""What a runtime's own profiler says of single inferences: the time of each operator that it executed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional, Tuple


@dataclass(frozen=True)
class OperatorTime:
    """One operator of the graph as the runtime executes it, after its own fusions.

    `name` is the runtime's own, `operator` the kind (`Conv`, `CONV_2D`). `ns` has one entry for each profiled
    inference. `kernel` is what executed it, where the runtime tells; `precision` of what it computed in (`fp32`,
    `int8`), None where that is not told. `tensors` names the tensors that it writes, by which a name of the source is
    found.
    """

    name: str
    operator: str
    ns: Tuple[int, ...]
    kernel: Optional[str] = None
    precision: Optional[str] = None
    tensors: Tuple[str, ...] = ()


@dataclass(frozen=True)
class OperatorTimes:
    """The operators in the order of their execution; `whole_ns` are the same inferences as the clock saw them, and
    `unprofiled_ns` others of the same process without the profiler, so that its own cost is seen. `method` names it."""

    method: str
    operators: Tuple[OperatorTime, ...]
    whole_ns: Tuple[int, ...]
    unprofiled_ns: Tuple[int, ...] = ()
