"""A converter as a process of its own: what it prints is kept from our output, and is the reason where it fails."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from edgebench.agent.environment import TELEMETRY_OFF
from edgebench.errors import StepError

__all__ = ["convert"]


def convert(name: str, argv: Sequence[str], directory: Path) -> str:
    """Run `argv`, which people call `name`, in `directory`; what it printed on stdout.

    Raises:
        StepError: it ended with another code than 0.
    """
    done = subprocess.run(
        argv,
        cwd=directory,
        env={**os.environ, **TELEMETRY_OFF},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode == 0:
        return done.stdout
    said = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
    # What a C++ program that aborts died of; a list of addresses follows.
    words = [line.removeprefix("what():").strip() for line in said if line.startswith("what():")] or said
    how = f"was killed by signal {-done.returncode}" if done.returncode < 0 else f"ended with {done.returncode}"
    raise StepError(f"{name} {how}: {words[-1] if words else 'it said nothing'}")
