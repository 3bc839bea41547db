"""The state ledger: what the device was doing when a figure was taken, in one cheap reading.

A reading is some dozens of small files and takes about a millisecond, so that it may stand between two measurements.
Nothing is kept between readings: policies, sensors and CPUs come and go while a device runs. Sensors that would cost
more than they tell are left out: a disk's temperature is a command to the disk.
"""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass
from typing import Dict, List, Optional, Tuple

from .environment import usable_cpus
from .sysfs import number, numbered, power_supplies, read_int, read_text

_CPUS = "sys/devices/system/cpu"
# Raspberry Pi OS answers with what its firmware said last, up to 2 s ago, in hexadecimal digits.
_PI_THROTTLED = "sys/devices/platform/soc/soc:firmware/get_throttled"

# Temperatures outside are placeholders of sensors that are not fitted: -99900, -274000, 2147483647.
_COLDEST_MC, _HOTTEST_MC = -40_000, 150_000
# A Jetson's PMIC zone says 100 °C whatever the PMIC does.
_PMIC_PLACEHOLDER_MC = 100_000
_DISK_CHIPS = ("nvme", "drivetemp")


@dataclass(frozen=True)
class CpuTicks:
    """CPU time since boot, summed over all CPUs, in steps of the kernel's tick (10 ms mostly).

    `busy_ns` is user, nice, system and interrupts; `steal_ns` is what the hypervisor gave to another machine.
    """

    busy_ns: int
    idle_ns: int
    steal_ns: int
    iowait_ns: int


@dataclass(frozen=True)
class GpuState:
    """One look at a graphics card; None is not told.

    at_ns: `time.perf_counter_ns`, comparable within one process.
    temperature_mc: whole degrees, of the chip and not of its memory.
    power_mw: the whole board's; on Ampere and newer (but A100) the average over the last second.
    power_limit_mw: what the driver holds the board to now.
    energy_mj: counts since the driver was loaded and is renewed about every 100 ms.
    busy_percent, memory_busy_percent: time in which a kernel ran, and in which memory was used, of the last 1/6 to 1 s.
    used_bytes: of the whole card, with the driver's own share.
    throttle_reasons: why the clocks are not higher, "idle" included; empty if nothing holds them down.
    persistence_mode: whether the driver keeps the card ready while nobody uses it.
    compute_mode: "default", "exclusive process" or "prohibited".
    mig_mode: whether the card is cut into instances.
    """

    at_ns: int
    sm_clock_mhz: Optional[int]
    memory_clock_mhz: Optional[int]
    max_sm_clock_mhz: Optional[int]
    max_memory_clock_mhz: Optional[int]
    temperature_mc: Optional[int]
    power_mw: Optional[int]
    power_limit_mw: Optional[int]
    energy_mj: Optional[int]
    busy_percent: Optional[int]
    memory_busy_percent: Optional[int]
    used_bytes: Optional[int]
    throttle_reasons: Optional[Tuple[str, ...]]
    persistence_mode: Optional[bool]
    compute_mode: Optional[str]
    mig_mode: Optional[bool]


@dataclass(frozen=True)
class State:
    """One look at the device; None is not measured. Counters count since boot: their differences tell.

    at_ns: `time.perf_counter_ns`, comparable within one process.
    governors: distinct cpufreq governors, sorted. `frequency_khz` and `max_frequency_khz`: as cpufreq says, one per
        CPU that is online. Without cpufreq they are None: the "cpu MHz" of /proc/cpuinfo is then the constant that
        the clock of a virtual machine was calibrated to.
    turbo: whether the CPU may exceed its base frequency.
    temperatures_mc: milli-degrees Celsius by sensor; empty where none can be read.
    throttle_events: x86, summed over CPUs that share a package, so that a rise tells and its size does not.
    throttle_flags: Raspberry Pi, bits 0-3 now (under-voltage, capped, throttled, soft limit), 16-19 since boot.
    running: runnable threads, this one included.
    memory_pressure_us, cpu_pressure_us: time in which some task waited for memory or a CPU (PSI).
    power: "mains" or "battery".
    affinity: the CPUs this process may use; `usable_cpus` their count.
    cgroup_throttled_us: time that CPU quotas held back this process's control group and those above it.
    thermal_status: Android's, from 0 (none) by 1 (light) to 6 (shutdown).
    gpu: the graphics card that jobs of a round run on; None where none does, or where it cannot be told which one.
    """

    at_ns: int
    governors: Optional[Tuple[str, ...]]
    frequency_khz: Optional[Tuple[int, ...]]
    max_frequency_khz: Optional[Tuple[int, ...]]
    turbo: Optional[bool]
    temperatures_mc: Dict[str, int]
    throttle_events: Optional[int]
    throttle_flags: Optional[int]
    cpu_ticks: Optional[CpuTicks]
    load_1min: Optional[float]
    running: Optional[int]
    available_bytes: Optional[int]
    swap_used_bytes: Optional[int]
    memory_pressure_us: Optional[int]
    cpu_pressure_us: Optional[int]
    power: Optional[str]
    affinity: Optional[Tuple[int, ...]]
    usable_cpus: int
    cgroup_throttled_us: Optional[int]
    thermal_status: Optional[int] = None
    gpu: Optional[GpuState] = None


def read_state(root: str = "/") -> State:
    """The device's state now, from the /proc and /sys below `root`."""
    at_ns = time.perf_counter_ns()
    stat = read_text(root, "proc/stat")
    governors, frequency_khz, max_frequency_khz = _frequencies(root)
    memory = read_text(root, "proc/meminfo")
    available_kb = number(r"^MemAvailable: +(\d+) kB", memory)
    swap_kb, free_swap_kb = number(r"^SwapTotal: +(\d+) kB", memory), number(r"^SwapFree: +(\d+) kB", memory)
    flags = re.fullmatch("(?:0x)?([0-9a-f]+)", read_text(root, _PI_THROTTLED) or "")
    return State(
        at_ns=at_ns,
        governors=governors,
        frequency_khz=frequency_khz,
        max_frequency_khz=max_frequency_khz,
        turbo=_turbo(root),
        temperatures_mc=read_temperatures(root),
        throttle_events=_throttle_events(root),
        throttle_flags=None if flags is None else int(flags.group(1), 16),
        cpu_ticks=_cpu_ticks(stat),
        load_1min=_load(root),
        running=number(r"^procs_running (\d+)", stat),
        available_bytes=None if available_kb is None else available_kb * 1024,
        swap_used_bytes=None if swap_kb is None or free_swap_kb is None else (swap_kb - free_swap_kb) * 1024,
        memory_pressure_us=_pressure(root, "memory"),
        cpu_pressure_us=_pressure(root, "cpu"),
        power=_power(root),
        affinity=tuple(sorted(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else None,
        usable_cpus=usable_cpus(),
        cgroup_throttled_us=_cgroup_throttled(root),
    )


def read_cpu(root: str = "/") -> Optional[CpuTicks]:
    """CPU time since boot, from one file."""
    return _cpu_ticks(read_text(root, "proc/stat"))


def others_busy(before: CpuTicks, after: CpuTicks, *, own_ns: int, elapsed_ns: int) -> Optional[float]:
    """CPUs that others kept busy between two readings: 1.5 is one and a half CPUs the whole time.

    `own_ns` is the CPU time of the process under measurement meanwhile (`time.process_time_ns`), `elapsed_ns` the wall
    time. Stolen time is not in it. The ticks are coarse, so a window of 0.25 s resolves 0.04 CPUs. None where the
    counters or the clock went backwards.
    """
    busy_ns = after.busy_ns - before.busy_ns
    if elapsed_ns <= 0 or busy_ns < 0:
        return None
    return max(0, busy_ns - own_ns) / elapsed_ns


def read_temperatures(root: str = "/") -> Dict[str, int]:
    """Milli-degrees Celsius by sensor: thermal zones by type, then the hwmon chips that no zone stands for.

    A type or label that occurs more than once carries its number: `acpitz-0`, `acpitz-3`.
    """
    zones = numbered(os.path.join(root, "sys/class/thermal"), r"thermal_zone(\d+)")
    sensors = [(read_text(zone, "type") or "thermal_zone", index, zone + "/temp") for index, zone in zones]
    # The kernel shows a zone a second time, as a hwmon chip of its type's name; x86_pkg_temp reads coretemp's register.
    mirrored = {kind.replace("-", "_") for kind, _, _ in sensors}
    if "x86_pkg_temp" in mirrored:
        mirrored.add("coretemp")
    for _, chip in numbered(os.path.join(root, "sys/class/hwmon"), r"hwmon(\d+)"):
        name = read_text(chip, "name") or "hwmon"
        if name in mirrored or name in _DISK_CHIPS:
            continue
        for index, path in numbered(chip, r"temp(\d+)_input"):
            label = read_text(chip, "temp%d_label" % index)
            sensors.append((name if label is None else name + " " + label, index, path))
    return _plausible(sensors)


def _plausible(sensors: List[Tuple[str, int, str]]) -> Dict[str, int]:
    names = [name for name, _, _ in sensors]
    found: Dict[str, int] = {}
    for name, index, path in sensors:
        value = read_int(path)
        if value is None or not _COLDEST_MC < value < _HOTTEST_MC:
            continue
        if value == _PMIC_PLACEHOLDER_MC and "pmic" in name.lower():
            continue
        found[name if names.count(name) == 1 else "%s-%d" % (name, index)] = value
    return found


def _cpu_ticks(stat: Optional[str]) -> Optional[CpuTicks]:
    fields = re.match(r"cpu +(\d+(?: \d+){7})", stat or "")
    if fields is None:
        return None
    # Guest time follows in the line and is left there: it is contained in user and nice already.
    user, nice, system, idle, iowait, irq, softirq, steal = map(int, fields.group(1).split())
    busy = user + nice + system + irq + softirq
    # A sandbox that imitates /proc writes zeros: a CPU was neither busy nor idle.
    if busy + idle == 0:
        return None
    tick_ns = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
    return CpuTicks(busy * tick_ns, idle * tick_ns, steal * tick_ns, iowait * tick_ns)


def _frequencies(
    root: str,
) -> Tuple[Optional[Tuple[str, ...]], Optional[Tuple[int, ...]], Optional[Tuple[int, ...]]]:
    """Governors, current and highest frequency. CPUs that share a clock share a policy, which is read once."""
    governors = set()
    current: Dict[int, int] = {}
    highest: Dict[int, int] = {}
    for _, policy in numbered(os.path.join(root, _CPUS, "cpufreq"), r"policy(\d+)"):
        governors.add(read_text(policy, "scaling_governor"))
        cpus = [int(cpu) for cpu in re.findall(r"\d+", read_text(policy, "affected_cpus") or "")]
        for name, found in (("scaling_cur_freq", current), ("cpuinfo_max_freq", highest)):
            frequency = read_int(policy, name)
            if frequency is not None:
                found.update((cpu, frequency) for cpu in cpus)
    return (
        tuple(sorted(name for name in governors if name)) or None,
        tuple(current[cpu] for cpu in sorted(current)) or None,
        tuple(highest[cpu] for cpu in sorted(highest)) or None,
    )


def _turbo(root: str) -> Optional[bool]:
    off = read_int(root, _CPUS, "intel_pstate/no_turbo")
    if off is not None:
        return off == 0
    on = read_int(root, _CPUS, "cpufreq/boost")
    return None if on is None else on == 1


def _throttle_events(root: str) -> Optional[int]:
    counts = [
        read_int(cpu, "thermal_throttle", name)
        for _, cpu in numbered(os.path.join(root, _CPUS), r"cpu(\d+)")
        for name in ("core_throttle_count", "package_throttle_count")
    ]
    known = [count for count in counts if count is not None]
    return sum(known) if known else None


def _load(root: str) -> Optional[float]:
    found = re.match(r"\d+\.\d+", read_text(root, "proc/loadavg") or "")
    return None if found is None else float(found.group())


def _pressure(root: str, resource: str) -> Optional[int]:
    return number(r"^some .*total=(\d+)", read_text(root, "proc/pressure", resource))


def _power(root: str) -> Optional[str]:
    supplies = power_supplies(root)
    # First, because a weak charger is online while the battery discharges.
    if any(kind == "Battery" and read_text(path, "status") == "Discharging" for kind, path in supplies):
        return "battery"
    if any(kind.startswith(("Mains", "USB")) and read_int(path, "online") == 1 for kind, path in supplies):
        return "mains"
    return None


def _cgroup_throttled(root: str) -> Optional[int]:
    """Microseconds. A quota on a group throttles those below it, but is counted at that group only: hence the sum."""
    total: Optional[int] = None
    for line in (read_text(root, "proc/self/cgroup") or "").splitlines():
        hierarchy, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if hierarchy == "0":
            mount, pattern, per_us = "sys/fs/cgroup", r"^throttled_usec (\d+)", 1
        elif "cpu" in controllers.split(","):
            mount, pattern, per_us = "sys/fs/cgroup/cpu", r"^throttled_time (\d+)", 1000
        else:
            continue
        # In a container without a cgroup namespace the path is the host's, and only the mount's top exists.
        parts = [part for part in path.split("/") if part not in ("", "..")]
        for depth in range(len(parts) + 1):
            throttled = number(pattern, read_text(root, mount, *parts[:depth], "cpu.stat"))
            if throttled is not None:
                total = (total or 0) + throttled // per_us
    return total
