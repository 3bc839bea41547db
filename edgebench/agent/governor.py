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
    present: Dict[str, str] = {}
    for _, policy in numbered(os.path.join(root, _POLICIES), r"policy(\d+)"):
        path = os.path.join(policy, "scaling_governor")
        text = read_text(path)
        if text is not None:
            present[path] = text
    if not present:
        return "this device has no frequency governor that can be seen"
    others = {path: text for path, text in present.items() if text != governor}
    if not others:
        return None
    # What was found first is what is put back, whatever happened since.
    found = {**others, **_held(journal)}
    with open(journal + ".new", "w") as file:
        json.dump({"boot": boot_id(), "governors": found}, file)
    os.replace(journal + ".new", journal)
    try:
        for path in others:
            _write(path, governor)
    except OSError as error:
        restore(journal)
        return "the governor cannot be set to %s: %s" % (governor, error.strerror)
    return None


def restore(journal: str) -> None:
    """Put back what the journal says, if there is one of this boot."""
    for path, governor in _held(journal).items():
        with suppress(OSError):
            _write(path, governor)
    with suppress(FileNotFoundError):
        os.unlink(journal)


def _held(journal: str) -> Dict[str, str]:
    with suppress(OSError, ValueError, KeyError), open(journal) as file:
        held = json.load(file)
        if held["boot"] == boot_id():
            return dict(held["governors"])
    return {}


def _write(path: str, governor: str) -> None:
    with open(path, "w") as file:
        file.write(governor)
