"""What host and agent say to each other, as JSON files: Jobs go to the device, one by one or as a Round that is
measured in alternation; Measurements come back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Optional, Tuple, Union

from .operator_times import OperatorTimes
from .roofline import Roofline
from .state import State

WIRE_VERSION = 3

Interpolation = Literal["nearest", "bilinear", "bicubic"]
Channels = Literal["rgb", "bgr", "gray"]
Layout = Literal["nchw", "nhwc"]


@dataclass(frozen=True)
class TensorSpec:
    """A model's input or output: `shape` with -1 for a free dimension, `dtype` as numpy spells it (`float32`)."""

    name: str
    shape: Tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Preprocess:
    """How an image becomes the model's input: resize, centre crop, channels, `(pixel * scale - mean) / std`, layout.

    `resize` is the length of the shorter side, or `[height, width]`; `crop` is a square's side, or `[height, width]`;
    None leaves the size alone. `scale` multiplies pixels of 0..255. `mean` and `std` have one value per channel, or one
    for all. `channels` None keeps the image's own. `label_offset` is added to a data set's labels (1 for a network
    whose class 0 is "background").
    """

    name: str
    resize: Optional[Union[int, Tuple[int, int]]] = None
    crop: Optional[Union[int, Tuple[int, int]]] = None
    interpolation: Interpolation = "bilinear"
    channels: Optional[Channels] = None
    scale: float = 1.0
    mean: Tuple[float, ...] = ()
    std: Tuple[float, ...] = ()
    layout: Layout = "nchw"
    label_offset: int = 0


@dataclass(frozen=True)
class FeedFile:
    """`count` consecutive tensors of `spec` in one raw little-endian file, without a header."""

    spec: TensorSpec
    path: str
    count: int


@dataclass(frozen=True)
class Scenario:
    """How an artifact is used while it is measured.

    kind "single-stream" and "offline": one inference after the other; the second is looked at for its throughput.
    "multi-stream": `streams` inferences at once on one session; a sample is the time until all have ended. "paced": a
    frame comes every `period_ns`; a sample is from its arrival to its answer. "end-to-end": a sample is from a frame of
    pixels to its answer, preprocessing included.
    """

    kind: str = "single-stream"
    streams: int = 1
    period_ns: int = 0


@dataclass(frozen=True)
class Job:
    """One process's work on one artifact.

    kind "measure": it is a part of a Round, which says how long. kind "predict": run it once on every tensor of the
    feeds and write its outputs, one raw file per output. kind "count": count the instructions of a warm inference. kind
    "profile": the time of each operator in each of `runs` inferences. kind "roofline": what the device can do with
    `threads`, without an artifact. For the scenario "end-to-end" there are `frames`, one file each of uint8
    `[H, W, C]`, and how they are to be prepared for the input that the feeds describe. A "predict" job may have one
    file of frames of the right size in place of feeds, to be normalised for `input`; a quarter of the bytes go to the
    device so.
    """

    version: int
    kind: str
    artifact: str
    runtime: str
    threads: int
    feeds: Tuple[FeedFile, ...]
    scenario: Scenario = Scenario()
    frames: Tuple[FeedFile, ...] = ()
    preprocess: Optional[Preprocess] = None
    input: Optional[TensorSpec] = None
    runs: int = 0


@dataclass(frozen=True)
class Round:
    """Jobs measured in alternation, one fresh process each, all loaded at once while only one of them runs.

    Each process loads, runs once, and warms up until it gets no faster: for `max_warmup_s` at most, or for
    `longest_warmup_s` if `warmup` runs take so long. Then, in `laps`, each process has a turn, in an order drawn anew
    from `seed`: `turn` timed runs or a few milliseconds of them, or fewer once they took `turn_s`. A process that has
    timed `max_time_s` leaves. One that does not answer within `timeout_s` is killed. Before all that the device may
    have `max_wait_s` to come to rest: to where others use less than `quiet_cpus` CPUs, and to `cooldown_c` degrees
    Celsius if given.

    With `sustained_s` each process in its turn runs for so long without a pause, after its laps, for a curve of windows
    of `window_s`.
    """

    version: int
    jobs: Tuple[Job, ...]
    seed: str
    warmup: int = 5
    max_warmup_s: float = 2.0
    longest_warmup_s: float = 10.0
    laps: int = 10
    turn: int = 5
    turn_s: float = 1.0
    max_time_s: float = 6.0
    timeout_s: float = 300.0
    max_wait_s: float = 0.0
    quiet_cpus: float = 0.1
    cooldown_c: Optional[float] = None
    sustained_s: float = 0.0
    window_s: float = 5.0


@dataclass(frozen=True)
class Memory:
    """Resident bytes of the process: with the runtime's library loaded but no model (`baseline_bytes`), after the model
    was loaded, and the high-water mark at the end. `method` names where they were read."""

    baseline_bytes: int
    loaded_bytes: int
    peak_bytes: int
    method: str


@dataclass(frozen=True)
class Parts:
    """Single warm inferences on a GPU in three parts: copies to it, computation on it, copies back, in ns, in the same
    order. `method` says how they were told apart. Their sum is not the latency, which is measured by itself: a runtime
    that copies for itself does so in another way."""

    method: str
    to_device_ns: Tuple[int, ...]
    compute_ns: Tuple[int, ...]
    to_host_ns: Tuple[int, ...]


@dataclass(frozen=True)
class OutputFile:
    """`count` consecutive outputs of `spec` in one raw little-endian file."""

    spec: TensorSpec
    path: str
    count: int


@dataclass(frozen=True)
class Energy:
    """What the whole device took from the start of a turn or window to its end, `span_ns`, in which there were `runs`
    inferences, the untimed ones included. In a round of GPU jobs it is the GPU's board alone."""

    microjoules: int
    span_ns: int
    runs: int


@dataclass(frozen=True)
class Turn:
    """One process's turn: its timed runs, and what else happened on the machine meanwhile.

    `lap` is unique within a round, and turns of one lap ran one directly after the other. `started_ns` counts from the
    round's start. While they were timed, in `wall_ns`, the process used `cpu_ns`, its runnable threads waited for a CPU
    for `waited_ns`, and the whole machine, summed over CPUs, was `busy_ns` and had `steal_ns` taken by its host. Of
    a paced turn's `offered` frames `missed` were lost or late.
    """

    lap: int
    started_ns: int
    samples_ns: Tuple[int, ...]
    wall_ns: Optional[int] = None
    cpu_ns: Optional[int] = None
    waited_ns: Optional[int] = None
    busy_ns: Optional[int] = None
    steal_ns: Optional[int] = None
    energy: Optional[Energy] = None
    offered: Optional[int] = None
    missed: Optional[int] = None


@dataclass(frozen=True)
class Window:
    """A part of a sustained run, `wall_ns` long and `started_ns` after its begin: how many runs, their median and 90th
    percentile; the hottest sensor and the lowest CPU frequency at its end, and its energy, None where not told."""

    started_ns: int
    wall_ns: int
    runs: int
    p50_ns: int
    p90_ns: int
    hottest_mc: Optional[int] = None
    frequency_khz: Optional[int] = None
    energy: Optional[Energy] = None


@dataclass(frozen=True)
class WarmUp:
    """Untimed runs before the first turn; `steady` where they had stopped getting faster."""

    runs: int
    steady: bool


@dataclass(frozen=True)
class InstructionCount:
    """Instructions that single warm inferences executed in user space, with one thread; counts of different `method`
    are not to be compared."""

    counts: Tuple[int, ...]
    method: str


@dataclass(frozen=True)
class Summary:
    """What a tool says of `runs` warm inferences whose single times it keeps to itself, in ns; None is not said."""

    runs: Optional[int] = None
    mean_ns: Optional[int] = None
    stdev_ns: Optional[int] = None
    min_ns: Optional[int] = None
    max_ns: Optional[int] = None
    p50_ns: Optional[int] = None
    p90_ns: Optional[int] = None
    p95_ns: Optional[int] = None
    p99_ns: Optional[int] = None


@dataclass(frozen=True)
class Measurement:
    """One process's raw truth. Times are integer nanoseconds of a monotonic clock.

    `status` is "ok", "unsupported" (the runtime is not there, `reason` says what installs it; or it would have run the
    artifact elsewhere than asked) or "failed"; a process that failed keeps the turns that it had. `cold_ns` is from the
    start of the process to its first result. `round` is the host's number of the round that it belongs to: measurements
    of one round were taken in alternation. A tool that gives no single times has a `summary` in place of `turns`.
    `tool` is what measured in place of the agent, and `cannot` says what it does not tell.

    On a GPU the times of `turns` are from host memory to host memory, and `parts` tells the copies apart.
    `gpu_memory_bytes` is what the process held on the card after its last turn, read as `gpu_memory_method` says.
    """

    version: int
    status: str
    reason: Optional[str] = None
    runtime_version: Optional[str] = None
    provider: Optional[str] = None
    cold_ns: Optional[int] = None
    load_ns: Optional[int] = None
    first_ns: Optional[int] = None
    warm_up: Optional[WarmUp] = None
    turns: Tuple[Turn, ...] = ()
    memory: Optional[Memory] = None
    outputs: Tuple[OutputFile, ...] = ()
    round: Optional[int] = None
    windows: Tuple[Window, ...] = ()
    instructions: Optional[InstructionCount] = None
    summary: Optional[Summary] = None
    tool: Optional[str] = None
    cannot: Tuple[str, ...] = ()
    parts: Optional[Parts] = None
    gpu_memory_bytes: Optional[int] = None
    gpu_memory_method: Optional[str] = None
    operator_times: Optional[OperatorTimes] = None
    rooflines: Tuple[Roofline, ...] = ()

    @property
    def samples_ns(self) -> Tuple[int, ...]:
        """All timed runs in their order."""
        return tuple(sample for turn in self.turns for sample in turn.samples_ns)


@dataclass(frozen=True)
class RoundResult:
    """One measurement per job, and the device's states: before (first), during, and after the round (last). `notes` say
    what did not go as asked, such as a wait that reached its bound. `energy_method` says what energy was read from, and
    `idle_microwatts` what the device took before anything was loaded; None where it tells nothing."""

    version: int
    measurements: Tuple[Measurement, ...]
    states: Tuple[State, ...] = ()
    notes: Tuple[str, ...] = ()
    energy_method: Optional[str] = None
    idle_microwatts: Optional[int] = None
