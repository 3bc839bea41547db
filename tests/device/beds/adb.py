"""A device over adb: Debian's real adbd, and an adb server of its own that the user's devices and servers do not see.

The client is Debian's `adb` (29) rather than the one in the wheel adbutils (36): it comes signed from the mirror that
the device comes from, and its server neither searches the network by mDNS nor waits 3 s before it connects. `adb=`
takes another.

What this is not: bionic, mksh, SELinux, uid 2000. The device's shell is Debian's and its user is root.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from contextlib import ExitStack, closing
from pathlib import Path

from .guest import Guest
from .network import Network, wait_for
from .requirements import child_of_this_run, require_namespaces, require_tools

__all__ = ["AdbBed", "AdbServer"]

_ADBD = "/usr/lib/android-sdk/platform-tools/adbd"

# As recorded on phones; the tabs and the odd order are theirs.
_GETPROP = """#!/bin/sh
case "$1" in
    ro.product.manufacturer) echo Google ;;
    ro.product.model) echo "Pixel 6" ;;
    ro.build.version.release) echo 14 ;;
    ro.build.version.sdk) echo 34 ;;
    ro.product.cpu.abi) echo arm64-v8a ;;
    ro.board.platform) echo gs101 ;;
    ro.serialno) echo 1A2B3C4D5E6F7G ;;
    "") cat <<'END'
[ro.board.platform]: [gs101]
[ro.build.version.release]: [14]
[ro.build.version.sdk]: [34]
[ro.product.cpu.abi]: [arm64-v8a]
[ro.product.manufacturer]: [Google]
[ro.product.model]: [Pixel 6]
[ro.serialno]: [1A2B3C4D5E6F7G]
END
    ;;
    *) echo "$2" ;;
esac
"""
_DUMPSYS = """#!/bin/sh
case "$1" in
    thermalservice) cat <<'END'
IsStatusOverride: false
ThermalEventListeners:
	callbacks: 2
	killed: false
	broadcasts count: -1
ThermalStatusListeners:
	callbacks: 1
	killed: false
	broadcasts count: -1
Thermal Status: 0
Cached temperatures:
	Temperature{mValue=26.1, mType=3, mName=TYPE_SKIN, mStatus=0}
HAL Ready: true
HAL connection:
	ThermalHAL 2.0 connected: yes
Current temperatures from HAL:
	Temperature{mValue=31.0, mType=0, mName=TYPE_CPU, mStatus=0}
	Temperature{mValue=25.3, mType=4, mName=TYPE_SKIN, mStatus=0}
	Temperature{mValue=-99.9, mType=9, mName=TYPE_NPU, mStatus=0}
Current cooling devices from HAL:
	CoolingDevice{mValue=0, mType=2, mName=thermal-cpufreq-0}
END
    ;;
    battery) cat <<'END'
Current Battery Service state:
  AC powered: false
  USB powered: true
  status: 2
  level: 85
  temperature: 253
END
    ;;
    *) echo "Can't find service: $1" ;;
esac
"""


class AdbServer:
    """An adb server with its own port and keys; `environment` is what a client needs to reach it."""

    def __init__(self, *, adb: Path | None = None) -> None:
        require_tools({"adb": "adb"} if adb is None else {})
        self.adb = adb or Path(str(shutil.which("adb")))
        self._home = tempfile.TemporaryDirectory(prefix="edgebench-adb-")
        port = _free_port()
        # Without the last two the server takes what listens on port 5555 of this machine for an emulator; the first of
        # them is read by adb 36, the second by 29.
        self.environment = {
            "ANDROID_ADB_SERVER_PORT": str(port),
            "ADB_EMU": "0",
            "ADB_LOCAL_TRANSPORT_MAX_PORT": "5553",
        }
        ours = {name: value for name, value in os.environ.items() if not name.startswith(("ADB_", "ANDROID_"))}
        self._client_environment = {**ours, **self.environment, "HOME": self._home.name}
        self._log = Path(self._home.name) / "log"
        with self._log.open("wb") as output:
            # In the foreground: a server that daemonizes cannot be told from another's, to end it.
            self._process = subprocess.Popen(
                child_of_this_run([str(self.adb), "nodaemon", "server"]),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=self._client_environment,
                start_new_session=True,
            )
        try:
            wait_for(port, "127.0.0.1", timeout_s=20)
        except BaseException:
            self.close()
            raise

    def run(self, *arguments: str, timeout_s: float = 30) -> subprocess.CompletedProcess[str]:
        """Run the client to its end, whatever its exit code."""
        return subprocess.run(
            [str(self.adb), *arguments],
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            env=self._client_environment,
        )

    def state(self, serial: str) -> str | None:
        """What `adb devices` says of it."""
        found = re.search(rf"(?m)^{re.escape(serial)}\s+(\S+)", self.run("devices").stdout)
        return found[1] if found else None

    def wait_for_state(self, serial: str, state: str, *, timeout_s: float) -> None:
        """Raises TimeoutError."""
        deadline = time.monotonic() + timeout_s
        while (seen := self.state(serial)) != state:
            if time.monotonic() > deadline:
                raise TimeoutError(f"`adb devices` says {seen} of {serial} after {timeout_s:g} s, not {state}")
            time.sleep(0.05)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._home.cleanup()


class AdbBed:
    """An adbd on port 5555 of a network of its own, connected to a server of its own.

    `serial` is for `adb -s`, `environment` what the client needs besides. With `android` the device answers `getprop`
    and `dumpsys` as a phone did; without, it is a Linux board that happens to speak adb.
    """

    def __init__(self, rootfs: Path, *, emulated: bool = False, android: bool = False, adb: Path | None = None) -> None:
        require_namespaces()
        with ExitStack() as undo:
            self._scratch = Path(undo.enter_context(tempfile.TemporaryDirectory(prefix="edgebench-adbd-")))
            self.server = undo.enter_context(closing(AdbServer(adb=adb)))
            self.adb = self.server.adb
            self.environment = self.server.environment
            self.network = undo.enter_context(closing(Network()))
            self.serial = f"{self.network.address}:5555"
            self._guest = undo.enter_context(closing(Guest(self.network, name="adb-bed", rootfs=rootfs)))
            self._start(emulated, android)
            self._undo = undo.pop_all()

    @property
    def root(self) -> Path:
        """The device's file tree, to put a file there or look at one without adb."""
        return self._guest.root

    def shell(self, command: str, *, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
        """Run a command line on the device, whatever its exit code."""
        return self.server.run("-s", self.serial, "shell", command, timeout_s=timeout_s)

    def close(self) -> None:
        """End the device and its server."""
        self._undo.close()

    def _start(self, emulated: bool, android: bool) -> None:
        if android:
            for name, script in (("getprop", _GETPROP), ("dumpsys", _DUMPSYS)):
                path = self.root / "usr/local/bin" / name
                path.write_text(script)
                path.chmod(0o755)
        log = self._scratch / "log"
        self._guest.start([_ADBD], log, environment={"QEMU_CPU": "cortex-a72"} if emulated else {})
        timeout_s = 60 if emulated else 20
        try:
            wait_for(5555, self.network.address, timeout_s=timeout_s)
            self.server.run("connect", self.serial, timeout_s=timeout_s)
            self.server.wait_for_state(self.serial, "device", timeout_s=timeout_s)
        except TimeoutError as error:
            raise RuntimeError(f"{error}; adbd said: {log.read_text(errors='replace')[-2000:]}") from error


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])
