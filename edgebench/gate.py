"""Gates: `p50>5%` fails once it is sure that p50 became more than 5 % worse, and is undecided while it might have."""

from __future__ import annotations

import difflib
import math
import re
from dataclasses import dataclass
from typing import Literal

from edgebench.comparison import METRICS, Change, Pair
from edgebench.errors import UsageError

__all__ = ["Decision", "Gate", "decide", "parse_gates"]

_EXPRESSION = re.compile(r"\s*([A-Za-z0-9_]+)\s*>\s*([0-9]*\.?[0-9]+)\s*(%|pt|points?)\s*")


@dataclass(frozen=True)
class Gate:
    """`metric` may become worse by `limit`: a share, or points of accuracy. `text` is how it was written."""

    metric: str
    limit: float
    text: str

    @property
    def is_timed(self) -> bool:
        """Whether measuring for longer can decide it."""
        return METRICS[self.metric] == "ms" or self.metric == "memory"


@dataclass(frozen=True)
class Decision:
    """What became of a gate for one pair: it "held", "failed", or is "undecided" for `reason`."""

    gate: Gate
    pair: Pair
    outcome: Literal["held", "failed", "undecided"]
    reason: str


def parse_gates(expressions: list[str]) -> tuple[Gate, ...]:
    """Gates from `p50>5%`, or several of them with commas between.

    Raises:
        UsageError: not such an expression, or of an unknown metric.
    """
    return tuple(_parse(part.strip()) for text in expressions for part in text.split(","))


def _parse(text: str) -> Gate:
    hint = "write what may become worse by how much: p50>5%, memory>10%, instructions>0.1%, accuracy>1pt"
    found = _EXPRESSION.fullmatch(text)
    if found is None:
        raise UsageError(f"`{text}` is not a gate", hint=hint)
    metric, limit, unit = found.groups()
    if metric not in METRICS:
        near = difflib.get_close_matches(metric.lower(), METRICS, n=2)
        # Of two that are as near, such as p50 and p95 to p5O, either may be meant.
        meant = f"did you mean {near[0]}? " if len(near) == 1 else ""
        raise UsageError(f"`{text}`: there is no metric `{metric}`", hint=f"{meant}there are: {', '.join(METRICS)}")
    if (unit == "%") == (metric == "accuracy"):
        expected = "points: accuracy>1pt" if metric == "accuracy" else f"percent: {metric}>5%"
        raise UsageError(f"`{text}`: the limit of {metric} is in {expected}", hint=hint)
    return Gate(metric, float(limit) / (100 if unit == "%" else 1), text)


def decide(gate: Gate, pair: Pair) -> Decision:
    """Whether the gate holds for a pair: by the interval of the change, never by the change alone."""
    change = pair.changes[gate.metric]
    if change.worse is None or change.ci is None:
        return Decision(gate, pair, "undecided", change.reason or "not measured")
    low, high = change.ci
    known = _in_words(change)
    if low > gate.limit:
        return Decision(gate, pair, "failed", known)
    if high <= gate.limit:
        return Decision(gate, pair, "held", known)
    remedy = "measure for longer with --max-time" if gate.is_timed else "give more --data"
    return Decision(gate, pair, "undecided", f"{known}, which holds the limit: {remedy}")


def _in_words(change: Change) -> str:
    unit, scale = (" points", 1) if change.metric == "accuracy" else (" %", 100)
    assert change.worse is not None and change.ci is not None
    low, high = change.ci
    if low == high:
        return f"worse by {scale * change.worse:+.2f}{unit}"
    top = "…" if math.isinf(high) else f"{scale * high:+.2f}"
    return f"worse by {scale * change.worse:+.2f} [{scale * low:+.2f}, {top}]{unit}"
