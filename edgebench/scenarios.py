"""Scenarios as users write them: `single-stream`, `multi-stream:4`, `offline`, `paced:30`, `end-to-end`."""

from __future__ import annotations

import math

from edgebench.agent.wire import Scenario
from edgebench.errors import UsageError

__all__ = ["parse_scenario", "streams_of"]

_DEFAULT_STREAMS = 4
_HINT = (
    "there are: single-stream, multi-stream:N (N at once), offline (throughput), paced:FPS (frames per second), "
    "end-to-end (preprocessing included)"
)


def parse_scenario(text: str) -> Scenario:
    """The scenario of that name; `multi-stream` alone has four streams.

    Raises:
        UsageError: no such scenario, or a number that does not fit it.
    """
    kind, colon, rest = text.partition(":")
    if kind in ("single-stream", "offline", "end-to-end") and not colon:
        return Scenario(kind)
    if kind == "multi-stream" and (not colon or (rest.isdecimal() and int(rest) > 1)):
        return Scenario(kind, streams=int(rest) if colon else _DEFAULT_STREAMS)
    if kind == "paced":
        try:
            rate = float(rest)
        except ValueError:
            rate = math.nan
        if math.isfinite(rate) and rate > 0:
            return Scenario(kind, period_ns=round(1e9 / rate))
    raise UsageError(f"`{text}` is not a scenario", hint=_HINT)


def streams_of(text: str) -> int:
    """How many inferences one sample of the scenario `text` stands for."""
    return parse_scenario(text).streams
