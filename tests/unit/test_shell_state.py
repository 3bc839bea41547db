"""The state of a device without Python, from the files and tools that its shell printed."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from edgebench.agent.state import read_state
from edgebench.targets.native.script import Script
from edgebench.targets.native.shell_state import FILES, state_of

PI = {
    "/proc/stat": "cpu  1000 20 300 40000 50 0 6 0 0 0\ncpu0 1000 20 300 40000 50 0 6 0 0 0\nprocs_running 2\n",
    "/proc/loadavg": "0.52 0.58 0.59 2/180 4321\n",
    "/proc/meminfo": "MemTotal: 3884360 kB\nMemAvailable: 3000000 kB\nSwapTotal: 100 kB\nSwapFree: 90 kB\n",
    "/sys/devices/system/cpu/cpufreq/policy0/scaling_governor": "ondemand\n",
    "/sys/devices/system/cpu/cpufreq/policy0/scaling_cur_freq": "600000\n",
    "/sys/devices/system/cpu/cpufreq/policy0/cpuinfo_max_freq": "1500000\n",
    "/sys/devices/system/cpu/cpufreq/policy0/affected_cpus": "0 1 2 3\n",
    "/sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
    "/sys/class/thermal/thermal_zone0/temp": "48312\n",
}


def test_what_files_tell_is_the_state() -> None:
    state = state_of(PI, 4)
    assert state.governors == ("ondemand",)
    assert state.frequency_khz == (600000,) * 4
    assert state.max_frequency_khz == (1500000,) * 4
    assert list(state.temperatures_mc.values()) == [48312]
    assert state.available_bytes == 3000000 * 1024
    assert state.swap_used_bytes == 10 * 1024
    assert state.load_1min == 0.52
    assert state.running == 2
    assert state.cpu_ticks is not None


def test_how_many_cpus_it_has_is_the_devices_and_not_ours() -> None:
    state = state_of({}, 6)
    assert (state.usable_cpus, state.affinity) == (6, None)


def test_nothing_told_is_nothing_known() -> None:
    state = state_of({}, 1)
    assert state.governors is None
    assert state.temperatures_mc == {}
    assert state.cpu_ticks is None
    assert state.throttle_flags is None
    assert state.thermal_status is None


def test_what_tools_tell_is_added() -> None:
    state = state_of({**PI, "vcgencmd get_throttled": "throttled=0x50005\n"}, 4)
    assert state.throttle_flags == 0x50005


def test_a_tool_that_says_something_else_adds_nothing() -> None:
    told = {
        "vcgencmd get_throttled": "VCHI initialization failed\n",
        "dumpsys battery": "Can't find service: battery\n",
        "dumpsys thermalservice": "\n",
    }
    assert replace(state_of({**PI, **told}, 4), at_ns=0) == replace(state_of(PI, 4), at_ns=0)


@pytest.mark.parametrize("name", ["/../../../../../{}", "/proc/../../../../../../{}", "../{}", "/{}"])
def test_a_device_cannot_have_files_written_here(tmp_path: Path, name: str) -> None:
    victim = tmp_path / "victim"
    state_of({name.format(str(victim).lstrip("/")): "x"}, 1)
    assert not victim.exists()


@pytest.mark.parametrize("name", ["/proc/stat/more", "/proc", "/proc/", "/proc/a\0b", "/sys/" + "a" * 300])
def test_a_file_that_cannot_be_one_is_passed_over(name: str) -> None:
    assert state_of({**PI, name: "x"}, 4).governors == ("ondemand",)


def test_a_shell_tells_of_this_machine_what_its_own_files_tell() -> None:
    script = Script("/")
    # Nothing is written to `/`.
    script._lines[2:] = []
    script.show_state("now")
    before = read_state()
    done = subprocess.run(["sh", "-s"], input=script.text(), capture_output=True, check=True, timeout=60)
    after = read_state()
    (head, _), *files, (last, _) = script.sections(done.stdout.decode())
    assert (head, last) == ("state now", "end")
    found = state_of(dict(files), os.cpu_count() or 1)
    assert found.governors == before.governors
    assert set(found.temperatures_mc) == set(before.temperatures_mc)
    assert found.power == before.power
    assert found.max_frequency_khz == before.max_frequency_khz
    if before.cpu_ticks is not None and after.cpu_ticks is not None and found.cpu_ticks is not None:
        assert before.cpu_ticks.busy_ns <= found.cpu_ticks.busy_ns <= after.cpu_ticks.busy_ns
    assert {name for name, _ in files if name.startswith("/")} >= {"/proc/stat", "/proc/meminfo"}


def test_every_pattern_is_below_proc_or_sys() -> None:
    assert all(pattern.startswith(("/proc/", "/sys/")) for pattern in FILES.split())
