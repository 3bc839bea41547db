"""What Android's thermal and battery services say.

The layouts are those of `ThermalManagerService.dumpInternal` (Android 10 and newer) and `BatteryService.dumpInternal`
in AOSP's frameworks/base; makers add lines, and types and names of their own.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Dict, List, Optional, Tuple

from .asking import Tool
from .text import millidegrees, whole_lines

TOOL = Tool("dumpsys")

_TEMPERATURE = re.compile(r"Temperature\{mValue=(\S+), mType=(-?[0-9]{1,3}), mName=(.*), mStatus=-?[0-9]{1,3}\}")
_FROM_HAL = "Current temperatures from HAL:"
_CACHED = "Cached temperatures:"

# Voltage, current and charge of the battery, as numbers among the temperatures: "soc" 88.0 is a charge of 88 %.
_NO_TEMPERATURES = ("6", "7", "8")
# Samsung's older names; their types are one higher, so that 6 is the power amplifier.
_SHIFTED = "TYPE_"
# A Pixel's virtual sensors may be differences.
_DIFFERENCE = "-MINUS-"

_SHUTDOWN = 6
_DISCHARGING, _FULL = 3, 5
_SOURCES = ("AC powered", "USB powered", "Wireless powered", "Dock powered")


@dataclass(frozen=True)
class ThermalService:
    """`status`: 0 none, 1 light, 2 moderate, 3 severe, 4 critical, 5 emergency, 6 shutdown; `override`: somebody set it
    by hand. `cached`: the temperatures are what the service was told last, which may be hours ago."""

    status: Optional[int]
    override: Optional[bool]
    temperatures_mc: Dict[str, int]
    cached: bool


@dataclass(frozen=True)
class Battery:
    """`power`: "mains" or "battery", which is also what feeds a device whose charger is too weak. `status`: 1 unknown,
    2 charging, 3 discharging, 4 not charging, 5 full. `overridden`: somebody set these values by hand."""

    level_percent: Optional[int]
    power: Optional[str]
    status: Optional[int]
    temperature_mc: Optional[int]
    overridden: bool


def parse_thermalservice(text: str) -> Optional[ThermalService]:
    """What `dumpsys thermalservice` printed; None where it holds nothing of that.

    The temperatures are those the HAL gives now. The cached ones stand in only where the service says that there is no
    HAL, or does not speak of one. Of two sensors of one name the hotter counts.
    """
    sections: Dict[str, List[Tuple[str, int]]] = {}
    values: Dict[str, str] = {}
    section = ""
    for line in whole_lines(text):
        if line.startswith("Temperature{"):
            if section in sections:
                sections[section].extend(_temperature(line))
        elif line.endswith(":"):
            section = line
            sections.setdefault(section, [])
        else:
            section = ""
            key, _, value = line.partition(": ")
            values.setdefault(key, value)
    # The section open at the end may go on, and a HAL may follow it.
    from_hal = _FROM_HAL in sections
    cached = not from_hal and section != _CACHED and values.get("HAL Ready") != "true" and bool(sections.get(_CACHED))
    temperatures: Dict[str, int] = {}
    for name, value_mc in sections.get(_CACHED if cached else _FROM_HAL, []):
        temperatures[name] = max(value_mc, temperatures.get(name, value_mc))
    found = ThermalService(
        status=_up_to(_SHUTDOWN, values.get("Thermal Status")),
        override=_BOOLEANS.get(values.get("IsStatusOverride", "")),
        temperatures_mc=temperatures,
        cached=cached,
    )
    return None if found.status is None and not temperatures else found


def parse_battery(text: str) -> Optional[Battery]:
    """What `dumpsys battery` printed; None where it holds nothing of that."""
    lines = whole_lines(text)
    if "Current Battery Service state:" not in lines:
        return None
    values: Dict[str, str] = {}
    for line in lines[lines.index("Current Battery Service state:") + 1 :]:
        # Some makers repeat a key further down for something else.
        key, _, value = line.partition(":")
        values.setdefault(key, value.strip())
    status = _up_to(_FULL, values.get("status"))
    level = temperature_mc = None
    # A device without a battery invents one.
    if values.get("present") == "true":
        level = _percent(values.get("level"), values.get("scale"))
        temperature_mc = _battery_mc(values.get("temperature", ""))
    return Battery(
        level_percent=level,
        power=_power(values, status),
        status=status,
        temperature_mc=temperature_mc,
        overridden=any(line.startswith("(UPDATES STOPPED") for line in lines),
    )


def read_thermalservice(tool: Tool = TOOL) -> Optional[ThermalService]:
    """What the thermal service tells, or None where there is none or it may not be asked."""
    return parse_thermalservice(tool.ask("thermalservice") or "")


def read_battery(tool: Tool = TOOL) -> Optional[Battery]:
    """What the battery service tells, or None where there is none or it may not be asked."""
    return parse_battery(tool.ask("battery") or "")


_BOOLEANS = {"true": True, "false": False}


def _temperature(line: str) -> List[Tuple[str, int]]:
    found = _TEMPERATURE.fullmatch(line)
    if found is None:
        return []
    degrees, kind, name = found.groups()
    if _DIFFERENCE in name or (kind in _NO_TEMPERATURES and not name.startswith(_SHIFTED)):
        return []
    value_mc = millidegrees(degrees)
    # Samsung and Pixel phones say exactly 0.0 for a sensor that is not fitted.
    return [(name, value_mc)] if value_mc else []


def _up_to(most: int, text: Optional[str]) -> Optional[int]:
    return int(text) if text is not None and re.fullmatch("[0-9]", text) and int(text) <= most else None


def _percent(level: Optional[str], scale: Optional[str]) -> Optional[int]:
    if level is None or scale is None or not re.fullmatch("[0-9]{1,6}/[0-9]{1,6}", level + "/" + scale):
        return None
    return round(100 * int(level) / int(scale)) if 0 <= int(level) <= int(scale) and int(scale) > 0 else None


def _battery_mc(tenths: str) -> Optional[int]:
    # 0 is an emulator's, or that of a battery without a sensor.
    if not re.fullmatch("-?[0-9]{1,4}", tenths) or int(tenths) == 0:
        return None
    return millidegrees("%.1f" % (int(tenths) / 10))


def _power(values: Dict[str, str], status: Optional[int]) -> Optional[str]:
    sources = [_BOOLEANS.get(values[name]) for name in _SOURCES if name in values]
    # The status is printed after the sources, so with it they are all there.
    if status is None or not sources or None in sources:
        return None
    # As in `state`: a weak charger is online while the battery discharges.
    return "mains" if any(sources) and status != _DISCHARGING else "battery"
