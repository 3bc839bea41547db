"""Which kind of int8 a device wants: this machine, another one that is asked, or what the user says."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgebench.agent.environment import describe_machine
from edgebench.config import find_device
from edgebench.measure.devices import connected
from edgebench.progress import Progress
from edgebench.quantize.settings import TARGETS, target_of

__all__ = ["find_target"]


def find_target(name: str | None, progress: Progress) -> str:
    """One of `TARGETS`: `name` itself, or what the device of that name says of its processor; None is this machine.

    Raises:
        UsageError: there is no such target and no such device.
        EnvironmentFailure: the device cannot be reached.
    """
    if name in TARGETS:
        return str(name)
    return _of(describe_machine() if name is None else _fingerprint(name, progress))


def _fingerprint(name: str, progress: Progress) -> Mapping[str, Any]:
    profile = find_device(name)
    progress.start(f"which CPU {name} has")
    with (
        tempfile.TemporaryDirectory(prefix="edgebench-target-") as scratch,
        connected([profile], Path(scratch), progress) as found,
    ):
        fingerprint = found[0].device.fingerprint
    progress.done(f"{fingerprint.get('cpu', fingerprint.get('machine'))}: {_of(fingerprint)}")
    return fingerprint


def _of(fingerprint: Mapping[str, Any]) -> str:
    return target_of(str(fingerprint.get("machine", "")), fingerprint.get("isa", ()))
