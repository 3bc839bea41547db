"""What a device's own tools say, as recorded on boards and phones; and real scripts that stand in for the tools."""

from __future__ import annotations

import dataclasses
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgebench.agent.ledgers import device_tools, dumpsys, tegrastats, vcgencmd
from edgebench.agent.ledgers.asking import Tool
from edgebench.agent.ledgers.device_tools import Told, Tools
from edgebench.agent.ledgers.dumpsys import Battery, ThermalService, parse_battery, parse_thermalservice
from edgebench.agent.ledgers.tegrastats import Rail, Tegrastats, parse_tegrastats
from edgebench.agent.ledgers.vcgencmd import parse_clock, parse_pmic_adc, parse_temperature, parse_throttled
from edgebench.agent.state import State, read_state

# Pi 5, a core at full load: in the docstring of a public stress test (find_string "VDD_CORE_A current(7)=").
PMIC = """\
 3V7_WL_SW_A current(0)=0.05855580A
   3V3_SYS_A current(1)=0.06148359A
   1V8_SYS_A current(2)=0.13272650A
  DDR_VDD2_A current(3)=0.13955800A
  DDR_VDDQ_A current(4)=0.00980400A
   1V1_SYS_A current(5)=0.19811380A
    0V8_SW_A current(6)=0.34157550A
  VDD_CORE_A current(7)=5.03652000A
   3V3_DAC_A current(17)=0.00006105A
   3V3_ADC_A current(18)=0.00054945A
   0V8_AON_A current(16)=0.00531135A
      HDMI_A current(22)=0.02161170A
 3V7_WL_SW_V volt(8)=3.61069200V
   3V3_SYS_V volt(9)=3.29982600V
   1V8_SYS_V volt(10)=1.81684800V
  DDR_VDD2_V volt(11)=1.10109800V
  DDR_VDDQ_V volt(12)=0.60366240V
   1V1_SYS_V volt(13)=1.10292900V
    0V8_SW_V volt(14)=0.80292960V
  VDD_CORE_V volt(15)=0.89369880V
   3V3_DAC_V volt(20)=3.29944700V
   3V3_ADC_V volt(21)=3.30402600V
   0V8_AON_V volt(19)=0.79618980V
      HDMI_V volt(23)=4.92450000V
     EXT5V_V volt(24)=4.92450000V
      BATT_V volt(25)=0.00341880V
"""

# `vcgencmd.c` of raspberrypi/utils prints the number before the firmware's answer and ends with it.
NOT_REGISTERED = 'vc_gencmd_read_response returned -1\nerror=1 error_msg="Command not registered"\n'

_LISTENERS = """\
IsStatusOverride: false
ThermalEventListeners:
	callbacks: 1
	killed: false
	broadcasts count: -1
ThermalStatusListeners:
	callbacks: 12
	killed: false
	broadcasts count: -1
"""

# A Samsung phone after load: memfault/bort, the test `parseSamsungOutput`.
SAMSUNG = (
    _LISTENERS
    + """\
Thermal Status: 0
Cached temperatures:
	Temperature{mValue=0.0, mType=2, mName=SUBBAT, mStatus=0}
	Temperature{mValue=55.0, mType=0, mName=AP, mStatus=0}
	Temperature{mValue=43.5, mType=5, mName=PA, mStatus=0}
	Temperature{mValue=32.0, mType=2, mName=BAT, mStatus=0}
	Temperature{mValue=29.7, mType=4, mName=USB, mStatus=0}
	Temperature{mValue=35.8, mType=3, mName=SKIN, mStatus=0}
HAL Ready: true
HAL connection:
	ThermalHAL AIDL 1  connected: yes
Current temperatures from HAL:
	Temperature{mValue=34.6, mType=0, mName=AP, mStatus=0}
	Temperature{mValue=25.2, mType=2, mName=BAT, mStatus=0}
	Temperature{mValue=30.0, mType=5, mName=PA, mStatus=0}
	Temperature{mValue=28.2, mType=3, mName=SKIN, mStatus=0}
	Temperature{mValue=0.0, mType=2, mName=SUBBAT, mStatus=0}
	Temperature{mValue=25.8, mType=4, mName=USB, mStatus=0}
Current cooling devices from HAL:
Temperature static thresholds from HAL:
	TemperatureThreshold{mType=2, mName=BAT, mHotThrottlingThresholds=[NaN, NaN, NaN, NaN, NaN, 55.0, 85.0], \
mColdThrottlingThresholds=[NaN, NaN, NaN, NaN, NaN, NaN, NaN]}
	TemperatureThreshold{mType=3, mName=SKIN, mHotThrottlingThresholds=[36.0, 38.0, 40.0, 42.0, 45.0, NaN, NaN], \
mColdThrottlingThresholds=[NaN, NaN, NaN, NaN, NaN, NaN, NaN]}
"""
)

# A Pixel 6, shortened to one of each kind: google/skia-buildbot, machine/go/machine/processor/impl_test.go.
PIXEL = (
    _LISTENERS
    + """\
Thermal Status: 0
Cached temperatures:
	Temperature{mValue=61.000004, mType=0, mName=BIG, mStatus=0}
	Temperature{mValue=19.0, mType=8, mName=soc, mStatus=0}
HAL Ready: true
HAL connection:
	ThermalHAL 2.0 connected: yes
Current temperatures from HAL:
	Temperature{mValue=8900.0, mType=7, mName=soft_ocp_gpu, mStatus=0}
	Temperature{mValue=25.000002, mType=9, mName=TPU, mStatus=0}
	Temperature{mValue=1300.0, mType=6, mName=smpl_gm, mStatus=0}
	Temperature{mValue=0.0, mType=8, mName=soc, mStatus=0}
	Temperature{mValue=0.0, mType=-1, mName=FLASH_LED_REDUCE, mStatus=0}
	Temperature{mValue=26.000002, mType=0, mName=BIG, mStatus=0}
	Temperature{mValue=-0.117000006, mType=-1, mName=USB2-MINUS-USB, mStatus=0}
	Temperature{mValue=22.912, mType=-1, mName=neutral_therm, mStatus=0}
	Temperature{mValue=24.83324, mType=3, mName=VIRTUAL-SKIN, mStatus=0}
	Temperature{mValue=1.0, mType=6, mName=battery_cycle, mStatus=0}
Current cooling devices from HAL:
"""
)

# A Qualcomm phone, shortened: memfault/bort, `parseOtherOutput` and `parseOtherOtherOutput`.
QUALCOMM = """\
IsStatusOverride: false
Thermal Status: 2
Cached temperatures:
	Temperature{mValue=25.0, mType=2, mName=battery, mStatus=0}
HAL Ready: true
HAL connection:
	ThermalHAL 2.0 connected: yes
Current temperatures from HAL:
	Temperature{mValue=11.0, mType=8, mName=socd, mStatus=0}
	Temperature{mValue=43.8, mType=2, mName=battery, mStatus=0}
	Temperature{mValue=44.637, mType=3, mName=skin, mStatus=2}
	Temperature{mValue=4.384, mType=6, mName=vbat, mStatus=0}
	Temperature{mValue=47.8, mType=0, mName=CPU7, mStatus=0}
Current cooling devices from HAL:
	CoolingDevice{mValue=11, mType=2, mName=thermal-cpufreq-6}
Temperature static thresholds from HAL:
	{.type = BATTERY, .name = battery, .hotThrottlingThresholds = [NaN, NaN, NaN, NaN, NaN, 65.0, 70.0]}
"""

# Samsung's older service, with types one higher: google/skia-buildbot, the comment in machine/.../processor/impl.go.
SDHMS = """\
IsStatusOverride: false
Thermal Status: 0
Cached temperatures:
 Temperature{mValue=-99.9, mType=6, mName=TYPE_POWER_AMPLIFIER, mStatus=0}
	Temperature{mValue=25.3, mType=4, mName=TYPE_SKIN, mStatus=0}
HAL Ready: true
HAL connection:
	Sdhms connected: yes
Current temperatures from HAL:
	Temperature{mValue=24.0, mType=1, mName=TYPE_CPU, mStatus=0}
	Temperature{mValue=24.4, mType=3, mName=TYPE_BATTERY, mStatus=0}
	Temperature{mValue=25.3, mType=4, mName=TYPE_SKIN, mStatus=0}
	Temperature{mValue=24.2, mType=5, mName=TYPE_USB_PORT, mStatus=0}
	Temperature{mValue=-99.9, mType=6, mName=TYPE_POWER_AMPLIFIER, mStatus=0}
Current cooling devices from HAL:
	CoolingDevice{mValue=0, mType=2, mName=TYPE_CPU}
"""

# An NVIDIA Shield TV Pro 2019 whose HAL stands at 66.5 °C: bryanroscoe/shield_optimizer, issue 6, up to the HAL.
SHIELD_CUT = """\
IsStatusOverride: false
Thermal Status: 0
Cached temperatures:
	Temperature{mValue=36.0, mType=1, mName=GPU, mStatus=0}
	Temperature{mValue=37.0, mType=0, mName=CPU0, mStatus=0}
HAL Ready: true
HAL connection:
"""

# A Samsung phone on a USB hub: zebrunner/mcloud-device, issue 150.
BATTERY_SAMSUNG = """\
Current Battery Service state:
  AC powered: false
  USB powered: true
  Wireless powered: false
  Max charging current: 0
  Max charging voltage: 0
  Charge counter: 2967000
  status: 5
  health: 2
  present: true
  level: 100
  scale: 100
  voltage: 4312
  temperature: 309
  technology: Li-ion
  batterySWSelfDischarging: false
  batteryMiscEvent: 65536
  mSecPlugTypeSummary: 2
  LED Charging: true
  current now: 0
  charge counter: 2967000
USE_FAKE_BATTERY: false
LLB MAN:
BatteryInfoBackUp
  mSavedBatteryAsoc: 96
  FEATURE_SAVE_BATTERY_CYCLE: true
"""

# A Honor ALT-NX1 on its battery: a public test of `core.adb` (find_string "Dock powered: false").
BATTERY_HONOR = """\
Current Battery Service state:
  AC powered: false
  USB powered: false
  Wireless powered: false
  Dock powered: false
  Max charging current: 0
  Max charging voltage: 0
  Charge counter: 2848000
  status: 3
  health: 2
  present: true
  level: 54
  scale: 100
  voltage: 3906
  temperature: 220
  technology: Li-ion
  Charging state: 0
  Charging policy: 0
"""

# An emulator: appium/appium, issue 7389.
BATTERY_EMULATOR = """\
Current Battery Service state:
  AC powered: true
  USB powered: false
  Wireless powered: false
  status: 2
  health: 2
  present: true
  level: 89
  scale: 100
  voltage: 0
  temperature: 0
  technology: Li-ion
"""

# Jetson Nano and TX1: DataDog/datadog-agent, pkg/collector/corechecks/nvidia/jetson/jetson_test.go.
NANO = (
    "RAM 613/3964MB (lfb 634x4MB) SWAP 0/1982MB (cached 0MB) CPU [2%@102,1%@102,0%@102,0%@102] EMC_FREQ 0% "
    "GR3D_FREQ 0% PLL@39C CPU@40.5C PMIC@100C GPU@41C AO@46C thermal@41C POM_5V_IN 900/943 POM_5V_GPU 0/0 "
    "POM_5V_CPU 123/123\n"
)
TX1 = (
    "RAM 1179/3983MB (lfb 120x4MB) IRAM 0/252kB(lfb 252kB) CPU [1%@102,4%@102,0%@102,0%@102] EMC_FREQ 7%@408 "
    "GR3D_FREQ 0%@76 APE 25 AO@42.5C CPU@37.5C GPU@39C PLL@37C Tdiode@42.75C PMIC@100C Tboard@42C thermal@38.5C "
    "VDD_IN 2532/2698 VDD_CPU 76/178 VDD_GPU 19/19\n"
)
# Two of a Nano's CPUs switched off: the comment of a public parser (find_string "PMIC@100C").
NANO_TWO_CPUS = (
    "RAM 1901/3956MB (lfb 183x4MB) SWAP 0/1978MB (cached 0MB) CPU [8%@102,6%@102,off,off] EMC_FREQ 0% GR3D_FREQ 0% "
    "PLL@38.5C CPU@41.5C PMIC@100C GPU@41.5C AO@48C thermal@41.75C POM_5V_IN 1154/1544 POM_5V_GPU 0/43 "
    "POM_5V_CPU 119/205\n"
)
# TX2: gustavz/realtime_object_detection, issue 24.
TX2 = (
    "RAM 1685/7854MB (lfb 1044x4MB) SWAP 278/8192MB (cached 23MB) CPU [5%@345,0%@345,0%@345,7%@345,3%@347,0%@345] "
    "EMC_FREQ 16%@102 GR3D_FREQ 36%@140 APE 150 MTS fg 0% bg 0% BCPU@41C MCPU@41C GPU@39C PLL@41C Tboard@37C "
    "Tdiode@37.25C PMIC@100C thermal@39.9C VDD_IN 1776/1805 VDD_CPU 231/231 VDD_GPU 154/154 VDD_SOC 386/385 "
    "VDD_WIFI 38/38 VDD_DDR 250/275\n"
)
# AGX Xavier, whose rails are called like its parts: martinkersner/gtop, pull request 7.
XAVIER = (
    "RAM 14700/15692MB (lfb 3x2MB) SWAP 898/8192MB (cached 23MB) CPU [0%@1190,0%@1190,0%@1190,0%@1190,0%@1190,0%@1190,"
    "0%@1190,0%@1190] EMC_FREQ 0% GR3D_FREQ 0% AO@30C GPU@30.5C Tboard@31C Tdiode@32C AUX@30.5C CPU@31.5C "
    "thermal@30.8C PMIC@100C GPU 463/463 CPU 618/618 SOC 2936/2936 CV 0/0 VDDRQ 309/309 SYS5V 3306/3306\n"
)
# Xavier NX, JetPack 5.1.2: a public exporter's TestParseTegraStatsXavierNXJetPack512.
XAVIER_NX = (
    "07-09-2024 13:31:31 RAM 3168/6851MB (lfb 2x4MB) SWAP 161/3426MB (cached 0MB) CPU [23%@1397,17%@1192,16%@1190,"
    "13%@1190,23%@1190,10%@1190] EMC_FREQ 2%@204 GR3D_FREQ 0%@[114] VIC_FREQ 115 APE 150 AUX@45C CPU@46.5C "
    "thermal@45.6C AO@45C GPU@45.5C PMIC@50C VDD_IN 2763mW/2846mW VDD_CPU_GPU_CV 650mW/670mW VDD_SOC 650mW/711mW\n"
)
# AGX Orin, idle: GDWR/jetson_exporter, pkg/tegrastats/parse_temps_test.go.
ORIN = (
    "04-11-2025 10:36:27 RAM 4321/62801MB (lfb 1759x4MB) SWAP 19/31400MB (cached 0MB) CPU [0%@729,0%@729,0%@729,0%@729,"
    "0%@729,0%@729,0%@729,0%@729,0%@729,0%@729,0%@729,0%@729] EMC_FREQ 0%@2133 GR3D_FREQ 0%@[0,0] VIC_FREQ 729 APE 174 "
    "CV0@-256C CPU@44.562C Tboard@32C SOC2@40.093C Tdiode@33C SOC0@41.093C CV1@-256C GPU@-256C tj@44.343C SOC1@41.25C "
    "CV2@-256C VDD_GPU_SOC 2340mW/2340mW VDD_CPU_CV 390mW/390mW VIN_SYS_5V0 4025mW/4025mW NC 0mW/0mW "
    "VDDQ_VDD2_1V8AO 301mW/301mW NC 0mW/0mW\n"
)
# Orin, JetPack 7: a public test (find_string "VDD_GPU_SOC").
ORIN_JP7 = (
    "07-25-2026 09:08:28 RAM 20642/62817MB (lfb 1x2MB) CPU [23%@2201,10%@2201] EMC_FREQ 3%@3199 "
    "GR3D_FREQ 12%@[1300,1300] NVENC0 off NVDEC0 off NVJPG0 off VIC off OFA off PVA0_FREQ off APE 174 "
    "cpu@52.968C/52.968C soc2@48.406C/48.406C gpu@47.625C/47.625C VDD_GPU_SOC 5139mW/5139mW/5139mW "
    "VDD_CPU_CV 3268mW/3268mW/3268mW\n"
)
# TX1 with L4T 28.1, whose CPUs share a clock: hordiales/jetson-tx1-dev, SCRIPTS.md.
TX1_L4T_28 = (
    "RAM 3468/3983MB (lfb 48x4MB) SWAP 873/8192MB (cached 295MB) cpu [17%,13%,29%,5%]@408 EMC 1%@408 APE 25 "
    "GR3D 3%@76\n"
)
# TK1: a public gist on its clocks (find_string "off,off]@").
TK1 = "RAM 598/1892MB (lfb 209x4MB) cpu [0%,off,off,off]@-1 VDE 0 EDP limit 0\n"

PARSERS: dict[str, Callable[[str], Any]] = {
    "throttled": parse_throttled,
    "temperature": parse_temperature,
    "clock": parse_clock,
    "pmic": parse_pmic_adc,
    "thermalservice": parse_thermalservice,
    "battery": parse_battery,
    "tegrastats": parse_tegrastats,
}

RECORDED = [
    ("throttled", "throttled=0x50005\n"),
    ("temperature", "temp=62.3'C\n"),
    ("clock", "frequency(45)=1400000000\n"),
    ("pmic", PMIC),
    *(("thermalservice", text) for text in (SAMSUNG, PIXEL, QUALCOMM, SDHMS, SHIELD_CUT)),
    *(("battery", text) for text in (BATTERY_SAMSUNG, BATTERY_HONOR, BATTERY_EMULATOR)),
    *(
        ("tegrastats", line)
        for line in (NANO, TX1, NANO_TWO_CPUS, TX2, XAVIER, XAVIER_NX, ORIN, ORIN_JP7, TX1_L4T_28, TK1)
    ),
]


# ---- vcgencmd


@pytest.mark.parametrize(
    ("text", "flags"),
    [
        # raspberrypi/firmware, issue 615 (Pi 3); duckietown/Software, issue 358 (Pi 3 B+).
        ("throttled=0x50005\n", 0x50005),
        ("throttled=0x50000\n", 0x50000),
        ("throttled=0x0\n", 0),
        ("throttled=0x50005\r\n", 0x50005),
        # Without its line end it may go on.
        ("throttled=0x50005", None),
        ("throttled=0x\n", None),
        ("throttled=0x5000g\n", None),
        ("throttled=50005\n", None),
        ("throttled=0x50005 0x1\n", None),
        ("throttled=0x0\nerror=1\n", None),
        (NOT_REGISTERED, None),
        ("VCHI initialization failed\n", None),
    ],
)
def test_throttle_flags_are_read_from_a_whole_answer_only(text: str, flags: int | None) -> None:
    assert parse_throttled(text) == flags


@pytest.mark.parametrize(
    ("text", "temperature_mc"),
    [
        ("temp=62.3'C\n", 62_300),
        ("temp=48.3'C\n", 48_300),
        ("temp=-3.2'C\n", -3_200),
        ("temp=62.3\n", None),
        ("temp=62.3'", None),
        ("temp=6.2.3'C\n", None),
        ("temp=999.0'C\n", None),
        (NOT_REGISTERED, None),
    ],
)
def test_the_firmware_s_temperature_needs_its_unit(text: str, temperature_mc: int | None) -> None:
    assert parse_temperature(text) == temperature_mc


@pytest.mark.parametrize(
    ("text", "hertz"),
    [
        # A Pi 3 B+, a Pi 4 and a Pi 5 number the clock of their CPUs differently.
        ("frequency(45)=1400000000\n", 1_400_000_000),
        ("frequency(48)=600169920\n", 600_169_920),
        ("frequency(0)=2400000000\n", 2_400_000_000),
        ("frequency(48)=6001699", None),
        ("frequency()=600169920\n", None),
        (NOT_REGISTERED, None),
    ],
)
def test_a_clock_is_told_in_hertz(text: str, hertz: int | None) -> None:
    assert parse_clock(text) == hertz


def test_a_pi_5_tells_its_rails_and_their_power() -> None:
    adc = parse_pmic_adc(PMIC)

    assert adc is not None
    assert adc.microvolts["VDD_CORE"] == 893_699
    assert adc.microamps["VDD_CORE"] == 5_036_520
    assert adc.microamps["3V3_DAC"] == 61
    # The input has a voltage and no current.
    assert set(adc.microvolts) - set(adc.microamps) == {"EXT5V", "BATT"}
    # By `bc`, the sum of the twelve products of amperes and volts: 5.92161222714482 W.
    assert adc.microwatts == pytest.approx(5_921_612, abs=10)


@pytest.mark.parametrize(
    "text",
    [
        PMIC[: PMIC.index("  VDD_CORE_V")],
        PMIC.replace("volt(15)=0.89369880V", "volt(15)=0.89"),
        PMIC.replace("5.03652000A", "5.03652000V"),
        PMIC.replace("VDD_CORE_A current(7)=5.03652000A", "VDD_CORE_A current(7)=nanA"),
        PMIC + "vc_gencmd_read_response returned -1\n",
    ],
)
def test_a_rail_that_is_missing_costs_the_sum(text: str) -> None:
    adc = parse_pmic_adc(text)

    assert adc is not None
    assert adc.microwatts is None
    assert adc.microamps["3V3_SYS"] == 61_484


def test_a_pi_4_has_no_rails() -> None:
    assert parse_pmic_adc(NOT_REGISTERED) is None


# ---- dumpsys thermalservice


def test_temperatures_are_those_of_the_hal_and_not_the_cached_ones() -> None:
    # SUBBAT is not fitted.
    assert parse_thermalservice(SAMSUNG) == ThermalService(
        status=0,
        override=False,
        temperatures_mc={"AP": 34_600, "BAT": 25_200, "PA": 30_000, "SKIN": 28_200, "USB": 25_800},
        cached=False,
    )


def test_voltages_currents_charges_and_differences_are_no_temperatures() -> None:
    service = parse_thermalservice(PIXEL)

    assert service is not None
    assert service.temperatures_mc == {"TPU": 25_000, "BIG": 26_000, "neutral_therm": 22_912, "VIRTUAL-SKIN": 24_833}


def test_a_throttled_phone_says_so() -> None:
    service = parse_thermalservice(QUALCOMM)

    assert service is not None
    assert service.status == 2
    assert service.temperatures_mc == {"battery": 43_800, "skin": 44_637, "CPU7": 47_800}


def test_names_decide_where_types_are_shifted() -> None:
    service = parse_thermalservice(SDHMS.replace("mValue=-99.9, mType=6", "mValue=31.5, mType=6"))

    assert service is not None
    assert service.temperatures_mc["TYPE_POWER_AMPLIFIER"] == 31_500


def test_a_sensor_that_is_not_fitted_is_absent() -> None:
    service = parse_thermalservice(SDHMS.replace("24.0, mType=1", "NaN, mType=1"))

    assert service is not None
    assert service.temperatures_mc == {"TYPE_BATTERY": 24_400, "TYPE_SKIN": 25_300, "TYPE_USB_PORT": 24_200}


def test_of_a_text_that_ends_before_the_hal_s_temperatures_none_are_taken() -> None:
    assert parse_thermalservice(SHIELD_CUT) == ThermalService(0, False, {}, False)


@pytest.mark.parametrize("ending", ["HAL Ready: false\n", "Mitigation:\n"])
def test_without_a_hal_the_cached_temperatures_stand_in_and_are_marked(ending: str) -> None:
    text = SHIELD_CUT[: SHIELD_CUT.index("HAL Ready")] + ending

    assert parse_thermalservice(text) == ThermalService(0, False, {"GPU": 36_000, "CPU0": 37_000}, True)


def test_a_service_without_hal_and_sensors_still_has_a_status() -> None:
    # Tablets and Waydroid: MaheshSharan/FrameX-Android, issue 19.
    text = "Thermal Status: 0\nCached temperatures:\nHAL Ready: false\n"

    assert parse_thermalservice(text) == ThermalService(0, None, {}, False)


def test_a_status_that_was_set_by_hand_is_marked() -> None:
    service = parse_thermalservice("IsStatusOverride: true\nThermal Status: 3\nCached temperatures:\n")

    assert service == ThermalService(3, True, {}, False)


@pytest.mark.parametrize("status", ["7", "-1", "2.0", "", "0x1", "none"])
def test_an_unknown_status_is_not_told(status: str) -> None:
    service = parse_thermalservice(SAMSUNG.replace("Thermal Status: 0", f"Thermal Status: {status}"))

    assert service is not None
    assert service.status is None


def test_sensors_of_one_name_give_the_hotter_and_names_may_hold_spaces_and_commas() -> None:
    sensor = "\tTemperature{mValue=%s, mType=3, mName=test, temperature sensor, mStatus=0}\n"
    text = "Current temperatures from HAL:\n" + "".join(sensor % value for value in ("30.8", "31.2", "30.9"))

    assert parse_thermalservice(text) == ThermalService(None, None, {"test, temperature sensor": 31_200}, False)


@pytest.mark.parametrize(
    "text",
    [
        "Permission Denial: can't dump ThermalManagerService due to missing android.permission.DUMP permission\n",
        "Can't find service: thermalservice\n",
        "Temperature{mValue=40.0, mType=0, mName=CPU0, mStatus=0}\n",
    ],
)
def test_what_is_no_thermal_service_is_none(text: str) -> None:
    assert parse_thermalservice(text) is None


# ---- dumpsys battery


def test_a_full_phone_on_usb_runs_on_mains() -> None:
    assert parse_battery(BATTERY_SAMSUNG) == Battery(100, "mains", 5, 30_900, overridden=False)


def test_an_unplugged_phone_runs_on_its_battery() -> None:
    assert parse_battery(BATTERY_HONOR) == Battery(54, "battery", 3, 22_000, overridden=False)


def test_a_battery_that_discharges_at_a_weak_charger_is_what_feeds() -> None:
    battery = parse_battery(BATTERY_HONOR.replace("USB powered: false", "USB powered: true"))

    assert battery is not None
    assert battery.power == "battery"


def test_an_emulator_s_battery_has_no_temperature() -> None:
    assert parse_battery(BATTERY_EMULATOR) == Battery(89, "mains", 2, None, overridden=False)


def test_a_box_without_a_battery_has_no_level() -> None:
    battery = parse_battery(BATTERY_SAMSUNG.replace("present: true", "present: false"))

    assert battery == Battery(None, "mains", 5, None, overridden=False)


def test_values_set_by_hand_are_marked() -> None:
    header, _, rest = BATTERY_HONOR.partition("\n")

    battery = parse_battery(f"{header}\n  (UPDATES STOPPED -- use 'reset' to restart)\n{rest}")

    assert battery is not None
    assert battery.overridden


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("level: 54", "level: 5x"),
        ("level: 54", "level: 540"),
        ("level: 54", "level: -1"),
        ("scale: 100", "scale: 0"),
        ("scale: 100", "scale: 54%"),
    ],
)
def test_a_level_that_makes_no_sense_is_not_told(old: str, new: str) -> None:
    battery = parse_battery(BATTERY_HONOR.replace(old, new))

    assert battery is not None
    assert battery.level_percent is None


@pytest.mark.parametrize("new", ["AC powered: maybe", "AC powered: ", "AC powered: falsetrue"])
def test_a_source_that_cannot_be_read_leaves_the_power_untold(new: str) -> None:
    battery = parse_battery(BATTERY_HONOR.replace("AC powered: false", new))

    assert battery is not None
    assert battery.power is None


def test_old_androids_leave_spaces_out() -> None:
    # Android 2: `"  voltage:" + mBatteryVoltage`.
    text = "Current Battery Service state:\n  AC powered: true\n  USB powered: false\n  status:2\n  present: true\n"

    assert parse_battery(text + "  level: 1\n  scale:2\n") == Battery(50, "mains", 2, None, overridden=False)


# ---- tegrastats


def test_a_nano_tells_its_rails_without_units() -> None:
    # 613 and 3964 times 1 048 576.
    assert parse_tegrastats(NANO) == Tegrastats(
        ram_used_bytes=642_777_088,
        ram_total_bytes=4_156_555_264,
        cpu_load_percent=(2, 1, 0, 0),
        cpu_frequency_mhz=(102, 102, 102, 102),
        gpu_load_percent=0,
        gpu_frequency_mhz=None,
        temperatures_mc={"PLL": 39_000, "CPU": 40_500, "GPU": 41_000, "AO": 46_000, "thermal": 41_000},
        rails={"POM_5V_IN": Rail(900, 943), "POM_5V_GPU": Rail(0, 0), "POM_5V_CPU": Rail(123, 123)},
    )


def test_cpus_that_are_off_keep_their_places() -> None:
    stats = _parsed(NANO_TWO_CPUS)

    assert stats.cpu_load_percent == (8, 6, None, None)
    assert stats.cpu_frequency_mhz == (102, 102, None, None)


@pytest.mark.parametrize(
    ("line", "load_percent", "frequency_mhz"),
    [
        (TX1, 0, (76,)),
        (TX2, 36, (140,)),
        (XAVIER_NX, 0, (114,)),
        (ORIN, 0, (0, 0)),
        (ORIN_JP7, 12, (1300, 1300)),
        (TX1_L4T_28, 3, (76,)),
        (TK1, None, None),
        # Thor gives no load.
        (ORIN_JP7.replace("12%@[1300,1300]", "@[1000,1000,1000]"), None, (1000, 1000, 1000)),
        (ORIN_JP7.replace("12%@[1300,1300]", "0%@[305,305]"), 0, (305, 305)),
        (ORIN_JP7.replace("12%@[1300,1300]", "12%@[1300,"), None, None),
        (ORIN_JP7.replace("12%@[1300,1300]", "off"), None, None),
        (ORIN_JP7.replace("12%@[1300,1300]", "120%"), None, None),
    ],
)
def test_the_gpu_s_load_and_clock_in_every_layout(
    line: str, load_percent: int | None, frequency_mhz: tuple[int, ...] | None
) -> None:
    stats = _parsed(line)

    assert stats.gpu_load_percent == load_percent
    assert stats.gpu_frequency_mhz == frequency_mhz


def test_rails_named_like_a_part_of_the_chip_are_not_that_part() -> None:
    stats = _parsed(XAVIER)

    assert stats.cpu_load_percent == (0,) * 8
    assert stats.rails == {
        "GPU": Rail(463, 463),
        "CPU": Rail(618, 618),
        "SOC": Rail(2936, 2936),
        "CV": Rail(0, 0),
        "VDDRQ": Rail(309, 309),
        "SYS5V": Rail(3306, 3306),
    }


def test_now_comes_before_the_average() -> None:
    assert _parsed(XAVIER_NX).rails["VDD_SOC"] == Rail(now_mw=650, average_mw=711)
    assert _parsed(NANO_TWO_CPUS).rails["POM_5V_IN"] == Rail(now_mw=1154, average_mw=1544)


def test_rails_with_a_third_figure_and_below_zero() -> None:
    # Thor's idle GPU rail: a calibration offset.
    stats = _parsed(ORIN_JP7.replace("VDD_CPU_CV 3268mW/3268mW/3268mW", "VDD_GPU -392mW/-392mW/0mW"))

    assert stats.rails == {"VDD_GPU_SOC": Rail(5139, 5139), "VDD_GPU": Rail(-392, -392)}


def test_an_orin_s_sleeping_sensors_and_empty_channels_are_left_out() -> None:
    stats = _parsed(ORIN)

    assert stats.temperatures_mc == {
        "CPU": 44_562,
        "Tboard": 32_000,
        "SOC2": 40_093,
        "Tdiode": 33_000,
        "SOC0": 41_093,
        "tj": 44_343,
        "SOC1": 41_250,
    }
    assert set(stats.rails) == {"VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0", "VDDQ_VDD2_1V8AO"}


@pytest.mark.parametrize("line", [NANO, TX2, XAVIER, XAVIER_NX])
def test_the_pmic_s_placeholders_are_no_temperatures(line: str) -> None:
    assert "PMIC" not in _parsed(line).temperatures_mc


def test_a_pmic_that_measures_is_kept_and_so_are_100_degrees_elsewhere() -> None:
    stats = _parsed(NANO.replace("PMIC@100C", "PMIC@61.5C").replace("GPU@41C", "GPU@100C"))

    assert stats.temperatures_mc["PMIC"] == 61_500
    assert stats.temperatures_mc["GPU"] == 100_000


def test_two_readings_of_one_sensor_give_the_first() -> None:
    assert _parsed(ORIN_JP7).temperatures_mc == {"cpu": 52_968, "soc2": 48_406, "gpu": 47_625}


def test_a_clock_that_cpus_share_is_each_one_s() -> None:
    stats = _parsed(TX1_L4T_28)

    assert stats.cpu_load_percent == (17, 13, 29, 5)
    assert stats.cpu_frequency_mhz == (408,) * 4
    assert _parsed(TK1).cpu_frequency_mhz == (None,) * 4


@pytest.mark.parametrize("cpus", ["[2%@102,x%@102]", "[2%@102,101%@102]", "[2%@102,]", "[2%@102", "[]", "[2%@102]@x"])
def test_one_cpu_that_cannot_be_read_loses_all(cpus: str) -> None:
    stats = _parsed(f"RAM 613/3964MB CPU {cpus} EMC_FREQ 0%\n")

    assert stats.cpu_load_percent is None
    assert stats.cpu_frequency_mhz is None


@pytest.mark.parametrize(
    "line",
    ["", "\n", "tegrastats: command not found\n", "Usage: tegrastats [-option]\n", "IRAM 0/252kB\n", "CPU [2%@102]\n"],
)
def test_a_line_of_something_else_is_none(line: str) -> None:
    assert parse_tegrastats(line) is None


# ---- damage


@pytest.mark.parametrize("name", PARSERS)
@given(text=st.text() | st.text(alphabet="0123456789.,:=@%/-[]{}()\n \t'xACRM²٣"))
def test_no_text_makes_a_parser_raise(name: str, text: str) -> None:
    PARSERS[name](text)


@given(recording=st.sampled_from(RECORDED), data=st.data())
def test_no_damage_makes_a_parser_raise(recording: tuple[str, str], data: st.DataObject) -> None:
    name, text = recording
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(len(text), start + 40)))
    patch = data.draw(st.text(max_size=20) | st.text(alphabet="0123456789", max_size=6000))

    PARSERS[name](text[:start] + patch + text[end:])


@pytest.mark.parametrize(("name", "text"), RECORDED)
def test_a_recording_is_understood(name: str, text: str) -> None:
    assert PARSERS[name](text) is not None


@pytest.mark.parametrize(("name", "text"), RECORDED)
def test_what_is_cut_off_never_makes_another_value(name: str, text: str) -> None:
    whole = set(_values(PARSERS[name](text)))

    for length in range(len(text)):
        cut = set(_values(PARSERS[name](text[:length])))
        assert cut <= whole, text[:length]


@pytest.mark.parametrize(("name", "text"), RECORDED)
def test_an_old_adb_s_line_ends_change_nothing(name: str, text: str) -> None:
    assert PARSERS[name](text.replace("\n", "\r\n")) == PARSERS[name](text)


def _values(value: Any, path: str = "") -> Iterator[tuple[str, object]]:
    """What is told, with its place; None and False are not told."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from _values(getattr(value, field.name), f"{path}.{field.name}")
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _values(item, f"{path}[{key}]")
    elif value is not None and value is not False:
        yield path, value


def _parsed(line: str) -> Tegrastats:
    stats = parse_tegrastats(line)
    assert stats is not None
    return stats


# ---- asking real programs

on_posix = pytest.mark.skipif(os.name != "posix", reason="needs scripts that a shell runs")


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory at the front of PATH."""
    directory = tmp_path / "bin"
    directory.mkdir()
    monkeypatch.setenv("PATH", f"{directory}{os.pathsep}{os.environ['PATH']}")
    return directory


def _program(path: Path, name: str, script: str) -> Path:
    """A program that notes each time it is started in the file it returns."""
    log = path.parent / f"{name}.log"
    program = path / name
    program.write_text(f'#!/bin/sh\necho "$*" >> {log}\n{script}')
    program.chmod(0o755)
    return log


def _starts(log: Path) -> list[str]:
    return log.read_text().splitlines()


def _tools(**tools: Tool) -> Tools:
    """The tools given; the others are absent."""
    return Tools(**{name: tools.get(name, Tool(f"no-such-{name}")) for name in Tools._fields})


def _says(path: Path, name: str, answers: dict[str, str]) -> Path:
    """A program that answers its arguments, and others as the firmware of a Pi does."""
    directory = path.parent / name
    directory.mkdir()
    cases = []
    for index, (arguments, answer) in enumerate(answers.items()):
        (directory / str(index)).write_text(answer)
        cases.append(f'"{arguments}") cat {directory}/{index} ;;\n')
    (directory / "else").write_text(NOT_REGISTERED)
    return _program(path, name, f'case "$*" in\n{"".join(cases)}*) cat {directory}/else; exit 255 ;;\nesac\n')


@on_posix
def test_a_pi_answers(path: Path) -> None:
    answers = {
        "get_throttled": "throttled=0x50005\n",
        "measure_temp": "temp=62.3'C\n",
        "measure_clock arm": "frequency(45)=1400000000\n",
    }
    log = _says(path, "vcgencmd", answers)
    tool = Tool("vcgencmd", timeout_s=30)

    found = vcgencmd.read(tool)

    assert found == vcgencmd.Vcgencmd(0x50005, 62_300, 1_400_000_000, None)
    assert vcgencmd.read(tool) == found
    # A Pi 3 has no such chip, and is not asked for it again.
    assert _starts(log).count("pmic_read_adc") == 1
    assert _starts(log).count("get_throttled") == 2


@on_posix
def test_a_phone_answers(path: Path) -> None:
    _says(path, "dumpsys", {"thermalservice": SAMSUNG, "battery": BATTERY_HONOR})
    tool = Tool("dumpsys", timeout_s=30)

    assert dumpsys.read_thermalservice(tool) == parse_thermalservice(SAMSUNG)
    assert dumpsys.read_battery(tool) == parse_battery(BATTERY_HONOR)


@on_posix
def test_tegrastats_is_ended_after_its_second_line(path: Path) -> None:
    # $$ is the script's process.
    log = _program(
        path,
        "tegrastats",
        f"echo $$ > {path.parent}/pid\nprintf '{NANO.strip()}\\n'\n"
        f"while true; do sleep 0.02; echo '{TX1.strip()}'; done\n",
    )

    assert tegrastats.read(Tool("tegrastats", timeout_s=30)) == parse_tegrastats(TX1)
    assert _starts(log) == ["--interval 100"]
    _assert_ends(int((path.parent / "pid").read_text()))


@on_posix
def test_a_tegrastats_that_ends_after_one_line_is_not_asked_again(path: Path) -> None:
    log = _program(path, "tegrastats", f"echo '{NANO.strip()}'\n")
    tool = Tool("tegrastats", timeout_s=30)

    assert tegrastats.read(tool) is None
    assert tegrastats.read(tool) is None
    assert len(_starts(log)) == 1


@on_posix
def test_half_a_line_of_tegrastats_is_not_taken(path: Path) -> None:
    _program(path, "tegrastats", f"printf '{NANO[:100].replace('%', '%%')}'\n")

    assert tegrastats.read(Tool("tegrastats", timeout_s=30), lines=1) is None


@on_posix
def test_a_tool_that_hangs_is_ended_with_what_it_started_and_not_asked_again(path: Path) -> None:
    log = _program(path, "dumpsys", f"sleep 60 &\necho $! > {path.parent}/child\nwait\n")
    tool = Tool("dumpsys", timeout_s=1.0)

    assert tool.ask("battery") is None
    assert tool.ask("thermalservice") is None
    assert _starts(log) == ["battery"]
    _assert_ends(int((path.parent / "child").read_text()))


@on_posix
@pytest.mark.parametrize(
    "script",
    [
        "echo $$ > PID\ntrap '' TERM\nsleep 60\n",
        # The answer is there, but something holds the pipe open.
        "sleep 60 &\necho $! > PID\necho done\n",
        "echo $$ > PID\nexec >&-\nsleep 60\n",
    ],
)
def test_a_tool_that_does_not_end_is_ended(path: Path, script: str) -> None:
    pid = path.parent / "pid"
    _program(path, "stubborn", script.replace("PID", str(pid)))

    assert Tool("stubborn", timeout_s=1.0).ask() is None
    _assert_ends(int(pid.read_text()))


@on_posix
def test_what_a_tool_prints_before_it_fails_is_not_taken(path: Path) -> None:
    _program(path, "vcgencmd", "echo throttled=0x0\nexit 1\n")

    assert vcgencmd.read(Tool("vcgencmd", timeout_s=30)) is None


@on_posix
def test_a_tool_that_never_stops_talking_is_stopped_and_asked_for_other_things(path: Path) -> None:
    _program(path, "dumpsys", 'test "$1" = battery && echo here && exit\nexec yes\n')
    tool = Tool("dumpsys", timeout_s=30)

    assert tool.ask("thermalservice") is None
    assert tool.ask("battery") == "here\n"


@on_posix
def test_a_tool_reads_nothing_from_the_terminal_and_its_complaints_are_dropped(
    path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    _program(path, "asks", "echo complaint >&2\ncat\necho end\n")

    assert Tool("asks", timeout_s=30).ask() == "end\n"
    assert capfd.readouterr().err == ""


@on_posix
def test_a_file_that_is_no_program_is_an_absent_tool(path: Path) -> None:
    program = path / "vcgencmd"
    program.write_bytes(b"\x7fELF of another machine")
    program.chmod(0o755)

    assert Tool("vcgencmd", timeout_s=30).ask("get_throttled") is None


def test_an_absent_tool_is_looked_for_once(path: Path) -> None:
    tool = Tool("no-such-tool")

    assert tool.ask() is None
    _program(path, "no-such-tool", "echo here\n")
    assert tool.ask() is None


def _assert_ends(pid: int) -> None:
    """Gone, or waiting for its parent to take notice."""
    if not sys.platform.startswith("linux"):
        pytest.skip("needs /proc to look at a process")
    deadline = time.monotonic() + 10
    stat = Path(f"/proc/{pid}/stat")
    while stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < deadline, "it still runs"
        time.sleep(0.01)


# ---- the state


@pytest.fixture
def state(tmp_path: Path) -> State:
    """That of a machine whose /proc and /sys tell nothing."""
    return read_state(str(tmp_path / "nothing"))


@on_posix
def test_a_phone_s_tools_complete_its_state(path: Path, state: State) -> None:
    _says(path, "dumpsys", {"thermalservice": SAMSUNG, "battery": BATTERY_HONOR})
    known = replace(state, temperatures_mc={"SKIN": 1})

    enriched = device_tools.enrich(known, _tools(dumpsys=Tool("dumpsys", timeout_s=30)))

    assert enriched.power == "battery"
    assert enriched.temperatures_mc == {
        "SKIN": 1,
        "thermalservice SKIN": 28_200,
        "AP": 34_600,
        "BAT": 25_200,
        "PA": 30_000,
        "USB": 25_800,
    }
    assert enriched.thermal_status == 0
    assert replace(enriched, power=None, temperatures_mc={"SKIN": 1}, thermal_status=None) == known


def test_where_no_tool_is_there_the_state_stays_as_it_is(state: State) -> None:
    assert device_tools.ask(_tools()) == Told()
    assert device_tools.enrich(state, _tools()) == state


def test_sysfs_has_the_word_where_it_speaks(state: State) -> None:
    known = replace(state, throttle_flags=0, power="mains", temperatures_mc={"cpu-thermal": 48_312})
    said = device_tools.told(
        pi=vcgencmd.Vcgencmd(0x50005, 62_300, 1_400_000_000, None), battery=parse_battery(BATTERY_HONOR)
    )

    merged = device_tools.merge(known, said)

    assert merged == replace(known, temperatures_mc={"cpu-thermal": 48_312, "battery": 22_000})


def test_a_pi_s_firmware_speaks_where_sysfs_does_not(state: State) -> None:
    said = device_tools.told(pi=vcgencmd.Vcgencmd(0x50005, 62_300, 1_400_000_000, parse_pmic_adc(PMIC)))

    merged = device_tools.merge(state, said)

    assert merged.throttle_flags == 0x50005
    assert merged.temperatures_mc == {"cpu": 62_300}
    assert said.cpu_frequency_khz == 1_400_000
    # 5.03652 A x 0.8936988 V = 4.50113168 W.
    assert said.rails_uw["VDD_CORE"] == pytest.approx(4_501_132, abs=10)
    assert "EXT5V" not in said.rails_uw


def test_a_current_without_its_voltage_is_no_power() -> None:
    cut = parse_pmic_adc(PMIC[: PMIC.index("  VDD_CORE_V")])

    rails_uw = device_tools.told(pi=vcgencmd.Vcgencmd(None, None, None, cut)).rails_uw

    # 0.0615 A x 3.2998 V = 0.2029 W.
    assert rails_uw["3V3_SYS"] == pytest.approx(202_900, rel=1e-3)
    assert "VDD_CORE" not in rails_uw


def test_of_a_jetson_s_sensors_only_those_are_added_that_no_zone_stands_for(state: State) -> None:
    zones = {"CPU-therm": 1, "AO-therm": 2, "thermal-fan-est": 3, "PLL-therm": 4}
    said = device_tools.told(jetson=parse_tegrastats(NANO))

    merged = device_tools.merge(replace(state, temperatures_mc=zones), said)

    assert merged.temperatures_mc == {**zones, "GPU": 41_000}
    assert said.rails_uw == {"POM_5V_IN": 900_000, "POM_5V_GPU": 0, "POM_5V_CPU": 123_000}
    assert said.gpu_load_percent == 0
    assert said.gpu_frequency_khz is None


def test_an_orin_s_gpu_clocks_are_told_in_kilohertz() -> None:
    assert device_tools.told(jetson=parse_tegrastats(ORIN_JP7)).gpu_frequency_khz == (1_300_000, 1_300_000)


def test_what_was_set_by_hand_is_not_told() -> None:
    thermal = ThermalService(status=3, override=True, temperatures_mc={"skin": 30_000}, cached=False)
    battery = Battery(10, "battery", 3, 22_000, overridden=True)

    said = device_tools.told(thermal=thermal, battery=battery)

    assert said == Told(temperatures_mc={"thermalservice": {"skin": 30_000}})


def test_old_temperatures_are_left_out_and_the_battery_s_stands_in() -> None:
    thermal = ThermalService(status=1, override=False, temperatures_mc={"AP": 55_000}, cached=True)

    said = device_tools.told(thermal=thermal, battery=parse_battery(BATTERY_HONOR))

    assert said.thermal_status == 1
    assert said.battery_percent == 54
    assert said.temperatures_mc == {"battery": {"battery": 22_000}}
