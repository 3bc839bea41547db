"""The size of a file on disk, and compressed, which is what an app store or an over-the-air update moves."""

from __future__ import annotations

import contextlib
import zlib
from pathlib import Path

from edgebench.agent.codec import DecodeError, decode, encode
from edgebench.cache import ArtifactCache, key_of
from edgebench.types import Size

__all__ = ["compressed_size"]

_CHUNK_BYTES = 1 << 20


def compressed_size(path: Path, sha256: str | None) -> Size:
    """Bytes of the file, as it is and after zlib level 6; remembered by `sha256`, because large files take seconds."""
    key = key_of(size_of=sha256, method="zlib-6")
    cache = ArtifactCache()
    with contextlib.suppress(DecodeError):
        return decode(Size, cache.find_record(key), "record")
    compressor = zlib.compressobj(6)
    total = compressed = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            total += len(chunk)
            compressed += len(compressor.compress(chunk))
    size = Size(total, compressed + len(compressor.flush()))
    if sha256 is not None:
        cache.add_record(key, encode(size))
    return size
