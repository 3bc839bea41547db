"""TensorFlow Lite's `benchmark_model`, as it printed from 2019 on, and LiteRT's tool of the same name.

    2019:  Average inference timings in us: Warmup: 76605.9, Init: 9933, no stats: 66767.6
    2020:  Inference timings in us: Init: 855, First inference: 49060, Warmup (avg): 34825.1, Inference (avg): 33209.4
    LiteRT, one line a figure:  Inference (avg):      7430.20 ms (10 runs)

Before that come two lines `count=50 first=32891 ...`, in microseconds, the warm-up's and the benchmark's; newer ones
end with `p5= median= p95=`. After it operators may be profiled, whose lines `Timings (microseconds): count=...` are
others.

Memory is left out: `overall=` is by how much the process's peak grew since the tool began, and edgebench's figures are
a process's whole (tensorflow/lite/profiling/memory_info.cc reads ru_maxrss).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from edgebench.agent.wire import WIRE_VERSION, Measurement, Summary
from edgebench.targets.native.reading import Figure, Log, rounded_ns

__all__ = ["CANNOT", "FORMATS", "RUNTIME", "argv", "parse"]

FORMATS: tuple[str, ...] = ("tflite", "tflite-fp16", "tflite-dynamic", "tflite-int8", "tflite-int8-io")
RUNTIME: str = "tflite"
CANNOT: tuple[str, ...] = (
    "It gives no single times, no 90th and no 99th percentile.",
    "It feeds random inputs and keeps the outputs to itself: no accuracy.",
    "It warms up for a number of runs, whether they still get faster or not.",
    "It tells by how much its peak memory grew, not how much memory the process has.",
)

# The tool would stop after 150 s otherwise, with fewer runs than were asked for.
_MAX_SECS = 86_400

_LOG = r"^(?:INFO: )?"
_STATS = re.compile(_LOG + r"(count=.*)")
_SESSION = re.compile(_LOG + r"Initialized session in (.+?)\.?$")
_TIMINGS: tuple[tuple[re.Pattern[str], tuple[str, ...]], ...] = (
    (
        re.compile(
            _LOG + r"Inference timings in (\w+): Init: (\S+), First inference: (\S+), Warmup \(avg\): (\S+), "
            r"Inference \(avg\): (\S+)$"
        ),
        ("load", "first", "warmup", "mean"),
    ),
    # The README of 2019 has "Inference" where binaries of that year have "no stats".
    (
        re.compile(
            _LOG + r"Average inference timings in (\w+): Warmup: (\S+), Init: (\S+), (?:no stats|Inference): (\S+)$"
        ),
        ("warmup", "load", "mean"),
    ),
)
_LITERT = _LOG + r"\[\S*benchmark_litert_model\.h:\d+\] "
_LITERT_LOAD = re.compile(_LITERT + r"Model initialization: +(.+)")
_LITERT_FIRST = re.compile(_LITERT + r"Warmup \(first\): +(.+)")
_LITERT_WARMUP = re.compile(_LITERT + r"Warmup \(avg\): +(.+?) \((.+) runs\)$")
_LITERT_MEAN = re.compile(_LITERT + r"Inference \(avg\): +(.+?) \((.+) runs\)$")
_LITERT_OTHER = re.compile(_LITERT + r"Inference \((min|max|std)\): +(.+)")
# The tool prints its figures even if an inference of the benchmark itself went wrong, and then this.
_FAILED = re.compile(r"Benchmarking failed")

_NAMES = {
    "first": "first",
    "min": "min",
    "max": "max",
    "avg": "mean",
    "std": "stdev",
    "p5": "p5",
    "median": "p50",
    "p90": "p90",
    "p95": "p95",
    "p99": "p99",
}


@dataclass(frozen=True)
class _Told:
    """One place of the log; of its times `first` is the process's first run, `warmup` the warm-up's mean."""

    times: dict[str, Figure]
    runs: int | None = None
    warmup_runs: int | None = None


def argv(binary: str, artifact: str, *, threads: int, warmup: int, runs: int) -> list[str]:
    """The call for exactly `warmup` and `runs` runs: both counts are least ones unless no time is asked for."""
    return [
        binary,
        f"--graph={artifact}",
        f"--num_threads={threads}",
        f"--warmup_runs={warmup}",
        "--warmup_min_secs=0",
        f"--num_runs={runs}",
        "--min_secs=0",
        f"--max_secs={_MAX_SECS}",
    ]


def parse(stdout: str, stderr: str) -> Measurement:
    """The measurement: `load_ns` is the tool's Init, `first_ns` its first run, which opens the warm-up.

    `stdev_ns` is a population's, cut off to whole microseconds by the tool.

    Raises:
        ToolOutputError: the run failed or was cut off, or the figures contradict each other.
    """
    log = Log.of("benchmark_model", stdout, stderr)
    if log.find(_FAILED):
        raise log.missing("a benchmark that succeeds")
    told = [*_timings(log), *_litert(log)]
    if len(told) != 1:
        found = "none" if not told else str(len(told))
        raise log.missing(f"one line `Inference timings in us: ...` or one table BENCHMARK RESULTS, found {found}")
    told.extend(_stats(log))
    runs = log.one_count("number of runs", [item.runs for item in told if item.runs is not None])
    if runs == 0:
        raise log.missing("at least one timed run")
    warmup_runs = log.one_count(
        "number of warm-up runs", [item.warmup_runs for item in told if item.warmup_runs is not None]
    )
    if warmup_runs == 0:
        # Zeros stand where a warm-up would: the first run is then the benchmark's own.
        told[0] = _Told({name: figure for name, figure in told[0].times.items() if name not in ("first", "warmup")})

    def time(name: str) -> Figure | None:
        return log.one_time(name, [item.times[name] for item in told if name in item.times])

    load = log.one_time("Init", [*(item.times["load"] for item in told if "load" in item.times), *log.times(_SESSION)])
    log.one_time("Warmup (avg)", [item.times["warmup"] for item in told if "warmup" in item.times])
    low, mean, high = time("min"), time("mean"), time("max")
    middle = [(name, time(name)) for name in ("p5", "p50", "p90", "p95", "p99")]
    log.check_order([("min", low), *middle, ("max", high)])
    log.check_order([("min", low), ("avg", mean), ("max", high)])
    if mean is None or not mean.rounded_ns:
        raise log.missing("runs of at least a microsecond, which is the tool's resolution")
    return Measurement(
        version=WIRE_VERSION,
        status="ok",
        load_ns=rounded_ns(load),
        first_ns=rounded_ns(time("first")),
        summary=Summary(
            runs=runs,
            mean_ns=rounded_ns(mean),
            stdev_ns=rounded_ns(time("stdev")),
            min_ns=rounded_ns(low),
            max_ns=rounded_ns(high),
            **{f"{name}_ns": rounded_ns(figure) for name, figure in middle if name != "p5"},
        ),
    )


def _timings(log: Log) -> list[_Told]:
    told = []
    for pattern, names in _TIMINGS:
        for match in log.find(pattern):
            unit, *texts = match.groups()
            if unit != "us":
                raise log.missing(f"timings in us, found `{match.string}`")
            told.append(
                _Told({name: log.time(text, match.string, unit=unit) for name, text in zip(names, texts, strict=True)})
            )
    return told


def _litert(log: Log) -> list[_Told]:
    told = []
    for match in log.find(_LITERT_MEAN):
        times = {"mean": log.time(match.group(1), match.string)}
        runs, warmup_runs = log.count(match.group(2), match.string), None
        for name, pattern in (("load", _LITERT_LOAD), ("first", _LITERT_FIRST)):
            for figure in log.times(pattern):
                times[name] = figure
        for other in log.find(_LITERT_OTHER):
            # The deviation is printed without its unit, which is that of the others.
            times[_NAMES[other.group(1)]] = log.time(other.group(2), other.string, unit="ms")
        for warmup in log.find(_LITERT_WARMUP):
            times["warmup"] = log.time(warmup.group(1), warmup.string)
            warmup_runs = log.count(warmup.group(2), warmup.string)
        told.append(_Told(times, runs, warmup_runs))
    return told


def _stats(log: Log) -> list[_Told]:
    """The two lines of `count=`, warm-up first, as one; nothing where there are none."""
    lines = log.find(_STATS)
    if not lines:
        return []
    if len(lines) != 2:
        raise log.missing(f"two lines `count=...`, the warm-up's and the benchmark's, found {len(lines)}")
    (warmup_runs, warmup), (runs, times) = (_statistics(log, match) for match in lines)
    if warmup_runs:
        times["first"], times["warmup"] = warmup["first"], warmup["mean"]
    return [_Told(times, runs, warmup_runs)]


def _statistics(log: Log, match: re.Match[str]) -> tuple[int, dict[str, Figure]]:
    # `curr=8(all same)` has no space before the remark.
    same = "(all same)" in match.group(1)
    fields = dict(field.partition("=")[::2] for field in match.group(1).replace("(all same)", "").split())
    runs = log.count(fields.pop("count"), match.string)
    told = {name: log.time(text, match.string, unit="us") for name, text in fields.items()}
    times = {_NAMES[name]: figure for name, figure in told.items() if name in _NAMES}
    if runs and "mean" not in times:
        # Of a single run, or of equal ones, only the last is told.
        if "curr" not in told or (runs > 1 and not same):
            raise log.missing(f"`avg=` in `{match.string}`")
        times.update(dict.fromkeys(("first", "min", "mean", "max"), told["curr"]))
    if runs and "first" not in times:
        raise log.missing(f"`first=` in `{match.string}`")
    return runs, times
