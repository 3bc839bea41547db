"""Runs a job's artifact once on every input; its outputs are files then."""

from __future__ import annotations

from typing import Iterator

from .feeds import Feed, OutputWriter, Tensor, read_feeds
from .preprocessing import normalise_pixels
from .runtimes import find, preparation
from .wire import WIRE_VERSION, Job, Measurement


def predict(job: Job, outputs_directory: str) -> Measurement:
    """The files of the outputs, which are written to the directory.

    Raises:
        Unsupported: the runtime is not there.
    """
    runtime = find(job.runtime)
    library_version = runtime.load_library()
    session = runtime.open_session(job.artifact, job.threads)
    try:
        prepare = preparation(runtime, session)
        with OutputWriter(outputs_directory) as writer:
            for feed in _normalised(job) if job.frames else read_feeds(job.feeds):
                writer.write(session.named_outputs(session.run(prepare(feed))))
    finally:
        session.close()
    return Measurement(
        WIRE_VERSION, "ok", runtime_version=library_version, provider=session.provider, outputs=writer.files()
    )


def _normalised(job: Job) -> Iterator[Feed]:
    """Feeds of the job's frames, a batch at a time; the last one is filled up with its last frame."""
    import numpy

    if job.preprocess is None or job.input is None:
        raise ValueError("frames need preprocess and input")
    frames = [tensor for feed in read_feeds(job.frames) for tensor in feed.values()]
    batch = max(1, job.input.shape[0])
    for start in range(0, len(frames), batch):
        rows = [
            normalise_pixels(numpy.frombuffer(data, dtype=numpy.uint8).reshape(spec.shape), job.preprocess)
            for spec, data in frames[start : start + batch]
        ]
        values = numpy.stack(rows + rows[-1:] * (batch - len(rows))).astype(job.input.dtype)
        spec = job.input.__class__(job.input.name, tuple(values.shape), job.input.dtype)
        yield {spec.name: Tensor(spec, memoryview(values.data).cast("B"))}
