"""The nouns of the host: what a source is, what was exported from it, how it was prepared and what was measured.

Everything here is frozen data that `agent.codec` writes to and reads from JSON and TOML. `None` means "not measured",
never "failed" or zero. What runs on a device (`Job`, `Measurement`) is defined in `agent.wire`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from edgebench.agent.roofline import Roofline
from edgebench.agent.state import State
from edgebench.agent.wire import InstructionCount, Interpolation, Measurement, Preprocess, TensorSpec, Window
from edgebench.disagreement import Disagreement
from edgebench.trade_off import TradeOff

__all__ = [
    "HIGHEST_PERCENTILE",
    "NOT_MEASURED",
    "RANDOM",
    "Accuracy",
    "Artifact",
    "ArtifactRef",
    "BenchSettings",
    "Bundle",
    "Calibration",
    "CalibrationSet",
    "Cell",
    "Costs",
    "Device",
    "DeviceProfile",
    "Interpolation",
    "LedgerEntry",
    "Measurement",
    "Parity",
    "Preprocess",
    "Run",
    "Size",
    "SourceInfo",
    "TensorSpec",
    "Tolerance",
    "ToolBinary",
]

SourceKind = Literal["state-dict", "checkpoint", "module", "torchscript", "exported-program", "onnx", "factory"]
ArtifactStatus = Literal["ok", "failed", "skipped"]
CellStatus = Literal["ok", "failed", "unsupported", "skipped"]

# The calibration data that is none: numbers made up. It is never taken unless it is asked for by this word.
RANDOM = "random"


@dataclass(frozen=True)
class CalibrationSet:
    """One file of `calib/`: which images, how many of them, how they are prepared.

    `sha256`, where given, is checked against the content of the chosen samples.
    """

    name: str
    data: str
    samples: int
    description: str = ""
    preprocess: str | None = None
    seed: int = 0
    sha256: str | None = None


@dataclass(frozen=True)
class ToolBinary:
    """Where a tool for devices without Python is: its `path` on the device, or the file here to `push`; neither, for
    the runner of edgebench, which is then built. `library`, of that runner: libonnxruntime.so on the device, or
    `push_library` here; neither takes the one of onnxruntime's wheel."""

    path: str | None = None
    push: str | None = None
    library: str | None = None
    push_library: str | None = None


@dataclass(frozen=True)
class DeviceProfile:
    """One file of `devices/`: how a device is reached, and how it is used while it measures.

    address: of an ssh device, what `ssh` takes: `USER@HOST`, or a `Host` of the user's ssh configuration; `port` and
        `ssh_config` (a file to read instead of ~/.ssh/config) as ssh's -p and -F.
    serial: of an adb device, as `adb devices` lists it; None is the only one that is attached.
    work_dir: where files are put, relative to the home directory there; at most `cache_mb` megabytes stay.
    python: what runs the agent there, 3.8 or newer; `environment` is added to that of every command.
    runtimes: which are used there; None takes those of the CPU.
    threads: None means as many as the device has physical cores. `cpus`: those that jobs are bound to.
    governor: held while it measures and put back afterwards.
    emulated: its answers are real, its times and memory are not.
    tools: of a device without Python, what measures in place of the agent, by name.
    """

    name: str
    transport: Literal["local", "ssh", "adb"]
    description: str = ""
    address: str | None = None
    port: int | None = None
    ssh_config: str | None = None
    serial: str | None = None
    work_dir: str | None = None
    cache_mb: int = 2000
    python: str = "python3"
    environment: dict[str, str] = field(default_factory=dict)
    runtimes: tuple[str, ...] | None = None
    threads: tuple[int, ...] | None = None
    cpus: tuple[int, ...] | None = None
    governor: str | None = None
    emulated: bool = False
    tools: dict[str, ToolBinary] = field(default_factory=dict)


@dataclass(frozen=True)
class SourceInfo:
    """What the user gave. `parameters` counts learned scalars; `weights` says where their values come from."""

    path: str
    sha256: str
    kind: SourceKind
    architecture: str | None
    parameters: int | None
    weights: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Calibration:
    """The images that calibrated the int8 artifacts and that every parity was measured on; `data` is RANDOM where it
    were numbers made up. `sha256` is over the content of the images, or over those numbers."""

    data: str
    sha256: str
    samples: int
    method: str
    seed: int = 0


@dataclass(frozen=True)
class Tolerance:
    """What each output of a float step may differ from its parent's: `atol + rtol * (its largest absolute value)`."""

    atol: float = 1e-5
    rtol: float = 1e-3


@dataclass(frozen=True)
class Parity:
    """How far an artifact is from its parent on the same inputs.

    `inputs` says what those were: "calibration" images, or "random" as a last resort. `max_abs_error` and `sqnr_db` are
    the worst over all outputs; `relative_error` is `max_abs_error` over the parent's largest absolute output.
    `sqnr_db` is None where the outputs are bit for bit the same (it would be infinite). `samples` counts images, or
    random inputs. `top1_agreement` (0..1) is None
    where the first output is not a row of class scores.
    """

    inputs: Literal["calibration", "random"]
    samples: int
    max_abs_error: float
    relative_error: float
    sqnr_db: float | None
    top1_agreement: float | None


@dataclass(frozen=True)
class Costs:
    """What one inference takes by the network's own structure, whatever executes it (`edgebench.costs`).

    `macs`: multiplications with their accumulation, without the operators in `not_counted`. `zeros` of the `parameters`
    are zero, None where their values were not read. `activation_bytes` sums the results of all operators;
    `peak_activation_bytes` is the largest sum of them alive at once; both are None where a length is not known.
    """

    macs: int
    parameters: int
    zeros: int | None
    weight_bytes: int
    activation_bytes: int | None
    peak_activation_bytes: int | None
    not_counted: tuple[str, ...] = ()


@dataclass(frozen=True)
class Artifact:
    """One immutable exported file, and how it came to be.

    `file` is relative to the bundle; `parent` names the artifact it was made from, None for the source itself.
    `seconds` and `peak_rss_bytes` are what the step cost when it was run (a reused artifact keeps them). `notes` are
    sentences for people: which exporter, what a simplifier gained. `costs` are of an inference of the bundle's inputs;
    None where nothing could be counted, and in bundles older than that. `trade_off`: what was tried for a budget.
    `statistics` names the bundle's file with those of the parent's activations, by which int8's ranges were chosen;
    `calibrated`: it has ranges that come from calibration inputs.
    """

    name: str
    format: str
    precision: str | None
    file: str | None
    sha256: str | None
    bytes: int | None
    parent: str | None
    step: str
    options: dict[str, Any] = field(default_factory=dict)
    tool_versions: dict[str, str] = field(default_factory=dict)
    opset: int | None = None
    seconds: float | None = None
    peak_rss_bytes: int | None = None
    status: ArtifactStatus = "ok"
    reason: str | None = None
    parity: Parity | None = None
    notes: tuple[str, ...] = ()
    costs: Costs | None = None
    trade_off: TradeOff | None = None
    statistics: str | None = None
    calibrated: bool = False


@dataclass(frozen=True)
class Bundle:
    """A directory of artifacts that share a source, as `bundle.json` in it says."""

    schema: int
    name: str
    source: SourceInfo
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    preprocess: Preprocess | None
    calibration: Calibration | None
    artifacts: tuple[Artifact, ...]


@dataclass(frozen=True)
class Device:
    """A device as a run met it: its profile's name and what it said of itself.

    `emulated`: an emulator's times and memory say nothing about the device, so that nothing is ranked by them.
    `background`: measured from `adb shell`, where Android runs what is not in the foreground. `error` is why it was
    not measured to the end. `rooflines` are what it can do at most, one for each number of threads; `no_roofline` is
    why there is none.
    """

    name: str
    profile: str
    fingerprint: dict[str, Any]
    emulated: bool = False
    background: bool = False
    error: str | None = None
    rooflines: tuple[Roofline, ...] = ()
    no_roofline: str | None = None


@dataclass(frozen=True)
class Size:
    """Bytes on disk, and after zlib level 6, which is what an app store or an over-the-air update moves."""

    bytes: int
    compressed_bytes: int


@dataclass(frozen=True)
class Accuracy:
    """Top-1 and top-5 in percent over `samples` labelled images; per-image correctness is kept for paired tests.

    `top5` is None below six classes, `macro_f1` in 0..1. `correct` is a string of `0` and `1`, one per image, in the
    data set's order; `predictions` are the model's classes, `label_offset` above the data set's, -1 for no answer.
    `preprocess` names how the images were prepared, None for data that was ready. `disagreement` is with this machine;
    None on itself, or where it has not the runtime.
    """

    data: str
    sha256: str
    samples: int
    top1: float
    top5: float | None
    macro_f1: float
    correct: str
    predictions: tuple[int, ...]
    label_offset: int = 0
    preprocess: str | None = None
    disagreement: Disagreement | None = None


@dataclass(frozen=True)
class ArtifactRef:
    """Which artifact a cell is about; `name` is `BUNDLE/ARTIFACT` where a run has several bundles. `calibrated_on` is
    the data that the ranges of its integers were found on, RANDOM where it was none."""

    name: str
    format: str
    precision: str | None
    sha256: str | None
    calibrated_on: str | None = None


@dataclass(frozen=True)
class Cell:
    """Artifact x runtime x device: raw measurements, one per process, from which every figure is computed. `costs` are
    of one inference of its batch."""

    artifact: ArtifactRef
    device: str
    runtime: str
    provider: str | None
    threads: int
    batch_size: int
    scenario: str
    status: CellStatus
    reason: str | None = None
    size: Size | None = None
    accuracy: Accuracy | None = None
    measurements: tuple[Measurement, ...] = ()
    instructions: InstructionCount | None = None
    sustained: tuple[Window, ...] = ()
    costs: Costs | None = None


# The reason of a cell that an interruption left without a measurement.
NOT_MEASURED = "not measured: the run was interrupted"
# Beyond it the samples that are needed take days.
HIGHEST_PERCENTILE = 99.99


@dataclass(frozen=True)
class BenchSettings:
    """How much is measured, and what is waited for.

    Each cell gets `processes` fresh processes, each with at least `warmup` untimed runs and then `iterations` timed
    ones. With `precision`, in percent, there are more of them until the 95 % intervals of p50 and of its ratio to the
    baseline are no wider than that to either side. `max_time_s` bounds the measuring, in seconds per cell.

    Before each round the device has `max_wait_s` to come to rest and, if given, to cool to `cooldown_c` degrees
    Celsius. A process that says nothing for `timeout_s` is killed. `percentiles` are those that tables show.
    `count` also counts the instructions of one inference, with one thread. For `sustained_min` minutes each cell then
    runs by itself without a pause.
    """

    processes: int = 5
    warmup: int = 5
    iterations: int = 50
    max_time_s: float = 30.0
    precision: float | None = None
    cooldown_c: float | None = None
    max_wait_s: float = 5.0
    timeout_s: float = 300.0
    percentiles: tuple[float, ...] = (50.0, 95.0)
    count: Literal["instructions"] | None = None
    sustained_min: float = 0.0


@dataclass(frozen=True)
class LedgerEntry:
    """What a device said of itself before (first), during and after (last) a round, and what did not go as asked.
    `energy_method` and `idle_microwatts` are of `agent.wire.RoundResult`."""

    device: str
    round: int
    states: tuple[State, ...]
    notes: tuple[str, ...] = ()
    energy_method: str | None = None
    idle_microwatts: int | None = None


@dataclass(frozen=True)
class Run:
    """One stored session of `bench`. `inputs` says what was fed: which images, or random numbers; `data_sha256` is
    the content of the images that accuracy was measured on."""

    schema: int
    id: str
    started_at: str
    edgebench_version: str
    command: tuple[str, ...]
    settings: BenchSettings
    inputs: str
    data_sha256: str | None
    baseline: str | None
    devices: tuple[Device, ...]
    cells: tuple[Cell, ...]
    ledger: tuple[LedgerEntry, ...] = ()

    def device(self, name: str) -> Device:
        """The device that cells call so."""
        return next(device for device in self.devices if device.name == name)

    def is_emulated(self, cell: Cell) -> bool:
        """Whether the cell's times say nothing about its device."""
        return self.device(cell.device).emulated
