"""Small files of /proc and /sys, below a `root` that tests replace; what cannot be read is None, never an exception."""

from __future__ import annotations

import os
import re
from typing import List, Optional, Tuple


def read_text(*parts: str) -> Optional[str]:
    """The file's text without surrounding white space."""
    chunks: List[bytes] = []
    # A file object would add a third to the time, and a state is up to two hundred files.
    try:
        descriptor = os.open(os.path.join(*parts), os.O_RDONLY)
        try:
            # /proc hands a long file over in pieces.
            while not chunks or chunks[-1]:
                chunks.append(os.read(descriptor, 65536))
        finally:
            os.close(descriptor)
    except OSError:
        return None
    return b"".join(chunks).decode("utf-8", "replace").strip()


def read_int(*parts: str) -> Optional[int]:
    """The file's decimal number."""
    text = read_text(*parts)
    return int(text) if text is not None and re.fullmatch(r"-?\d+", text) else None


def number(pattern: str, text: Optional[str]) -> Optional[int]:
    """The integer that group 1 of `pattern` finds first; `^` matches at every line."""
    found = None if text is None else re.search("(?m)" + pattern, text)
    return None if found is None else int(found.group(1))


def numbered(directory: str, pattern: str) -> List[Tuple[int, str]]:
    """Number (group 1 of `pattern`) and path of the entries whose whole name matches, by number."""
    found = []
    for name in _names(directory):
        match = re.fullmatch(pattern, name)
        if match is not None:
            found.append((int(match.group(1)), os.path.join(directory, name)))
    return sorted(found)


def power_supplies(root: str) -> List[Tuple[str, str]]:
    """Type ("Battery", "Mains", "USB" ...) and directory of what feeds this machine."""
    directory = os.path.join(root, "sys/class/power_supply")
    supplies = [os.path.join(directory, name) for name in sorted(_names(directory))]
    # Scope "Device" is the battery of a mouse or a headset.
    return [(read_text(path, "type") or "", path) for path in supplies if read_text(path, "scope") != "Device"]


def _names(directory: str) -> List[str]:
    try:
        return os.listdir(directory)
    except OSError:
        return []
