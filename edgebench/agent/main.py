"""The agent's commands: a round of measurements, the predictions of one job, and the instructions that one executes.

`round ROUND.json RESULT.json`, `predict JOB.json RESULT.json` and `count JOB.json RESULT.json` leave their result as a
file and never on stdout, because runtimes print what they like. A failure is a result as well: they end with 0 whenever
they could write one. `worker` and `counted` are the processes that they start.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from typing import Any, Callable, Sequence, Type, TypeVar

from .codec import decode, encode
from .conductor import conduct
from .counting import NO_COUNTER, count_in_process, counted
from .environment import switch_telemetry_off
from .feeds import OutputWriter, read_feeds
from .instructions import NoCounters
from .runtimes import Unsupported
from .wire import WIRE_VERSION, Job, Measurement, Round
from .worker import serve

T = TypeVar("T", Job, Round)


def main(argv: Sequence[str]) -> int:
    """Run one command."""
    switch_telemetry_off()
    command, path, *rest = argv
    if command == "worker":
        commands_fd, answers_fd, born_ns = map(int, rest)
        return serve(_read(Job, path), commands_fd, answers_fd, born_ns)
    (result_path,) = rest
    if command == "round":
        _write(result_path, conduct(_read(Round, path), result_path))
    elif command == "predict":
        _write(result_path, _attempt(_predict, _read(Job, path)))
    elif command == "count":
        try:
            count_in_process(path, result_path)
        except NoCounters as error:
            _write(result_path, Measurement(WIRE_VERSION, "unsupported", str(error)))
    elif command == "counted":
        try:
            _write(result_path, _attempt(counted, _read(Job, path)))
        except NoCounters:
            return NO_COUNTER
    else:
        sys.stderr.write("unknown command: %s\n" % command)
        return 2
    return 0


def _attempt(work: Callable[[Job], Measurement], job: Job) -> Measurement:
    try:
        return work(job)
    except NoCounters:
        raise
    except Unsupported as error:
        return Measurement(WIRE_VERSION, "unsupported", str(error))
    except Exception as error:  # Whatever a runtime raises is this cell's result, and must reach the host.
        return Measurement(WIRE_VERSION, "failed", "%s: %s" % (type(error).__name__, str(error).strip()))


def _predict(job: Job) -> Measurement:
    """Run the artifact once on every feed; its outputs are files then."""
    runtime = importlib.import_module("." + job.runtime, "edgebench.agent.runtimes")
    library_version = runtime.load_library()
    if job.outputs_directory is None:
        raise ValueError("a predict job needs outputs_directory")
    session = runtime.open_session(job.artifact, job.threads)
    try:
        with OutputWriter(job.outputs_directory) as writer:
            for feed in read_feeds(job.feeds):
                writer.write(session.named_outputs(session.run(runtime.prepare(feed))))
    finally:
        session.close()
    return Measurement(
        WIRE_VERSION, "ok", runtime_version=library_version, provider=session.provider, outputs=writer.files()
    )


def _read(kind: Type[T], path: str) -> T:
    with open(path, encoding="utf-8") as file:
        message: T = decode(kind, json.load(file), path)
    if message.version != WIRE_VERSION:
        raise ValueError("%s is of version %d, this agent speaks %d" % (path, message.version, WIRE_VERSION))
    return message


def _write(path: str, result: Any) -> None:
    partial = path + ".partial"
    with open(partial, "w", encoding="utf-8") as file:
        json.dump(encode(result), file)
    os.replace(partial, path)
