"""The machine that a bed pretends to be: namespaces of its own and, if wanted, another root file system.

Its first process only holds the namespaces and reaps orphans. The root file system is an overlay whose upper layer is
a tmpfs inside the guest: the cached one below is never written to, and nothing needs unmounting, since the mounts exist
only in the guest. (An upper layer on disk would also fail in a container, where /tmp is itself an overlay.)
"""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from .network import Network
from .requirements import child_of_this_run

__all__ = ["PATH", "Guest"]

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

_INIT = """
set -eu
hostname "$1"
if [ -n "$3" ]; then
    mount -t tmpfs -o mode=755 bed "$2"
    mkdir "$2/upper" "$2/work" "$2/root"
    mount -t overlay -o "lowerdir=$3,upperdir=$2/upper,workdir=$2/work" bed "$2/root"
    cd "$2/root"
    mkdir -p proc dev/pts dev/shm tmp root run usr/local/bin
    mount -t proc proc proc
    mount -t devpts -o newinstance,mode=620,ptmxmode=666 devpts dev/pts
    ln -sf pts/ptmx dev/ptmx
    # Device files of the cache do not work where it lies on a file system that is mounted `nodev`.
    for device in null zero full random urandom tty; do
        [ -e "dev/$device" ] || : > "dev/$device"
        mount --bind "/dev/$device" "dev/$device"
    done
    # The real /sys would show this machine's sensors: a test puts the device's there. onnxruntime asks for these.
    mkdir -p sys/devices/system/cpu
    for list in possible present online; do
        cp "/sys/devices/system/cpu/$list" sys/devices/system/cpu
    done
fi
echo ready
exec > /dev/null
sleep infinity &
# Unlike `exec sleep`, a waiting shell reaps what the daemons leave behind.
wait
"""


class Guest:
    """`root` is the guest's file tree, seen from here; an absolute link in it leads out of it, into this machine."""

    def __init__(self, network: Network, *, name: str, rootfs: Path | None = None) -> None:
        self._rootfs = rootfs
        self._mountpoint = tempfile.TemporaryDirectory(prefix="edgebench-bed-")
        scratch = str(Path(self._mountpoint.name).resolve())
        namespaces = ["unshare", "--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"]
        # From a file, so that `ps` on the device does not show the script.
        (Path(scratch) / "init").write_text(_INIT)
        init = ["sh", f"{scratch}/init", name, scratch, str(rootfs.resolve()) if rootfs else ""]
        self._unshare = subprocess.Popen(
            child_of_this_run(["nsenter", f"--net={network.path}", *namespaces, *init]),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            env={"PATH": PATH},
            start_new_session=True,
        )
        try:
            assert self._unshare.stdout is not None
            with self._unshare.stdout as answer:
                if answer.readline() != "ready\n":
                    raise RuntimeError("the bed's mounts could not be made: see stderr")
            self._init = _only_child(self._unshare.pid)
        except BaseException:
            self.close()
            raise
        self._chroot = f"{scratch}/root" if rootfs else ""
        self.root = Path(f"/proc/{self._init}/root{self._chroot}")

    def start(self, argv: list[str], log: Path, *, environment: Mapping[str, str] | None = None) -> None:
        """Start a daemon in the guest, with nothing of our environment; it ends with the guest."""
        with log.open("ab") as output:
            self._daemon = subprocess.Popen(
                child_of_this_run(self._inside(argv)),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={"PATH": PATH, "HOME": "/root", "LANG": "C.UTF-8", **(environment or {})},
                start_new_session=True,
            )

    def run(self, argv: list[str]) -> None:
        """Run a command in the guest; raises CalledProcessError."""
        subprocess.run(self._inside(argv), check=True, env={"PATH": PATH}, stdin=subprocess.DEVNULL)

    def close(self) -> None:
        """End every process of the guest; its mounts go with the last of them."""
        if self._unshare.returncode is not None:
            return
        # unshare ignores SIGTERM; when it is killed, the kernel kills the first process, and then all in the namespace.
        self._unshare.kill()
        self._unshare.wait()
        if hasattr(self, "_init"):
            deadline = time.monotonic() + 10
            while Path(f"/proc/{self._init}").exists() and time.monotonic() < deadline:
                with suppress(ProcessLookupError):
                    os.kill(self._init, signal.SIGKILL)
                time.sleep(0.005)
        if hasattr(self, "_daemon"):
            # This one is nsenter, outside; it ends when the daemon, its child, does.
            self._daemon.wait()
        self._mountpoint.cleanup()

    def _inside(self, argv: list[str]) -> list[str]:
        enter = ["nsenter", f"--target={self._init}", "--mount", "--uts", "--net", "--pid"]
        return [*enter, *(["chroot", self._chroot] if self._rootfs else []), *argv]


def _only_child(pid: int) -> int:
    (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(child)
