"""Runs a job's artifact once on every feed; its outputs are files then."""

from __future__ import annotations

import importlib

from .feeds import OutputWriter, read_feeds
from .wire import WIRE_VERSION, Job, Measurement


def predict(job: Job) -> Measurement:
    """The files of the outputs.

    Raises:
        Unsupported: the runtime is not there.
    """
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
