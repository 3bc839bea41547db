"""The state of a device that has a shell and no Python: the files that `agent.state` reads, printed and put together
here, so that there is one reader of them."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from edgebench.agent.ledgers.device_tools import merge, told
from edgebench.agent.ledgers.dumpsys import parse_battery, parse_thermalservice
from edgebench.agent.ledgers.vcgencmd import Vcgencmd, parse_throttled
from edgebench.agent.state import State, read_state

__all__ = ["FILES", "TOOLS", "state_of"]

# As a shell's patterns.
FILES = (
    "/proc/stat /proc/meminfo /proc/loadavg /proc/pressure/cpu /proc/pressure/memory "
    "/sys/devices/system/cpu/cpufreq/policy*/scaling_governor /sys/devices/system/cpu/cpufreq/policy*/scaling_cur_freq "
    "/sys/devices/system/cpu/cpufreq/policy*/cpuinfo_max_freq /sys/devices/system/cpu/cpufreq/policy*/affected_cpus "
    "/sys/class/thermal/thermal_zone*/type /sys/class/thermal/thermal_zone*/temp "
    "/sys/class/hwmon/hwmon*/name /sys/class/hwmon/hwmon*/temp*_input /sys/class/hwmon/hwmon*/temp*_label "
    "/sys/class/power_supply/*/type /sys/class/power_supply/*/status /sys/class/power_supply/*/online "
    "/sys/class/power_supply/*/scope /sys/devices/platform/soc/soc:firmware/get_throttled"
)
TOOLS = ("dumpsys thermalservice", "dumpsys battery", "vcgencmd get_throttled")


def state_of(printed: Mapping[str, str], cpus: int) -> State:
    """The state that the printed files (by their paths) and tools (by their command lines) tell; `cpus` is how many
    the device has."""
    with tempfile.TemporaryDirectory(prefix="edgebench-state-") as root:
        for path, text in printed.items():
            if path.startswith(("/proc/", "/sys/")) and ".." not in path:
                file = Path(root, path.lstrip("/"))
                # What a broken device prints may be no name of a file.
                with suppress(OSError, ValueError):
                    file.parent.mkdir(parents=True, exist_ok=True)
                    file.write_text(text)
        state = read_state(root)
    # What this process may use here says nothing.
    state = replace(state, affinity=None, usable_cpus=cpus)
    thermal, battery, throttled = (printed.get(tool, "") for tool in TOOLS)
    flags = parse_throttled(throttled)
    return merge(
        state,
        told(
            pi=None if flags is None else Vcgencmd(flags, None, None, None),
            thermal=parse_thermalservice(thermal),
            battery=parse_battery(battery),
        ),
    )
