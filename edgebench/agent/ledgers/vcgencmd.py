"""What the firmware of a Raspberry Pi says: its throttling, temperature, true clock and, on a Pi 5, its power rails.

The firmware is asked for the clock because `scaling_cur_freq` keeps saying what was requested while it throttles
(raspberrypi/linux, issue 2986).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Dict, Optional

from .asking import Tool
from .text import millidegrees, whole_lines

TOOL = Tool("vcgencmd")

_CHANNEL = re.compile(
    r"(?P<rail>[0-9A-Z_]{1,40})_(?:A current|V volt)\([0-9]{1,3}\)=(?P<value>-?[0-9]{1,4}\.[0-9]{1,9})(?P<unit>[AV])"
)


@dataclass(frozen=True)
class PmicAdc:
    """What the power chip of a Pi 5 measures, by rail ("VDD_CORE").

    `microwatts` is the sum over the rails that have a current; None unless each of them is whole. It leaves out the
    chip's own losses and what takes 5 V past it: USB devices, a fan.
    """

    microvolts: Dict[str, int]
    microamps: Dict[str, int]
    microwatts: Optional[int]


@dataclass(frozen=True)
class Vcgencmd:
    """`throttle_flags`: bits 0-3 now (under-voltage, capped, throttled, soft limit), 16-19 since boot. `arm_hz`: the
    clock of the CPUs as the firmware measures it."""

    throttle_flags: Optional[int]
    temperature_mc: Optional[int]
    arm_hz: Optional[int]
    pmic: Optional[PmicAdc]


def parse_throttled(text: str) -> Optional[int]:
    """The flags of `throttled=0x50005`."""
    found = _only_line(r"throttled=0x([0-9a-fA-F]{1,8})", text)
    return None if found is None else int(found, 16)


def parse_temperature(text: str) -> Optional[int]:
    """Milli-degrees Celsius of `temp=48.3'C`."""
    found = _only_line(r"temp=(-?[0-9.]{1,8})'C", text)
    return None if found is None else millidegrees(found)


def parse_clock(text: str) -> Optional[int]:
    """Hertz of `frequency(48)=600169920`."""
    found = _only_line(r"frequency\([0-9]{1,3}\)=([0-9]{1,11})", text)
    return None if found is None else int(found)


def parse_pmic_adc(text: str) -> Optional[PmicAdc]:
    """The rails of `pmic_read_adc`, a line each as in `VDD_CORE_V volt(15)=0.72097620V`; None where there is none."""
    microvolts: Dict[str, int] = {}
    microamps: Dict[str, int] = {}
    whole = text.endswith("\n")
    for line in whole_lines(text):
        channel = _CHANNEL.fullmatch(line)
        if channel is None or ("_A current" in line) != (channel["unit"] == "A"):
            whole = False
            continue
        found = microamps if channel["unit"] == "A" else microvolts
        found[channel["rail"]] = round(float(channel["value"]) * 1e6)
    if not microvolts and not microamps:
        return None
    # Currents are printed first, so that a text that was cut lacks voltages.
    if not whole or not microamps or not microamps.keys() <= microvolts.keys():
        return PmicAdc(microvolts, microamps, None)
    picowatts = sum(microvolts[rail] * microamps[rail] for rail in microamps)
    return PmicAdc(microvolts, microamps, round(picowatts / 1e6))


def read(tool: Tool = TOOL) -> Optional[Vcgencmd]:
    """What the firmware tells, or None where there is none."""

    def ask(*command: str) -> str:
        return tool.ask(*command) or ""

    found = Vcgencmd(
        throttle_flags=parse_throttled(ask("get_throttled")),
        temperature_mc=parse_temperature(ask("measure_temp")),
        arm_hz=parse_clock(ask("measure_clock", "arm")),
        pmic=parse_pmic_adc(ask("pmic_read_adc")),
    )
    return None if found == Vcgencmd(None, None, None, None) else found


def _only_line(pattern: str, text: str) -> Optional[str]:
    """Group 1 of `pattern`; firmware that refuses says so in further lines, and older tools with exit code 0."""
    lines = whole_lines(text)
    found = re.fullmatch(pattern, lines[0]) if len(lines) == 1 else None
    return None if found is None else found.group(1)
