"""What a transport gives: the command of this machine that runs a command on the device, and what its errors mean."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Protocol

from edgebench.errors import DeviceError

__all__ = ["LinkLost", "Target", "remote_line"]


class LinkLost(Exception):
    """The device does not answer any more; a new connection may find it again."""


class Target(Protocol):
    """The live connection to one device. `address` is how people write it, as in `ssh pi@10.0.0.12`."""

    address: str

    def connect(self) -> None:
        """Connect, or connect again after the link was lost.

        Raises:
            DeviceError: it cannot be reached as things are; the hint says what mends it.
            LinkLost: it does not answer, which may pass.
        """

    def argv(self, command: Sequence[str], environment: Mapping[str, str] | None = None) -> list[str]:
        """The command of this machine that runs `command` on the device, each word as it is: no shell on either side
        reads anything into it. Its streams and exit code are the command's."""

    def is_lost(self, returncode: int, stderr: str) -> bool:
        """Whether a command that ended so did not end by itself but with the link."""

    def close(self) -> None:
        """Disconnect; nothing of the connection is left."""


def remote_line(command: Sequence[str], environment: Mapping[str, str] | None) -> str:
    """One line for the device's shell that runs exactly `command`: the one place where words are quoted."""
    assigned = [f"{name}={value}" for name, value in (environment or {}).items()]
    words = ["env", *assigned, *command] if assigned else list(command)
    if any("\0" in word or "\n" in word for word in words):
        raise DeviceError("a command for the device holds a line break", hint="write paths without it")
    return f"exec {shlex.join(words)}"
