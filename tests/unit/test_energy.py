"""The energy meter on trees of /sys as devices show them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edgebench.agent.probes.energy import EnergyMeter, open_meter, why_not

POWERCAP = "sys/class/powercap"
HWMON = "sys/class/hwmon"
SUPPLY = "sys/class/power_supply"
SECOND_NS = 1_000_000_000

LAPTOP = {
    f"{POWERCAP}/intel-rapl:0/name": "package-0\n",
    f"{POWERCAP}/intel-rapl:0/energy_uj": "1000000\n",
    f"{POWERCAP}/intel-rapl:0/max_energy_range_uj": "262143328850\n",
    f"{POWERCAP}/intel-rapl:0/intel-rapl:0:0/name": "core\n",
    f"{POWERCAP}/intel-rapl:0/intel-rapl:0:0/energy_uj": "400000\n",
    f"{POWERCAP}/intel-rapl:0/intel-rapl:0:0/max_energy_range_uj": "262143328850\n",
    f"{POWERCAP}/intel-rapl:1/name": "psys\n",
    f"{POWERCAP}/intel-rapl:1/energy_uj": "5000000\n",
    f"{POWERCAP}/intel-rapl:1/max_energy_range_uj": "262143328850\n",
    f"{POWERCAP}/intel-rapl-mmio:0/name": "package-0\n",
    f"{POWERCAP}/intel-rapl-mmio:0/energy_uj": "1000000\n",
    f"{POWERCAP}/intel-rapl-mmio:0/max_energy_range_uj": "262143328850\n",
}
DRAM = {
    f"{POWERCAP}/intel-rapl:0/intel-rapl:0:1/name": "dram\n",
    f"{POWERCAP}/intel-rapl:0/intel-rapl:0:1/energy_uj": "70\n",
    f"{POWERCAP}/intel-rapl:0/intel-rapl:0:1/max_energy_range_uj": "65712999613\n",
}

ORIN_NANO = {
    f"{HWMON}/hwmon0/name": "pwmfan\n",
    f"{HWMON}/hwmon1/name": "ina3221\n",
    f"{HWMON}/hwmon1/in1_label": "VDD_IN\n",
    f"{HWMON}/hwmon1/in1_input": "5000\n",
    f"{HWMON}/hwmon1/curr1_input": "1000\n",
    f"{HWMON}/hwmon1/in2_label": "VDD_CPU_GPU_CV\n",
    f"{HWMON}/hwmon1/in2_input": "5000\n",
    f"{HWMON}/hwmon1/curr2_input": "200\n",
    f"{HWMON}/hwmon1/in3_label": "VDD_SOC\n",
    f"{HWMON}/hwmon1/in3_input": "5000\n",
    f"{HWMON}/hwmon1/curr3_input": "300\n",
    f"{HWMON}/hwmon1/in4_input": "5000\n",
    f"{HWMON}/hwmon1/in7_label": "sum of shunt voltages\n",
    f"{HWMON}/hwmon1/in7_input": "7500\n",
    f"{HWMON}/hwmon1/curr4_input": "1500\n",
}

AGX_ORIN = {
    f"{HWMON}/hwmon3/name": "ina3221\n",
    f"{HWMON}/hwmon3/in1_label": "VDD_GPU_SOC\n",
    f"{HWMON}/hwmon3/in1_input": "19000\n",
    f"{HWMON}/hwmon3/curr1_input": "100\n",
    f"{HWMON}/hwmon3/in2_label": "VDD_CPU_CV\n",
    f"{HWMON}/hwmon3/in2_input": "19000\n",
    f"{HWMON}/hwmon3/curr2_input": "50\n",
    f"{HWMON}/hwmon4/name": "ina3221\n",
    f"{HWMON}/hwmon4/in1_label": "NC\n",
    f"{HWMON}/hwmon4/in1_input": "0\n",
    f"{HWMON}/hwmon4/curr1_input": "0\n",
}

ON_BATTERY = {
    f"{SUPPLY}/BAT0/type": "Battery\n",
    f"{SUPPLY}/BAT0/status": "Discharging\n",
    f"{SUPPLY}/BAT0/power_now": "8000000\n",
    f"{SUPPLY}/hidpp_battery_0/type": "Battery\n",
    f"{SUPPLY}/hidpp_battery_0/scope": "Device\n",
    f"{SUPPLY}/hidpp_battery_0/status": "Discharging\n",
    f"{SUPPLY}/hidpp_battery_0/power_now": "1000\n",
}


class _Device:
    """A tree of files and a clock, both moved by hand."""

    def __init__(self, root: Path, *trees: dict[str, str]) -> None:
        self.root = root
        self.now_ns = 0
        for tree in trees:
            self.write(tree)

    def write(self, files: dict[str, str]) -> None:
        for name, text in files.items():
            path = self.root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    def remove(self, name: str) -> None:
        (self.root / name).unlink()

    def meter(self) -> EnergyMeter:
        meter = open_meter(str(self.root), clock=lambda: self.now_ns)
        assert meter is not None
        return meter


def test_rapl_counts_the_package_and_neither_its_cores_nor_psys_nor_mmio(tmp_path: Path) -> None:
    device = _Device(tmp_path, LAPTOP)
    meter = device.meter()

    meter.start()
    device.write({name: "9000000\n" for name in LAPTOP if name.endswith("energy_uj")})

    # 9 000 000 - 1 000 000
    assert meter.stop() == 8_000_000
    assert meter.method == "RAPL package-0 of powercap"


def test_rapl_adds_memory(tmp_path: Path) -> None:
    device = _Device(tmp_path, LAPTOP, DRAM)
    meter = device.meter()

    meter.start()
    device.write({f"{POWERCAP}/intel-rapl:0/energy_uj": "1000500\n"})
    device.write({f"{POWERCAP}/intel-rapl:0/intel-rapl:0:1/energy_uj": "100\n"})

    # 500 of the package and 30 of the memory.
    assert meter.stop() == 530
    assert meter.method == "RAPL package-0 + dram of powercap"


def test_a_counter_that_wraps_goes_on(tmp_path: Path) -> None:
    counter = f"{POWERCAP}/intel-rapl:0/energy_uj"
    device = _Device(tmp_path, LAPTOP, {counter: "262143328000\n"})
    meter = device.meter()

    meter.start()
    device.write({counter: "150\n"})
    meter.sample()
    device.write({counter: "650\n"})

    # 850 to the end of the range at 262143328850, 150 after it, and 500.
    assert meter.stop() == 1500


def test_each_start_counts_anew(tmp_path: Path) -> None:
    device = _Device(tmp_path, LAPTOP)
    meter = device.meter()
    meter.start()
    device.write({f"{POWERCAP}/intel-rapl:0/energy_uj": "1000100\n"})
    meter.stop()

    meter.start()
    device.write({f"{POWERCAP}/intel-rapl:0/energy_uj": "1000107\n"})

    assert meter.stop() == 7


def test_a_counter_that_stands_still_is_not_zero_joules(tmp_path: Path) -> None:
    meter = _Device(tmp_path, LAPTOP).meter()

    meter.start()

    assert meter.stop() is None


def test_one_lost_reading_loses_the_figure(tmp_path: Path) -> None:
    counter = f"{POWERCAP}/intel-rapl:0/energy_uj"
    device = _Device(tmp_path, LAPTOP)
    meter = device.meter()

    meter.start()
    device.remove(counter)
    meter.sample()
    device.write({counter: "2000000\n"})
    meter.sample()

    assert meter.stop() is None


def test_a_jetson_is_metered_at_its_input_rail(tmp_path: Path) -> None:
    device = _Device(tmp_path, ORIN_NANO)
    meter = device.meter()

    meter.start()
    device.now_ns = SECOND_NS
    meter.sample()
    device.now_ns = 3 * SECOND_NS
    device.write({f"{HWMON}/hwmon1/curr1_input": "3000\n"})

    # 5 V x 1 A for 1 s, then from 5 W to 15 W in 2 s: 5 J + 10 W x 2 s = 25 J.
    assert meter.stop() == 25_000_000
    assert meter.method == "power rail VDD_IN, sampled"


def test_a_jetson_without_an_input_rail_is_the_named_sum_of_its_rails(tmp_path: Path) -> None:
    device = _Device(tmp_path, AGX_ORIN)
    meter = device.meter()

    meter.start()
    device.now_ns = SECOND_NS

    # 19 V x (0.1 A + 0.05 A) for 1 s
    assert meter.stop() == 2_850_000
    assert meter.method == "sum of the power rails VDD_GPU_SOC + VDD_CPU_CV, sampled"


def test_a_monitor_that_tells_power_is_not_multiplied(tmp_path: Path) -> None:
    chip = f"{HWMON}/hwmon0"
    files = {"name": "ina226", "in1_input": "5100", "curr1_input": "900", "power1_input": "4600000"}
    device = _Device(tmp_path, {f"{chip}/{name}": text + "\n" for name, text in files.items()})
    meter = device.meter()

    meter.start()
    device.now_ns = SECOND_NS // 2

    # 4.6 W for half a second.
    assert meter.stop() == 2_300_000
    assert meter.method == "power rail ina226, sampled"


def test_a_graphics_card_is_not_the_machine(tmp_path: Path) -> None:
    _Device(tmp_path, {f"{HWMON}/hwmon0/name": "amdgpu\n", f"{HWMON}/hwmon0/power1_input": "30000000\n"})

    assert open_meter(str(tmp_path)) is None


def test_a_discharging_battery_is_metered_and_a_mouse_is_not(tmp_path: Path) -> None:
    device = _Device(tmp_path, ON_BATTERY)
    meter = device.meter()

    meter.start()
    device.now_ns = 2 * SECOND_NS

    # 8 W for 2 s.
    assert meter.stop() == 16_000_000
    assert meter.method == "discharge of the battery BAT0, sampled"


def test_a_battery_that_tells_current_and_voltage_is_metered_whatever_the_sign(tmp_path: Path) -> None:
    current = {f"{SUPPLY}/BAT0/current_now": "-500000\n", f"{SUPPLY}/BAT0/voltage_now": "4000000\n"}
    device = _Device(tmp_path, ON_BATTERY, current)
    device.remove(f"{SUPPLY}/BAT0/power_now")
    meter = device.meter()

    meter.start()
    device.now_ns = SECOND_NS

    # 0.5 A x 4 V for 1 s.
    assert meter.stop() == 2_000_000


def test_of_two_batteries_the_one_that_discharges_is_metered(tmp_path: Path) -> None:
    full = {f"{SUPPLY}/BAT1/type": "Battery\n", f"{SUPPLY}/BAT1/status": "Full\n"}
    device = _Device(tmp_path, ON_BATTERY, full, {f"{SUPPLY}/BAT1/power_now": "4000000\n"})
    meter = device.meter()

    meter.start()
    device.write({f"{SUPPLY}/BAT0/status": "Not charging\n", f"{SUPPLY}/BAT1/status": "Discharging\n"})
    device.now_ns = SECOND_NS

    # From the 8 W of the one to the 4 W of the other in 1 s.
    assert meter.stop() == 6_000_000


def test_a_charger_plugged_in_meanwhile_loses_the_figure(tmp_path: Path) -> None:
    device = _Device(tmp_path, ON_BATTERY)
    meter = device.meter()

    meter.start()
    device.now_ns = SECOND_NS
    device.write({f"{SUPPLY}/BAT0/status": "Charging\n"})

    assert meter.stop() is None


def test_counters_come_before_rails_and_rails_before_batteries(tmp_path: Path) -> None:
    device = _Device(tmp_path, ON_BATTERY, ORIN_NANO)
    assert device.meter().method.startswith("power rail")

    device.write(LAPTOP)

    assert device.meter().method.startswith("RAPL")


def test_a_machine_with_nothing_has_no_meter_and_says_so(tmp_path: Path) -> None:
    assert open_meter(str(tmp_path)) is None
    assert why_not(str(tmp_path)) == "this machine has no RAPL, power rail or battery"


def test_a_battery_on_mains_is_no_meter_and_says_why(tmp_path: Path) -> None:
    _Device(tmp_path, ON_BATTERY, {f"{SUPPLY}/BAT0/status": "Full\n"})

    assert open_meter(str(tmp_path)) is None
    assert why_not(str(tmp_path)) == "the battery tells the power that is drawn only while it discharges"


@contextmanager
def _as_a_user() -> Iterator[None]:
    """Not as root, who may read everything."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        if user == 0:
            os.seteuid(0)


def test_counters_that_only_root_may_read_are_no_meter_and_say_so() -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        root.chmod(0o755)
        _Device(root, LAPTOP)
        (root / POWERCAP / "intel-rapl:0/energy_uj").chmod(0)

        with _as_a_user():
            assert open_meter(name) is None
            assert why_not(name) == "energy_uj is readable by root only: permission denied"


def test_counters_that_do_not_answer_are_no_meter_and_say_so(tmp_path: Path) -> None:
    device = _Device(tmp_path, LAPTOP)
    device.remove(f"{POWERCAP}/intel-rapl:0/energy_uj")

    assert open_meter(str(tmp_path)) is None
    assert why_not(str(tmp_path)) == "energy_uj cannot be read: No such file or directory"


@pytest.mark.parametrize("content", [b"", b"\xff", b"<unknown>\n", b"-0.5\n"])
def test_files_that_do_not_parse_are_no_meter(tmp_path: Path, content: bytes) -> None:
    trees = (LAPTOP, ORIN_NANO, ON_BATTERY)
    _Device(tmp_path, *trees)
    for tree in trees:
        for name in tree:
            if not name.endswith(("name", "label", "type", "status")):
                (tmp_path / name).write_bytes(content)

    assert open_meter(str(tmp_path)) is None


def test_this_machine_is_metered_or_says_why_not() -> None:
    meter = open_meter()

    if meter is None:
        assert why_not()
    else:
        meter.start()
        microjoules = meter.stop()
        assert microjoules is None or microjoules > 0
