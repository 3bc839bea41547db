"""TorchScript's operators by `torch.profiler`, which does not say what module of the archive they are of."""

from __future__ import annotations

from typing import Any

from ..feeds import read_feeds
from ..operator_times import OperatorTimes
from ..wire import Job
from .torch_events import profile_calls


def profile(job: Job, runtime: Any) -> OperatorTimes:
    """One module, profiled and not."""
    session = runtime.open_session(job.artifact, job.threads)
    feeds = [runtime.prepare(feed) for feed in read_feeds(job.feeds)]
    return profile_calls(session.run, feeds, job.runs)
