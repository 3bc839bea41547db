"""Holds the CPU frequency governor while a session measures, and puts back what it found, whatever happens.

What was found is written to a journal first: a session whose processes were all killed is put back by the next one.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from typing import Dict, Optional

from .lock import boot_id
from .sysfs import numbered, read_text

_POLICIES = "sys/devices/system/cpu/cpufreq"


def hold(governor: str, journal: str, root: str = "/") -> Optional[str]:
    """Set `governor` on all CPUs; why that was not possible, or None."""
    found: Dict[str, str] = {}
    for _, policy in numbered(os.path.join(root, _POLICIES), r"policy(\d+)"):
        path = os.path.join(policy, "scaling_governor")
        present = read_text(path)
        if present is not None and present != governor:
            found[path] = present
    if not found:
        known = numbered(os.path.join(root, _POLICIES), r"policy(\d+)")
        return None if known else "this device has no frequency governor that can be seen"
    with open(journal + ".new", "w") as file:
        json.dump({"boot": boot_id(), "governors": found}, file)
    os.replace(journal + ".new", journal)
    try:
        for path in found:
            _write(path, governor)
    except OSError as error:
        restore(journal)
        return "the governor cannot be set to %s: %s" % (governor, error.strerror)
    return None


def restore(journal: str) -> None:
    """Put back what the journal says, if there is one of this boot."""
    with suppress(OSError, ValueError, KeyError):
        with open(journal) as file:
            held = json.load(file)
        if held["boot"] == boot_id():
            for path, governor in held["governors"].items():
                with suppress(OSError):
                    _write(path, governor)
    with suppress(FileNotFoundError):
        os.unlink(journal)


def _write(path: str, governor: str) -> None:
    with open(path, "w") as file:
        file.write(governor)
