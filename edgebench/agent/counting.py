"""Counts the instructions of a job's warm inference, in a process of its own: by the CPU's counter, else below qemu."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import Any, Sequence

from .feeds import read_feeds
from .instructions import ENVIRONMENT, Counter, NoCounters, count
from .runtimes import find, preparation
from .under_qemu import prepare
from .wire import WIRE_VERSION, InstructionCount, Job, Measurement

# The exit code of a process that has no counter.
NO_COUNTER = 4

# CPython specialises the code around an inference during the first ten; where an inference takes seconds below qemu,
# that is no part of it that shows, and there is no time for so many.
_WARMUP, _RUNS = 10, 5
_SLOW_S, _SLOW_WARMUP, _SLOW_RUNS = 1.0, 2, 3


def count_in_process(job_path: str, result_path: str) -> None:
    """Have another process leave its counts in `result_path`.

    Raises:
        NoCounters: nothing counts here; the text ends with what to type.
    """
    command = (sys.executable, "-m", "edgebench.agent", "counted", job_path, result_path)
    if _start(command, ENVIRONMENT) == NO_COUNTER:
        directory = result_path + ".plugin"
        os.mkdir(directory)
        prefix = prepare(directory)
        if _start([*prefix.argv, *command], prefix.environment) == NO_COUNTER:
            raise NoCounters("%s counts nothing here; count on another machine" % prefix.argv[0])


def _start(command: Sequence[str], environment: Any) -> int:
    return subprocess.run(
        command, env={**os.environ, **environment}, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=False
    ).returncode


def counted(job: Job, counter: Counter) -> Measurement:
    """The counts of `job`'s artifact in this process, by a `counter` that was opened before the runtime creates its
    threads: those that come after it inherit it.

    Raises:
        NoCounters: an inference was not counted as a whole.
        Unsupported: the runtime is not there.
    """
    runtime = find(job.runtime)
    version = runtime.load_library()
    feeds = read_feeds(job.feeds)
    session = runtime.open_session(job.artifact, job.threads)
    try:
        prepared = [preparation(runtime, session)(feed) for feed in feeds]
        session.run(prepared[0])
        started = time.perf_counter()
        session.run(prepared[0])
        slow = time.perf_counter() - started > _SLOW_S
        warmup, runs = (_SLOW_WARMUP, _SLOW_RUNS) if slow else (_WARMUP, _RUNS)
        counts = count(session.run, prepared, counter, warmup, runs)
    finally:
        session.close()
    return Measurement(
        WIRE_VERSION,
        "ok",
        runtime_version=version,
        provider=session.provider,
        instructions=InstructionCount(counts, counter.method),
    )
