"""What stands between a user and a figure on a device, in the order in which they would stumble over it, each with the
command that mends it; then what the device lets edgebench see and hold still, and what edgebench itself adds."""

from __future__ import annotations

import importlib.metadata
import re
import statistics
import tempfile
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

from edgebench.agent.codec import decode
from edgebench.agent.examining import Examination
from edgebench.agent.state import State
from edgebench.agent.wire import WIRE_VERSION, Job, Round, RoundResult, TensorSpec
from edgebench.errors import DeviceError
from edgebench.measure.devices import open_agent, open_target
from edgebench.measure.jobs import JobRunner
from edgebench.targets.agent import Agent
from edgebench.targets.native.agent import NativeAgent
from edgebench.targets.probe import Probe, probe
from edgebench.targets.remote import work_dir_of
from edgebench.targets.target import LinkLost
from edgebench.types import DeviceProfile

__all__ = ["Finding", "examine", "install_line"]

_SPEC = TensorSpec("x", (1,), "float32")
_BUSY_CPUS = 0.1
_TOO_SLOW_NS = 2000
_EXAMINE_S = 300.0
_LEAST_FREE_BYTES = 300 << 20
_CLOCK_S = 60.0
_OLDEST_PYTHON = (3, 8)

_PACKAGES = {"onnxruntime": "onnxruntime", "tflite": "ai-edge-litert", "torchscript": "torch"}
# ai-edge-litert 2.3 has wheels from this Python on, and its aarch64 one wants this glibc (measured); the last
# tflite-runtime has some up to the other Python, 32-bit ones too, and fails with numpy 2.
_LITERT_PYTHON, _LITERT_GLIBC = (3, 10), (2, 34)
_TFLITE_RUNTIME, _TFLITE_RUNTIME_PYTHON = "tflite-runtime==2.14.0 'numpy<2'", (3, 11)
# The last version with a wheel for each older Python, as the package index had it in November 2026 (pip install
# --dry-run for each Python, aarch64); from 3.11 on the newest has one.
_LAST = {
    "ai-edge-litert": {},
    "onnxruntime": {(3, 8): "1.19.2", (3, 9): "1.19.2", (3, 10): "1.23.2"},
    "torch": {(3, 8): "2.4.1", (3, 9): "2.8.0", (3, 10): "2.14.1"},
}


@dataclass(frozen=True)
class Finding:
    """One thing looked at: `good` None where it is neither good nor bad. `remedy` says what to type or change."""

    subject: str
    found: str
    good: bool | None = None
    remedy: str | None = None


def examine(profile: DeviceProfile) -> Iterator[Finding]:
    """What is found on the device of `profile`. It ends where nothing further can be seen."""
    if profile.transport != "local":
        reached = yield from _reach(profile)
        if not reached:
            return
    warnings: list[str] = []
    with tempfile.TemporaryDirectory(prefix="edgebench-doctor-") as name:
        try:
            agent = open_agent(profile, Path(name), warnings.append)
        except DeviceError as error:
            yield Finding("agent", str(error), False, error.hint)
            return
        try:
            if isinstance(agent, NativeAgent):
                yield from _examine_tools(agent, Path(name))
            else:
                if profile.transport != "local":
                    yield Finding("agent", "put there and started", True)
                yield from _examine(profile, agent, Path(name))
        except DeviceError as error:
            yield Finding("connection", str(error), False, error.hint)
        finally:
            agent.close()
    for warning in warnings:
        yield Finding("held still", warning, False)


def _reach(profile: DeviceProfile) -> Generator[Finding, None, bool]:
    """Up to a Python that runs; returns whether there is one."""
    target = open_target(profile)
    try:
        target.connect()
        seen = probe(target, work_dir_of(profile), profile.python)
    except DeviceError as error:
        yield Finding("connection", str(error), False, error.hint)
        return False
    except LinkLost as error:
        hint = "is it switched on, and on this network? " + {
            "ssh": f"try: ssh -v {profile.address}",
            "adb": "try: adb devices -l",
        }.get(profile.transport, "")
        yield Finding("connection", f"{target.address} does not answer: {error}", False, hint)
        return False
    finally:
        target.close()
    yield Finding("connection", target.address, True)
    yield from _system(seen)
    yield from _work_directory(profile, seen)
    yield _clock(seen)
    python = _python(profile, seen)
    yield python
    return bool(python.good)


def _system(seen: Probe) -> Iterator[Finding]:
    named = ", ".join(filter(None, (seen.model, seen.android and f"Android {seen.android}", seen.machine)))
    yield Finding("device", named, True)
    if seen.bits == 32 and seen.machine in ("aarch64", "x86_64"):
        remedy = "install the 64-bit system: there are no 32-bit wheels of onnxruntime or torch"
        yield Finding("architecture", f"32-bit programs on a 64-bit kernel ({seen.machine})", False, remedy)


def _work_directory(profile: DeviceProfile, seen: Probe) -> Iterator[Finding]:
    place, mend = work_dir_of(profile), f"set `work_dir` in devices/{profile.name}.toml to a directory of your own"
    if not seen.writable:
        yield Finding("work directory", f"{place} cannot be written to (read-only, or another user's)", False, mend)
        return
    yield Finding("work directory", f"{place} can be written to", True)
    if not seen.executable:
        words = f"{place} is mounted noexec: the agent runs from there, a native tool does not"
        yield Finding("work directory", words, None, mend)
    if seen.free_bytes is not None:
        enough = seen.free_bytes >= _LEAST_FREE_BYTES
        yield Finding("free space", f"{seen.free_bytes / 1e9:.1f} GB", enough, f"free some below {place}, or {mend}")


def _clock(seen: Probe) -> Finding:
    off = abs(seen.clock_ahead_s) > _CLOCK_S
    way = "ahead of" if seen.clock_ahead_s > 0 else "behind"
    found = f"{abs(seen.clock_ahead_s):.0f} s {way} this machine's" if off else "as this machine's"
    return Finding("clock", found, not off, "sudo timedatectl set-ntp true, else pip and https fail there")


def _python(profile: DeviceProfile, seen: Probe) -> Finding:
    if profile.tools:
        return Finding("python", f"not needed: {', '.join(profile.tools)} measures there", True)
    if seen.python is None or seen.python_version is None:
        remedy = (
            "name a tool under `tools` in its profile (docs/devices.md)" if seen.android else "sudo apt install python3"
        )
        return Finding("python", f"no `{profile.python}` and no python3", False, remedy)
    found = f"{'.'.join(map(str, seen.python_version))} ({seen.python})"
    if seen.python_version[:2] < _OLDEST_PYTHON:
        return Finding("python", f"{found}, the agent needs 3.8", False, "install a newer Python there")
    return Finding("python", found, True)


def _examine(profile: DeviceProfile, agent: Agent, scratch: Path) -> Iterator[Finding]:
    runner = JobRunner(agent, scratch)
    ended = agent.execute("examine", lambda: None, _EXAMINE_S)
    seen = None if ended.result is None else decode(Examination, ended.result, "the agent's result")
    for name in sorted(_PACKAGES):
        yield _runtime(name, runner, profile, seen, str(agent.fingerprint.get("machine")))
    result = _null_round(runner)
    yield _overhead(result)
    if result.states:
        yield from _state(result.states[-1], result.notes)
    if seen is None:
        yield Finding("agent", f"could not look around: {ended.last_words}", False)
        return
    if seen.governor_writable is False and profile.governor is not None:
        remedy = f"echo {profile.governor} | sudo tee /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor"
        yield Finding("governor", "may be set by root only", False, remedy)
    if seen.energy is None:
        yield Finding("energy", str(seen.energy_reason))
    else:
        yield Finding("energy", seen.energy, True)
    if seen.instructions is None:
        yield Finding("instructions", "not counted", None, seen.instructions_reason)
    else:
        yield Finding("instructions", seen.instructions, True)
    threads = ", ".join(map(str, profile.threads)) if profile.threads else "the physical cores"
    yield Finding("threads", f"{threads} of {seen.usable_cpus} usable CPUs")
    if by := agent.fingerprint.get("emulated_by"):
        yield Finding("emulated", f"by {by}: answers are real, times and memory are not")


def _examine_tools(agent: NativeAgent, scratch: Path) -> Iterator[Finding]:
    for name, found in agent.tools():
        if isinstance(found, DeviceError):
            yield Finding(name, str(found), False, found.hint)
        else:
            yield Finding(name, found, True)
    # No job, but the states before and after; the wait bounds it.
    nothing = JobRunner(agent, scratch).measure(Round(WIRE_VERSION, (), "doctor", max_wait_s=_EXAMINE_S))
    if nothing.states:
        yield from _state(nothing.states[-1], nothing.notes)


def _runtime(name: str, runner: JobRunner, profile: DeviceProfile, seen: Examination | None, machine: str) -> Finding:
    found = runner.job(Job(WIRE_VERSION, "library", "", name, 1, ()), timeout_s=_EXAMINE_S)
    if found.status == "ok":
        return Finding(name, str(found.runtime_version), True)
    missing = found.status == "unsupported"
    remedy = None if seen is None else install_line(name, seen, machine, profile)
    # One that is not installed is no fault: not every model needs it.
    return Finding(name, "not installed" if missing else str(found.reason), None if missing else False, remedy)


def install_line(runtime: str, seen: Examination, machine: str, profile: DeviceProfile) -> str:
    """What installs a runtime for the device's Python and architecture: the version that is here where there is one
    for it, so that device and host answer alike."""
    package = _PACKAGES[runtime]
    version = tuple(map(int, seen.python.split(".")[:2]))
    old = seen.bits == 32 or version < _LITERT_PYTHON or tuple(_order(seen.libc[1])) < _LITERT_GLIBC
    if runtime == "tflite" and seen.libc[0] == "glibc" and old:
        if version <= _TFLITE_RUNTIME_PYTHON:
            return _pip(_TFLITE_RUNTIME, seen, profile)
        return (
            f"there is no wheel of TFLite for Python {seen.python} here: use an older one, or benchmark_model as a tool"
        )
    if seen.bits == 32:
        return f"there is no 32-bit wheel of {package}; on Debian 13: sudo apt install python3-{package}"
    if seen.libc[0] != "glibc":
        return f"there is no wheel of {package} for this C library ({seen.libc[0] or 'not glibc'}): use a tool"
    known = (_LAST[package].get((version[0], version[1])), _version_here(package))
    pinned = min((one for one in known if one is not None), key=_order, default=None)
    return _pip(package if pinned is None else f"{package}=={pinned}", seen, profile)


def _pip(wanted: str, seen: Examination, profile: DeviceProfile) -> str:
    if not seen.managed:
        return f"{seen.executable} -m pip install {wanted}"
    return (
        f"{seen.executable} -m venv ~/edgebench-venv && ~/edgebench-venv/bin/pip install {wanted}; then set python = "
        f'"/home/USER/edgebench-venv/bin/python" in devices/{profile.name}.toml'
    )


def _order(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version)]


def _version_here(package: str) -> str | None:
    try:
        return importlib.metadata.version(package).partition("+")[0]
    except importlib.metadata.PackageNotFoundError:
        return None


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
    # A slow core takes longer for it and for the model alike: nothing to mend, and so nothing bad.
    fast = whole < _TOO_SLOW_NS or None
    return Finding("the harness itself", found, fast, "a slow CPU, or a clock that is slow to read: see dmesg for tsc")


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
        yield from _throttling(state.throttle_flags)
    if state.thermal_status is not None:
        remedy = "let it cool, take it off the charger"
        yield Finding("thermal status", str(state.thermal_status), state.thermal_status == 0, remedy)
    if state.power is None:
        yield Finding("power", "not told here")
    else:
        yield Finding("power", state.power, state.power == "mains", "plug it in")
    if state.available_bytes is not None:
        yield Finding("free memory", f"{state.available_bytes / 1e9:.1f} GB", state.available_bytes > 2e8, "free some")


def _throttling(flags: int) -> Iterator[Finding]:
    """A Raspberry Pi's: bits 0 to 3 now, 16 to 19 since it was booted."""

    def words(bits: int) -> tuple[str, bool | None]:
        if flags & bits:
            return "now", False
        return ("not now, but since it was booted", None) if flags & bits << 16 else ("none", True)

    yield Finding("under-voltage", *words(0b0001), "use the official power supply and a short cable")
    # A capped frequency, throttling, and the soft temperature limit.
    yield Finding("throttling", *words(0b1110), "fit a heatsink or a fan")
