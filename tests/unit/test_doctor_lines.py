"""What the doctor tells people to type, for every Python and board, and how it reads a Raspberry Pi's flags."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from edgebench.agent.examining import Examination
from edgebench.measure.doctor import Finding, _clock, _python, _system, _throttling, _work_directory, install_line
from edgebench.targets.probe import Probe
from edgebench.types import DeviceProfile

PROFILE = DeviceProfile("pi", "ssh", address="pi@10.0.0.12")
SEEN = Examination(
    version=3,
    python="3.11.2",
    executable="/usr/bin/python3",
    bits=64,
    libc=("glibc", "2.36"),
    managed=False,
    usable_cpus=4,
    energy=None,
    energy_reason="-",
    instructions=None,
    instructions_reason="-",
    governor_writable=True,
)
PROBE = Probe(
    "aarch64", "Linux", 64, 4, "Raspberry Pi 4", None, 0.0, "/usr/bin/python3", (3, 11, 2), True, True, 10**10
)


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of packages that this machine has, before all others."""
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def _install(directory: Path, package: str, version: str) -> None:
    about = directory / f"{package}-{version}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")


def _line(runtime: str = "onnxruntime", machine: str = "aarch64", **changes: object) -> str:
    return install_line(runtime, replace(SEEN, **changes), machine, PROFILE)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("python", "onnxruntime", "torch"),
    [
        # The package index's lists of files: these are the last with cp38.
        ("3.8.18", "1.19.2", "2.4.1"),
        ("3.9.2", "1.19.2", "2.8.0"),
    ],
)
def test_an_old_python_gets_the_last_version_that_has_a_wheel_for_it(
    installed: Path, python: str, onnxruntime: str, torch: str
) -> None:
    _install(installed, "onnxruntime", "1.31.0")
    _install(installed, "torch", "2.14.1")
    assert _line(python=python) == f"/usr/bin/python3 -m pip install onnxruntime=={onnxruntime}"
    assert _line("torchscript", python=python) == f"/usr/bin/python3 -m pip install torch=={torch}"


@pytest.mark.parametrize("python", ["3.11.2", "3.12.1", "3.13.0", "3.14.0"])
def test_a_python_of_today_gets_the_version_that_is_here(installed: Path, python: str) -> None:
    _install(installed, "onnxruntime", "1.31.0")
    _install(installed, "torch", "2.14.1+cu128")
    assert _line(python=python) == "/usr/bin/python3 -m pip install onnxruntime==1.31.0"
    # What follows the plus is a build of another package index.
    assert _line("torchscript", python=python) == "/usr/bin/python3 -m pip install torch==2.14.1"


@pytest.mark.parametrize("python", ["3.9.2", "3.10.12"])
def test_a_version_here_that_has_a_wheel_for_it_is_not_replaced(installed: Path, python: str) -> None:
    _install(installed, "onnxruntime", "1.18.0")
    assert _line(python=python) == "/usr/bin/python3 -m pip install onnxruntime==1.18.0"


@pytest.mark.parametrize("machine", ["armv7l", "aarch64", "i686"])
@pytest.mark.parametrize("runtime", ["onnxruntime", "torchscript"])
def test_no_wheel_is_promised_to_32_bit_programs(machine: str, runtime: str) -> None:
    line = _line(runtime, machine, bits=32)
    assert "pip" not in line
    assert "no 32-bit wheel" in line


def test_torch_is_not_installed_by_the_package_of_another_runtime() -> None:
    assert "onnxruntime" not in _line("torchscript", "armv7l", bits=32)


@pytest.mark.parametrize("libc", [("", ""), ("libc", ""), ("musl", "1.2")])
def test_no_wheel_is_promised_to_another_c_library(libc: tuple[str, str]) -> None:
    line = _line(libc=libc)
    assert "pip install" not in line
    assert "no wheel of onnxruntime for this C library" in line


def test_a_managed_python_is_left_alone(installed: Path) -> None:
    _install(installed, "onnxruntime", "1.31.0")
    line = _line(managed=True, python="3.12.1")
    assert "/usr/bin/python3 -m venv ~/edgebench-venv && " in line
    assert "~/edgebench-venv/bin/pip install onnxruntime==1.31.0" in line
    assert "devices/pi.toml" in line
    assert "/usr/bin/python3 -m pip" not in line


def _by_subject(flags: int) -> dict[str, tuple[str, bool | None]]:
    return {finding.subject: (finding.found, finding.good) for finding in _throttling(flags)}


# https://www.raspberrypi.com/documentation/computers/os.html#get_throttled: bit 0 under-voltage, 1 frequency capped,
# 2 throttled, 3 soft temperature limit, and 16 higher since boot.
def test_a_quiet_board_has_no_fault() -> None:
    assert _by_subject(0) == {"under-voltage": ("none", True), "throttling": ("none", True)}


@pytest.mark.parametrize(
    ("flags", "undervoltage", "throttling"),
    [
        (0x1, False, True),
        (0x10000, None, True),
        (0x10001, False, True),
        (0x2, True, False),
        (0x4, True, False),
        (0x8, True, False),
        (0x20000, True, None),
        (0x40000, True, None),
        (0x80000, True, None),
        # Capped now, throttled before: what is now counts.
        (0x40002, True, False),
        (0x50005, False, False),
        (0xF000F, False, False),
    ],
)
def test_each_flag_is_told(flags: int, undervoltage: bool | None, throttling: bool | None) -> None:
    found = _by_subject(flags)
    assert (found["under-voltage"][1], found["throttling"][1]) == (undervoltage, throttling)


def _of(*findings: Finding) -> list[tuple[str, bool | None]]:
    return [(finding.subject, finding.good) for finding in findings]


def test_32_bit_programs_on_a_64_bit_kernel_are_found() -> None:
    assert _of(*_system(replace(PROBE, bits=32))) == [("device", True), ("architecture", False)]
    assert _of(*_system(PROBE)) == [("device", True)]
    assert _of(*_system(replace(PROBE, machine="armv7l", bits=32))) == [("device", True)]
    assert _of(*_system(replace(PROBE, bits=None))) == [("device", True)]


@pytest.mark.parametrize(("ahead_s", "good"), [(0, True), (59, True), (-59, True), (61, False), (-86400, False)])
def test_a_clock_that_is_off_is_found(ahead_s: float, good: bool) -> None:
    found = _clock(replace(PROBE, clock_ahead_s=ahead_s))
    assert found.good is good
    if not good:
        assert ("ahead of" if ahead_s > 0 else "behind") in found.found


@pytest.mark.parametrize(
    ("changes", "good"),
    [
        ({}, [True, True]),
        ({"writable": False, "executable": False}, [False]),
        ({"executable": False}, [True, None, True]),
        ({"free_bytes": 10**8}, [True, False]),
        ({"free_bytes": None}, [True]),
    ],
)
def test_the_work_directory_is_looked_at(changes: dict[str, object], good: list[bool | None]) -> None:
    findings = list(_work_directory(PROFILE, replace(PROBE, **changes)))  # type: ignore[arg-type]
    assert [finding.good for finding in findings] == good
    assert all(finding.remedy for finding in findings if finding.good is False)


@pytest.mark.parametrize(
    ("version", "good"),
    [(None, False), ((2, 7, 18), False), ((3, 7, 16), False), ((3, 8, 0), True), ((3, 14, 0), True)],
)
def test_a_python_that_is_too_old_or_not_there_is_found(version: tuple[int, ...] | None, good: bool) -> None:
    found = _python(PROFILE, replace(PROBE, python=None if version is None else "/p", python_version=version))
    assert found.good is good
    assert good or found.remedy


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        # The wheels of both packages on the package index, and glibc as measured on real trees (stack of 2026).
        ({}, "pip install ai-edge-litert"),
        ({"libc": ("glibc", "2.31")}, "pip install tflite-runtime==2.14.0 'numpy<2'"),
        ({"bits": 32}, "pip install tflite-runtime==2.14.0 'numpy<2'"),
        ({"python": "3.9.2"}, "pip install tflite-runtime==2.14.0 'numpy<2'"),
        ({"python": "3.13.5", "bits": 32}, "no wheel of TFLite for Python 3.13.5"),
        ({"libc": ("", "")}, "use a tool"),
    ],
)
def test_tflite_comes_from_the_package_that_has_a_wheel(changes: dict[str, object], line: str) -> None:
    assert line in _line("tflite", **changes)
