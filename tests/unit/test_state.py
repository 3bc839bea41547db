"""The state ledger and the wait for calm, on trees of /proc and /sys as devices show them."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgebench.agent.calm import Waited, wait_until_calm
from edgebench.agent.codec import decode, encode
from edgebench.agent.state import CpuTicks, State, others_busy, read_cpu, read_state, read_temperatures

CPUS = "sys/devices/system/cpu"
THERMAL = "sys/class/thermal"
HWMON = "sys/class/hwmon"
SUPPLY = "sys/class/power_supply"

PI_4 = {
    "proc/stat": (
        "cpu  1000 20 300 40000 50 0 6 0 0 0\n"
        "cpu0 250 5 75 10000 12 0 2 0 0 0\n"
        "intr 123456 0 0\nctxt 987\nbtime 1700000000\nprocesses 4321\nprocs_running 2\nprocs_blocked 0\n"
    ),
    "proc/loadavg": "0.52 0.58 0.59 2/180 4321\n",
    "proc/meminfo": (
        "MemTotal:        3884360 kB\nMemFree:          200000 kB\nMemAvailable:    3000000 kB\n"
        "SwapCached:            0 kB\nSwapTotal:        102396 kB\nSwapFree:         100348 kB\n"
    ),
    f"{CPUS}/cpufreq/policy0/affected_cpus": "0 1 2 3\n",
    f"{CPUS}/cpufreq/policy0/scaling_governor": "ondemand\n",
    f"{CPUS}/cpufreq/policy0/scaling_cur_freq": "600000\n",
    f"{CPUS}/cpufreq/policy0/cpuinfo_max_freq": "1800000\n",
    f"{CPUS}/cpu0/topology/core_id": "0\n",
    f"{THERMAL}/thermal_zone0/type": "cpu-thermal\n",
    f"{THERMAL}/thermal_zone0/temp": "48312\n",
    f"{HWMON}/hwmon0/name": "cpu_thermal\n",
    f"{HWMON}/hwmon0/temp1_input": "48312\n",
    f"{HWMON}/hwmon1/name": "rpi_volt\n",
    f"{HWMON}/hwmon1/in0_lcrit_alarm": "0\n",
    "sys/devices/platform/soc/soc:firmware/get_throttled": "50005\n",
}

LAPTOP = {
    "proc/stat": "cpu  74608 2520 24433 1117073 6176 4054 1500 120 500 20 \nprocs_running 1\n",
    "proc/pressure/memory": "some avg10=0.00 avg60=0.00 avg300=0.00 total=15093\nfull avg10=0.00 total=7777\n",
    "proc/pressure/cpu": "some avg10=1.53 avg60=0.87 avg300=0.73 total=1037495\n",
    f"{CPUS}/intel_pstate/no_turbo": "0\n",
    f"{CPUS}/cpufreq/policy0/affected_cpus": "0\n",
    f"{CPUS}/cpufreq/policy0/scaling_governor": "powersave\n",
    f"{CPUS}/cpufreq/policy0/scaling_cur_freq": "3891020\n",
    f"{CPUS}/cpufreq/policy0/cpuinfo_max_freq": "4700000\n",
    # Numbers, not names, give the order: policy10 comes after policy2.
    f"{CPUS}/cpufreq/policy10/affected_cpus": "10\n",
    f"{CPUS}/cpufreq/policy10/scaling_governor": "powersave\n",
    f"{CPUS}/cpufreq/policy10/scaling_cur_freq": "400000\n",
    f"{CPUS}/cpufreq/policy10/cpuinfo_max_freq": "3300000\n",
    f"{CPUS}/cpufreq/policy2/affected_cpus": "2\n",
    f"{CPUS}/cpufreq/policy2/scaling_governor": "performance\n",
    f"{CPUS}/cpufreq/policy2/scaling_cur_freq": "1200000\n",
    f"{CPUS}/cpufreq/policy2/cpuinfo_max_freq": "4700000\n",
    f"{CPUS}/cpu0/thermal_throttle/core_throttle_count": "3\n",
    f"{CPUS}/cpu0/thermal_throttle/package_throttle_count": "40\n",
    f"{CPUS}/cpu1/thermal_throttle/core_throttle_count": "0\n",
    f"{CPUS}/cpu1/thermal_throttle/package_throttle_count": "40\n",
    f"{THERMAL}/thermal_zone0/type": "acpitz\n",
    f"{THERMAL}/thermal_zone0/temp": "27800\n",
    f"{THERMAL}/thermal_zone1/type": "acpitz\n",
    f"{THERMAL}/thermal_zone1/temp": "-274000\n",
    f"{THERMAL}/thermal_zone10/type": "x86_pkg_temp\n",
    f"{THERMAL}/thermal_zone10/temp": "71000\n",
    f"{HWMON}/hwmon4/name": "coretemp\n",
    f"{HWMON}/hwmon4/temp1_label": "Package id 0\n",
    f"{HWMON}/hwmon4/temp1_input": "71000\n",
    f"{SUPPLY}/AC/type": "Mains\n",
    f"{SUPPLY}/AC/online": "1\n",
    f"{SUPPLY}/BAT0/type": "Battery\n",
    f"{SUPPLY}/BAT0/status": "Not charging\n",
}

# The CPU speaks through hwmon only; the board's zone says little.
AMD_LAPTOP = {
    f"{CPUS}/cpufreq/boost": "0\n",
    f"{THERMAL}/thermal_zone0/type": "acpitz\n",
    f"{THERMAL}/thermal_zone0/temp": "20000\n",
    f"{HWMON}/hwmon0/name": "acpitz\n",
    f"{HWMON}/hwmon0/temp1_input": "20000\n",
    f"{HWMON}/hwmon1/name": "nvme\n",
    f"{HWMON}/hwmon1/temp1_label": "Composite\n",
    f"{HWMON}/hwmon1/temp1_input": "55850\n",
    f"{HWMON}/hwmon2/name": "k10temp\n",
    f"{HWMON}/hwmon2/temp1_label": "Tctl\n",
    f"{HWMON}/hwmon2/temp1_input": "62125\n",
    f"{HWMON}/hwmon3/name": "amdgpu\n",
    f"{HWMON}/hwmon3/temp1_input": "48000\n",
}

JETSON = {
    f"{THERMAL}/thermal_zone0/type": "CPU-therm\n",
    f"{THERMAL}/thermal_zone0/temp": "41500\n",
    f"{THERMAL}/thermal_zone1/type": "PMIC-Die\n",
    f"{THERMAL}/thermal_zone1/temp": "100000\n",
    f"{THERMAL}/thermal_zone2/type": "Tdiode_tegra\n",
    f"{THERMAL}/thermal_zone2/temp": "-99900\n",
    f"{THERMAL}/thermal_zone3/type": "thermal-fan-est\n",
    f"{THERMAL}/thermal_zone3/temp": "100000\n",
    f"{THERMAL}/thermal_zone4/type": "iwlwifi\n",
    f"{THERMAL}/thermal_zone4/temp": "150000\n",
    f"{THERMAL}/thermal_zone5/type": "outside\n",
    f"{THERMAL}/thermal_zone5/temp": "-40000\n",
}


def _plant(root: Path, files: dict[str, str]) -> str:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return str(root)


def test_a_pi_tells_its_clock_heat_and_firmware_flags(tmp_path: Path) -> None:
    state = read_state(_plant(tmp_path, PI_4))

    assert state.governors == ("ondemand",)
    # One policy for four CPUs.
    assert state.frequency_khz == (600_000,) * 4
    assert state.max_frequency_khz == (1_800_000,) * 4
    assert state.turbo is None
    assert state.temperatures_mc == {"cpu-thermal": 48312}
    assert state.throttle_flags == 0x50005
    assert state.throttle_events is None
    assert state.load_1min == 0.52
    assert state.running == 2
    assert state.available_bytes == 3_072_000_000  # 3 000 000 x 1024
    assert state.swap_used_bytes == 2_097_152  # (102396 - 100348) x 1024 = 2048 x 1024
    assert state.memory_pressure_us is None
    assert state.cpu_pressure_us is None
    assert state.power is None
    assert state.cgroup_throttled_us is None


def test_a_laptop_tells_turbo_throttling_pressure_and_mains(tmp_path: Path) -> None:
    state = read_state(_plant(tmp_path, LAPTOP))

    assert state.governors == ("performance", "powersave")
    assert state.frequency_khz == (3_891_020, 1_200_000, 400_000)
    assert state.max_frequency_khz == (4_700_000, 4_700_000, 3_300_000)
    assert state.turbo is True
    assert state.throttle_events == 83  # 3 + 40 + 0 + 40
    assert state.throttle_flags is None
    assert state.memory_pressure_us == 15093
    assert state.cpu_pressure_us == 1_037_495
    assert state.power == "mains"


def test_a_tree_without_proc_and_sys_is_not_measured_anywhere(tmp_path: Path) -> None:
    state = read_state(str(tmp_path))

    told = {"at_ns", "temperatures_mc", "affinity", "usable_cpus"}
    assert {name for name, value in encode(state).items() if value is not None} <= told
    assert state.temperatures_mc == {}
    assert read_cpu(str(tmp_path)) is None


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"<unknown>\n", b"\xff\xfe\0", b"12.5 kB\n", b"some total=\n", b"cpu  1 2\n"]
)
def test_what_does_not_parse_is_not_measured(tmp_path: Path, content: bytes) -> None:
    files = {**PI_4, **LAPTOP, **AMD_LAPTOP, "proc/self/cgroup": "", "sys/fs/cgroup/cpu.stat": ""}
    _plant(tmp_path, files)
    for name in files:
        (tmp_path / name).write_bytes(content)

    state = read_state(str(tmp_path))

    told = {"at_ns", "temperatures_mc", "affinity", "usable_cpus", "governors"}
    found = {name for name, value in encode(state).items() if value is not None}
    assert found <= (told | {"load_1min"} if content.startswith(b"12.5") else told)
    assert state.temperatures_mc == {}


@pytest.mark.parametrize("files", [PI_4, LAPTOP, AMD_LAPTOP, JETSON, {}])
def test_a_state_survives_the_codec(tmp_path: Path, files: dict[str, str]) -> None:
    state = read_state(_plant(tmp_path, files))

    assert decode(State, encode(state)) == state


def test_guest_time_is_not_counted_twice(tmp_path: Path) -> None:
    # user 74608 (of which guest 500) + nice 2520 (of which 20) + system 24433 + irq 4054 + softirq 1500 = 107115 ticks
    # of 10 ms; the others stand in the line.
    expected = CpuTicks(1_071_150_000_000, 11_170_730_000_000, 1_200_000_000, 61_760_000_000)

    assert read_cpu(_plant(tmp_path, LAPTOP)) == expected


def test_a_sandbox_that_writes_zeros_has_no_cpu_time(tmp_path: Path) -> None:
    assert read_cpu(_plant(tmp_path, {"proc/stat": "cpu  0 0 0 0 0 0 0 0 0 0\n"})) is None


def test_turbo_switched_off_at_cpufreq_is_off(tmp_path: Path) -> None:
    assert read_state(_plant(tmp_path, AMD_LAPTOP)).turbo is False


def test_turbo_switched_off_at_intel_pstate_is_off(tmp_path: Path) -> None:
    assert read_state(_plant(tmp_path, {f"{CPUS}/intel_pstate/no_turbo": "1\n"})).turbo is False


def test_firmware_flags_with_a_prefix_are_the_same_flags(tmp_path: Path) -> None:
    files = {"sys/devices/platform/soc/soc:firmware/get_throttled": "0x50000\n"}

    assert read_state(_plant(tmp_path, files)).throttle_flags == 0x50000


def test_zones_of_one_type_keep_their_numbers_even_when_one_is_a_placeholder(tmp_path: Path) -> None:
    root = _plant(tmp_path, LAPTOP)

    assert read_temperatures(root) == {"acpitz-0": 27800, "x86_pkg_temp": 71000}


def test_hwmon_adds_chips_that_no_zone_stands_for_and_leaves_disks_alone(tmp_path: Path) -> None:
    root = _plant(tmp_path, AMD_LAPTOP)

    assert read_temperatures(root) == {"acpitz": 20000, "k10temp Tctl": 62125, "amdgpu": 48000}


def test_hwmon_alone_tells_core_by_core(tmp_path: Path) -> None:
    chip = f"{HWMON}/hwmon0"
    files = {f"{chip}/name": "coretemp\n", f"{chip}/temp2_label": "Core 0\n", f"{chip}/temp2_input": "51000\n"}

    assert read_temperatures(_plant(tmp_path, files)) == {"coretemp Core 0": 51000}


def test_placeholders_are_no_temperatures_and_100_degrees_is_one_outside_a_pmic(tmp_path: Path) -> None:
    assert read_temperatures(_plant(tmp_path, JETSON)) == {"CPU-therm": 41500, "thermal-fan-est": 100000}


@pytest.mark.parametrize(
    ("files", "power"),
    [
        ({"AC/type": "Mains", "AC/online": "0", "BAT0/type": "Battery", "BAT0/status": "Discharging"}, "battery"),
        # A charger that is too weak.
        ({"AC/type": "Mains", "AC/online": "1", "BAT0/type": "Battery", "BAT0/status": "Discharging"}, "battery"),
        ({"usb/type": "USB_PD", "usb/online": "1", "battery/type": "Battery", "battery/status": "Charging"}, "mains"),
        # A wireless mouse.
        ({"hidpp/type": "Battery", "hidpp/scope": "Device", "hidpp/status": "Discharging"}, None),
        ({"AC/type": "Mains", "AC/online": "0"}, None),
    ],
)
def test_power_is_where_the_current_comes_from(tmp_path: Path, files: dict[str, str], power: str | None) -> None:
    root = _plant(tmp_path, {f"{SUPPLY}/{name}": text + "\n" for name, text in files.items()})

    assert read_state(root).power == power


def test_a_quota_above_the_own_group_counts_as_well(tmp_path: Path) -> None:
    usage = "usage_usec 9000000\nuser_usec 8000000\nsystem_usec 1000000\n"
    files = {
        "proc/self/cgroup": "0::/box/session.scope\n",
        "sys/fs/cgroup/cpu.stat": usage,
        "sys/fs/cgroup/box/cpu.stat": usage + "nr_periods 40\nnr_throttled 10\nthrottled_usec 1000000\n",
        "sys/fs/cgroup/box/session.scope/cpu.stat": usage + "nr_periods 9\nnr_throttled 5\nthrottled_usec 250000\n",
    }

    # 1 000 000 + 250 000; the root group has no quota.
    assert read_state(_plant(tmp_path, files)).cgroup_throttled_us == 1_250_000


def test_a_version_1_container_reads_its_quota_at_the_top_of_the_mount(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "12:cpuset:/docker/4f\n4:cpu,cpuacct:/docker/4f\n1:name=systemd:/docker/4f\n",
        "sys/fs/cgroup/cpu/cpu.stat": "nr_periods 100\nnr_throttled 60\nthrottled_time 3000000999\n",
    }

    # Nanoseconds there: 3000000999 ns = 3000000 us.
    assert read_state(_plant(tmp_path, files)).cgroup_throttled_us == 3_000_000


def test_a_group_without_a_quota_that_is_counted_is_not_measured(tmp_path: Path) -> None:
    files = {"proc/self/cgroup": "0::/../..\n", "sys/fs/cgroup/cpu.stat": "usage_usec 1\nuser_usec 1\n"}

    assert read_state(_plant(tmp_path, files)).cgroup_throttled_us is None


def test_others_are_what_was_busy_beyond_the_own_process() -> None:
    before, after = CpuTicks(1_000, 0, 0, 0), CpuTicks(4_000, 500, 200, 0)

    # (4000 - 1000 - 1000) ns in 1000 ns are 2 CPUs.
    assert others_busy(before, after, own_ns=1_000, elapsed_ns=1_000) == 2.0


def test_a_clock_that_stands_still_tells_nothing_of_others() -> None:
    assert others_busy(CpuTicks(0, 0, 0, 0), CpuTicks(1, 0, 0, 0), own_ns=0, elapsed_ns=0) is None


def test_counters_that_run_backwards_tell_nothing_of_others() -> None:
    assert others_busy(CpuTicks(5, 0, 0, 0), CpuTicks(4, 0, 0, 0), own_ns=0, elapsed_ns=1) is None


@given(busy=st.integers(0, 10**12), own=st.integers(0, 10**12), elapsed=st.integers(1, 10**12))
def test_others_never_use_less_than_nothing(busy: int, own: int, elapsed: int) -> None:
    used = others_busy(CpuTicks(0, 0, 0, 0), CpuTicks(busy, 0, 0, 0), own_ns=own, elapsed_ns=elapsed)

    assert used is not None
    assert used >= 0


class _Machine:
    """Each sleep advances the clock, the busy ticks and the temperature by the next entry of the scripts."""

    def __init__(self, root: Path, *, ticks: list[int] | None = None, degrees: list[float] | None = None) -> None:
        self.root = root
        self.now_ns = 0
        self.windows = 0
        self._busy = 1000
        self._ticks = ticks
        self._degrees = degrees
        self._show()

    def clock(self) -> int:
        return self.now_ns

    def sleep(self, seconds: float) -> None:
        self.now_ns += round(seconds * 1e9)
        self._busy += self._ticks[min(self.windows, len(self._ticks) - 1)] if self._ticks else 0
        self.windows += 1
        self._show()

    def wait(self, *, cooldown_c: float | None = None, busy_cpus: float = 0.2, limit_s: float = 10.0) -> Waited:
        return wait_until_calm(
            cooldown_c=cooldown_c,
            busy_cpus=busy_cpus,
            limit_s=limit_s,
            root=str(self.root),
            clock=self.clock,
            sleep=self.sleep,
        )

    def _show(self) -> None:
        files: dict[str, str] = {}
        if self._ticks is not None:
            files["proc/stat"] = f"cpu  {self._busy} 0 0 9000 0 0 0 0 0 0\n"
        if self._degrees is not None:
            degrees = self._degrees[min(max(self.windows - 1, 0), len(self._degrees) - 1)]
            files[f"{THERMAL}/thermal_zone0/type"] = "cpu-thermal\n"
            files[f"{THERMAL}/thermal_zone0/temp"] = f"{round(degrees * 1000)}\n"
        _plant(self.root, files)


def test_a_calm_machine_waits_one_window(tmp_path: Path) -> None:
    machine = _Machine(tmp_path, ticks=[0], degrees=[45.0])

    assert machine.wait(cooldown_c=60.0) == Waited(seconds=0.25, calm=True, reason=None)


def test_waiting_ends_when_others_are_done(tmp_path: Path) -> None:
    # 25 ticks of 10 ms in 0.25 s are one CPU.
    machine = _Machine(tmp_path, ticks=[25, 25, 0])

    assert machine.wait() == Waited(seconds=0.75, calm=True, reason=None)


def test_waiting_is_bounded_and_names_the_load(tmp_path: Path) -> None:
    # 33 ticks of 10 ms in 0.25 s are 1.32 CPUs, less what the test itself uses of a CPU.
    machine = _Machine(tmp_path, ticks=[33])

    waited = machine.wait(limit_s=1.0)

    assert waited.seconds == 1.0
    assert not waited.calm
    assert waited.reason is not None
    assert waited.reason.startswith("other processes used 1.")
    assert waited.reason.endswith(" CPUs, above 0.2")


def test_a_wait_of_no_time_still_looks_once(tmp_path: Path) -> None:
    machine = _Machine(tmp_path, ticks=[25])

    assert not machine.wait(limit_s=0.0).calm
    assert machine.windows == 1


def test_waiting_ends_when_the_hottest_sensor_has_cooled_down_to_the_limit(tmp_path: Path) -> None:
    machine = _Machine(tmp_path, ticks=[0], degrees=[70.0, 65.0, 60.0])

    assert machine.wait(cooldown_c=60.0) == Waited(seconds=0.75, calm=True, reason=None)


def test_heat_that_stays_is_named(tmp_path: Path) -> None:
    machine = _Machine(tmp_path, ticks=[0], degrees=[71.24])

    waited = machine.wait(cooldown_c=60.0, limit_s=2.0)

    reason = "the hottest sensor (cpu-thermal) stood at 71.2 °C, above 60 °C"
    assert waited == Waited(seconds=2.0, calm=False, reason=reason)


def test_heat_is_not_looked_at_unless_asked_for(tmp_path: Path) -> None:
    machine = _Machine(tmp_path, ticks=[0], degrees=[99.0])

    assert machine.wait().calm


def test_a_machine_without_sensors_is_calm_and_says_that_heat_was_not_waited_for(tmp_path: Path) -> None:
    machine = _Machine(tmp_path, ticks=[0])

    reason = "no temperature can be read here, so --cooldown was not waited for"
    assert machine.wait(cooldown_c=60.0) == Waited(seconds=0.25, calm=True, reason=reason)


def test_a_machine_that_hides_its_cpu_time_is_calm_and_says_so(tmp_path: Path) -> None:
    reason = "CPU use cannot be read here, so other processes were not waited for"

    assert _Machine(tmp_path).wait() == Waited(seconds=0.25, calm=True, reason=reason)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs the /proc of Linux")
def test_this_machine_tells_its_cpu_time_memory_and_affinity() -> None:
    before = read_state()
    until = time.process_time() + 0.1
    while time.process_time() < until:
        pass
    after = read_state()

    assert before.cpu_ticks is not None
    assert after.cpu_ticks is not None
    assert after.at_ns > before.at_ns
    assert after.cpu_ticks.busy_ns > before.cpu_ticks.busy_ns
    assert after.running is not None
    assert after.running >= 1
    assert after.available_bytes is not None
    assert 0 < after.available_bytes < os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert after.affinity == tuple(sorted(os.sched_getaffinity(0)))
    assert decode(State, encode(after)) == after
