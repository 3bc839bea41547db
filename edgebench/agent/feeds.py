"""Raw tensors in and out of files: what a session is fed, and what it answered.

Raw little-endian bytes need no library on the device, and a mapped file is not counted twice when several processes
read it.
"""

from __future__ import annotations

import mmap
import os
from typing import BinaryIO, Dict, List, NamedTuple, Sequence, Tuple

from .wire import FeedFile, OutputFile, TensorSpec

ITEM_BYTES = {
    "float64": 8,
    "float32": 4,
    "float16": 2,
    "int64": 8,
    "int32": 4,
    "int16": 2,
    "int8": 1,
    "uint8": 1,
    "bool": 1,
}


class Tensor(NamedTuple):
    """One tensor: its bytes, and how to read them."""

    spec: TensorSpec
    data: memoryview


Feed = Dict[str, Tensor]


def tensor_bytes(spec: TensorSpec) -> int:
    """The length in bytes of one tensor of `spec`."""
    count = 1
    for length in spec.shape:
        count *= length
    return count * ITEM_BYTES[spec.dtype]


def read_feeds(files: Sequence[FeedFile]) -> List[Feed]:
    """The feeds of a job, one per tensor in its files, which must all hold as many.

    Raises:
        ValueError: a file of another length than its `count` tensors take.
    """
    feeds: List[Feed] = [{} for _ in range(min((file.count for file in files), default=0))]
    for file in files:
        size = tensor_bytes(file.spec)
        with open(file.path, "rb") as handle:
            view = memoryview(mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ))
        if len(view) != size * file.count:
            raise ValueError("%s has %d bytes, expected %d tensors of %d" % (file.path, len(view), file.count, size))
        for index, feed in enumerate(feeds):
            feed[file.spec.name] = Tensor(file.spec, view[index * size : (index + 1) * size])
    return feeds


class OutputWriter:
    """Writes the outputs of consecutive runs, one raw file per output; every run must answer the same shapes."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._files: List[Tuple[TensorSpec, BinaryIO]] = []
        self._count = 0

    def __enter__(self) -> OutputWriter:
        return self

    def __exit__(self, *_: object) -> None:
        for _spec, file in self._files:
            file.close()

    def write(self, tensors: Sequence[Tuple[TensorSpec, bytes]]) -> None:
        """Append one run's outputs."""
        if not self._files:
            for index, (spec, _) in enumerate(tensors):
                path = os.path.join(self._directory, "output-%d.raw" % index)
                self._files.append((spec, open(path, "wb")))  # noqa: SIM115 - closed in __exit__
        for (first, file), (spec, data) in zip(self._files, tensors):
            if spec != first:
                raise ValueError(
                    "output %s changed from %s to %s between inputs" % (spec.name, first.shape, spec.shape)
                )
            file.write(data)
        self._count += 1

    def files(self) -> Tuple[OutputFile, ...]:
        """What was written."""
        return tuple(OutputFile(spec, file.name, self._count) for spec, file in self._files)
