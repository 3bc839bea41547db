"""One process of a round: holds one loaded artifact and runs it when it is told to, line by line over two pipes.

It answers over a pipe and never on stdout, because runtimes print what they like. A failure is an answer as well.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import signal
import sys
import time
from contextlib import suppress
from typing import Any, Dict, List, Optional, Tuple

from .codec import encode
from .feeds import read_feeds
from .loop import Loop
from .probes import contention, memory
from .runtimes import Unsupported, find, preparation
from .scenarios import PacedLoop, open_loop
from .wire import Job, Memory, Parts

_PR_SET_PDEATHSIG = 1
# The first inferences whose parts are taken bind memory, and are not kept.
_UNTIMED_PARTS = 5


def serve(job: Job, commands_fd: int, answers_fd: int, born_ns: int) -> int:
    """Load `job`'s artifact, say how that went, and then do as the commands say until the last of them.

    `born_ns` is the monotonic time at which this process was started.
    """
    _die_with_parent()
    with os.fdopen(commands_fd, "r", encoding="ascii") as commands, os.fdopen(answers_fd, "w") as answers:

        def answer(**values: Any) -> None:
            answers.write(json.dumps(values) + "\n")
            answers.flush()

        try:
            _serve(job, commands, answer, born_ns)
        except Unsupported as error:
            answer(status="unsupported", reason=str(error))
        except Exception as error:  # Whatever a runtime raises is this cell's result, and must reach the host.
            answer(status="failed", reason="%s: %s" % (type(error).__name__, str(error).strip()))
    return 0


def _serve(job: Job, commands: Any, answer: Any, born_ns: int) -> None:
    runtime = find(job.runtime)
    version = runtime.load_library()
    # Copies made before the baseline, so that they are not taken for memory of the model.
    prepared = [runtime.prepare(feed) for feed in read_feeds(job.feeds)]
    if not prepared:
        raise Unsupported("the file by itself does not say what it is fed with: give the bundle that it is of")
    probe = memory.start()
    started = time.perf_counter_ns()
    session = runtime.open_session(job.artifact, job.threads)
    load_ns = time.perf_counter_ns() - started
    probe.mark_loaded()
    try:
        if hasattr(session, "adapt"):
            prepared = [session.adapt(feed) for feed in prepared]
        if job.scenario.kind == "multi-stream" and hasattr(session, "one_at_a_time"):
            raise Unsupported("%s runs one inference at a time: leave multi-stream out" % session.one_at_a_time)
        loop = open_loop(job, session.run, preparation(runtime, session), prepared)
        first_ns = loop.first()
        answer(
            status="ok",
            runtime_version=version,
            provider=session.provider,
            load_ns=load_ns,
            first_ns=first_ns,
            cold_ns=time.perf_counter_ns() - born_ns,
            **({"gpu_uuid": session.gpu_uuid} if hasattr(session, "gpu_uuid") else {}),
        )
        used: Optional[Memory] = None
        gpu_memory: Optional[Tuple[int, str]] = None
        # A pause of the collector is the harness's and not the runtime's.
        gc.collect()
        gc.freeze()
        gc.disable()
        for line in commands:
            command: Dict[str, Any] = json.loads(line)
            if command["do"] == "end":
                break
            if command["do"] == "warm_up":
                answer(warm_up=encode(loop.warm_up(command["least"], command["limit_s"], command["longest_s"])))
            elif command["do"] == "window":
                answer(**loop.window(command["seconds"]))
            elif command["do"] == "parts":
                # What is allocated for them is not what an inference needs.
                used = probe.stop()
                gpu_memory = session.gpu_memory()
                _lead_in(loop, session, command["limit_s"])
                answer(**_parts(session, prepared, command["runs"], command["limit_s"]))
            else:
                lead_in = _lead_in(loop, session, command["limit_s"])
                before = contention.read()
                samples_ns = loop.turn(command["runs"], command["limit_s"])
                meanwhile = contention.read().since(before)
                answer(
                    lead_in=lead_in,
                    samples_ns=samples_ns,
                    wall_ns=meanwhile.at_ns,
                    cpu_ns=meanwhile.cpu_ns,
                    waited_ns=meanwhile.waited_ns,
                    busy_ns=meanwhile.busy_ns,
                    steal_ns=meanwhile.steal_ns,
                    **({"offered": loop.offered, "missed": loop.missed} if isinstance(loop, PacedLoop) else {}),
                )
        answer(memory=encode(used or probe.stop()), gpu_memory=gpu_memory)
    finally:
        session.close()


def _lead_in(loop: Loop, session: Any, limit_s: float) -> int:
    """Untimed runs before timed ones, for as long as the session wants them; their number."""
    end = time.perf_counter_ns() + getattr(session, "lead_in_s", 0.0) * 1e9
    runs = loop.lead_in(limit_s)
    while time.perf_counter_ns() < end:
        runs += loop.lead_in(limit_s)
    return runs


def _parts(session: Any, prepared: List[Any], runs: int, limit_s: float) -> Dict[str, Any]:
    """The parts of `runs` inferences, of fewer (one at least) beyond `limit_s`; or why there are none."""
    taken: List[Tuple[int, int, int]] = []
    deadline = time.perf_counter_ns() + limit_s * 1e9
    try:
        for number in range(_UNTIMED_PARTS + runs):
            taken.append(session.parts(prepared[number % len(prepared)]))
            if time.perf_counter_ns() > deadline:
                break
    except Exception as error:  # Whatever a runtime raises: the turns were measured, and count without their parts.
        return {"parts": None, "reason": "%s: %s" % (type(error).__name__, str(error).strip())}
    return {"parts": encode(Parts(session.parts_method, *zip(*(taken[_UNTIMED_PARTS:] or taken[-1:]))))}


def _die_with_parent() -> None:
    """A stopped process whose conductor was killed would stay for ever; Linux can end it."""
    if not sys.platform.startswith("linux"):
        return
    # A small libc may have no prctl: the conductor's own clean-up is all there is then.
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
