"""What the device was like while a cell was measured: its ledger and its processes' turns, brought to figures."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

from edgebench.agent.state import State
from edgebench.types import Cell, Run

__all__ = ["Conditions", "conditions"]

T = TypeVar("T")

# /proc/stat counts in ticks of 10 ms: over less than this it says nothing.
_LEAST_WALL_NS = 500_000_000
# The first four of a Raspberry Pi's throttle flags are about now, the next four about since it was booted.
_FLAGS_NOW = 0xF


@dataclass(frozen=True)
class Conditions:
    """Over the cell's rounds; None is what the device does not tell.

    `other_cpus` is how many CPUs other processes used while this one was timed; `waited_share` (0..1) the part of its
    threads' wish to run that they spent waiting for a CPU; `steal_share` the part of the timed wall time, summed over
    CPUs, that the host of a virtual machine took. `hottest_c`: degrees Celsius before, at most, and after.
    `frequency_mhz`: lowest and highest of the slowest CPU during the rounds; `slowed_share` how far the CPUs' mean
    frequency fell from the first to the last state during a round, at worst. `throttle_events` counts those that fell
    into the rounds, `throttle_flags` are a Raspberry Pi's during them, `thermal_status` is Android's highest. `quota_s`
    is for how long a CPU quota held the processes back.
    """

    other_cpus: float | None
    waited_share: float | None
    steal_share: float | None
    hottest_c: tuple[float, float, float] | None
    frequency_mhz: tuple[float, float] | None
    slowed_share: float | None
    governors: tuple[str, ...] | None
    turbo: bool | None
    throttle_events: int | None
    throttle_flags: int | None
    thermal_status: int | None
    quota_s: float | None
    load_1min: tuple[float, float] | None
    available_bytes: int | None
    swap_grew_bytes: int | None
    power: str | None
    affinity: tuple[int, ...] | None
    notes: tuple[str, ...]


def conditions(run: Run, cell: Cell) -> Conditions:
    """The conditions of one cell of `run`."""
    rounds = {item.round for item in cell.measurements}
    entries = [entry for entry in run.ledger if entry.device == cell.device and entry.round in rounds]
    states = [state for entry in entries for state in entry.states]
    spans = [(entry.states[0], entry.states[-1]) for entry in entries if entry.states]
    turns = [turn for item in cell.measurements for turn in item.turns]
    cpu, waited, busy, steal = (
        _total(getattr(turn, name) for turn in turns) for name in ("cpu_ns", "waited_ns", "busy_ns", "steal_ns")
    )
    wall = _total(turn.wall_ns for turn in turns) or 0
    long_enough = wall >= _LEAST_WALL_NS
    flags = [state.throttle_flags for state in states if state.throttle_flags is not None]
    return Conditions(
        other_cpus=max(0.0, (busy - cpu) / wall) if long_enough and busy is not None and cpu is not None else None,
        waited_share=waited / (cpu + waited) if cpu and waited is not None else None,
        steal_share=steal / wall if long_enough and steal is not None else None,
        hottest_c=_hottest(states),
        frequency_mhz=_range(min(state.frequency_khz) / 1000 for state in states if state.frequency_khz),
        slowed_share=max((share for entry in entries if (share := _slowed(entry.states)) is not None), default=None),
        governors=_last(states, lambda state: state.governors),
        turbo=_last(states, lambda state: state.turbo),
        throttle_events=_growth(spans, lambda state: state.throttle_events),
        throttle_flags=_flags_of(flags) if flags else None,
        thermal_status=max(
            (state.thermal_status for state in states if state.thermal_status is not None), default=None
        ),
        quota_s=None if (grew := _growth(spans, lambda state: state.cgroup_throttled_us)) is None else grew / 1e6,
        load_1min=_range(state.load_1min for state in states if state.load_1min is not None),
        available_bytes=min(
            (state.available_bytes for state in states if state.available_bytes is not None), default=None
        ),
        swap_grew_bytes=_growth(spans, lambda state: state.swap_used_bytes),
        power=_last(states, lambda state: state.power),
        affinity=_last(states, lambda state: state.affinity),
        notes=tuple(dict.fromkeys(note for entry in entries for note in entry.notes)),
    )


def _total(values: Iterable[int | None]) -> int | None:
    found = list(values)
    return sum(value for value in found if value is not None) if found and None not in found else None


def _hottest(states: list[State]) -> tuple[float, float, float] | None:
    hottest = [max(state.temperatures_mc.values()) / 1000 for state in states if state.temperatures_mc]
    return (hottest[0], max(hottest), hottest[-1]) if hottest else None


def _range(values: Iterable[float]) -> tuple[float, float] | None:
    found = list(values)
    return (min(found), max(found)) if found else None


def _slowed(states: tuple[State, ...]) -> float | None:
    """From the first to the last state under load; the ones before and after are of an idle machine."""
    means = [sum(state.frequency_khz) / len(state.frequency_khz) for state in states[1:-1] if state.frequency_khz]
    return 1 - means[-1] / means[0] if len(means) > 1 and means[0] else None


def _growth(spans: list[tuple[State, State]], read: Callable[[State], int | None]) -> int | None:
    grown = [(read(before), read(after)) for before, after in spans]
    known = [after - before for before, after in grown if before is not None and after is not None]
    return sum(known) if known else None


def _flags_of(flags: list[int]) -> int:
    """What was so during the rounds, and what became so since boot while they ran."""
    now = new = 0
    for value in flags:
        now |= value & _FLAGS_NOW
        new |= value & ~flags[0]
    return now | new


def _last(states: list[State], read: Callable[[State], T | None]) -> T | None:
    return next((value for state in reversed(states) if (value := read(state)) is not None), None)
