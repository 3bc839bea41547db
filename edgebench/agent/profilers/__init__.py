"""The runtimes' own profilers, one file a runtime, found by the runtime's name.

A profiler's module defines `profile(job, runtime) -> OperatorTimes`: `runs` inferences with the profiler and as many
without it, in this process. `runtime` is the runtime's module, its library loaded.
"""

from __future__ import annotations

import importlib
import time
from contextlib import nullcontext
from typing import Any, Callable, ContextManager, List, Optional, Sequence, Tuple

from ..operator_times import OperatorTimes
from ..runtimes import Unsupported, find
from ..wire import WIRE_VERSION, Job, Measurement

_WARMUP_RUNS = 5
# A thread pool that another session left spinning takes a core from this one for so long at most.
_PAUSE_S = 0.1


def profile(job: Job) -> Measurement:
    """The time of each operator of the job's artifact.

    Raises:
        Unsupported: the runtime is not there, or has no profiler that this agent can read.
    """
    runtime = find(job.runtime)
    module = job.runtime.replace("-", "_")
    try:
        profiler = importlib.import_module("." + module, __name__)
    except ModuleNotFoundError as error:
        if error.name != __name__ + "." + module:
            raise
        words = "edgebench reads no profiler of %s: there are those of onnxruntime, tflite and torchscript"
        raise Unsupported(words % job.runtime) from error
    version = runtime.load_library()
    times: OperatorTimes = profiler.profile(job, runtime)
    return Measurement(WIRE_VERSION, "ok", runtime_version=version, operator_times=times)


def take_turns(
    plain: Callable[[Any], Any],
    profiled: Callable[[Any], Any],
    feeds: Sequence[Any],
    runs: int,
    profiler: Optional[ContextManager[Any]] = None,
) -> Tuple[List[int], List[int]]:
    """The clock's times in ns of `runs` inferences of each, warmed up: the profiled ones in one go, within `profiler`,
    between the two halves of the others, so that drift falls on both. The last `runs` calls of `profiled` are timed."""
    first = _timed(plain, feeds, (runs + 1) // 2)
    with profiler or nullcontext():
        whole = _timed(profiled, feeds, runs)
    return first + _timed(plain, feeds, runs // 2), whole


def _timed(run: Callable[[Any], Any], feeds: Sequence[Any], count: int) -> List[int]:
    time.sleep(_PAUSE_S)
    for number in range(_WARMUP_RUNS):
        run(feeds[number % len(feeds)])
    samples = []
    for number in range(count):
        feed = feeds[number % len(feeds)]
        started = time.perf_counter_ns()
        run(feed)
        samples.append(time.perf_counter_ns() - started)
    return samples
