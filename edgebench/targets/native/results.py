"""What a device's shell printed of a round, as states and measurements."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from edgebench.agent.codec import DecodeError, decode
from edgebench.agent.state import State
from edgebench.agent.wire import WIRE_VERSION, Measurement, Turn
from edgebench.targets.native import TOOLS, ToolOutputError
from edgebench.targets.native.shell_state import state_of

__all__ = ["RUNNER", "from_one_start", "of_runner", "of_tool", "taken_apart"]

# edgebench's own, beside the tools of others.
RUNNER = "ort_runner"


def taken_apart(printed: Sequence[tuple[str, str]], cpus: int) -> tuple[tuple[State, ...], dict[str, str]]:
    """The states in their order, and the rest by name."""
    told: list[dict[str, str]] = []
    files: dict[str, str] = {}
    for name, text in printed:
        if name.startswith("state "):
            told.append({})
        elif told and (name.startswith("/") or name.partition(" ")[0] in ("dumpsys", "vcgencmd")):
            told[-1][name] = text
        else:
            files[name] = text
    return tuple(state_of(parts, cpus) for parts in told), files


def of_runner(files: dict[str, str], index: int) -> Measurement:
    text = files.get(f"result{index}.json")
    if text is None:
        code, said = files.get(f"code {index}", "").strip(), files.get(f"err{index}", "").strip()
        if code == "137":
            return _failed("the process was killed, most likely because memory ran out")
        return _failed(f"ort_runner ended with {code or 'nothing'} and no result: {said or 'it printed nothing'}")
    try:
        found = decode(Measurement, _json(text), RUNNER)
    except DecodeError as error:
        return _failed(f"ort_runner gave a result that cannot be read: {error}")
    return replace(found, tool=RUNNER)


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise DecodeError(str(error)) from error


def of_tool(files: dict[str, str], index: int, tool: str) -> Measurement:
    code = files.get(f"code out{index}", "").strip()
    out, err = files.get(f"out{index}", ""), files.get(f"err{index}", "")
    if code != "0":
        lines = (err + out).strip().splitlines() or ["it printed nothing"]
        return _failed(f"{tool} ended with {code}: {lines[-1].strip()}")
    try:
        return replace(TOOLS[tool].parse(out, err), tool=tool, cannot=TOOLS[tool].CANNOT)
    except ToolOutputError as error:
        return _failed(str(error))


def from_one_start(measurements: Sequence[Measurement]) -> tuple[Measurement, ...]:
    """Turns count from the first one of the round, and not from when the device was booted."""
    begun = min((turn.started_ns for item in measurements for turn in item.turns), default=0)

    def moved(turn: Turn) -> Turn:
        return replace(turn, started_ns=turn.started_ns - begun)

    return tuple(replace(item, turns=tuple(map(moved, item.turns))) for item in measurements)


def _failed(reason: str) -> Measurement:
    return Measurement(WIRE_VERSION, "failed", reason)
