"""Does one job: opens the artifact in its runtime, measures or predicts, and leaves a Measurement as a file.

The result goes to a file and never to stdout, because runtimes print what they like. A failure is a result as well: the
process ends with 0 whenever it could write one.
"""

from __future__ import annotations

import importlib
import json
import os
import time
from typing import Any, Dict, List, Sequence

from . import loop
from .codec import decode, encode
from .environment import switch_telemetry_off
from .feeds import OutputWriter, read_feeds
from .probes import memory
from .runtimes import Unsupported
from .wire import WIRE_VERSION, Job, Measurement


def main(argv: Sequence[str]) -> int:
    """Run the job in `argv[0]`, write its Measurement to `argv[1]`."""
    job_path, result_path = argv
    with open(job_path, encoding="utf-8") as file:
        job = decode(Job, json.load(file), job_path)
    switch_telemetry_off()
    try:
        result = run(job)
    except Unsupported as error:
        result = Measurement(version=WIRE_VERSION, status="unsupported", reason=str(error))
    except Exception as error:  # Whatever a runtime raises is this cell's result, and must reach the host.
        reason = "%s: %s" % (type(error).__name__, str(error).strip())
        result = Measurement(version=WIRE_VERSION, status="failed", reason=reason)
    partial = result_path + ".partial"
    with open(partial, "w", encoding="utf-8") as file:
        json.dump(encode(result), file)
    os.replace(partial, result_path)
    return 0


def run(job: Job) -> Measurement:
    """The measurement of `job`, in this process.

    Raises:
        Unsupported: the runtime is not installed here.
    """
    if job.version != WIRE_VERSION:
        raise ValueError("job of version %d, this agent speaks %d" % (job.version, WIRE_VERSION))
    runtime = importlib.import_module("." + job.runtime, "edgebench.agent.runtimes")
    library_version = runtime.load_library()
    feeds = read_feeds(job.feeds)
    prepared: List[Any] = []
    if job.kind == "measure":
        # Copies made before the baseline, so that they are not taken for memory of the model.
        prepared = [runtime.prepare(feed) for feed in feeds]
        feeds = []
    probe = memory.start()
    started = time.perf_counter_ns()
    session = runtime.open_session(job.artifact, job.threads)
    load_ns = time.perf_counter_ns() - started
    probe.mark_loaded()
    results: Dict[str, Any] = {}
    try:
        if job.kind == "measure":
            results["first_ns"], results["samples_ns"] = loop.measure(
                session.run,
                prepared,
                warmup=job.warmup,
                iterations=job.iterations,
                min_iterations=job.min_iterations,
                max_time_s=job.max_time_s,
            )
        elif job.kind == "predict":
            if job.outputs_directory is None:
                raise ValueError("a predict job needs outputs_directory")
            with OutputWriter(job.outputs_directory) as writer:
                for feed in feeds:
                    writer.write(session.named_outputs(session.run(runtime.prepare(feed))))
            results["outputs"] = writer.files()
        else:
            raise ValueError("unknown kind of job: %s" % job.kind)
    finally:
        session.close()
    return Measurement(
        version=WIRE_VERSION,
        status="ok",
        runtime_version=library_version,
        provider=session.provider,
        load_ns=load_ns,
        memory=probe.stop(),
        **results,
    )
