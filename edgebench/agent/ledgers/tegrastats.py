"""What NVIDIA's tegrastats says of a Jetson, in one line at a time.

The line is a list of words whose kinds differ between modules and releases (TX1 to Thor), so each word is looked at on
its own: what is not known is passed over. The fields are described in "tegrastats Utility" of NVIDIA's Jetson Linux
Developer Guide.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Dict, List, Optional, Tuple

from .asking import Tool
from .text import millidegrees

TOOL = Tool("tegrastats")

_INTERVAL_MS = 100
_NAME = "[A-Za-z][A-Za-z0-9_]{0,40}"
# The date comes from release 35 on.
_START = re.compile(r"\s*(?:[0-9]{2}-[0-9]{2}-[0-9]{4} [0-9]{2}:[0-9]{2}:[0-9]{2} )?RAM ")
_RAM = re.compile("([0-9]{1,9})/([0-9]{1,9})([kMG])B")
_CPUS = re.compile(r"\[([^\]]*)\](?:@(-1|[0-9]{1,5}))?")
_CPU = re.compile("([0-9]{1,3})%(?:@([0-9]{1,5}))?")
_GPU = re.compile(r"(?:([0-9]{1,3})%)?(?:@(?:\[([0-9]{1,5}(?:,[0-9]{1,5}){0,15})\]|([0-9]{1,5})))?")
_SENSOR = re.compile("(" + _NAME + ")@(-?[0-9.]{1,10})C(?:/-?[0-9.]{1,10}C)?")
_RAIL = re.compile("(-?[0-9]{1,7})/(-?[0-9]{1,7})|(-?[0-9]{1,7})mW/(-?[0-9]{1,7})mW(?:/-?[0-9]{1,7}mW)?")
_UNIT_BYTES = {"k": 1 << 10, "M": 1 << 20, "G": 1 << 30}

# A Jetson's PMIC zone says 100 °C, on later releases 50 °C, whatever the PMIC does.
_PMIC_PLACEHOLDERS_MC = (50_000, 100_000)
_NOT_CONNECTED = "NC"

# Load and frequency.
_Cpu = Tuple[Optional[int], Optional[int]]


@dataclass(frozen=True)
class Rail:
    """A power rail. The average is over the time that this tegrastats has run."""

    now_mw: int
    average_mw: int


@dataclass(frozen=True)
class Tegrastats:
    """`cpu_load_percent` and `cpu_frequency_mhz`: one a CPU, None for one that is offline or has no frequency.
    `gpu_frequency_mhz`: one a cluster; a GPU that sleeps has 0. `rails`: by name; some contain others, as VDD_IN does
    all."""

    ram_used_bytes: Optional[int]
    ram_total_bytes: Optional[int]
    cpu_load_percent: Optional[Tuple[Optional[int], ...]]
    cpu_frequency_mhz: Optional[Tuple[Optional[int], ...]]
    gpu_load_percent: Optional[int]
    gpu_frequency_mhz: Optional[Tuple[int, ...]]
    temperatures_mc: Dict[str, int]
    rails: Dict[str, Rail]


def parse_tegrastats(line: str) -> Optional[Tegrastats]:
    """The figures of one line; None for a line of something else. Without its line end its last word is not taken."""
    first, end, _ = line.partition("\n")
    start = _START.match(first)
    if start is None:
        return None
    words = first[start.end() :].split()
    if not end:
        words = words[:-1]
    ram = _RAM.fullmatch(words[0]) if words else None
    cpus: Optional[Tuple[_Cpu, ...]] = None
    gpu_load: Optional[int] = None
    gpu_mhz: Optional[Tuple[int, ...]] = None
    temperatures: Dict[str, int] = {}
    rails: Dict[str, Rail] = {}
    for name, word in zip(words, words[1:]):
        if name.upper() == "CPU" and word.startswith("["):
            cpus = _cpus(word)
        elif name in ("GR3D_FREQ", "GR3D"):
            gpu_load, gpu_mhz = _gpu(word)
        elif re.fullmatch(_NAME, name) and name != _NOT_CONNECTED:
            rail = _RAIL.fullmatch(word)
            if rail is not None:
                now, average = (group for group in rail.groups() if group is not None)
                rails[name] = Rail(int(now), int(average))
        sensor = _SENSOR.fullmatch(word)
        if sensor is not None:
            value_mc = millidegrees(sensor.group(2))
            pmic = "pmic" in sensor.group(1).lower() and value_mc in _PMIC_PLACEHOLDERS_MC
            if value_mc is not None and not pmic:
                temperatures[sensor.group(1)] = value_mc
    return Tegrastats(
        ram_used_bytes=None if ram is None else int(ram.group(1)) * _UNIT_BYTES[ram.group(3)],
        ram_total_bytes=None if ram is None else int(ram.group(2)) * _UNIT_BYTES[ram.group(3)],
        cpu_load_percent=None if cpus is None else tuple(load for load, _ in cpus),
        cpu_frequency_mhz=None if cpus is None else tuple(mhz for _, mhz in cpus),
        gpu_load_percent=gpu_load,
        gpu_frequency_mhz=gpu_mhz,
        temperatures_mc=temperatures,
        rails=rails,
    )


def read(tool: Tool = TOOL, *, lines: int = 2) -> Optional[Tegrastats]:
    """The last of the first `lines` lines, 100 ms apart, or None where there is no tegrastats.

    A load is the share of the time since the line before, so that the first one's says little.
    """
    said = tool.first_lines(lines, "--interval", str(_INTERVAL_MS))
    return None if said is None else parse_tegrastats(said.split("\n")[lines - 1] + "\n")


def _cpus(word: str) -> Optional[Tuple[_Cpu, ...]]:
    """Load and frequency of each, from `[16%@204,off]`, or from `[16%,off]@204` as before release 28.2."""
    cpus = _CPUS.fullmatch(word)
    if cpus is None:
        return None
    shared = None if cpus.group(2) in (None, "-1") else int(cpus.group(2))
    found: List[_Cpu] = []
    for item in cpus.group(1).split(","):
        cpu = _CPU.fullmatch(item)
        if item == "off":
            found.append((None, None))
        elif cpu is None or int(cpu.group(1)) > 100:
            # Their places count, so that one that cannot be read loses all.
            return None
        else:
            found.append((int(cpu.group(1)), shared if cpu.group(2) is None else int(cpu.group(2))))
    return tuple(found)


def _gpu(word: str) -> Tuple[Optional[int], Optional[Tuple[int, ...]]]:
    """Load and frequencies from `0%`, `0%@76`, `0%@[305,305]` or `@[1000,1000]`."""
    gpu = _GPU.fullmatch(word)
    if gpu is None or (gpu.group(1) is not None and int(gpu.group(1)) > 100):
        return None, None
    load, several, one = gpu.groups()
    frequencies = several or one
    return (
        None if load is None else int(load),
        None if frequencies is None else tuple(int(mhz) for mhz in frequencies.split(",")),
    )
