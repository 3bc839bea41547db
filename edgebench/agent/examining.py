"""What stands ready on the device, or in the way, for whoever sets it up: said once, and not while something runs."""

from __future__ import annotations

import os
import platform
import struct
import sys
import sysconfig
from dataclasses import dataclass
from typing import Optional, Tuple

from .environment import usable_cpus
from .instructions import NoCounters, open_counter
from .probes import energy
from .sysfs import numbered
from .under_qemu import prepare


@dataclass(frozen=True)
class Examination:
    """python: its version; `bits` those of its processes, which may be fewer than the kernel's; `libc` as in
        ("glibc", "2.41"); `managed`: pip is told to leave this Python alone (PEP 668).
    energy, instructions: what they are read from; where None, the reason says why they are not.
    governor_writable: None where there is no governor.
    """

    version: int
    python: str
    executable: str
    bits: int
    libc: Tuple[str, str]
    managed: bool
    usable_cpus: int
    energy: Optional[str]
    energy_reason: Optional[str]
    instructions: Optional[str]
    instructions_reason: Optional[str]
    governor_writable: Optional[bool]


def examine(version: int, scratch: str) -> Examination:
    """Look at everything; `scratch` is what names of files begin with."""
    meter = energy.open_meter()
    instructions, reason = _instructions(scratch)
    governors = numbered("/sys/devices/system/cpu/cpufreq", r"policy(\d+)")
    marker = os.path.join(sysconfig.get_path("stdlib"), "EXTERNALLY-MANAGED")
    return Examination(
        version=version,
        python=platform.python_version(),
        executable=sys.executable,
        bits=8 * struct.calcsize("P"),
        libc=platform.libc_ver(),
        managed=sys.prefix == sys.base_prefix and os.path.exists(marker),
        usable_cpus=usable_cpus(),
        energy=None if meter is None else meter.method,
        energy_reason=energy.why_not() if meter is None else None,
        instructions=instructions,
        instructions_reason=reason,
        governor_writable=os.access(os.path.join(governors[0][1], "scaling_governor"), os.W_OK) if governors else None,
    )


def _instructions(scratch: str) -> Tuple[Optional[str], Optional[str]]:
    try:
        return open_counter().method, None
    except NoCounters:
        pass
    os.makedirs(scratch + ".qemu", exist_ok=True)
    try:
        prefix = prepare(scratch + ".qemu")
        return "below %s, as the CPU has no counter here" % os.path.basename(prefix.argv[0]), None
    except NoCounters as error:
        return None, str(error)
