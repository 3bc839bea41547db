"""Jobs on this machine: feeds as files, a fresh agent process each time, its result read back from its file."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import edgebench
from edgebench.agent.codec import decode, encode
from edgebench.agent.environment import TELEMETRY_OFF
from edgebench.agent.wire import WIRE_VERSION, FeedFile, Job, Measurement, OutputFile, Round, RoundResult
from edgebench.model_inputs import random_feed
from edgebench.targets.local import LocalTarget
from edgebench.types import TensorSpec

__all__ = ["JobRunner", "read_output", "write_feeds"]

_RANDOM_FEEDS = 4

Feeds = Sequence[Mapping[str, NDArray[Any]]]


class JobRunner:
    """Runs jobs and rounds of them, one after the other, with their files below `scratch`."""

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._target = LocalTarget()
        self._feeds: dict[bytes, tuple[FeedFile, ...]] = {}
        self._count = 0

    def measure(self, work: Round) -> RoundResult:
        """What the processes of a round saw; a process that dies or hangs is a failed measurement."""
        # Loading, warming up, turns and the end, each within its own limit, which the conductor holds.
        each_s = 2 * work.max_time_s + work.longest_warmup_s + work.sustained_s + 2 * work.timeout_s
        limit_s = work.max_wait_s + len(work.jobs) * each_s
        result = self._run("round", work, limit_s)
        if isinstance(result, str):
            return RoundResult(WIRE_VERSION, (_failed(result),) * len(work.jobs))
        return decode(RoundResult, result, "the agent's result")

    def job(self, job: Job, *, timeout_s: float) -> Measurement:
        """The outputs or the count of a job by a fresh process; one that dies or hangs is a failed measurement."""
        result = self._run(job.kind, job, timeout_s)
        return _failed(result) if isinstance(result, str) else decode(Measurement, result, "the agent's result")

    def _run(self, command: str, message: Job | Round, limit_s: float) -> dict[str, Any] | str:
        """The agent's answer, or why there is none."""
        self._count += 1
        message_path = self._scratch / f"{command}-{self._count}.json"
        result_path = self._scratch / f"result-{self._count}.json"
        message_path.write_text(json.dumps(encode(message)))
        root = str(Path(edgebench.__file__).resolve().parents[1])
        search = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
        ended = self._target.run(
            [sys.executable, "-m", "edgebench.agent", command, str(message_path), str(result_path)],
            timeout_s=limit_s,
            # Safe path: a json.py in the user's directory is not ours to import.
            environment={**TELEMETRY_OFF, "PYTHONPATH": search, "PYTHONSAFEPATH": "1"},
        )
        if ended.timed_out:
            return f"no result after {limit_s:.0f} s; the process was stopped"
        if not result_path.is_file():
            return _how_it_died(ended.returncode, ended.stderr)
        result: dict[str, Any] = json.loads(result_path.read_text())
        return result

    def scratch_directory(self, name: str) -> Path:
        """An empty directory for files of jobs."""
        self._count += 1
        path = self._scratch / f"{name}-{self._count}"
        path.mkdir()
        return path

    def feeds_for(self, inputs: tuple[TensorSpec, ...], kept: Feeds) -> tuple[FeedFile, ...]:
        """Feed files of the `kept` inputs, or of random numbers where there are none; the same ones once."""
        feeds = kept or [random_feed(inputs, seed=0, index=index) for index in range(_RANDOM_FEEDS)]
        digest = hashlib.sha256(repr(inputs).encode())
        for feed in feeds:
            for spec in inputs:
                digest.update(feed[spec.name].tobytes())
        if digest.digest() not in self._feeds:
            self._feeds[digest.digest()] = write_feeds(self.scratch_directory("feeds"), inputs, feeds)
        return self._feeds[digest.digest()]

    def frames_for(self, frames: Sequence[NDArray[np.uint8]]) -> tuple[FeedFile, ...]:
        """Files of the frames, one each; the same ones once."""
        digest = hashlib.sha256()
        for frame in frames:
            digest.update(repr(frame.shape).encode() + frame.tobytes())
        if digest.digest() not in self._feeds:
            self._feeds[digest.digest()] = _written(self.scratch_directory("frames"), frames)
        return self._feeds[digest.digest()]


def _written(directory: Path, frames: Sequence[NDArray[np.uint8]]) -> tuple[FeedFile, ...]:
    files = []
    for index, frame in enumerate(frames):
        path = directory / f"frame-{index}.raw"
        path.write_bytes(np.ascontiguousarray(frame).tobytes())
        files.append(FeedFile(TensorSpec("frame", tuple(map(int, frame.shape)), "uint8"), str(path), 1))
    return tuple(files)


def write_feeds(directory: Path, inputs: tuple[TensorSpec, ...], feeds: Feeds) -> tuple[FeedFile, ...]:
    """One raw file per input with all feeds' tensors behind each other."""
    files = []
    for index, spec in enumerate(inputs):
        path = directory / f"input-{index}.raw"
        with path.open("wb") as file:
            for feed in feeds:
                file.write(np.ascontiguousarray(feed[spec.name], dtype=spec.dtype).tobytes())
        shape = feeds[0][spec.name].shape
        files.append(FeedFile(replace(spec, shape=tuple(int(length) for length in shape)), str(path), len(feeds)))
    return tuple(files)


def read_output(file: OutputFile) -> NDArray[Any]:
    """`[count, *shape]` of one output of a predict job."""
    return np.fromfile(file.path, dtype=file.spec.dtype).reshape(file.count, *file.spec.shape)


def _failed(reason: str) -> Measurement:
    return Measurement(version=WIRE_VERSION, status="failed", reason=reason)


def _how_it_died(returncode: int, stderr: str) -> str:
    last = next((line.strip() for line in reversed(stderr.splitlines()) if line.strip()), "it printed nothing")
    if returncode == -signal.SIGKILL:
        return "the process was killed, most likely because memory ran out"
    if returncode < 0:
        return f"the runtime crashed with {signal.Signals(-returncode).name}: {last}"
    return f"the agent ended with {returncode} and no result: {last}"
