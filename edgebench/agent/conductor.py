"""Measures the jobs of a round in alternation: all are loaded, one runs, and the others are stopped.

A loaded runtime that waits is not silent: its thread pool spins for work and takes the CPUs from the one that runs.
SIGSTOP silences it whatever it is, and after SIGCONT it runs as its user runs it, which no setting of a runtime gives.
So drift of the machine falls on all alike, turn by turn, and figures made of pairs within a lap do not see it.
"""

from __future__ import annotations

import os
import random
import time
from dataclasses import replace
from typing import Any, Dict, List, Optional, Sequence

from .calm import wait_until_calm
from .codec import decode
from .ledgers.device_tools import enrich
from .probes import energy, gpu_energy, nvml
from .process import WorkerProcess
from .runtimes import on_gpu
from .state import State, read_state
from .visible_gpu import open_visible_gpu
from .wire import WIRE_VERSION, Energy, Measurement, Memory, Parts, Round, RoundResult, Turn, WarmUp, Window

# Of the memory that is free at first, this share is left alone while processes are loaded beside each other.
_SPARE_SHARE = 0.25
# The device's state is read this often, between turns.
_STATE_EVERY_NS = 1000000000
# So long the device's idle power is looked at, where it tells; a card's for this many of its meter's least spans.
_IDLE_S = 1.0
_GPU_IDLE_SPANS = 1.5
# Inferences on a GPU whose copies and computation are told apart.
_PARTS_RUNS = 20
_NVML_MEMORY = "the driver's list of processes (NVML), with the CUDA context"


def conduct(work: Round, scratch: str, *, nvml_library: str = nvml.LIBRARY) -> RoundResult:
    """Measure all jobs of `work`; `scratch` is what names of files begin with."""
    conductor = _Conductor(work, scratch, nvml_library)
    try:
        conductor.run()
    finally:
        conductor.close()
    return conductor.result()


def _power(meter: energy.EnergyMeter) -> Optional[int]:
    """Microwatts of the device while nothing of ours runs."""
    seconds = _IDLE_S
    if isinstance(meter, gpu_energy.NvmlEnergyMeter):
        seconds = _GPU_IDLE_SPANS * meter.shortest_ns / 1e9
    started = time.monotonic()
    meter.start()
    while time.monotonic() - started < seconds:
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
    def __init__(self, work: Round, scratch: str, nvml_library: str) -> None:
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
        self._on_gpu = [on_gpu(job.runtime) for job in work.jobs]
        self._nvml_library = nvml_library
        self._gpu: Optional[nvml.Gpu] = None
        self._no_gpu = ""
        if any(self._on_gpu):
            self._gpu, self._no_gpu = open_visible_gpu(os.environ.get("CUDA_VISIBLE_DEVICES"), library=nvml_library)
        self._meter = self._open_meter()
        self._idle_microwatts = None if self._meter is None else _power(self._meter)
        # The device's tools cost up to half a second: they are asked before and after the round.
        self._states: List[State] = [enrich(self._state())]

    def run(self) -> None:
        waiting = list(range(len(self._work.jobs)))
        self._random.shuffle(waiting)
        while waiting:
            parts = self._load_together(waiting)
            if waiting and parts:
                self._notes.append(
                    "the GPU takes one process at a time (compute mode exclusive), so the artifacts were measured one "
                    "after the other: `sudo nvidia-smi -c DEFAULT` lets them alternate"
                    if self._exclusive()
                    else "memory did not hold all artifacts at once: %d were measured together" % len(parts)
                )
            self._take_turns(parts)
            for part in parts:
                self._sustain(part)
                self._finish(part)
        self._states.append(enrich(self._state()))
        if self._no_gpu:
            self._notes.append("the GPU's state and energy were not read: %s" % self._no_gpu)

    def result(self) -> RoundResult:
        measurements = tuple(self._found[index] for index in range(len(self._work.jobs)))
        return RoundResult(
            WIRE_VERSION,
            measurements,
            tuple(self._states),
            tuple(dict.fromkeys(self._notes)),
            None
            if self._meter is None
            else self._meter.method + (", the GPU board only" if self._metered_gpu() else ""),
            self._idle_microwatts,
        )

    def close(self) -> None:
        for process in self._processes:
            process.close()
        if self._gpu is not None:
            self._gpu.close()

    def _open_meter(self) -> Optional[energy.EnergyMeter]:
        """Of the card where all jobs use it, else of the rest of the machine, which tells nothing of jobs on a card."""
        if self._on_gpu and all(self._on_gpu):
            board = None if self._gpu is None else gpu_energy.open_meter(self._gpu)
            longest_s = max(2 * self._work.turn_s, self._work.window_s if self._work.sustained_s > 0 else 0.0)
            if board is not None and board.shortest_ns > longest_s * 1e9:
                words = "the GPU's energy was not read: %s tells nothing of less than %.0f s"
                self._notes.append(words % (board.method, board.shortest_ns / 1e9))
                return None
            return board
        meter = energy.open_meter()
        if meter is not None and any(self._on_gpu):
            self._notes.append("no energy of GPU jobs beside jobs on the CPU: measure them in a run of their own")
        return meter

    def _metered_gpu(self) -> bool:
        return isinstance(self._meter, gpu_energy.NvmlEnergyMeter)

    def _meter_of(self, part: _Part) -> Optional[energy.EnergyMeter]:
        return self._meter if self._on_gpu[part.index] == self._metered_gpu() else None

    def _state(self) -> State:
        state = read_state()
        return state if self._gpu is None else replace(state, gpu=self._gpu.read())

    def _exclusive(self) -> bool:
        """Whether the card lets one process in at a time."""
        state = self._states[0].gpu
        return state is not None and (state.compute_mode or "").startswith("exclusive")

    def _recognise(self, uuid: Optional[str]) -> None:
        """A runtime says which card it uses: it can be read now, where it was not known before."""
        if self._gpu is None and uuid is not None:
            self._gpu = nvml.open_gpu(uuid=uuid, library=self._nvml_library)
            if self._gpu is not None:
                self._notes.append(
                    "the GPU's energy was not read, and its state only once a runtime had named it: " + self._no_gpu
                )
                self._no_gpu = ""

    def _load_together(self, waiting: List[int]) -> List[_Part]:
        """Take jobs off `waiting` and load them, until all are or one more might not fit."""
        parts: List[_Part] = []
        available = [read_state().available_bytes]
        while waiting and has_room(available) and not (parts and self._exclusive()):
            part = self._load(waiting.pop(0))
            if part is not None:
                parts.append(part)
            available.append(read_state().available_bytes)
        return parts

    def _load(self, index: int) -> Optional[_Part]:
        work = self._work
        if self._exclusive():
            for earlier in self._processes:
                earlier.wait_for_end(work.timeout_s)
        process = WorkerProcess(work.jobs[index], "%s.%d" % (self._scratch, index))
        self._processes.append(process)
        loaded = process.ask(None, work.timeout_s)
        if loaded is None:
            self._give_up(index, process, None)
            return None
        self._recognise(loaded.pop("gpu_uuid", None))
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
                self._states.append(self._state())

    def _turn(self, part: _Part, *, alone: bool) -> bool:
        """Whether it has another one after this."""
        work, process = self._work, part.process
        started_ns = time.perf_counter_ns() - self._started_ns
        meter = self._meter_of(part)
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
            meter = self._meter_of(part)
            if meter is not None:
                meter.start()
            command = {"do": "window", "seconds": self._work.window_s}
            meanwhile = (lambda: None) if meter is None else meter.sample
            answer = part.process.ask(command, self._work.window_s + self._work.timeout_s, meanwhile)
            if answer is None:
                self._give_up(part.index, part.process, part.measurement)
                return
            microjoules = None if meter is None else meter.stop()
            span_ns = time.perf_counter_ns() - started - started_ns
            state = self._state()
            self._states.append(state)
            window = Window(
                started_ns=started_ns,
                hottest_mc=max(state.temperatures_mc.values(), default=None),
                frequency_khz=min(state.frequency_khz) if state.frequency_khz else None,
                energy=None if microjoules is None else Energy(microjoules, span_ns, answer["runs"]),
                **answer,
            )
            part.measurement = replace(part.measurement, windows=(*part.measurement.windows, window))

    def _finish(self, part: _Part) -> None:
        if part.index in self._found:
            return
        part.process.resume()
        if self._on_gpu[part.index] and not self._look_at_gpu(part):
            # Its turns are over and count.
            self._found[part.index] = part.measurement
            return
        last = part.process.ask({"do": "end"}, self._work.timeout_s)
        if last is None:
            self._give_up(part.index, part.process, part.measurement)
            return
        memory: Any = last["memory"]
        # The driver's figure has the CUDA context in it, and is preferred.
        if part.measurement.gpu_memory_bytes is None and last["gpu_memory"] is not None:
            gpu_memory_bytes, method = last["gpu_memory"]
            part.measurement = replace(part.measurement, gpu_memory_bytes=gpu_memory_bytes, gpu_memory_method=method)
        self._found[part.index] = replace(
            part.measurement, memory=None if memory is None else decode(Memory, memory, "the worker's answer")
        )

    def _look_at_gpu(self, part: _Part) -> bool:
        """Memory on the card, and the parts of an inference; whether the process still answers."""
        held = None if self._gpu is None else self._gpu.process_memory(part.process.pid)
        if held is not None:
            part.measurement = replace(part.measurement, gpu_memory_bytes=held, gpu_memory_method=_NVML_MEMORY)
        command = {"do": "parts", "runs": _PARTS_RUNS, "limit_s": self._work.turn_s}
        answer = part.process.ask(command, self._work.timeout_s)
        if answer is not None and answer["parts"] is not None:
            part.measurement = replace(part.measurement, parts=decode(Parts, answer["parts"], "the worker's answer"))
            return True
        failure = part.process.failure
        reason = answer["reason"] if answer is not None else None if failure is None else failure.reason
        runtime = self._work.jobs[part.index].runtime
        self._notes.append("copies and computation of %s were not told apart: %s" % (runtime, reason))
        return answer is not None

    def _give_up(self, index: int, process: WorkerProcess, measurement: Optional[Measurement]) -> None:
        """Keep what a process gave before it failed."""
        failure = process.failure
        assert failure is not None
        if measurement is not None:
            failure = replace(measurement, status=failure.status, reason=failure.reason)
        self._found[index] = failure
