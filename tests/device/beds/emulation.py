"""aarch64 programs run on this machine, for as long as this is open, by way of binfmt_misc and qemu.

The entry is our own even where the machine has one: that one's qemu may be too old, and the kernel asks the newest
entry first. It is registered with F, so that the emulator need not exist in the chroot, and named for this process, so
that two test runs do not take it from each other.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from .requirements import Unavailable, child_of_this_run, require_namespaces

__all__ = ["Emulation"]

# An ELF header: 64-bit, little-endian, any ABI, executable or shared object, machine 0xb7. The kernel decodes \x.
_MAGIC = r"\x7fELF\x02\x01\x01" + r"\x00" * 9 + r"\x02\x00\xb7\x00"
_MASK = r"\xff" * 7 + r"\x00" + r"\xff" * 8 + r"\xfe\xff\xff\xff"

# In a mount namespace of its own: nothing is mounted on the machine. Newer kernels forget an entry with the last mount
# of binfmt_misc, so the process stays; older ones keep it, so it is also removed by name, as are those of killed runs.
_HOLD = r"""
set -eu
mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc
cd /proc/sys/fs/binfmt_misc
for entry in edgebench-*; do
    if [ -e "$entry" ] && [ ! -e "/proc/${entry#edgebench-}" ]; then echo -1 > "$entry"; fi
done
printf %s "$2" > register
echo ready
read -r end || true
echo -1 > "$1"
"""


class Emulation:
    """The registration; every exec of an aarch64 program, in or out of a bed, now goes to `qemu`."""

    def __init__(self, qemu: Path) -> None:
        require_namespaces()
        name = f"edgebench-{os.getpid()}"
        entry = f":{name}:M::{_MAGIC}:{_MASK}:{qemu}:OCPF"
        self._holder = subprocess.Popen(
            child_of_this_run(["unshare", "--mount", "sh", "-c", _HOLD, "hold", name, entry]),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self._holder.stdout is not None
        if self._holder.stdout.readline() != "ready\n":
            _, said = self._holder.communicate()
            raise Unavailable(f"needs binfmt_misc, to run aarch64 programs: {said.strip()}")

    def close(self) -> None:
        """Aarch64 programs that run already run on."""
        self._holder.communicate("end\n", timeout=10)
