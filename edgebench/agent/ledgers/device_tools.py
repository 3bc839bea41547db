"""Completes a state with what the device's own tools tell and /proc and /sys do not.

Where a tool and /sys speak of the same thing, /sys has the word: it was read at the state's moment.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Dict, NamedTuple, Optional, Tuple

from ..state import State
from . import dumpsys, tegrastats, vcgencmd
from .asking import Tool
from .dumpsys import Battery, ThermalService
from .tegrastats import Tegrastats
from .vcgencmd import Vcgencmd

# The sensors of these are the kernel's zones under shorter names: "CPU" is CPU-therm, "cpu" cpu-thermal.
_ZONES_AGAIN = ("vcgencmd", "tegrastats", "battery")


class Tools(NamedTuple):
    """The programs that are asked."""

    vcgencmd: Tool
    dumpsys: Tool
    tegrastats: Tool


TOOLS = Tools(vcgencmd.TOOL, dumpsys.TOOL, tegrastats.TOOL)


@dataclass(frozen=True)
class Told:
    """What the tools said, together; None is not told.

    temperatures_mc: by tool, then by sensor. `thermal_status`: Android, 0 (none) to 6 (shutdown).
    cpu_frequency_khz: a Pi's CPUs as the firmware measures them, throttling included.
    gpu_frequency_khz: one a cluster. `rails_uw`: microwatts by power rail; some rails contain others.
    """

    throttle_flags: Optional[int] = None
    thermal_status: Optional[int] = None
    power: Optional[str] = None
    battery_percent: Optional[int] = None
    temperatures_mc: Dict[str, Dict[str, int]] = field(default_factory=dict)
    cpu_frequency_khz: Optional[int] = None
    gpu_frequency_khz: Optional[Tuple[int, ...]] = None
    gpu_load_percent: Optional[int] = None
    rails_uw: Dict[str, int] = field(default_factory=dict)


def ask(tools: Tools = TOOLS) -> Told:
    """Ask each tool that is there: 50 ms for a Raspberry Pi, 100 ms for a phone, 300 ms for a Jetson."""
    return told(
        pi=vcgencmd.read(tools.vcgencmd),
        thermal=dumpsys.read_thermalservice(tools.dumpsys),
        battery=dumpsys.read_battery(tools.dumpsys),
        jetson=tegrastats.read(tools.tegrastats),
    )


def told(
    *,
    pi: Optional[Vcgencmd] = None,
    thermal: Optional[ThermalService] = None,
    battery: Optional[Battery] = None,
    jetson: Optional[Tegrastats] = None,
) -> Told:
    """What these say together, less what somebody set by hand for a test of their own, and less old temperatures."""
    rails_uw: Dict[str, int] = {}
    temperatures: Dict[str, Dict[str, int]] = {}
    if pi is not None and pi.temperature_mc is not None:
        temperatures["vcgencmd"] = {"cpu": pi.temperature_mc}
    if pi is not None and pi.pmic is not None:
        volts, amps = pi.pmic.microvolts, pi.pmic.microamps
        rails_uw.update((rail, round(volts[rail] * amps[rail] / 1e6)) for rail in amps if rail in volts)
    if thermal is not None and thermal.temperatures_mc and not thermal.cached:
        temperatures["thermalservice"] = thermal.temperatures_mc
    if battery is not None and battery.overridden:
        battery = None
    if battery is not None and battery.temperature_mc is not None and "thermalservice" not in temperatures:
        temperatures["battery"] = {"battery": battery.temperature_mc}
    if jetson is not None:
        temperatures["tegrastats"] = jetson.temperatures_mc
        rails_uw.update((name, rail.now_mw * 1000) for name, rail in jetson.rails.items())
    gpu_mhz = None if jetson is None else jetson.gpu_frequency_mhz
    return Told(
        throttle_flags=None if pi is None else pi.throttle_flags,
        thermal_status=None if thermal is None or thermal.override else thermal.status,
        power=None if battery is None else battery.power,
        battery_percent=None if battery is None else battery.level_percent,
        temperatures_mc={tool: found for tool, found in temperatures.items() if found},
        cpu_frequency_khz=pi.arm_hz // 1000 if pi is not None and pi.arm_hz else None,
        gpu_frequency_khz=None if gpu_mhz is None else tuple(mhz * 1000 for mhz in gpu_mhz),
        gpu_load_percent=None if jetson is None else jetson.gpu_load_percent,
        rails_uw=rails_uw,
    )


def merge(state: State, said: Told) -> State:
    """`state` with what only the tools know."""
    return replace(
        state,
        throttle_flags=said.throttle_flags if state.throttle_flags is None else state.throttle_flags,
        temperatures_mc=_temperatures(state.temperatures_mc, said.temperatures_mc),
        power=said.power if state.power is None else state.power,
        thermal_status=said.thermal_status,
    )


def enrich(state: State, tools: Tools = TOOLS) -> State:
    """`state` with what the device's tools add. Where it has none, calls after the first cost 20 us."""
    return merge(state, ask(tools))


def _temperatures(sysfs: Dict[str, int], tools: Dict[str, Dict[str, int]]) -> Dict[str, int]:
    zones = {_zone(name) for name in sysfs}
    found = dict(sysfs)
    for tool, sensors in tools.items():
        for name, value_mc in sensors.items():
            if tool not in _ZONES_AGAIN or _zone(name) not in zones:
                found[name if name not in found else tool + " " + name] = value_mc
    return found


def _zone(name: str) -> str:
    return re.split("[-_ ]", name)[0].lower()
