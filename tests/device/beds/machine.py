"""A second machine: an aarch64 one that qemu emulates whole, with a kernel, a memory and a cable of its own.

What the other beds cannot show is true here: a reset that takes the running job and leaves the disk, memory that runs
out, figures of memory that are the guest's own. Times say nothing. The CPU is always TCG, also where /dev/kvm exists,
so that one nightly run is like another.

The disk is the aarch64 tree of `rootfs` in an ext4 image, made once and kept beside it, and never written to: what a
machine writes is gone with it, and outlives only its resets. What differs between machines (keys, name) comes with the
initrd, which also brings the kernel's two modules, since Debian's cloud kernel finds neither disk nor network without.
"""

from __future__ import annotations

import json
import lzma
import os
import re
import shutil
import socket
import stat
import subprocess
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

from .guest import PATH
from .requirements import Unavailable, child_of_this_run, require_tools
from .rootfs import arm64_rootfs, bootstrap, cached

__all__ = ["Machine", "machine_image"]

# A changed recipe of the image needs a new number.
_RECIPE = "1"
_PACKAGES = "linux-image-cloud-arm64,busybox-static"
# In the order in which they are loaded.
_MODULES = ("virtio_blk", "failover", "net_failover", "virtio_net")
_DISK_BYTES = 2 << 30
# An emulated CPU takes 8 s to get to its sshd, and three times that beside other work.
_BOOT_S = 180.0
_KEYS = "/run/bed"

# The first process, twice: of the initrd, and then of the disk. sshd is not the first itself, because somebody has to
# reap what jobs leave behind.
_INIT = f"""#!/bin/busybox sh
/bin/busybox mkdir -p /bin /proc /sys /dev /disk
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t devtmpfs dev /dev
for module in {" ".join(_MODULES)}; do insmod "/$module.ko"; done
until [ -b /dev/vda ]; do sleep 0.05; done
mount -t ext4 -o noatime /dev/vda /disk
hostname "$(cat /keys/hostname)"
ip link set lo up
ip addr add 10.0.2.15/24 dev eth0
ip link set eth0 up
cd /disk
mkdir -p proc sys dev run tmp root
mount -t sysfs sys sys
mount -t tmpfs -o mode=755 run run
mkdir -p .{_KEYS} run/sshd
cp /keys/* .{_KEYS}
chmod 600 .{_KEYS}/host_key
chmod 1777 tmp
mount --move /dev dev
mount --move /proc proc
exec switch_root /disk {_KEYS}/start
"""
_START = f"""#!/bin/sh
mkdir -p /dev/pts /dev/shm
mount -t devpts -o mode=620,ptmxmode=666 devpts /dev/pts
mount -t tmpfs shm /dev/shm
/usr/sbin/sshd -D -e -f {_KEYS}/sshd_config &
wait
"""
_SSHD_CONFIG = f"""Port 22
HostKey {_KEYS}/host_key
AuthorizedKeysFile {_KEYS}/user_key.pub
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
StrictModes no
UseDNS no
PrintMotd no
PidFile none
PerSourcePenalties no
Subsystem sftp internal-sftp
SetEnv PATH={PATH}
"""


def machine_image(cache: Path) -> Path:
    """A directory with the disk (`disk.img`), the kernel (`vmlinuz`), its modules and a static busybox."""
    tree = arm64_rootfs(cache)
    return cached(cache, "machine", [_RECIPE, tree.name], lambda path: _make_image(path, tree))


def _make_image(path: Path, tree: Path) -> None:
    mke2fs = shutil.which("mke2fs", path=PATH)
    if mke2fs is None:
        raise Unavailable("needs mke2fs (apt-get install e2fsprogs)")
    path.mkdir()
    with tempfile.TemporaryDirectory(prefix="edgebench-kernel-") as scratch:
        root = Path(scratch) / "root"
        bootstrap(root, "arm64", f"--include={_PACKAGES}")
        (kernel,) = (root / "boot").glob("vmlinuz-*")
        shutil.copy(kernel, path / "vmlinuz")
        shutil.copy(root / "usr/bin/busybox", path / "busybox")
        for name in _MODULES:
            (module,) = (root / "usr/lib/modules").rglob(f"{name}.ko.xz")
            (path / f"{name}.ko").write_bytes(lzma.decompress(module.read_bytes()))
    # Sparse. The tables are written now, so that no kernel does it beside a measurement.
    options = ["-q", "-t", "ext4", "-m", "0", "-E", "lazy_itable_init=0,lazy_journal_init=0", "-d", str(tree)]
    subprocess.run([mke2fs, *options, str(path / "disk.img"), str(_DISK_BYTES >> 10)], check=True)


class Machine:
    """`config` is for `ssh -F`, and `host` the alias in it; root has its own home directory, and Python with numpy and
    onnxruntime. Everything between this machine and that one goes through one emulated cable."""

    def __init__(self, cache: Path, *, memory_mb: int = 1024, cpus: int = 2, host: str = "machine") -> None:
        require_tools(
            {
                "qemu-system-aarch64": "qemu-system-arm",
                "setpriv": "util-linux",
                "ssh": "openssh-client",
                "ssh-keygen": "openssh-client",
            }
        )
        if os.geteuid() != 0:
            raise Unavailable("needs root, to unpack another architecture's file tree")
        image = machine_image(cache)
        self.host = host
        with ExitStack() as undo:
            self._scratch = Path(undo.enter_context(tempfile.TemporaryDirectory(prefix="edgebench-machine-"))).resolve()
            self._monitor, theirs = map(undo.enter_context, socket.socketpair())
            self._write_initrd(image)
            self._process = self._start(image, theirs.fileno(), memory_mb, cpus)
            undo.callback(self._kill)
            # Else its end would not be seen.
            theirs.close()
            self._answers = undo.enter_context(closing(self._monitor.makefile("rb")))
            self._read_answer("QMP")
            self._ask("qmp_capabilities")
            self.port = self._forwarded_port()
            self.config = self._write_config()
            self._wait_for_sshd()
            self._undo = undo.pop_all()

    def log(self) -> str:
        """What its console showed."""
        return (self._scratch / "console").read_text(errors="replace")

    def shell(self, command: str, *, timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
        """Run a command line there, whatever its exit code."""
        argv = ["ssh", "-F", str(self.config), "-o", "BatchMode=yes", self.host, command]
        return subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout_s, check=False
        )

    def cut(self) -> None:
        """Pull the cable: what is under way hangs, and a new connection gets no answer."""
        self._ask("set_link", name="n0", up=False)

    def mend(self) -> None:
        """Plug it in again."""
        self._ask("set_link", name="n0", up=True)

    def boot_id(self) -> str:
        """Of the kernel that runs; empty while it cannot be asked."""
        with suppress(subprocess.TimeoutExpired):
            return self.shell("cat /proc/sys/kernel/random/boot_id", timeout_s=30).stdout.strip()
        return ""

    def reset(self, *, wait: bool = True) -> None:
        """As if its reset button were pressed: nothing is told to anybody, nothing more is written to the disk. With
        `wait`, return when it answers again."""
        before = self.boot_id() if wait else ""
        self._ask("system_reset")
        deadline = time.monotonic() + _BOOT_S
        while wait and self.boot_id() in ("", before):
            self._check(deadline)
            time.sleep(0.2)

    def close(self) -> None:
        """Pull the plug, for good."""
        self._undo.close()

    def _write_initrd(self, image: Path) -> None:
        for name in ("host_key", "user_key"):
            key = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(self._scratch / name)]
            subprocess.run(key, check=True)
        keys = {name: (self._scratch / name).read_bytes() for name in ("host_key", "user_key.pub")}
        keys |= {"sshd_config": _SSHD_CONFIG.encode(), "start": _START.encode(), "hostname": self.host.encode()}
        content = {f"keys/{name}": data for name, data in keys.items()}
        content |= {f"{name}.ko": (image / f"{name}.ko").read_bytes() for name in _MODULES}
        content |= {"init": _INIT.encode(), "bin/busybox": (image / "busybox").read_bytes()}
        (self._scratch / "initrd").write_bytes(_cpio(content))

    def _start(self, image: Path, monitor: int, memory_mb: int, cpus: int) -> subprocess.Popen[bytes]:
        argv = ["qemu-system-aarch64", "-M", "virt", "-cpu", "cortex-a72", "-accel", "tcg,thread=multi"]
        argv += ["-m", str(memory_mb), "-smp", str(cpus), "-nodefaults", "-display", "none"]
        argv += ["-kernel", str(image / "vmlinuz"), "-initrd", str(self._scratch / "initrd")]
        # A kernel that panics, as without memory it may, starts anew.
        argv += ["-append", "console=ttyAMA0 quiet panic=1"]
        argv += ["-drive", f"file={image / 'disk.img'},format=raw,if=none,id=d0", "-device", "virtio-blk-pci,drive=d0"]
        argv += ["-snapshot"]
        # Port 0 is one that is free, and the monitor tells which.
        argv += ["-netdev", "user,id=n0,restrict=on,hostfwd=tcp:127.0.0.1:0-:22"]
        argv += ["-device", "virtio-net-pci,netdev=n0,romfile="]
        argv += ["-serial", f"file:{self._scratch / 'console'}"]
        argv += ["-chardev", f"socket,id=m0,fd={monitor}", "-mon", "chardev=m0,mode=control"]
        with (self._scratch / "qemu").open("wb") as output:
            return subprocess.Popen(
                child_of_this_run(argv),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=(monitor,),
                # A Ctrl-C is for the tests, which then close their beds.
                start_new_session=True,
            )

    def _ask(self, command: str, **arguments: Any) -> Any:
        """The monitor's answer (QMP)."""
        self._monitor.sendall(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
        return self._read_answer("return")

    def _read_answer(self, key: str) -> Any:
        # Events, such as that of a reset, may stand before it.
        while line := self._answers.readline():
            answer: Mapping[str, Any] = json.loads(line)
            if "error" in answer:
                raise RuntimeError(f"qemu said: {answer['error']['desc']}")
            if key in answer:
                return answer[key]
        raise RuntimeError(f"qemu ended: {(self._scratch / 'qemu').read_text(errors='replace')[-2000:]}")

    def _forwarded_port(self) -> int:
        listed = self._ask("human-monitor-command", **{"command-line": "info usernet"})
        found = re.search(r"(?m)^\s*TCP\[HOST_FORWARD\]\s+\d+\s+127\.0\.0\.1\s+(\d+)\s", listed)
        if found is None:
            raise RuntimeError(f"qemu forwards no port: {listed}")
        return int(found[1])

    def _wait_for_sshd(self) -> None:
        deadline = time.monotonic() + _BOOT_S
        while True:
            # qemu accepts at once, whatever the guest does.
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
                if connection.recv(4) == b"SSH-":
                    return
            self._check(deadline)
            time.sleep(0.1)

    def _check(self, deadline: float) -> None:
        if self._process.poll() is not None:
            raise RuntimeError(f"qemu ended: {(self._scratch / 'qemu').read_text(errors='replace')[-2000:]}")
        if time.monotonic() > deadline:
            raise TimeoutError(f"no sshd answers after {_BOOT_S:.0f} s; the console showed: {self.log()[-2000:]}")

    def _write_config(self) -> Path:
        known_hosts = self._scratch / "known_hosts"
        known_hosts.write_text(f"[127.0.0.1]:{self.port} {(self._scratch / 'host_key.pub').read_text()}")
        settings = {
            "HostName": "127.0.0.1",
            "Port": self.port,
            "User": "root",
            "IdentityFile": self._scratch / "user_key",
            "IdentitiesOnly": "yes",
            "UserKnownHostsFile": known_hosts,
            "GlobalKnownHostsFile": "/dev/null",
        }
        config = self._scratch / "config"
        lines = [f"Host {self.host}", *(f"    {key} {value}" for key, value in settings.items())]
        config.write_text("\n".join(lines) + "\n")
        return config

    def _kill(self) -> None:
        self._process.kill()
        self._process.wait()


def _cpio(content: Mapping[str, bytes]) -> bytes:
    """An initrd of these files, all executable, in directories of one level (the kernel's `newc` format)."""
    entries = {name.partition("/")[0]: (stat.S_IFDIR | 0o755, b"") for name in content if "/" in name}
    entries |= {name: (stat.S_IFREG | 0o755, data) for name, data in content.items()}
    # The first process needs it before it can make one.
    archive = bytearray(_cpio_entry("dev", stat.S_IFDIR | 0o755, b"", 0))
    archive += _cpio_entry("dev/console", stat.S_IFCHR | 0o600, b"", 1, device=(5, 1))
    for number, (name, (mode, data)) in enumerate(entries.items(), start=2):
        archive += _cpio_entry(name, mode, data, number)
    return bytes(archive + _cpio_entry("TRAILER!!!", 0, b"", 0))


def _cpio_entry(name: str, mode: int, data: bytes, number: int, device: tuple[int, int] = (0, 0)) -> bytes:
    # inode, mode, uid, gid, links, mtime, size, device (2), device of a node (2), length of the name, checksum
    fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(name) + 1, 0)
    header = b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0"
    return _padded(header) + _padded(data)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
