"""ExecuTorch's `executor_runner`, of the versions that time what they run.

    Model executed successfully 10 time(s) in 150.132920 ms.

The newest, those of 2026, say before that:

    Model loaded in 7.850000 ms.
    Iteration 1 of 10: 16.200000 ms

The time is that of all executions together, and the first of them is cold: the tool has no warm-up. Only where each
iteration is told can it be taken away; those single times are then the measurement's, as raw as from the agent.
"""

from __future__ import annotations

import re
from decimal import Decimal

from edgebench.agent.wire import WIRE_VERSION, Measurement, Summary, Turn
from edgebench.targets.native.reading import Figure, Log, ToolOutputError, rounded_ns

__all__ = ["CANNOT", "FORMATS", "RUNTIME", "argv", "parse"]

FORMATS: tuple[str, ...] = ("executorch",)
RUNTIME: str = "executorch"
CANNOT: tuple[str, ...] = (
    "All but its newest versions give a mean alone, the first and the warm-up's executions in it, and no loading time.",
    "It feeds ones and prints the outputs' ends only: no accuracy.",
    "It tells nothing of memory.",
)

_DONE = re.compile(r"\bModel executed successfully(?: (\S+) time\(s\) in (.+?))?\.$")
_LOADED = re.compile(r"\bModel loaded in (.+?)\.$")
_ITERATION = re.compile(r"\bIteration (\S+) of (\S+): (.+)$")
# An error of the runner itself, such as a profile that could not be written. What kernels and backends log as an error
# may be harmless: "Overriding output data pointer allocated by memory plan is not allowed" comes with each success of
# some versions.
_FAILED = re.compile(r"^(?:F .*\] |E .*\bexecutor_runner\.cpp:\d+\] )")


def argv(binary: str, artifact: str, *, threads: int, warmup: int, runs: int) -> list[str]:
    """The call for `warmup` and `runs` executions: the tool times them all."""
    return [
        binary,
        f"--model_path={artifact}",
        f"--num_executions={warmup + runs}",
        f"--cpu_threads={threads}",
    ]


def parse(stdout: str, stderr: str) -> Measurement:
    """The measurement: a `summary` of all executions, or `turns` with all but the first, which is `first_ns`.

    A turn's first samples are the warm-up's: the log does not tell how many were meant to be.

    Raises:
        ToolOutputError: the run failed, was cut off or is not timed, or the figures contradict each other.
    """
    log = Log.of("executor_runner", stdout, stderr)
    if log.find(_FAILED):
        raise log.missing("a run without an error")
    done = log.find(_DONE)
    if len(done) != 1:
        raise log.missing(f"one line `Model executed successfully ... time(s) in ... ms.`, found {len(done) or 'none'}")
    if done[0].group(1) is None:
        raise log.missing("a version that prints `Model executed successfully ... time(s) in ... ms.`")
    runs = log.count(done[0].group(1), done[0].string)
    total = log.time(done[0].group(2), done[0].string)
    if runs == 0 or not total.rounded_ns:
        raise log.missing("at least one timed execution")
    load = log.one_time("time of loading", log.times(_LOADED))
    samples = _iterations(log, runs, total)
    first = samples[0] if samples else total.rounded_ns if runs == 1 else None
    single = samples[1:]
    return Measurement(
        version=WIRE_VERSION,
        status="ok",
        load_ns=rounded_ns(load),
        first_ns=first,
        turns=(Turn(lap=0, started_ns=0, samples_ns=single),) if single else (),
        summary=None if single else Summary(runs=runs, mean_ns=total.shared_by(runs).rounded_ns),
    )


def _iterations(log: Log, runs: int, total: Figure) -> tuple[int, ...]:
    """Each execution's time, in order; nothing in versions that do not tell it."""
    found = log.find(_ITERATION)
    if not found:
        return ()
    numbers = [(log.count(match.group(1), match.string), log.count(match.group(2), match.string)) for match in found]
    if numbers != [(number, runs) for number in range(1, runs + 1)]:
        raise log.missing(f"iterations 1 to {runs} of {runs}")
    figures = [log.time(match.group(3), match.string) for match in found]
    spent = Figure(
        sum((figure.ns for figure in figures), Decimal()), sum((figure.within_ns for figure in figures), Decimal())
    )
    if not spent.agrees_with(total):
        raise ToolOutputError(
            f"{log.tool}: expected iterations that take {total.rounded_ns} ns together, found {spent.rounded_ns} ns"
        )
    return tuple(figure.rounded_ns for figure in figures)
