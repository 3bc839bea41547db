"""A profile: the time of each operator of one artifact with what it belongs to, and sums of it.

An operator's time is its p50 over the inferences, so that a burst of other work on the machine falls on none of them;
sums and shares are of these, and add up.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from edgebench.agent.operator_times import OperatorTimes
from edgebench.profiling.onnx_modules import INSERTED, Found

__all__ = ["NETWORK", "UNKNOWN", "Operator", "Profile", "Total", "best_depth", "build", "module_at", "totals", "views"]

NETWORK = "(the network itself)"
UNKNOWN = "(unknown)"

# More rows than this are no overview.
_MOST_MODULES = 20
_FLOATS = ("fp64", "fp32", "fp16", "bf16")
_CONVERSIONS = {
    *("QuantizeLinear", "DequantizeLinear", "Cast", "QUANTIZE", "DEQUANTIZE", "CAST", "Convert"),
    *("aten::quantize_per_tensor", "aten::dequantize"),
}
_LAYOUT = {"ReorderInput", "ReorderOutput", "Transpose", "TRANSPOSE"}

Work = Literal["int8", "float", "conversion", "layout", "other"]


@dataclass(frozen=True)
class Operator:
    """An operator that was executed. `kind` is the file's word for it where it is known, else the runtime's; `ns` and
    `started_ns` as of `agent.operator_times.OperatorTime`. `module` is "" for the network itself, None where it is
    unknown; `guessed`: by what is around it. `converted`: it stands between a conversion to float and one back."""

    name: str
    kind: str
    kernel: str | None
    precision: str | None
    module: str | None
    guessed: bool
    converted: bool
    ns: tuple[int, ...]
    started_ns: tuple[int, ...] = ()

    @property
    def p50_ns(self) -> float:
        """Its time in an inference."""
        return statistics.median(self.ns)

    @property
    def work(self) -> Work:
        """What its time is spent on; "other" is what computes no numbers, or does not say which."""
        if self.kind in _CONVERSIONS:
            return "conversion"
        if self.kind in _LAYOUT or self.module == INSERTED:
            return "layout"
        if self.precision in _FLOATS:
            return "float"
        return "int8" if self.precision == "int8" else "other"


@dataclass(frozen=True)
class Profile:
    """What one artifact's inferences spent their time on; `whole_ns` and the rest as of
    `agent.operator_times.OperatorTimes`. `precision` is the artifact's."""

    name: str
    format: str
    precision: str | None
    runtime: str
    runtime_version: str | None
    device: str
    threads: int
    fed_with: str
    method: str
    operators: tuple[Operator, ...]
    whole_ns: tuple[int, ...]
    unprofiled_ns: tuple[int, ...]
    notes: tuple[str, ...] = ()

    @property
    def operators_ns(self) -> float:
        """The time of all operators."""
        return sum(operator.p50_ns for operator in self.operators)

    @property
    def unprofiled_p50_ns(self) -> float:
        """An inference without the profiler; it must have been measured."""
        return statistics.median(self.unprofiled_ns)

    @property
    def accounted(self) -> float:
        """Which share of a profiled inference is spent in operators: the median over the inferences."""
        spent = [sum(single) for single in zip(*(operator.ns for operator in self.operators), strict=True)]
        return statistics.median(ns / whole for ns, whole in zip(spent, self.whole_ns, strict=True)) if spent else 0.0

    @property
    def disturbance(self) -> float:
        """How many times longer the operators took in the median inference than by their own p50s together: 1 on a
        quiet machine, more where bursts of other work fall on other operators each time."""
        return self.accounted * statistics.median(self.whole_ns) / self.operators_ns if self.operators_ns else 1.0

    @property
    def knows_modules(self) -> bool:
        """Whether any operator's module is known."""
        return any(operator.module not in (None, INSERTED) for operator in self.operators)

    @property
    def overhead(self) -> float | None:
        """How many times longer an inference takes with the profiler; None where it was not measured without."""
        return statistics.median(self.whole_ns) / statistics.median(self.unprofiled_ns) if self.unprofiled_ns else None

    def share(self, wanted: Callable[[Operator], bool]) -> float:
        """Of the operators' time that of the wanted ones."""
        return sum(operator.p50_ns for operator in self.operators if wanted(operator)) / (self.operators_ns or 1)


@dataclass(frozen=True)
class Total:
    """Operators taken together: how many they are, their time, and its share of that of all."""

    name: str
    count: int
    p50_ns: float
    share: float


def build(times: OperatorTimes, places: Sequence[int | None], modules: Sequence[Found]) -> tuple[Operator, ...]:
    """The operators with their modules; `places` has their nodes in the graph, `modules` those of its nodes."""
    written_by = {tensor: other.operator for other in times.graph for tensor in other.outputs}
    read_by: dict[str, list[str]] = {}
    for other in times.graph:
        for tensor in other.inputs:
            read_by.setdefault(tensor, []).append(other.operator)
    built = []
    for operator, place in zip(times.operators, places, strict=True):
        node = None if place is None else times.graph[place]
        found = Found(operator.module) if place is None else modules[place]
        built.append(
            Operator(
                name=operator.name,
                kind=operator.operator if node is None else node.operator,
                kernel=operator.kernel,
                precision=operator.precision or (None if node is None else node.precision),
                module=found.module,
                guessed=found.guessed,
                converted=node is not None
                and any(written_by.get(tensor) in _CONVERSIONS for tensor in node.inputs)
                and any(_CONVERSIONS.intersection(read_by.get(tensor, ())) for tensor in node.outputs),
                ns=operator.ns,
                started_ns=operator.started_ns,
            )
        )
    return tuple(built)


def totals(profile: Profile, key: Callable[[Operator], str]) -> list[Total]:
    """The operators of one `key` taken together, the slowest first."""
    groups: dict[str, list[Operator]] = {}
    for operator in profile.operators:
        groups.setdefault(key(operator), []).append(operator)
    times = {name: sum(operator.p50_ns for operator in group) for name, group in groups.items()}
    whole = profile.operators_ns or 1
    found = [Total(name, len(group), times[name], times[name] / whole) for name, group in groups.items()]
    return sorted(found, key=lambda total: -total.p50_ns)


def module_at(operator: Operator, depth: int) -> str:
    """The module's name, cut after `depth` parts."""
    if operator.module is None:
        return UNKNOWN
    return ".".join(operator.module.split(".")[:depth]) if operator.module else NETWORK


def views(depth: int) -> dict[str, Callable[[Operator], str]]:
    """What operators can be summed by; modules are cut to `depth`."""
    return {
        "kind": lambda operator: operator.kind,
        "kernel": lambda operator: operator.kernel or UNKNOWN,
        "module": lambda operator: module_at(operator, depth),
    }


def best_depth(profiles: Iterable[Profile]) -> int:
    """The largest depth that gives an overview."""
    operators = [operator for profile in profiles for operator in profile.operators]
    deepest = max((1 + (operator.module or "").count(".") for operator in operators), default=1)
    for depth in range(deepest, 1, -1):
        if len({module_at(operator, depth) for operator in operators}) <= _MOST_MODULES:
            return depth
    return 1
