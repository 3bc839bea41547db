"""Measures the jobs of a round in alternation: all are loaded, one runs, and the others are stopped.

A loaded runtime that waits is not silent: its thread pool spins for work and takes the CPUs from the one that runs.
SIGSTOP silences it whatever it is, and after SIGCONT it runs as its user runs it, which no setting of a runtime gives.
So drift of the machine falls on all alike, turn by turn, and figures made of pairs within a lap do not see it.
"""

from __future__ import annotations

import random
import time
from dataclasses import replace
from typing import Any, Dict, List, Optional, Sequence

from .calm import wait_until_calm
from .codec import decode
from .ledgers.device_tools import enrich
from .probes import energy
from .process import WorkerProcess
from .state import State, read_state
from .wire import WIRE_VERSION, Energy, Measurement, Memory, Round, RoundResult, Turn, WarmUp, Window

# Of the memory that is free at first, this share is left alone while processes are loaded beside each other.
_SPARE_SHARE = 0.25
# The device's state is read this often, between turns.
_STATE_EVERY_NS = 1000000000
# So long the device's idle power is looked at, where it tells.
_IDLE_S = 1.0


def conduct(work: Round, scratch: str) -> RoundResult:
    """Measure all jobs of `work`; `scratch` is what names of files begin with."""
    conductor = _Conductor(work, scratch)
    try:
        conductor.run()
    finally:
        conductor.close()
    return conductor.result()


def _power(meter: energy.EnergyMeter) -> Optional[int]:
    """Microwatts of the device while nothing of ours runs."""
    started = time.monotonic()
    meter.start()
    while time.monotonic() - started < _IDLE_S:
        time.sleep(0.1)
        meter.sample()
    microjoules = meter.stop()
    return None if microjoules is None else round(microjoules / (time.monotonic() - started))


def has_room(available: Sequence[Optional[int]]) -> bool:
    """Whether one more process fits into memory, from what was available before the first and after each of them: as
    large as the largest so far, and a part of what was there at first stays free. None is not told, and trusted."""
    known = [value for value in available if value is not None]
    if len(known) < 2:
        return True
    largest = max(before - after for before, after in zip(known, known[1:]))
    return known[-1] - max(0, largest) >= _SPARE_SHARE * known[0]


class _Part:
    """A job under way: its process, and what it gave so far."""

    def __init__(self, index: int, process: WorkerProcess, measurement: Measurement) -> None:
        self.index = index
        self.process = process
        self.measurement = measurement
        self.timed_ns = 0


class _Conductor:
    def __init__(self, work: Round, scratch: str) -> None:
        self._work = work
        self._scratch = scratch
        self._random = random.Random(work.seed)
        self._processes: List[WorkerProcess] = []
        self._found: Dict[int, Measurement] = {}
        self._notes: List[str] = []
        self._lap = 0
        self._started_ns = time.perf_counter_ns()
        if work.max_wait_s > 0:
            waited = wait_until_calm(cooldown_c=work.cooldown_c, busy_cpus=work.quiet_cpus, limit_s=work.max_wait_s)
            if waited.reason is not None:
                self._notes.append("waited %.1f s; %s" % (waited.seconds, waited.reason))
        self._meter = energy.open_meter()
        self._idle_microwatts = None if self._meter is None else _power(self._meter)
        # The device's tools cost up to half a second: they are asked before and after the round.
        self._states: List[State] = [enrich(read_state())]

    def run(self) -> None:
        waiting = list(range(len(self._work.jobs)))
        self._random.shuffle(waiting)
        while waiting:
            parts = self._load_together(waiting)
            if waiting and parts:
                self._notes.append("memory did not hold all artifacts at once: %d were measured together" % len(parts))
            self._take_turns(parts)
            for part in parts:
                self._sustain(part)
                self._finish(part)
        self._states.append(enrich(read_state()))

    def result(self) -> RoundResult:
        measurements = tuple(self._found[index] for index in range(len(self._work.jobs)))
        return RoundResult(
            WIRE_VERSION,
            measurements,
            tuple(self._states),
            tuple(dict.fromkeys(self._notes)),
            None if self._meter is None else self._meter.method,
            self._idle_microwatts,
        )

    def close(self) -> None:
        for process in self._processes:
            process.close()

    def _load_together(self, waiting: List[int]) -> List[_Part]:
        """Take jobs off `waiting` and load them, until all are or one more might not fit."""
        parts: List[_Part] = []
        available = [read_state().available_bytes]
        while waiting and has_room(available):
            part = self._load(waiting.pop(0))
            if part is not None:
                parts.append(part)
            available.append(read_state().available_bytes)
        return parts

    def _load(self, index: int) -> Optional[_Part]:
        work = self._work
        process = WorkerProcess(work.jobs[index], "%s.%d" % (self._scratch, index))
        self._processes.append(process)
        loaded = process.ask(None, work.timeout_s)
        if loaded is None:
            self._give_up(index, process, None)
            return None
        measurement = decode(Measurement, {"version": WIRE_VERSION, **loaded}, "the worker's answer")
        command = {
            "do": "warm_up",
            "least": work.warmup,
            "limit_s": work.max_warmup_s,
            "longest_s": work.longest_warmup_s,
        }
        warm = process.ask(command, work.longest_warmup_s + work.timeout_s)
        if warm is None:
            self._give_up(index, process, measurement)
            return None
        measurement = replace(measurement, warm_up=decode(WarmUp, warm["warm_up"], "the worker's answer"))
        process.pause()
        return _Part(index, process, measurement)

    def _take_turns(self, parts: Sequence[_Part]) -> None:
        live = list(parts)
        for _ in range(self._work.laps):
            self._random.shuffle(live)
            live = [part for part in live if self._turn(part, alone=len(parts) == 1)]
            self._lap += 1
            if time.perf_counter_ns() - self._states[-1].at_ns > _STATE_EVERY_NS:
                self._states.append(read_state())

    def _turn(self, part: _Part, *, alone: bool) -> bool:
        """Whether it has another one after this."""
        work, process = self._work, part.process
        started_ns = time.perf_counter_ns() - self._started_ns
        meter = self._meter
        if meter is not None:
            meter.start()
        process.resume()
        command = {"do": "turn", "runs": work.turn, "limit_s": work.turn_s}
        answer = process.ask(command, work.timeout_s, (lambda: None) if meter is None else meter.sample)
        if answer is None:
            self._give_up(part.index, process, part.measurement)
            return False
        if not alone:
            process.pause()
        runs = answer.pop("lead_in") + len(answer["samples_ns"])
        turn = decode(Turn, {"lap": self._lap, "started_ns": started_ns, **answer}, "the worker's answer")
        if meter is not None and (microjoules := meter.stop()) is not None:
            span_ns = time.perf_counter_ns() - self._started_ns - started_ns
            turn = replace(turn, energy=Energy(microjoules, span_ns, runs))
        part.measurement = replace(part.measurement, turns=(*part.measurement.turns, turn))
        part.timed_ns += sum(turn.samples_ns)
        return part.timed_ns < work.max_time_s * 1e9

    def _sustain(self, part: _Part) -> None:
        started = time.perf_counter_ns()
        end = started + int(self._work.sustained_s * 1e9)
        while part.index not in self._found and time.perf_counter_ns() < end:
            started_ns = time.perf_counter_ns() - started
            part.process.resume()
            command = {"do": "window", "seconds": self._work.window_s}
            answer = part.process.ask(command, self._work.window_s + self._work.timeout_s)
            if answer is None:
                self._give_up(part.index, part.process, part.measurement)
                return
            state = read_state()
            self._states.append(state)
            window = Window(
                started_ns=started_ns,
                hottest_mc=max(state.temperatures_mc.values(), default=None),
                frequency_khz=min(state.frequency_khz) if state.frequency_khz else None,
                **answer,
            )
            part.measurement = replace(part.measurement, windows=(*part.measurement.windows, window))

    def _finish(self, part: _Part) -> None:
        if part.index in self._found:
            return
        part.process.resume()
        last = part.process.ask({"do": "end"}, self._work.timeout_s)
        if last is None:
            self._give_up(part.index, part.process, part.measurement)
            return
        memory: Any = last["memory"]
        self._found[part.index] = replace(
            part.measurement, memory=None if memory is None else decode(Memory, memory, "the worker's answer")
        )

    def _give_up(self, index: int, process: WorkerProcess, measurement: Optional[Measurement]) -> None:
        """Keep what a process gave before it failed."""
        failure = process.failure
        assert failure is not None
        if measurement is not None:
            failure = replace(measurement, status=failure.status, reason=failure.reason)
        self._found[index] = failure
