"""How a session is used while it is measured: alone, by several streams at once, or by frames that come at a rate."""

from __future__ import annotations

import threading
import time
from typing import Any, Callable, List, Sequence, Tuple

from .feeds import Feed, Tensor, read_feeds
from .loop import Loop
from .preprocessing import prepare_pixels
from .wire import FeedFile, Job


def open_loop(job: Job, run: Callable[[Any], Any], prepare: Callable[[Feed], Any], feeds: Sequence[Any]) -> Loop:
    """The loop that uses a session's `run` as the job's scenario says; `prepare` makes what `run` takes of a feed."""
    scenario = job.scenario
    if scenario.kind == "end-to-end":
        return Loop(EndToEnd(job, run, prepare), [_frame(file) for file in job.frames])
    if scenario.kind == "multi-stream":
        return Loop(
            Streams(run, scenario.streams), [tuple(_shifted(feeds, scenario.streams, i)) for i in range(len(feeds))]
        )
    if scenario.kind == "paced":
        return PacedLoop(run, feeds, scenario.period_ns)
    return Loop(run, feeds)


def _shifted(feeds: Sequence[Any], count: int, first: int) -> List[Any]:
    return [feeds[(first + index) % len(feeds)] for index in range(count)]


def _frame(file: FeedFile) -> Any:
    import numpy

    (feed,) = read_feeds([file])
    tensor = feed[file.spec.name]
    return numpy.frombuffer(tensor.data, dtype=numpy.uint8).reshape(file.spec.shape).copy()


class EndToEnd:
    """From a frame's pixels to the answer: what an application waits for."""

    def __init__(self, job: Job, run: Callable[[Any], Any], prepare: Callable[[Feed], Any]) -> None:
        if job.preprocess is None:
            raise ValueError("an end-to-end job needs preprocess")
        self._run = run
        self._prepare = prepare
        self._preprocess = job.preprocess
        self._spec = job.feeds[0].spec

    def __call__(self, frame: Any) -> None:
        values = prepare_pixels(frame, self._preprocess)
        self._run(self._prepare({self._spec.name: Tensor(self._spec, memoryview(values).cast("B"))}))


class Streams:
    """Runs one inference per stream at once, each on a thread of its own; a call ends when all of them have."""

    def __init__(self, run: Callable[[Any], Any], count: int) -> None:
        self._run = run
        self._begin = threading.Barrier(count)
        self._end = threading.Barrier(count)
        self._feeds: Tuple[Any, ...] = ()
        self._errors: List[BaseException] = []
        for index in range(1, count):
            threading.Thread(target=self._stream, args=(index,), daemon=True).start()

    def __call__(self, feeds: Tuple[Any, ...]) -> None:
        self._feeds = feeds
        self._begin.wait()
        try:
            self._run(feeds[0])
        finally:
            self._end.wait()
        if self._errors:
            raise self._errors[0]

    def _stream(self, index: int) -> None:
        while True:
            self._begin.wait()
            try:
                self._run(self._feeds[index])
            except BaseException as error:  # It must come to the thread that answers, or that would wait for ever.
                self._errors.append(error)
            self._end.wait()


class PacedLoop(Loop):
    """A frame comes every `period_ns`, whatever the model does; the newest is taken and those before it are lost.

    A sample is the time from a frame's arrival to its answer. `offered` and `missed` count frames of the last turn:
    missed is one that was lost, or whose answer was not there when the next one came.
    """

    def __init__(self, run: Callable[[Any], Any], feeds: Sequence[Any], period_ns: int) -> None:
        super().__init__(run, feeds)
        self._period_ns = period_ns
        self.offered = 0
        self.missed = 0

    def first(self) -> int:
        """Nanoseconds of the first inference, for which no frame is waited."""
        return super().timed(1, 0.0)[0]

    def timed(self, runs: int, limit_s: float, *, least_s: float = 0.0) -> Tuple[int, ...]:
        """Nanoseconds from the arrival of each of `runs` frames to its answer, or until they took `limit_s`."""
        clock, period_ns = time.perf_counter_ns, self._period_ns
        samples: List[int] = []
        self.offered = self.missed = 0
        arrival = begun = clock()
        while len(samples) < runs:
            early = arrival - clock()
            if early > 0:
                time.sleep(early / 1e9)
            self._run(self._feeds[(self._next + len(samples)) % len(self._feeds)])
            ended = clock()
            samples.append(ended - arrival)
            # The frame itself, and those that came while it was at work and are older than the newest.
            lost = max(0, (ended - arrival) // period_ns - 1)
            self.offered += 1 + lost
            self.missed += lost + (ended - arrival > period_ns)
            arrival += period_ns * (1 + lost)
            if ended - begun > limit_s * 1e9:
                break
        self._next += len(samples)
        return tuple(samples)
