"""Files that were pushed to the device, by the sha256 of their content: there once, resumed, verified, bounded."""

from __future__ import annotations

import errno
import hashlib
import os
import queue
import shutil
import threading
from contextlib import suppress
from typing import Callable, Dict, Iterable, List, Optional, Tuple, Union

# Left free on the file system for what the jobs write.
_SPARE_BYTES = 64 << 20
_CHUNK = 1 << 20
# Chunks that wait to be hashed.
_AHEAD = 4
_PARTIAL = ".part"
# Of a disk, or of a user's share of it.
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


class NoRoom(OSError):
    """The files do not fit; the message says how much is missing."""


class FileCache:
    """The files below `directory`."""

    def __init__(self, directory: str, limit_bytes: int) -> None:
        os.makedirs(directory, exist_ok=True)
        self._directory = directory
        self._limit_bytes = limit_bytes

    def path(self, sha256: str) -> str:
        """Where a file is, or will be."""
        return os.path.join(self._directory, sha256)

    def missing(self, sizes: Dict[str, int]) -> Dict[str, int]:
        """Which of the files, given by hash and size in bytes, are not here, with the bytes of each that are.

        Raises:
            NoRoom: they would not fit, whatever else is thrown away.
        """
        absent: Dict[str, int] = {}
        for sha256, size in sizes.items():
            path = self.path(sha256)
            if _size(path) == size:
                os.utime(path)
            else:
                there = _size(path + _PARTIAL)
                absent[sha256] = there if 0 <= there <= size else 0
        wanted = sum(sizes[sha256] - there for sha256, there in absent.items())
        if wanted > 0:
            self._make_room(wanted, set(sizes))
        return absent

    def trim(self, kept: Iterable[str] = ()) -> None:
        """Throw away what was used least lately, until the rest is within the bound."""
        self._shrink(max(0, sum(size for _, size, _ in self._files()) - self._limit_bytes), set(kept))

    def _make_room(self, wanted: int, kept: Iterable[str]) -> None:
        over = sum(size for _, size, _ in self._files()) + wanted - self._limit_bytes
        self._shrink(max(over, wanted + _SPARE_BYTES - shutil.disk_usage(self._directory).free), set(kept))
        free = shutil.disk_usage(self._directory).free
        if free < wanted + _SPARE_BYTES:
            message = "%d MB are free below %s, and %d MB are needed"
            raise NoRoom(message % (free >> 20, self._directory, (wanted + _SPARE_BYTES) >> 20))

    def _shrink(self, count: int, kept: Iterable[str]) -> None:
        for _, size, name in sorted(self._files()):
            if count <= 0:
                return
            if name.replace(_PARTIAL, "") not in kept:
                os.unlink(self.path(name))
                count -= size

    def _files(self) -> List[Tuple[float, int, str]]:
        found = []
        for entry in os.scandir(self._directory):
            with suppress(FileNotFoundError):
                about = entry.stat()
                found.append((about.st_mtime, about.st_size, entry.name))
        return found

    def receive(self, sha256: str, size: int, offset: int, read: Callable[[memoryview], int]) -> str:
        """Take the bytes of a file from `offset` on, with which `read` fills buffers (less than full at their end);
        what came of it: "whole", "cut" (what came is kept, to go on there) or "damaged" (nothing is kept)."""
        partial = self.path(sha256) + _PARTIAL
        digest = _Digest()
        try:
            with open(partial, "r+b" if os.path.exists(partial) else "w+b") as file:
                while file.tell() < offset:
                    chunk = file.read(min(_CHUNK, offset - file.tell()))
                    if not chunk:
                        return "cut"
                    digest.update(chunk)
                file.truncate()
                while file.tell() < size:
                    buffer = memoryview(bytearray(min(_CHUNK, size - file.tell())))
                    count = read(buffer)
                    digest.update(buffer[:count])
                    file.write(buffer[:count])
                    if count < len(buffer):
                        return "cut"
                file.flush()
                # A device that loses its power now must not have the name without the content.
                os.fsync(file.fileno())
        except OSError as error:
            if error.errno in NO_SPACE:
                # A part of what does not fit would keep the disk full.
                os.unlink(partial)
            raise
        finally:
            found = digest.end()
        if found != sha256:
            os.unlink(partial)
            return "damaged"
        os.replace(partial, self.path(sha256))
        return "whole"


class _Digest:
    """A sha256 that another thread computes, beside the reading and writing of what is hashed."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()
        self._chunks: queue.Queue[Optional[Union[bytes, memoryview]]] = queue.Queue(_AHEAD)
        self._thread = threading.Thread(target=self._work)
        self._thread.start()

    def _work(self) -> None:
        while True:
            chunk = self._chunks.get()
            if chunk is None:
                return
            self._digest.update(chunk)

    def update(self, chunk: Union[bytes, memoryview]) -> None:
        self._chunks.put(chunk)

    def end(self) -> str:
        self._chunks.put(None)
        self._thread.join()
        return self._digest.hexdigest()


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return -1
