"""Jobs on a device: inputs as files, put where the agent reads them, its results and outputs brought back."""

from __future__ import annotations

import hashlib
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgebench.agent.codec import decode, encode
from edgebench.agent.wire import WIRE_VERSION, FeedFile, Job, Measurement, OutputFile, Round, RoundResult
from edgebench.model_inputs import random_feed
from edgebench.targets.agent import Agent, Ended
from edgebench.targets.local import LocalAgent
from edgebench.types import DeviceProfile, TensorSpec

__all__ = ["JobRunner", "read_output", "write_feeds", "write_frames"]

_RANDOM_FEEDS = 4

Feeds = Sequence[Mapping[str, NDArray[Any]]]


class JobRunner:
    """Runs jobs and rounds of them by `agent`, one after the other, with files of this machine below `scratch`."""

    def __init__(self, agent: Agent, scratch: Path) -> None:
        self._agent = agent
        self._scratch = scratch
        self._feeds: dict[bytes, tuple[FeedFile, ...]] = {}
        self._count = 0

    @classmethod
    def here(cls, scratch: Path) -> JobRunner:
        """One for this machine, as it is."""
        return cls(LocalAgent(DeviceProfile("local", "local"), scratch, lambda text: None), scratch)

    @property
    def takes_frames(self) -> bool:
        """Whether a predict job's images may be normalised on the device."""
        return self._agent.takes_frames

    def push(self, paths: Sequence[Path], advance: Callable[[int], None]) -> None:
        """Put files on the device before they are needed; `advance` is told the bytes that go there."""
        self._agent.place(paths, advance)

    def measure(self, work: Round) -> RoundResult:
        """What the processes of a round saw; a process that dies or hangs is a failed measurement."""
        # Loading, warming up, turns and the end, each within its own limit, which the conductor holds.
        each_s = 2 * work.max_time_s + work.longest_warmup_s + work.sustained_s + 2 * work.timeout_s
        limit_s = work.max_wait_s + len(work.jobs) * each_s

        def message() -> Any:
            return encode(replace(work, jobs=self._placed(work.jobs)))

        ended = self._agent.execute("round", message, limit_s)
        if ended.result is None:
            return RoundResult(WIRE_VERSION, (_failed(_how_it_died(ended, limit_s)),) * len(work.jobs))
        return decode(RoundResult, ended.result, "the agent's result")

    def job(self, job: Job, *, timeout_s: float) -> Measurement:
        """The outputs or the count of a job by a fresh process; one that dies or hangs is a failed measurement."""
        ended = self._agent.execute(job.kind, lambda: encode(self._placed([job])[0]), timeout_s)
        if ended.result is None:
            return _failed(_how_it_died(ended, timeout_s))
        found = decode(Measurement, ended.result, "the agent's result")
        if not found.outputs:
            return found
        paths = self._agent.fetch(found.outputs, self.scratch_directory("outputs"))
        outputs = [replace(file, path=str(path)) for file, path in zip(found.outputs, paths, strict=True)]
        return replace(found, outputs=tuple(outputs))

    def _placed(self, jobs: Sequence[Job]) -> tuple[Job, ...]:
        """The jobs with paths of the device."""
        paths = [path for job in jobs for path in (job.artifact, *(file.path for file in (*job.feeds, *job.frames)))]
        there = self._agent.place(list(dict.fromkeys(Path(path) for path in paths if path)), lambda count: None)

        def placed(files: tuple[FeedFile, ...]) -> tuple[FeedFile, ...]:
            return tuple(replace(file, path=there[Path(file.path)]) for file in files)

        return tuple(
            replace(
                job,
                artifact=there[Path(job.artifact)] if job.artifact else "",
                feeds=placed(job.feeds),
                frames=placed(job.frames),
            )
            for job in jobs
        )

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
            directory = self.scratch_directory("frames")
            files = [write_frames(directory / f"frame-{index}.raw", [frame]) for index, frame in enumerate(frames)]
            self._feeds[digest.digest()] = tuple(files)
        return self._feeds[digest.digest()]


def write_frames(path: Path, frames: Sequence[NDArray[np.uint8]]) -> FeedFile:
    """One raw file of frames `[H, W, C]` of one shape behind each other."""
    with path.open("wb") as file:
        for frame in frames:
            file.write(np.ascontiguousarray(frame).tobytes())
    return FeedFile(TensorSpec("frame", tuple(map(int, frames[0].shape)), "uint8"), str(path), len(frames))


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


def _how_it_died(ended: Ended, limit_s: float) -> str:
    if ended.timed_out:
        return f"no result after {limit_s:.0f} s; the process was stopped"
    if ended.returncode is None:
        return f"the agent's process was lost: {ended.last_words}"
    if ended.returncode == -signal.SIGKILL:
        return "the process was killed, most likely because memory ran out"
    if ended.returncode < 0:
        return f"the runtime crashed with {signal.Signals(-ended.returncode).name}: {ended.last_words}"
    return f"the agent ended with {ended.returncode} and no result: {ended.last_words}"
