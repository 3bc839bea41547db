"""The profile that is written for a device from what its shell said."""

from __future__ import annotations

import tomllib
from dataclasses import replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edgebench.measure.new_device import _toml, _values
from edgebench.targets.probe import Probe
from edgebench.types import DeviceProfile

SSH = DeviceProfile("kitchen", "ssh", address="pi@10.0.0.12")
ADB = DeviceProfile("phone", "adb", serial="R5CR")
BOARD = Probe("aarch64", "Linux", 64, 4, None, None, 0.0, "/usr/bin/python3", (3, 11, 2), True, True, 10**10)


@example({"a": "\x7f"})
@example({"a": 'a "quoted\\ \t\n\0\x1f ü😀'})
@settings(deadline=None)
@given(st.dictionaries(st.sampled_from("abcdef"), st.text(st.characters(exclude_categories=["Cs"]))))
def test_whatever_a_board_calls_itself_is_written_as_toml(values: dict[str, str]) -> None:
    assert tomllib.loads(_toml(dict(values))) == values


def test_numbers_and_lists_are_written_as_toml() -> None:
    assert tomllib.loads(_toml({"port": 22, "threads": [1, 4]})) == {"port": 22, "threads": [1, 4]}


@pytest.mark.parametrize(
    ("model", "parent"),
    [
        ("Raspberry Pi 3 Model B Plus Rev 1.3", "rpi3"),
        ("Raspberry Pi 4 Model B Rev 1.4", "rpi4"),
        ("Raspberry Pi 5 Model B Rev 1.0", "rpi5"),
        ("Raspberry Pi 500 Rev 1.0", "rpi5"),
        ("Raspberry Pi 400 Rev 1.0", "rpi4"),
        ("Raspberry Pi Zero 2 W Rev 1.0", "rpi-zero2w"),
        ("NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super", "jetson-orin-nano"),
        ("Radxa ROCK 5B", "aarch64"),
        (None, "aarch64"),
    ],
)
def test_a_board_that_is_known_extends_its_profile(model: str | None, parent: str) -> None:
    assert _values(SSH, replace(BOARD, model=model))["extends"] == parent


def test_a_board_that_is_not_known_says_how_it_is_reached() -> None:
    found = _values(SSH, replace(BOARD, machine="riscv64"))
    assert "extends" not in found
    assert (found["transport"], found["address"], found["threads"]) == ("ssh", "pi@10.0.0.12", [4])


def test_32_bit_programs_do_not_make_a_64_bit_board() -> None:
    # A 32-bit system on a 64-bit kernel, as Raspberry Pi OS has had it since 2023.
    found = _values(SSH, replace(BOARD, bits=32))
    assert found.get("extends") != "aarch64"


def test_a_phone_and_a_board_over_adb_are_told_apart() -> None:
    assert _values(ADB, replace(BOARD, android="14", python=None))["extends"] == "android-arm64"
    assert _values(ADB, BOARD)["extends"] == "adb-linux"
    assert _values(ADB, BOARD)["serial"] == "R5CR"


@pytest.mark.parametrize(
    ("found", "written"),
    [
        ("/usr/bin/python3", None),
        ("/usr/bin/python", "/usr/bin/python"),
        (None, None),
    ],
)
def test_a_python_of_another_name_is_written_down(found: str | None, written: str | None) -> None:
    assert _values(SSH, replace(BOARD, python=found)).get("python") == written
