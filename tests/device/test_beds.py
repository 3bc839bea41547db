"""The test beds do what a device does: answer, hang when the link is cut, and leave nothing behind."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import pytest

from .beds.adb import AdbBed, AdbServer
from .beds.adb_states import AdbStateBed
from .beds.network import Network
from .beds.ssh import SshBed

IMPORTS = "python3 -c 'import numpy, onnxruntime, platform; print(platform.machine())'"


def ssh(
    bed: SshBed, command: str, *, config: Path | None = None, timeout_s: float = 120
) -> subprocess.CompletedProcess[str]:
    """Run `command` on the bed as a user's ssh would, whatever its exit code."""
    argv = ["ssh", "-F", str(config or bed.config), "-o", "BatchMode=yes", bed.host, command]
    return subprocess.run(argv, capture_output=True, text=True, timeout=timeout_s, check=False)


def assert_cut_hangs_and_mend_recovers(network: Network, run: Callable[[float], str]) -> None:
    """`run` is given a timeout in seconds and returns what the device said."""
    network.cut()
    try:
        with pytest.raises(subprocess.TimeoutExpired):
            run(2)
    finally:
        network.mend()
    assert run(60) == "here\n"


def wait_for_command(network: Network, command: bytes) -> list[int]:
    """The processes in the bed, once this command line is among them."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        pids = network.pids()
        with suppress(FileNotFoundError):
            if command in [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in pids]:
                return pids
        time.sleep(0.02)
    raise TimeoutError(f"{command!r} does not run in the bed")


def test_ssh_runs_a_command_and_tells_its_exit_code(ssh_bed: SshBed) -> None:
    done = ssh(ssh_bed, "echo out; echo err >&2; exit 7")

    assert (done.stdout, done.stderr, done.returncode) == ("out\n", "err\n", 7)


def test_ssh_bed_has_a_home_and_a_name_of_its_own(ssh_bed: SshBed) -> None:
    done = ssh(ssh_bed, "ls -A; hostname; touch mark")

    assert done.stdout == "bed\n"
    assert not (Path.home() / "mark").exists()


def test_scp_copies_a_file_to_the_ssh_bed(ssh_bed: SshBed, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(range(256)))

    subprocess.run(["scp", "-q", "-F", ssh_bed.config, "file", f"{ssh_bed.host}:copied"], check=True)

    assert ssh(ssh_bed, "od -An -tu1 copied | tail -1").stdout.split()[-1] == "255"


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        (SshBed.config_without_host_key, "Host key verification failed"),
        (SshBed.config_with_wrong_host_key, "REMOTE HOST IDENTIFICATION HAS CHANGED"),
        (SshBed.config_with_wrong_user_key, "Permission denied (publickey)"),
    ],
)
def test_ssh_refuses(ssh_bed: SshBed, config: Callable[[SshBed], Path], complaint: str) -> None:
    done = ssh(ssh_bed, "true", config=config(ssh_bed))

    assert done.returncode == 255
    assert complaint in done.stderr


def test_cut_link_hangs_ssh_until_mended(ssh_bed: SshBed) -> None:
    assert_cut_hangs_and_mend_recovers(
        ssh_bed.network, lambda timeout_s: ssh(ssh_bed, "echo here", timeout_s=timeout_s).stdout
    )


def test_noticed_cut_fails_a_new_ssh_connection(ssh_bed: SshBed) -> None:
    ssh_bed.network.cut(noticed=True)
    try:
        assert "No route to host" in ssh(ssh_bed, "true", timeout_s=30).stderr
    finally:
        ssh_bed.network.mend()


def test_closed_ssh_bed_leaves_no_process() -> None:
    with closing(SshBed(host="other")) as bed:
        ssh(bed, "setsid sleep 1000 >/dev/null 2>&1 &")
        pids = wait_for_command(bed.network, b"sleep\x001000\x00")

    assert bed.network.pids() == []
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]


def test_closed_ssh_bed_ends_the_session_that_runs() -> None:
    bed = SshBed(host="other")
    session = subprocess.Popen(["ssh", "-F", bed.config, bed.host, "sleep 1000"], stdin=subprocess.DEVNULL)
    try:
        pids = wait_for_command(bed.network, b"sleep\x001000\x00")
    finally:
        bed.close()
        session.kill()
        session.wait()

    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]


def test_adb_runs_a_command_and_tells_its_exit_code(adb_bed: AdbBed) -> None:
    done = adb_bed.shell("echo out; echo err >&2; exit 7")

    assert (done.stdout, done.stderr, done.returncode) == ("out\n", "err\n", 7)


def test_adb_environment_is_all_that_a_client_needs(adb_bed: AdbBed) -> None:
    environment = {"PATH": "/usr/bin:/bin", **adb_bed.environment}
    done = subprocess.run([adb_bed.adb, "devices"], env=environment, capture_output=True, text=True, check=True)

    assert done.stdout.split("\n")[1:] == [f"{adb_bed.serial}\tdevice", "", ""]


def test_pushed_file_does_not_reach_the_cache(adb_bed: AdbBed, amd64: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("pushed\n")

    adb_bed.server.run("-s", adb_bed.serial, "push", "file", "/data/local/tmp/file")

    assert adb_bed.shell("cat /data/local/tmp/file").stdout == "pushed\n"
    assert (adb_bed.root / "data/local/tmp/file").read_text() == "pushed\n"
    assert list((amd64 / "data/local/tmp").iterdir()) == []


def test_adb_bed_imports_onnxruntime(adb_bed: AdbBed) -> None:
    done = adb_bed.shell(IMPORTS)

    assert done.stdout == "x86_64\n", done.stderr


def test_adb_bed_reaps_orphans(adb_bed: AdbBed) -> None:
    adb_bed.shell("(sleep 0.1 &) ; sleep 0.3")

    assert "defunct" not in adb_bed.shell("ps ax").stdout


def test_cut_link_hangs_adb_though_the_device_is_listed(adb_bed: AdbBed) -> None:
    def run(timeout_s: float) -> str:
        assert adb_bed.server.state(adb_bed.serial) == "device"
        return adb_bed.shell("echo here", timeout_s=timeout_s).stdout

    assert_cut_hangs_and_mend_recovers(adb_bed.network, run)


def test_android_bed_answers_as_a_phone_does(adb_bed: AdbBed, amd64: Path) -> None:
    assert adb_bed.shell("getprop ro.product.model").returncode == 127

    with closing(AdbBed(amd64, android=True)) as phone:
        assert phone.shell("getprop ro.product.model").stdout == "Pixel 6\n"
        assert "Thermal Status: 0\n" in phone.shell("dumpsys thermalservice").stdout
        pids = phone.network.pids()

    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]


@pytest.mark.parametrize("state", ["unauthorized", "offline"])
def test_adb_devices_says(adb_server: AdbServer, state: str) -> None:
    with closing(AdbStateBed(adb_server, state)) as bed:  # type: ignore[arg-type]
        done = adb_server.run("-s", bed.serial, "shell", "true")

        assert done.returncode != 0
        assert f"device {state}" in done.stderr

    assert adb_server.state(bed.serial) is None


def test_ssh_aarch64_bed_imports_onnxruntime(ssh_aarch64_bed: SshBed) -> None:
    done = ssh(ssh_aarch64_bed, f"{IMPORTS} && echo $QEMU_CPU && exit 7")

    assert (done.stdout, done.returncode) == ("aarch64\ncortex-a72\n", 7), done.stderr


def test_adb_aarch64_bed_imports_onnxruntime(adb_aarch64_bed: AdbBed) -> None:
    done = adb_aarch64_bed.shell(f"{IMPORTS} && echo $QEMU_CPU && exit 7")

    assert (done.stdout, done.returncode) == ("aarch64\ncortex-a72\n", 7), done.stderr


def test_link_of_an_aarch64_bed_can_be_cut(adb_aarch64_bed: AdbBed) -> None:
    assert_cut_hangs_and_mend_recovers(
        adb_aarch64_bed.network, lambda timeout_s: adb_aarch64_bed.shell("echo here", timeout_s=timeout_s).stdout
    )
