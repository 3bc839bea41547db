"""Devices over SSH, by OpenSSH's own client: the user's configuration, jump hosts, agent and host keys hold.

One control connection carries every command, so that a command costs one round trip and not a handshake. It is a child
of this process and goes with it. Passwords are never asked for: a program that measures must run unattended.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from edgebench.errors import DeviceError
from edgebench.targets.commands import stop
from edgebench.targets.target import LinkLost, remote_line
from edgebench.types import DeviceProfile

__all__ = ["SshTarget"]

_CONNECT_S = 20.0
# A control socket's path has to fit into 104 bytes, of which ssh takes 17 for a temporary name.
_LONGEST_DIRECTORY = 70
_OPTIONS = {
    "BatchMode": "yes",
    "ConnectTimeout": "10",
    # After 15 s without an answer the connection ends by itself.
    "ServerAliveInterval": "5",
    "ServerAliveCountMax": "3",
    # What a user's configuration may ask for and a measurement must not have.
    "ClearAllForwardings": "yes",
    "RemoteCommand": "none",
    "RequestTTY": "no",
    "PermitLocalCommand": "no",
    "ControlPersist": "no",
    "LogLevel": "ERROR",
}


class SshTarget:
    """The device of `profile`, whose `address` is what `ssh` would take."""

    def __init__(self, profile: DeviceProfile) -> None:
        assert profile.address is not None
        self._name = profile.name
        self._host = profile.address
        self.address = f"ssh {self._host}"
        self._options = [part for key, value in _OPTIONS.items() for part in ("-o", f"{key}={value}")]
        if profile.ssh_config is not None:
            self._options += ["-F", profile.ssh_config]
        if profile.port is not None:
            self._options += ["-p", str(profile.port)]
        self._master: subprocess.Popen[bytes] | None = None
        self._directory: Path | None = None

    def connect(self) -> None:
        """Start the control connection.

        Raises:
            DeviceError, LinkLost: as `Target.connect` says.
        """
        ssh = shutil.which("ssh")
        if ssh is None:
            raise DeviceError("there is no `ssh` here", hint="install OpenSSH's client: apt install openssh-client")
        self.close()
        parent = tempfile.gettempdir()
        self._directory = Path(
            tempfile.mkdtemp(prefix="eb-", dir=parent if len(parent) < _LONGEST_DIRECTORY else "/tmp")
        )
        log = self._directory / "log"
        with log.open("wb") as stderr:
            self._master = subprocess.Popen(
                # Not -N: whatever ends this process, the command there then reads its end, and the connection goes.
                [ssh, "-M", "-S", str(self._socket), *self._options, "-T", "--", self._host, "exec cat >/dev/null"],
                stdin=subprocess.PIPE,
                stdout=stderr,
                stderr=stderr,
                start_new_session=True,
            )
        deadline = time.monotonic() + _CONNECT_S
        while not self._socket.exists():
            if self._master.poll() is not None:
                self._explain(log.read_text(errors="replace"))
            if time.monotonic() > deadline:
                raise LinkLost(f"no answer within {_CONNECT_S:.0f} s")
            time.sleep(0.005)

    @property
    def _socket(self) -> Path:
        assert self._directory is not None
        return self._directory / "control"

    def _explain(self, stderr: str) -> None:
        """Raise what ssh meant."""
        lines = [line.strip() for line in stderr.splitlines() if line.strip()]
        last = lines[-1] if lines else "ssh ended and said nothing"
        for words, what, hint in (
            (
                "IDENTIFICATION HAS CHANGED",
                "shows another host key than the one that is known",
                "if it was set up anew: ssh-keygen -R HOST, then connect once by hand; if not, somebody is in between",
            ),
            (
                "Host key verification failed",
                "has a host key that is not known here",
                f"connect once by hand and compare its fingerprint: ssh {self._host}",
            ),
            (
                "Permission denied",
                "does not let this user in",
                f"give it your key: ssh-copy-id {self._host} (passwords are never asked for)",
            ),
            (
                "Could not resolve hostname",
                f"is at `{self._host}`, and that is no known host",
                f"set `address` in devices/{self._name}.toml, or give it a `Host` entry in ~/.ssh/config",
            ),
            (
                "Bad configuration option",
                f"cannot be reached: {last}",
                "mend the ssh configuration",
            ),
            (
                "Can't open user config file",
                f"cannot be reached: {last}",
                f"check `ssh_config` in devices/{self._name}.toml",
            ),
        ):
            if words in stderr:
                raise DeviceError(f"device `{self._name}` {what} ({self.address})", hint=hint)
        raise LinkLost(last)

    def argv(self, command: Sequence[str], environment: Mapping[str, str] | None = None) -> list[str]:
        """The command here; without the control connection it fails at once and does not connect by itself."""
        through = ["-S", str(self._socket), "-o", "ControlMaster=no", "-o", "ProxyCommand=false"]
        return ["ssh", *through, *self._options, "-T", "--", self._host, remote_line(command, environment)]

    def is_lost(self, returncode: int, stderr: str) -> bool:
        """ssh's own errors end with 255."""
        return returncode == 255

    def close(self) -> None:
        """End the control connection."""
        if self._master is not None:
            stop(self._master)
            self._master = None
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = None
