"""The export cache: what was made once from the same things is not made again.

The key is a hash of everything that decides the result: parent, step, options, tool versions, calibration. An entry is
a directory that appears whole (written beside, then renamed) and is checked against its own sha256 when it is used, so
that neither an interruption nor a changed file can put a wrong artifact into a bundle.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgebench.agent.codec import DecodeError, decode, encode
from edgebench.config import home
from edgebench.files import copy_whole, file_sha256, write_json
from edgebench.types import Artifact

__all__ = ["ArtifactCache", "key_of"]

LARGEST_CACHE_BYTES = 10 * 2**30


def key_of(**parts: Any) -> str:
    """The cache key of JSON-encodable `parts`."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), default=encode)
    return hashlib.sha256(text.encode()).hexdigest()


class ArtifactCache:
    """Artifacts and records by key, below the data directory; the least recently used go when it grows too large."""

    def __init__(self, root: Path | None = None) -> None:
        self._root = root or home() / "cache"

    def find(self, key: str) -> tuple[Artifact, Path] | None:
        """The artifact of that key and its file, if it is there and whole."""
        entry = self._root / "artifacts" / key
        try:
            artifact = decode(Artifact, json.loads((entry / "artifact.json").read_text()), key)
        except (OSError, ValueError, DecodeError):
            return None
        file = entry / "file"
        if not file.is_file() or file_sha256(file) != artifact.sha256:
            return None
        with contextlib.suppress(OSError):
            os.utime(entry)
        return artifact, file

    def add(self, key: str, artifact: Artifact, file: Path) -> None:
        """Keep `artifact` under `key`. A cache that cannot be written costs time later and nothing now."""
        target = self._root / "artifacts" / key

        def fill(entry: Path) -> None:
            copy_whole(file, entry / "file")
            write_json(entry / "artifact.json", encode(artifact))

        with contextlib.suppress(OSError):
            self._put(target, fill)
            self._shrink()

    def find_record(self, key: str) -> dict[str, Any] | None:
        """The JSON record of that key, if there is one."""
        try:
            record = json.loads((self._root / "records" / key).read_text())
        except (OSError, ValueError):
            return None
        return record if isinstance(record, dict) else None

    def add_record(self, key: str, record: dict[str, Any]) -> None:
        """Keep a JSON record under `key`."""
        with contextlib.suppress(OSError):
            write_json(self._root / "records" / key, record)

    def _put(self, target: Path, fill: Callable[[Path], None]) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        entry = Path(tempfile.mkdtemp(prefix=".new-", dir=target.parent))
        try:
            fill(entry)
            if target.exists():
                shutil.rmtree(target)
            entry.rename(target)
        finally:
            shutil.rmtree(entry, ignore_errors=True)

    def _shrink(self) -> None:
        entries = sorted((self._root / "artifacts").iterdir(), key=lambda entry: entry.stat().st_mtime)
        sizes = {entry: sum(file.stat().st_size for file in entry.iterdir()) for entry in entries}
        excess = sum(sizes.values()) - LARGEST_CACHE_BYTES
        for entry in entries[:-1]:
            if excess <= 0:
                return
            shutil.rmtree(entry, ignore_errors=True)
            excess -= sizes[entry]
