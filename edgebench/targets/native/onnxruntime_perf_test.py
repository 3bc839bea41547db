"""ONNX Runtime's `onnxruntime_perf_test`, as it printed from 2019 on.

    Session creation time cost: 0.217932 s
    First inference time cost: 196 ms
    Total inference time cost: 0.49481 s
    Total inference requests: 5
    Average inference time cost total: 98.961997 ms     (1.20 and older: Average inference time cost: 17.735 ms)
    P50 Latency: 0.0995086 s                            (oldest: P50 Latency is 0.0587108sec)

The average is in milliseconds, the percentiles below it are in **seconds**.

Memory is left out: "Peak working set size" is the high-water mark alone, with nothing to set it against.
"""

from __future__ import annotations

import re
from decimal import Decimal

from edgebench.agent.runtimes import onnxruntime
from edgebench.agent.wire import WIRE_VERSION, Measurement, Summary
from edgebench.targets.native.reading import Figure, Log, ToolOutputError, rounded_ns

__all__ = ["CANNOT", "FORMATS", "RUNTIME", "argv", "parse"]

# It goes by a file's name for onnxruntime's own format, and pushed files have none.
FORMATS: tuple[str, ...] = onnxruntime.ONNX_FORMATS
RUNTIME: str = "onnxruntime"
CANNOT: tuple[str, ...] = (
    "It gives no single times and no spread but its percentiles.",
    "It feeds random inputs and keeps the outputs to itself: no accuracy.",
    "It warms up with one run, whatever is asked for.",
    "It gives the first inference in whole milliseconds, rounded down.",
    "It tells the process's peak memory, not how much of it is the library's.",
)

# Random numbers instead of zeros, the same each time.
_SEED = 1

_LOAD = re.compile(r"^Session creation time cost:(.+)")
_FIRST = re.compile(r"^First inference time cost:(.+)")
_TOTAL = re.compile(r"^Total (?:inference )?time cost:(.+)")
_RUNS = re.compile(r"^(?:Total inference requests|Total iterations|Runs):(.+)")
_MEAN = re.compile(r"^Average (?:inference )?time cost(?: total)?:(.+)")
_LATENCY = {
    name: re.compile(rf"^{name} Latency(?: is|:)(.+)") for name in ("Min", "P50", "P90", "P95", "P99", "P999", "Max")
}
_FAILED = re.compile(r"^Run failed:")

# For a while in 2025 the average was of whole inferences and the percentiles of their submissions (pull request 26313
# ended it). The two are next to equal on a CPU; where they are not, the percentiles are no latencies.
_SUBMISSION_SHARE, _SUBMISSION_NS = Decimal("0.01"), 1000


def argv(binary: str, artifact: str, *, threads: int, warmup: int, runs: int) -> list[str]:
    """The call for exactly `runs` runs, with inputs that the tool makes up; `warmup` cannot be told to the tool.

    Threads spin between runs, as they do for most users of the library (`-Z` would stop that).
    """
    options = ["-I", "-S", str(_SEED), "-m", "times", "-r", str(runs), "-x", str(threads), "-e", "cpu", "-s"]
    return [binary, *options, artifact]


def parse(stdout: str, stderr: str) -> Measurement:
    """The measurement: `load_ns` is the session's creation; `first_ns` is None where it took less than a millisecond,
    and in versions that do not tell it.

    Raises:
        ToolOutputError: the run failed or was cut off, or the figures contradict each other.
    """
    log = Log.of("onnxruntime_perf_test", stdout, stderr)
    if log.find(_FAILED):
        raise log.missing("a run that succeeds")
    mean = log.one_time("average", log.times(_MEAN))
    if mean is None:
        raise log.missing("a line `Average inference time cost total: ... ms`")
    runs = log.one_count("number of runs", log.counts(_RUNS))
    if runs == 0 or not mean.rounded_ns:
        raise log.missing("at least one timed run")
    # The oldest versions forgot the unit.
    total = log.one_time("total", log.times(_TOTAL, unit="s"))
    if total is not None and not total.shared_by(runs).agrees_with(mean):
        raise ToolOutputError(
            f"{log.tool}: expected an average of the total by {runs} runs, "
            f"found {mean.rounded_ns} ns and {total.rounded_ns} ns"
        )
    latency = {name: log.one_time(name, log.times(pattern)) for name, pattern in _LATENCY.items()}
    log.check_order(list(latency.items()))
    near = Figure(mean.ns, mean.within_ns + mean.ns * _SUBMISSION_SHARE + _SUBMISSION_NS)
    log.check_order([("Min", latency["Min"]), ("the average", near), ("Max", latency["Max"])])
    first = rounded_ns(log.one_time("first inference", log.times(_FIRST)))
    return Measurement(
        version=WIRE_VERSION,
        status="ok",
        load_ns=rounded_ns(log.one_time("session creation", log.times(_LOAD))),
        first_ns=first or None,
        summary=Summary(
            runs=runs,
            mean_ns=mean.rounded_ns,
            min_ns=rounded_ns(latency["Min"]),
            max_ns=rounded_ns(latency["Max"]),
            p50_ns=rounded_ns(latency["P50"]),
            p90_ns=rounded_ns(latency["P90"]),
            p95_ns=rounded_ns(latency["P95"]),
            p99_ns=rounded_ns(latency["P99"]),
        ),
    )
