"""What host and agent say to each other: a Job goes to the device, a Measurement comes back, both as JSON files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional, Tuple

WIRE_VERSION = 1


@dataclass(frozen=True)
class TensorSpec:
    """A model's input or output: `shape` with -1 for a free dimension, `dtype` as numpy spells it (`float32`)."""

    name: str
    shape: Tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class FeedFile:
    """`count` consecutive tensors of `spec` in one raw little-endian file, without a header."""

    spec: TensorSpec
    path: str
    count: int


@dataclass(frozen=True)
class Job:
    """One process's work on one artifact.

    kind "measure": load it, run it once (first), `warmup` times untimed, then time `iterations` runs, but no longer
    than `max_time_s` and no fewer than `min_iterations`. kind "predict": run it once on every tensor of the feeds and
    write its outputs, one raw file per output, to `outputs_directory`.
    """

    version: int
    kind: str
    artifact: str
    runtime: str
    threads: int
    feeds: Tuple[FeedFile, ...]
    warmup: int = 5
    iterations: int = 50
    min_iterations: int = 5
    max_time_s: float = 5.0
    outputs_directory: Optional[str] = None


@dataclass(frozen=True)
class Memory:
    """Resident bytes of the process: with the runtime's library loaded but no model (`baseline_bytes`), after the model
    was loaded, and the high-water mark at the end. `method` names where they were read."""

    baseline_bytes: int
    loaded_bytes: int
    peak_bytes: int
    method: str


@dataclass(frozen=True)
class OutputFile:
    """`count` consecutive outputs of `spec` in one raw little-endian file."""

    spec: TensorSpec
    path: str
    count: int


@dataclass(frozen=True)
class Measurement:
    """One process's raw truth. Times are integer nanoseconds of a monotonic clock.

    `status` is "ok", "unsupported" (the runtime is not there, `reason` says what installs it) or "failed".
    """

    version: int
    status: str
    reason: Optional[str] = None
    runtime_version: Optional[str] = None
    provider: Optional[str] = None
    load_ns: Optional[int] = None
    first_ns: Optional[int] = None
    samples_ns: Tuple[int, ...] = ()
    memory: Optional[Memory] = None
    outputs: Tuple[OutputFile, ...] = ()
