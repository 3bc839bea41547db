"""What the machine says of itself, and the settings that every runtime is started with."""

from __future__ import annotations

import os
import platform
from typing import Any, Dict, Optional

from .sysfs import read_text

# ORT 1.31's Linux wheel writes a device id and a database under ~/.cache and starts a thread unless it is told not to.
# OpenVINO's heeds no variable: `runtimes/openvino.py` keeps it out.
TELEMETRY_OFF = {"ORT_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1"}

# The instructions that decide how fast int8 is.
_ISA_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm", "sve")


def switch_telemetry_off() -> None:
    """Set what keeps runtimes from reporting home; it must run before they are imported."""
    os.environ.update(TELEMETRY_OFF)


def usable_cpus() -> int:
    """Logical CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def physical_cores(root: str = "/") -> int:
    """Cores that this process may use; a second thread on one core gives matrix products nothing."""
    usable = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    cores = set()
    for cpu in usable:
        topology = os.path.join(root, "sys/devices/system/cpu/cpu%d/topology" % cpu)
        place = tuple(read_text(topology, name) for name in ("physical_package_id", "cluster_id", "core_id"))
        # Where nothing is told each CPU is a core of its own.
        cores.add(place if place[2] is not None else cpu)
    return len(cores)


def emulator() -> Optional[str]:
    """What executes this process's instructions in place of a CPU, or None: its times are not the device's.

    qemu-user answers for /proc/self, and not for /proc/self/task: there the process is qemu itself.
    """
    try:
        program = os.path.basename(os.readlink("/proc/self/task/%d/exe" % os.getpid()))
    except OSError:
        return None
    return program if program.startswith("qemu-") else None


def describe_machine() -> Dict[str, Any]:
    """Fingerprint of the device; what it does not tell is absent."""
    found: Dict[str, Any] = {
        "host": platform.node(),
        "machine": platform.machine(),
        "system": platform.system(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        "usable_cpus": usable_cpus(),
        "physical_cores": physical_cores(),
    }
    if "ANDROID_ROOT" in os.environ:
        found["android"] = True
    emulated_by = emulator()
    if emulated_by is not None:
        found["emulated_by"] = emulated_by
    found.update(_cpuinfo())
    memory = _first_field("/proc/meminfo", "MemTotal")
    if memory is not None:
        found["memory_bytes"] = int(memory.split()[0]) * 1024
    try:
        with open("/proc/device-tree/model", encoding="utf-8") as file:
            found["model"] = file.read().rstrip("\0\n")
    except OSError:
        pass
    return found


def _cpuinfo() -> Dict[str, Any]:
    path = "/proc/cpuinfo"
    found: Dict[str, Any] = {}
    cpu = _first_field(path, "model name") or _first_field(path, "Model") or platform.processor()
    if cpu:
        found["cpu"] = cpu
    flags = _first_field(path, "flags") or _first_field(path, "Features")
    if flags is not None:
        found["isa"] = [flag for flag in _ISA_FLAGS if flag in flags.split()]
    return found


def _first_field(path: str, key: str) -> "str | None":
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            for line in file:
                name, _, value = line.partition(":")
                if name.strip() == key:
                    return value.strip()
    except OSError:
        pass
    return None
