"""Energy in joules, where the machine tells: RAPL counters, else current monitors on power rails, else the battery.

In this order, because RAPL is a counter that misses nothing, a rail is a power that has to be sampled, and a battery's
power is refreshed every few seconds only. Each source is this machine's and not this process's: idle power is in the
figure. Of hwmon only the INA family of current monitors is taken: another chip's `power1_input` may be a graphics card.
"""

from __future__ import annotations

import os
import time
from typing import Callable, List, Optional, Tuple

from ..sysfs import numbered, power_supplies, read_int, read_text

# These carry all of the module's current, the other rails a part of it; by NVIDIA, POM_5V_IN is "the total power".
_TOTAL_RAILS = ("VDD_IN", "POM_5V_IN")

_Reading = Tuple[int, ...]


class EnergyMeter:
    """`start`, then `sample` about ten times a second, then `stop`. `method` is for beside the figure: its source."""

    def __init__(
        self,
        method: str,
        read: Callable[[], Optional[_Reading]],
        energy_uj: Callable[[_Reading, _Reading], float],
    ) -> None:
        self.method = method
        self._read = read
        self._energy_uj = energy_uj
        self._last: Optional[_Reading] = None
        self._total_uj = 0.0

    def start(self) -> None:
        """Count from here on."""
        self._total_uj = 0.0
        self._last = self._read()

    def sample(self) -> None:
        """Add what was used since the last call."""
        # One reading that fails loses the figure: what was used in the gap cannot be told.
        now = None if self._last is None else self._read()
        if self._last is not None and now is not None:
            self._total_uj += self._energy_uj(self._last, now)
        self._last = now

    def stop(self) -> Optional[int]:
        """Microjoules since `start`; None where a reading failed or the source stood still."""
        self.sample()
        total_uj = round(self._total_uj)
        return total_uj if self._last is not None and total_uj > 0 else None


def open_meter(root: str = "/", *, clock: Callable[[], int] = time.perf_counter_ns) -> Optional[EnergyMeter]:
    """The most trustworthy meter below `root` that can be read now. `clock` counts nanoseconds."""
    return _open_rapl(root) or _open_rails(root, clock) or _open_battery(root, clock)


def why_not(root: str = "/") -> str:
    """Why `open_meter` found none."""
    reasons = []
    # One speaks for all: they have the same owner and mode.
    for _, zone in _rapl_zones(root)[:1]:
        try:
            with open(os.path.join(zone, "energy_uj"), "rb") as file:
                file.read()
        except PermissionError:
            reasons.append("energy_uj is readable by root only: permission denied")
        except OSError as error:
            reasons.append("energy_uj cannot be read: %s" % error.strerror)
    if _batteries(root):
        reasons.append("the battery tells the power that is drawn only while it discharges")
    return "; ".join(reasons) or "this machine has no RAPL, power rail or battery"


def _open_rapl(root: str) -> Optional[EnergyMeter]:
    zones = _rapl_zones(root)
    ranges = [read_int(zone, "max_energy_range_uj") for _, zone in zones]

    def read() -> Optional[_Reading]:
        return _all_known([read_int(zone, "energy_uj") for _, zone in zones])

    def energy_uj(before: _Reading, after: _Reading) -> float:
        # A counter of 32 bits wraps about once an hour.
        return sum(b - a if b >= a else b - a + (wrap or 0) for a, b, wrap in zip(before, after, ranges))

    if not zones or None in ranges or read() is None:
        return None
    return EnergyMeter("RAPL %s of powercap" % " + ".join(name for name, _ in zones), read, energy_uj)


def _rapl_zones(root: str) -> List[Tuple[str, str]]:
    """Name and directory of each package and of its memory.

    Cores and graphics are parts of the package. `psys` contains the packages and the memory, but what else it contains
    is the board maker's choice; `intel-rapl-mmio` is the same package over another bus.
    """
    found = []
    for _, package in numbered(os.path.join(root, "sys/class/powercap"), r"intel-rapl:(\d+)"):
        name = read_text(package, "name") or ""
        if not name.startswith("package"):
            continue
        found.append((name, package))
        parts = numbered(package, r"intel-rapl:\d+:(\d+)")
        found.extend(("dram", part) for _, part in parts if read_text(part, "name") == "dram")
    return found


def _open_rails(root: str, clock: Callable[[], int]) -> Optional[EnergyMeter]:
    rails = [(label, files) for label, files in _rails(root) if _power_uw(files) is not None]
    rails = [rail for rail in rails if rail[0] in _TOTAL_RAILS][:1] or rails
    if not rails:
        return None

    def read() -> Optional[_Reading]:
        powers = _all_known([_power_uw(files) for _, files in rails])
        return None if powers is None else (clock(), sum(powers))

    words = "power rail %s, sampled" if len(rails) == 1 else "sum of the power rails %s, sampled"
    return EnergyMeter(words % " + ".join(label for label, _ in rails), read, _trapezoid_uj)


def _rails(root: str) -> List[Tuple[str, Tuple[str, ...]]]:
    """Label, and the files whose product is the rail's power in microwatts: `power` alone, or mV and mA."""
    found: List[Tuple[str, Tuple[str, ...]]] = []
    for _, chip in numbered(os.path.join(root, "sys/class/hwmon"), r"hwmon(\d+)"):
        name = read_text(chip, "name") or ""
        if not name.startswith("ina"):
            continue
        powers = numbered(chip, r"power(\d+)_input")
        for index, path in powers:
            label = read_text(chip, "power%d_label" % index) or read_text(chip, "label") or name
            found.append((label, (path,)))
        # From the fourth on, an INA3221's inputs are the shunts' microvolts and its fourth current is a sum.
        for index, path in [] if powers else numbered(chip, r"in([123])_input"):
            label = read_text(chip, "in%d_label" % index) or "%s channel %d" % (name, index)
            if label != "NC":
                found.append((label, (path, os.path.join(chip, "curr%d_input" % index))))
    return found


def _open_battery(root: str, clock: Callable[[], int]) -> Optional[EnergyMeter]:
    batteries = _batteries(root)

    def read() -> Optional[_Reading]:
        # Of two batteries one discharges at a time; none does once the charger is plugged in.
        powers = [_battery_uw(path) for path in batteries if read_text(path, "status") == "Discharging"]
        known = _all_known(powers)
        return None if not known else (clock(), sum(known))

    if read() is None:
        return None
    names = " + ".join(os.path.basename(path) for path in batteries)
    return EnergyMeter("discharge of the battery %s, sampled" % names, read, _trapezoid_uj)


def _batteries(root: str) -> List[str]:
    return [path for kind, path in power_supplies(root) if kind == "Battery"]


def _battery_uw(path: str) -> Optional[int]:
    # The sign of a discharge differs from driver to driver.
    power_uw = read_int(path, "power_now")
    if power_uw is not None:
        return abs(power_uw)
    product = _power_uw((os.path.join(path, "current_now"), os.path.join(path, "voltage_now")))
    return None if product is None else abs(product) // 1_000_000


def _power_uw(files: Tuple[str, ...]) -> Optional[int]:
    product = 1
    for path in files:
        value = read_int(path)
        if value is None:
            return None
        product *= value
    return product


def _all_known(values: List[Optional[int]]) -> Optional[_Reading]:
    known = tuple(value for value in values if value is not None)
    return known if len(known) == len(values) else None


def _trapezoid_uj(before: _Reading, after: _Reading) -> float:
    """Microjoules between two readings of (nanoseconds, microwatts)."""
    return (before[1] + after[1]) / 2 * (after[0] - before[0]) / 1e9
