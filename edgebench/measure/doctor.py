"""What a device lets edgebench see and hold still, and what edgebench itself adds to a measurement."""

from __future__ import annotations

import importlib
import statistics
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgebench.agent.environment import usable_cpus
from edgebench.agent.instructions import NoCounters, open_counter
from edgebench.agent.probes import energy
from edgebench.agent.runtimes import Unsupported
from edgebench.agent.state import State
from edgebench.agent.under_qemu import prepare
from edgebench.agent.wire import WIRE_VERSION, Job, Round, RoundResult, TensorSpec
from edgebench.measure.jobs import JobRunner
from edgebench.measure.subjects import RUNTIME_OF_FORMAT
from edgebench.types import DeviceProfile

__all__ = ["Finding", "examine"]

_SPEC = TensorSpec("x", (1,), "float32")
_BUSY_CPUS = 0.1
_TOO_SLOW_NS = 2000


@dataclass(frozen=True)
class Finding:
    """One thing looked at: `good` None where it is neither good nor bad. `remedy` says what to type or change."""

    subject: str
    found: str
    good: bool | None = None
    remedy: str | None = None


def examine(profile: DeviceProfile) -> Iterator[Finding]:
    """What is found on the device of `profile`, in the order in which a user stumbles over it."""
    for name in sorted(set(RUNTIME_OF_FORMAT.values())):
        yield _runtime(name)
    with tempfile.TemporaryDirectory(prefix="edgebench-doctor-") as scratch:
        result = _null_round(JobRunner.here(Path(scratch)))
        yield _overhead(result)
        if result.states:
            yield from _state(result.states[-1], result.notes)
        yield _energy()
        yield _instructions(scratch)
    yield Finding("threads", f"{profile.threads or 'the physical cores'} of {usable_cpus()} usable CPUs")


def _runtime(name: str) -> Finding:
    module = importlib.import_module(f"edgebench.agent.runtimes.{name}")
    try:
        return Finding(name, module.load_library(), True)
    except Unsupported:
        return Finding(name, "not installed", None, module.INSTALL)


def _null_round(runner: JobRunner) -> RoundResult:
    job = Job(WIRE_VERSION, "measure", "", "null", 1, runner.feeds_for((_SPEC,), []))
    # Two of them, so that they take turns as artifacts do; the wait tells whether the machine is quiet.
    return runner.measure(Round(WIRE_VERSION, (job, job), "doctor", laps=20, max_wait_s=0.5, quiet_cpus=_BUSY_CPUS))


def _overhead(result: RoundResult) -> Finding:
    turns = [turn for item in result.measurements for turn in item.turns]
    if not turns:
        return Finding("the harness itself", f"not measured: {result.measurements[0].reason}", False)
    timed = statistics.median(sample for turn in turns for sample in turn.samples_ns)
    whole = statistics.median(turn.wall_ns / len(turn.samples_ns) for turn in turns if turn.wall_ns)
    found = f"{timed:.0f} ns are in every latency; {whole:.0f} ns an iteration in all (null runtime)"
    return Finding("the harness itself", found, whole < _TOO_SLOW_NS, "a clock that is slow to read: see dmesg for tsc")


def _state(state: State, notes: tuple[str, ...]) -> Iterator[Finding]:
    quiet = not any("CPUs" in note for note in notes)
    yield Finding("other processes", "quiet" if quiet else "; ".join(notes), quiet, "close them, or use --max-wait 60")
    if state.governors is None:
        yield Finding("governor", "not told here: frequencies are not measured")
    else:
        steady = set(state.governors) <= {"performance"}
        remedy = "echo performance | sudo tee /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor"
        yield Finding("governor", ", ".join(state.governors), steady, remedy)
    if not state.temperatures_mc:
        yield Finding("temperature", "no sensor can be read: --cooldown does nothing here")
    else:
        hottest = max(state.temperatures_mc, key=lambda name: state.temperatures_mc[name])
        yield Finding("temperature", f"{state.temperatures_mc[hottest] / 1000:.1f} °C ({hottest})", True)
    if state.throttle_flags is not None:
        throttled = bool(state.throttle_flags & 0xF)
        remedy = "use a stronger power supply and a fan"
        yield Finding("throttling", f"flags {state.throttle_flags:#x}", not throttled, remedy)
    if state.power is None:
        yield Finding("power", "not told here")
    else:
        yield Finding("power", state.power, state.power == "mains", "plug it in")
    if state.available_bytes is not None:
        yield Finding("free memory", f"{state.available_bytes / 1e9:.1f} GB", state.available_bytes > 5e8, "free some")


def _energy() -> Finding:
    meter = energy.open_meter()
    return Finding("energy", energy.why_not()) if meter is None else Finding("energy", meter.method, True)


def _instructions(scratch: str) -> Finding:
    try:
        return Finding("instructions", open_counter().method, True)
    except NoCounters:
        pass
    try:
        prefix = prepare(scratch)
        return Finding("instructions", f"below {Path(prefix.argv[0]).name}, as the CPU has no counter here", True)
    except NoCounters as error:
        return Finding("instructions", "not counted", None, str(error))
