"""A device over ssh: a real sshd with keys of its own, and the client configurations that reach it or fail to."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from contextlib import ExitStack, closing
from pathlib import Path

from .guest import PATH, Guest
from .network import Network, wait_for
from .requirements import Unavailable, require_namespaces, require_tools

__all__ = ["SshBed"]


class SshBed:
    """An sshd on port 22 of a network of its own; without `rootfs` it serves this machine's files.

    Root there has an empty home directory and no login profile in either case, so that what a test leaves behind
    does not reach this machine's root. `root` is the device's file tree.

    `config` is for `ssh -F`, and `host` the alias in it; the other configurations are those of a user for whom
    something is wrong.
    """

    def __init__(self, *, rootfs: Path | None = None, emulated: bool = False, host: str = "bed") -> None:
        require_tools({"ssh": "openssh-client", "ssh-keygen": "openssh-client"})
        sshd = _sshd() if rootfs is None else "/usr/sbin/sshd"
        require_namespaces()
        self.host = host
        with ExitStack() as undo:
            self._scratch = Path(undo.enter_context(tempfile.TemporaryDirectory(prefix="edgebench-ssh-"))).resolve()
            self._make_keys()
            self.network = undo.enter_context(closing(Network()))
            self._guest = undo.enter_context(closing(Guest(self.network, name=host, rootfs=rootfs)))
            self._start(sshd, rootfs, emulated)
            self.config = self._write_config("config", known="host_key")
            self._undo = undo.pop_all()

    @property
    def root(self) -> Path:
        """The device's file tree, to put a file there or look at one without ssh."""
        return self._guest.root

    def config_without_host_key(self) -> Path:
        """The device's host key is not known yet."""
        return self._write_config("config_without_host_key", known=None)

    def config_with_wrong_host_key(self) -> Path:
        """Another machine seems to answer at the device's address."""
        return self._write_config("config_with_wrong_host_key", known="wrong_host_key")

    def config_with_wrong_user_key(self) -> Path:
        """The device does not know the user's key."""
        return self._write_config("config_with_wrong_user_key", known="host_key", identity="wrong_user_key")

    def log(self) -> str:
        """What sshd wrote."""
        return (self._scratch / "log").read_text(errors="replace")

    def close(self) -> None:
        """End the device."""
        self._undo.close()

    def _make_keys(self) -> None:
        for name in ("host_key", "user_key", "wrong_host_key", "wrong_user_key"):
            key = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(self._scratch / name)]
            subprocess.run(key, check=True)

    def _start(self, sshd: str, rootfs: Path | None, emulated: bool) -> None:
        root = self._guest.root
        if rootfs is None:
            home, directory = self._scratch / "home", self._scratch
            home.mkdir()
            # Both hold only in the guest. Root may be locked here, which sshd refuses even with a key.
            for name, line in (("passwd", f"root:*:0:0:root:{home}:/bin/sh"), ("shadow", "root:*:1::::::")):
                others = re.sub(r"(?m)^root:.*\n", "", Path(f"/etc/{name}").read_text())
                (self._scratch / name).write_text(f"{line}\n{others}")
                (self._scratch / name).chmod(0o600 if name == "shadow" else 0o644)
                self._guest.run(["mount", "--bind", str(self._scratch / name), f"/etc/{name}"])
            if not Path("/run/sshd").is_dir():
                self._guest.run(["mount", "-t", "tmpfs", "-o", "mode=755", "run", "/run"])
        else:
            directory = Path("/etc/edgebench-bed")
            (root / "etc/edgebench-bed").mkdir()
            for name in ("host_key", "user_key.pub"):
                shutil.copy(self._scratch / name, root / "etc/edgebench-bed" / name)
        (root / "run/sshd").mkdir(exist_ok=True)
        environment = {"QEMU_CPU": "cortex-a72"} if emulated else {}
        settings = [
            "Port 22",
            f"HostKey {directory}/host_key",
            f"AuthorizedKeysFile {directory}/user_key.pub",
            "PermitRootLogin prohibit-password",
            "PasswordAuthentication no",
            "KbdInteractiveAuthentication no",
            "UsePAM no",
            "StrictModes no",
            "UseDNS no",
            "PrintMotd no",
            "PidFile none",
            "Subsystem sftp internal-sftp",
            "SetEnv " + " ".join(f"{name}={value}" for name, value in {"PATH": PATH, **environment}.items()),
        ]
        if rootfs is not None or _openssh_version() >= (9, 8):
            # Since 9.8 sshd shuts out an address for a while after wrong keys; before, it does not know the setting.
            settings.append("PerSourcePenalties no")
        (root / f"{directory}/sshd_config".lstrip("/")).write_text("\n".join(settings) + "\n")
        log = self._scratch / "log"
        self._guest.start([sshd, "-D", "-e", "-f", f"{directory}/sshd_config"], log, environment=environment)
        try:
            wait_for(22, self.network.address, timeout_s=60 if emulated else 20)
        except TimeoutError as error:
            raise RuntimeError(f"{error}; sshd said: {self.log()[-2000:]}") from error

    def _write_config(self, name: str, *, known: str | None, identity: str = "user_key") -> Path:
        known_hosts = self._scratch / f"{name}.known_hosts"
        if known is not None:
            known_hosts.write_text(f"{self.network.address} {(self._scratch / f'{known}.pub').read_text()}")
        else:
            known_hosts.write_text("")
        settings = {
            "HostName": self.network.address,
            "Port": 22,
            "User": "root",
            "IdentityFile": self._scratch / identity,
            "IdentitiesOnly": "yes",
            "UserKnownHostsFile": known_hosts,
            "GlobalKnownHostsFile": "/dev/null",
        }
        config = self._scratch / name
        lines = [f"Host {self.host}", *(f"    {key} {value}" for key, value in settings.items())]
        config.write_text("\n".join(lines) + "\n")
        return config


def _openssh_version() -> tuple[int, int]:
    # The client's, since older servers cannot tell theirs; both come from one source package.
    said = subprocess.run(["ssh", "-V"], capture_output=True, text=True, check=True).stderr
    major, minor = re.findall(r"\d+", said)[:2]
    return int(major), int(minor)


def _sshd() -> str:
    # An administrator's command: not on every user's PATH. It insists on being started by its full path.
    found = shutil.which("sshd", path=PATH)
    if found is None:
        raise Unavailable("needs sshd (apt-get install openssh-server)")
    return found
