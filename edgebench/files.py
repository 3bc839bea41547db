"""Files that are whole or not there: hashes, copies, and writes that an interruption cannot cut in two."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

__all__ = ["copy_whole", "file_sha256", "write_atomically", "write_json"]


def file_sha256(path: Path) -> str:
    """The sha256 of a file's bytes, as hexadecimal digits; read once for as long as the file stays what it is."""
    about = path.stat()
    return _sha256(path.resolve(), about.st_ino, about.st_size, about.st_mtime_ns)


@lru_cache(maxsize=1024)
def _sha256(path: Path, *_version: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def copy_whole(source: Path, target: Path) -> None:
    """Copy a file so that `target` is the old one or the new one, never a part of it."""
    with _partial(target) as partial:
        shutil.copyfile(source, partial)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file that is either the old one or the new one, never a part of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with _partial(path) as partial:
        partial.write_bytes(content)


def write_json(path: Path, document: object) -> None:
    """Write a JSON document whole.

    Raises:
        ValueError: it holds a number that JSON does not have (infinity, NaN).
    """
    write_atomically(path, f"{json.dumps(document, indent=2, allow_nan=False)}\n".encode())


@contextmanager
def _partial(path: Path) -> Iterator[Path]:
    # A name of its own for each writer: two exports may write to one directory.
    partial = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(3)}.partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
