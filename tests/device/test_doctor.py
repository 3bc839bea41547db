"""What stands between a user and a first figure on a real device: each is named, with what mends it."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

import edgebench
from edgebench.cli.main import main
from edgebench.config import find_device
from edgebench.measure.devices import open_agent
from edgebench.types import BenchSettings

from .beds.adb import AdbBed, AdbServer
from .beds.adb_states import AdbStateBed
from .beds.ssh import SshBed
from .conftest import Bed, profile_of
from .test_faults import model


@dataclass(frozen=True)
class Examined:
    """What the doctor printed, and its exit code. A finding is (sign, text, remedy)."""

    code: int
    findings: dict[str, tuple[str, str, str]]


@pytest.fixture
def doctor(capsys: pytest.CaptureFixture[str]) -> Callable[[str], Examined]:
    """Runs `edgebench devices doctor`."""

    def examine(name: str = "bed") -> Examined:
        capsys.readouterr()
        code = main(["devices", "doctor", name])
        found: dict[str, tuple[str, str, str]] = {}
        subject = ""
        for line in capsys.readouterr().out.splitlines():
            if line.startswith("  next: "):
                found[subject] = (*found[subject][:2], line.removeprefix("  next: "))
            else:
                subject = line[2:22].strip()
                found[subject] = (line[0], line[22:].strip(), "")
        return Examined(code, found)

    return examine


def refused(examined: Examined, subject: str, *words: str, remedy: str) -> None:
    """It ended there, and 3 says that nothing can be measured."""
    sign, found, mend = examined.findings[subject]
    assert sign == "✗"
    assert all(word in found for word in words), found
    assert remedy in mend
    assert list(examined.findings)[-1] == subject
    assert examined.code == 3


def in_guest(device: SshBed | AdbBed, argv: Sequence[str]) -> None:
    """Run a command of this machine where the device's mounts are."""
    init = device.root.parts[2]
    subprocess.run(["nsenter", f"--target={init}", "--mount", "--pid", *argv], check=True)


@contextmanager
def mounted(device: SshBed | AdbBed, place: Path, *options: str) -> Iterator[None]:
    """Something is mounted there, a path of the device as it is seen from here."""
    inside = str(Path("/", *place.parts[4:]))
    in_guest(device, ["mount", *options, inside])
    try:
        yield
    finally:
        in_guest(device, ["umount", "--lazy", inside])


@contextmanager
def written(path: Path, text: str, mode: int = 0o644) -> Iterator[None]:
    """A file of the device that is there for a while."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    try:
        yield
    finally:
        path.unlink()


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def profile(name: str, text: str) -> None:
    Path("devices").mkdir(exist_ok=True)
    Path(f"devices/{name}.toml").write_text(text)


def test_a_device_that_is_well_is_called_so(bed: Bed, doctor: Callable[..., Examined]) -> None:
    examined = doctor()

    for subject in ("connection", "device", "work directory", "free space", "clock", "python", "agent", "onnxruntime"):
        assert examined.findings[subject][0] == "✓", examined.findings[subject]
    assert "the harness itself" in examined.findings
    # Other processes, or no sensor, may stand in the way of good figures.
    assert examined.code in (0, 1)
    assert bed.left() == set()


# The way there.


@pytest.mark.parametrize(
    ("config", "words", "remedy"),
    [
        (SshBed.config_without_host_key, "a host key that is not known here", "ssh bed"),
        (SshBed.config_with_wrong_host_key, "another host key than the one that is known", "ssh-keygen -R"),
        (SshBed.config_with_wrong_user_key, "does not let this user in", "ssh-copy-id bed"),
    ],
)
def test_ssh_that_refuses(
    ssh_bed: SshBed, config: Callable[[SshBed], Path], words: str, remedy: str, doctor: Callable[..., Examined]
) -> None:
    profile("bed", f'transport = "ssh"\naddress = "bed"\nssh_config = "{config(ssh_bed)}"\n')

    refused(doctor(), "connection", words, "(ssh bed)", remedy=remedy)


def test_a_host_without_an_address(doctor: Callable[..., Examined]) -> None:
    profile("bed", 'transport = "ssh"\naddress = "pi@nobody.invalid"\n')

    refused(doctor(), "connection", "nobody.invalid", "no known host", remedy="devices/bed.toml")


def test_a_host_that_is_switched_off(ssh_bed: SshBed, doctor: Callable[..., Examined]) -> None:
    profile("bed", profile_of(ssh_bed))
    ssh_bed.network.cut(noticed=True)
    try:
        refused(doctor(), "connection", "ssh bed does not answer", "No route to host", remedy="switched on")
    finally:
        ssh_bed.network.mend()


@pytest.fixture
def no_device(adb_server: AdbServer, monkeypatch: pytest.MonkeyPatch) -> AdbServer:
    """An adb server that is asked, with nothing attached to it."""
    for name, value in adb_server.environment.items():
        monkeypatch.setenv(name, value)
    return adb_server


@pytest.mark.parametrize(
    ("state", "words", "remedy"),
    [
        ("unauthorized", "has not allowed this computer", "Allow USB debugging"),
        ("offline", "offline", "adb devices -l"),
    ],
)
def test_a_phone_that_is_attached_and_not_to_be_used(
    state: str, words: str, remedy: str, no_device: AdbServer, doctor: Callable[..., Examined]
) -> None:
    with closing(AdbStateBed(no_device, state)):  # type: ignore[arg-type]
        # By its only one, as over USB: over TCP it would be connected anew.
        profile("bed", 'transport = "adb"\n')

        refused(doctor(), "connection", words, remedy=remedy)


def test_no_phone_is_attached(no_device: AdbServer, doctor: Callable[..., Examined]) -> None:
    profile("bed", 'transport = "adb"\n')
    refused(doctor(), "connection", "adb sees no device", remedy="adb devices")

    profile("bed", 'transport = "adb"\nserial = "1A2B3C4D"\n')
    refused(doctor(), "connection", "adb -s 1A2B3C4D", "is not attached", "none", remedy="USB debugging")


def test_two_phones_are_attached_and_none_is_named(no_device: AdbServer, doctor: Callable[..., Examined]) -> None:
    profile("bed", 'transport = "adb"\n')
    with closing(AdbStateBed(no_device, "offline")) as one, closing(AdbStateBed(no_device, "unauthorized")) as other:
        refused(doctor(), "connection", "several devices", one.serial, other.serial, remedy='serial = "..."')


def test_there_is_no_adb(monkeypatch: pytest.MonkeyPatch, doctor: Callable[..., Examined]) -> None:
    profile("bed", 'transport = "adb"\n')
    monkeypatch.setenv("PATH", "/nowhere")

    refused(doctor(), "connection", "there is no `adb` here", remedy="apt install adb")


# What is there.


def test_a_python_that_is_not_there_is_named(bed: Bed, doctor: Callable[..., Examined]) -> None:
    profile("other", 'extends = "bed"\npython = "nopython"\n')

    refused(doctor("other"), "agent", "has no `nopython`", remedy="`python` in devices/other.toml")


def test_no_python_at_all(adb_bed: AdbBed, monkeypatch: pytest.MonkeyPatch, doctor: Callable[..., Examined]) -> None:
    for name, value in adb_bed.environment.items():
        monkeypatch.setenv(name, value)
    profile("bed", profile_of(adb_bed, work_dir="/tmp/eb-no-python"))
    python = adb_bed.root / "usr/bin/python3"
    python.rename(python.with_name("hidden"))
    try:
        examined = doctor()
    finally:
        python.with_name("hidden").rename(python)

    refused(examined, "python", "no `python3`", remedy="sudo apt install python3")


def test_a_python_that_is_too_old(bed: Bed, doctor: Callable[..., Examined]) -> None:
    script(bed.work_dir / "python", "echo 3.6.9")
    profile("other", f'extends = "bed"\npython = "/tmp/{bed.work_dir.name}/python"\n')

    refused(doctor("other"), "python", "3.6.9", "needs 3.8", remedy="newer Python")


def test_a_work_directory_that_is_read_only(bed: Bed, doctor: Callable[..., Examined]) -> None:
    bed.work_dir.mkdir()
    with mounted(bed.device, bed.work_dir, "-t", "tmpfs", "-o", "ro", "tmpfs"):
        examined = doctor()

    sign, found, remedy = examined.findings["work directory"]
    assert sign == "✗" and "cannot be written to" in found and "`work_dir` in devices/bed.toml" in remedy
    refused(examined, "agent", "Read-only file system", remedy="work_dir")


def test_a_work_directory_from_which_nothing_runs(bed: Bed, doctor: Callable[..., Examined]) -> None:
    bed.work_dir.mkdir()
    with mounted(bed.device, bed.work_dir, "-t", "tmpfs", "-o", "noexec", "tmpfs"):
        examined = doctor()

    sign, found, remedy = examined.findings["work directory"]
    assert sign == "·" and "noexec" in found and "work_dir" in remedy
    # The agent is read, not run.
    assert examined.findings["agent"][0] == "✓"
    assert examined.code in (0, 1)


def test_a_work_directory_without_space(bed: Bed, doctor: Callable[..., Examined]) -> None:
    bed.work_dir.mkdir()
    with mounted(bed.device, bed.work_dir, "-t", "tmpfs", "-o", "size=100m", "tmpfs"):
        examined = doctor()

    sign, found, remedy = examined.findings["free space"]
    assert (sign, found) == ("✗", "0.1 GB")
    assert f"free some below /tmp/{bed.work_dir.name}" in remedy
    assert examined.code == 1


@pytest.mark.parametrize(("ahead", "words"), [(7200, "ahead of"), (-7200, "behind")])
def test_a_clock_that_is_off(bed: Bed, ahead: int, words: str, tmp_path: Path, doctor: Callable[..., Examined]) -> None:
    real = bed.device.root / "usr/bin/date"
    bed.work_dir.mkdir()
    (bed.work_dir / "date").write_bytes(real.read_bytes())
    (bed.work_dir / "date").chmod(0o755)
    fake = script(bed.work_dir / "fake", f'echo $(( $("/tmp/{bed.work_dir.name}/date" +%s) + {ahead} ))')
    with mounted(bed.device, real, "--bind", str(Path("/", *fake.parts[4:]))):
        examined = doctor()

    sign, found, remedy = examined.findings["clock"]
    assert sign == "✗" and words in found and found[:3] in ("719", "720")
    assert "timedatectl" in remedy
    assert examined.code == 1


def test_a_runtime_that_is_missing_has_the_line_that_installs_it(
    adb_bed: AdbBed, monkeypatch: pytest.MonkeyPatch, doctor: Callable[..., Examined]
) -> None:
    for name, value in adb_bed.environment.items():
        monkeypatch.setenv(name, value)
    profile("bed", profile_of(adb_bed, work_dir="/tmp/eb-runtime"))

    examined = doctor()

    version = importlib.metadata.version("torch").partition("+")[0]
    assert examined.findings["torchscript"] == (
        "·",
        "not installed",
        # Debian's Python is not for pip.
        f"/usr/bin/python3 -m venv ~/edgebench-venv && ~/edgebench-venv/bin/pip install torch=={version}; then set "
        'python = "/home/USER/edgebench-venv/bin/python" in devices/bed.toml',
    )
    assert examined.findings["onnxruntime"][0] == "✓"


def test_a_device_that_is_in_use(bed: Bed, doctor: Callable[..., Examined]) -> None:
    agent = open_agent(find_device("bed"), Path(), lambda text: None)
    try:
        refused(doctor(), "agent", "is in use by", remedy="wait until it is done")
    finally:
        agent.close()


def test_a_device_without_python_that_has_a_tool_is_not_called_unusable(
    board: AdbBed, doctor: Callable[..., Examined]
) -> None:
    profile("tool", 'extends = "bed"\npython = "nopython"\n[tools.benchmark_model]\npath = "/bin/true"\n')
    python = board.root / "usr/bin/python3"
    python.rename(python.with_name("hidden"))
    try:
        examined = doctor("tool")
    finally:
        python.with_name("hidden").rename(python)

    assert examined.code in (0, 1), examined.findings
    assert examined.findings["python"][0] != "✗"


# A board that tells how it is, as files and a script of the emulated one do.


@pytest.fixture
def board(adb_bed: AdbBed, monkeypatch: pytest.MonkeyPatch) -> AdbBed:
    """The adb device, with a profile `bed`."""
    for name, value in adb_bed.environment.items():
        monkeypatch.setenv(name, value)
    profile("bed", profile_of(adb_bed, work_dir="/tmp/eb-board"))
    return adb_bed


def test_a_governor_that_is_not_steady(board: AdbBed, doctor: Callable[..., Examined]) -> None:
    policy = board.root / "sys/devices/system/cpu/cpufreq/policy0"
    with (
        written(policy / "scaling_governor", "ondemand\n"),
        written(policy / "scaling_cur_freq", "1500000\n"),
        written(policy / "scaling_max_freq", "1800000\n"),
    ):
        examined = doctor()
        profile("held", 'extends = "bed"\ngovernor = "performance"\n')
        held = doctor("held")
        after = (policy / "scaling_governor").read_text()

    sign, found, remedy = examined.findings["governor"]
    assert (sign, found) == ("✗", "ondemand")
    assert remedy == "echo performance | sudo tee /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor"
    assert examined.code == 1
    assert held.findings["governor"][:2] == ("✓", "performance")
    assert after.strip() == "ondemand"


@pytest.mark.parametrize(
    ("flags", "voltage", "throttling"),
    [
        ("0x50005", ("✗", "now"), ("✗", "now")),
        ("0x50000", ("·", "not now, but since it was booted"), ("·", "not now, but since it was booted")),
        ("0x2", ("✓", "none"), ("✗", "now")),
        ("0x0", ("✓", "none"), ("✓", "none")),
    ],
)
def test_a_pi_that_throttles(
    flags: str,
    voltage: tuple[str, str],
    throttling: tuple[str, str],
    board: AdbBed,
    doctor: Callable[..., Examined],
) -> None:
    answers = (
        f'case "$1" in get_throttled) echo throttled={flags} ;; measure_temp) echo "temp=48.3\'C" ;; *) exit 1 ;; esac'
    )
    with written(board.root / "usr/local/bin/vcgencmd", f"#!/bin/sh\n{answers}\n", 0o755):
        examined = doctor()

    assert examined.findings["under-voltage"][:2] == voltage
    assert examined.findings["throttling"][:2] == throttling
    if voltage[0] != "✓":
        assert "power supply" in examined.findings["under-voltage"][2]
    if throttling[0] != "✓":
        assert "heatsink" in examined.findings["throttling"][2]
        assert examined.code in (0, 1)
    if "✗" in (voltage[0], throttling[0]):
        assert examined.code == 1


# A profile for it.


def test_a_new_profile_is_written_and_benches(bed: Bed, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reached = (
        ["--ssh", bed.device.host, "--ssh-config", str(bed.device.config)]
        if isinstance(bed.device, SshBed)
        else ["--adb"]
    )

    code = main(["devices", "new", "kitchen", *reached])

    said = capsys.readouterr().out
    assert code == 0
    assert "edgebench devices doctor kitchen" in said
    written_profile = Path("devices/kitchen.toml").read_text()
    assert written_profile.strip() in said
    found = find_device("kitchen")
    assert found.transport == ("ssh" if isinstance(bed.device, SshBed) else "adb")
    if isinstance(bed.device, AdbBed):
        assert found.serial == bed.device.serial

    # The device's own Python there has no runtimes where the device is this machine.
    python = f'python = "{sys.executable}"\n' if isinstance(bed.device, SshBed) else ""
    profile("mine", f'extends = "kitchen"\nwork_dir = "/tmp/{bed.work_dir.name}"\n{python}')
    run = edgebench.bench(
        model(tmp_path / "m.onnx"),
        devices=["mine"],
        settings=BenchSettings(processes=1, warmup=1, iterations=5, max_wait_s=0),
    )
    assert [(cell.status, cell.reason) for cell in run.cells] == [("ok", None)]

    assert main(["devices", "new", "kitchen", *reached]) == 2
    assert "is there already" in capsys.readouterr().err
    assert Path("devices/kitchen.toml").read_text() == written_profile


def test_no_profile_is_written_for_a_device_that_does_not_answer(
    no_device: AdbServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["devices", "new", "phone", "--adb"]) == 3
    assert main(["devices", "new", "pi", "--ssh", "pi@nobody.invalid"]) == 3
    assert main(["devices", "new", "pi", "--ssh", "-oProxyCommand=touch pwned"]) == 2
    assert main(["devices", "new", "../pi", "--ssh", "pi@nobody.invalid"]) == 2
    assert main(["devices", "new", "pi"]) == 2
    assert not Path("devices").exists() and not Path("pwned").exists()
