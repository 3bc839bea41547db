"""The agent's commands: a round of measurements, and of one job its predictions, the instructions that it executes and
the time of each of its operators.

`round ROUND.json RESULT.json`, and `predict`, `count` and `profile` with JOB.json RESULT.json, leave their result (and
`predict` its outputs, in the directory `outputs` beside it) as a file and never on stdout, because runtimes print what
they like. A failure is a result as well: they end with 0 whenever they could write one. `worker` and `counted` are the
processes that they start.

`library JOB.json RESULT.json` imports a runtime, and `examine ANY RESULT.json` looks at the device, for its doctor.
`roofline JOB.json RESULT.json` tries what the device can do at most.

For a host elsewhere `serve WORK_DIRECTORY SESSION OWNER CACHE_BYTES GRACE_S` runs these, and takes and gives files.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any, Callable, Sequence, Type, TypeVar

from .codec import decode, encode
from .environment import switch_telemetry_off
from .runtimes import Unsupported, find
from .wire import WIRE_VERSION, Job, Measurement, Round

T = TypeVar("T", Job, Round)


def main(argv: Sequence[str]) -> int:
    """Run one command. It imports what it needs and no more: a worker's imports are in its cold start."""
    switch_telemetry_off()
    command, path, *rest = argv
    if command == "worker":
        from .worker import serve

        commands_fd, answers_fd, born_ns = map(int, rest)
        return serve(_read(Job, path), commands_fd, answers_fd, born_ns)
    if command == "serve":
        from .serve import serve as serve_host

        session, owner, cache_bytes, grace_s = rest
        return serve_host(path, session, owner, int(cache_bytes), float(grace_s))
    (result_path,) = rest
    if command == "round":
        from .conductor import conduct

        _write(result_path, conduct(_read(Round, path), result_path))
    elif command == "predict":
        from .predicting import predict

        outputs = os.path.join(os.path.dirname(result_path), "outputs")
        _write(result_path, _attempt(lambda job: predict(job, outputs), _read(Job, path)))
    elif command in ("count", "counted"):
        return _count(command, path, result_path)
    elif command == "profile":
        from .profilers import profile

        _write(result_path, _attempt(profile, _read(Job, path)))
    elif command == "roofline":
        from .peaks import measure_peaks

        _write(result_path, _attempt(measure_peaks, _read(Job, path)))
    elif command == "library":
        _write(result_path, _attempt(_library, _read(Job, path)))
    elif command == "examine":
        from .examining import examine

        _write(result_path, examine(WIRE_VERSION, result_path))
    else:
        sys.stderr.write("unknown command: %s\n" % command)
        return 2
    return 0


def _library(job: Job) -> Measurement:
    """Its runtime's library, once imported: a wheel for another CPU ends the process here."""
    runtime = find(job.runtime)
    return Measurement(WIRE_VERSION, "ok", runtime_version=runtime.load_library())


def _count(command: str, path: str, result_path: str) -> int:
    from .counting import NO_COUNTER, count_in_process, counted
    from .instructions import NoCounters, open_counter

    try:
        if command == "count":
            count_in_process(path, result_path)
        else:
            counter = open_counter()
            _write(result_path, _attempt(lambda job: counted(job, counter), _read(Job, path)))
    except NoCounters as error:
        if command == "counted":
            return NO_COUNTER
        _write(result_path, Measurement(WIRE_VERSION, "unsupported", str(error)))
    return 0


def _attempt(work: Callable[[Job], Measurement], job: Job) -> Measurement:
    try:
        return work(job)
    except Unsupported as error:
        return Measurement(WIRE_VERSION, "unsupported", str(error))
    except Exception as error:  # Whatever a runtime raises is this cell's result, and must reach the host.
        return Measurement(WIRE_VERSION, "failed", "%s: %s" % (type(error).__name__, str(error).strip()))


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
