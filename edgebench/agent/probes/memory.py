"""Resident memory of this process: with the library, with the model, and at its highest.

VmHWM never falls, so a peak needs a fresh process per job; it is reset once, after the runtime's library was imported,
because an import can pass through more memory than it keeps.
"""

from __future__ import annotations

import sys
from typing import Dict, Optional

from ..wire import Memory

_STATUS = "/proc/self/status"


class MemoryProbe:
    """Started with the library loaded; `mark_loaded` after the model was; `stop` at the end."""

    def __init__(self) -> None:
        self._method = "VmRSS and VmHWM of /proc/self/status"
        if sys.platform.startswith("linux"):
            try:
                with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
                    file.write("5")
                self._method += ", VmHWM reset before the load"
            except OSError:
                pass
        self._baseline = _resident()
        self._loaded: Optional[int] = None

    def mark_loaded(self) -> None:
        """The model is loaded now."""
        self._loaded = _resident()

    def stop(self) -> Optional[Memory]:
        """What was used, or None where this system does not tell."""
        peak = _status().get("VmHWM")
        if self._baseline is None or self._loaded is None or peak is None:
            return None
        return Memory(self._baseline, self._loaded, peak, self._method)


def start() -> MemoryProbe:
    """Begin, with the runtime's library loaded and no model."""
    return MemoryProbe()


def _resident() -> Optional[int]:
    return _status().get("VmRSS")


def _status() -> Dict[str, int]:
    found: Dict[str, int] = {}
    try:
        with open(_STATUS, encoding="ascii", errors="replace") as file:
            for line in file:
                name, _, value = line.partition(":")
                if name in ("VmRSS", "VmHWM"):
                    found[name] = int(value.split()[0]) * 1024
    except OSError:
        pass
    return found
