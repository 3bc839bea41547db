"""Scenarios: how they are written, and what the loops of the agent do."""

from __future__ import annotations

import threading
import time

import pytest

from edgebench.agent.scenarios import PacedLoop, Streams, open_loop
from edgebench.agent.wire import Job, Scenario, Window
from edgebench.errors import UsageError
from edgebench.scenarios import parse_scenario, streams_of
from edgebench.sustained import curve_of, flipped
from tests.unit.runs import cell, run

MS = 1_000_000


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("single-stream", Scenario("single-stream")),
        ("offline", Scenario("offline")),
        ("multi-stream", Scenario("multi-stream", streams=4)),
        ("multi-stream:2", Scenario("multi-stream", streams=2)),
        ("paced:29.97", Scenario("paced", period_ns=33_366_700)),
    ],
)
def test_a_scenario_is_read_from_its_text(text: str, expected: Scenario) -> None:
    assert parse_scenario(text) == expected


@pytest.mark.parametrize("text", ["", "paced", "paced:0", "paced:fast", "multi-stream:1", "offline:3", "burst"])
def test_what_is_no_scenario_is_refused_with_those_there_are(text: str) -> None:
    with pytest.raises(UsageError) as raised:
        parse_scenario(text)
    assert "paced:FPS" in (raised.value.hint or "")


def test_a_sample_of_streams_stands_for_as_many_inferences() -> None:
    assert streams_of("multi-stream:3") == 3
    assert streams_of("single-stream") == 1


def test_streams_run_at_once_and_a_call_ends_when_all_have() -> None:
    together = threading.Barrier(3, timeout=10)  # Nobody passes unless all three are in it at once.
    seen: list[str] = []

    def infer(feed: str) -> None:
        together.wait()
        seen.append(feed)

    Streams(infer, 3)(("a", "b", "c"))
    assert sorted(seen) == ["a", "b", "c"]


def test_a_stream_that_fails_fails_the_call() -> None:
    def infer(feed: int) -> None:
        if feed == 1:
            raise ValueError("stream 1 broke")

    with pytest.raises(ValueError, match="stream 1 broke"):
        Streams(infer, 2)((0, 1))


def test_streams_are_fed_with_different_inputs() -> None:
    seen: list[tuple[str, ...]] = []
    job = Job(2, "measure", "", "null", 1, (), scenario=Scenario("multi-stream", streams=2))
    loop = open_loop(job, seen.append, lambda feed: feed, ["a", "b", "c"])
    assert [sorted(feeds) for feeds in loop._feeds] == [["a", "b"], ["b", "c"], ["a", "c"]]


def test_frames_in_time_are_not_missed_and_the_pace_is_kept() -> None:
    loop = PacedLoop(lambda _: None, [0], 5 * MS)
    started = time.perf_counter_ns()
    samples = loop.timed(10, 60.0)
    assert len(samples) == 10
    assert time.perf_counter_ns() - started >= 9 * 5 * MS
    assert loop.offered >= 10


def test_a_model_slower_than_the_frames_takes_the_newest_and_misses_the_others() -> None:
    # Each inference takes 2.5 frames: it is late, one frame is lost, and the next to be taken has waited half a frame.
    loop = PacedLoop(lambda _: time.sleep(0.05), [0], 20 * MS)
    samples = loop.timed(8, 60.0)
    assert min(samples) >= 50 * MS
    assert loop.offered >= 8 + 6
    assert loop.missed == loop.offered


def _windows(*p50_ms: float) -> tuple[Window, ...]:
    return tuple(
        Window(index * 5 * 10**9, 5 * 10**9, 100, round(ms * MS), round(ms * MS)) for index, ms in enumerate(p50_ms)
    )


def test_a_curve_that_rises_and_stays_is_throttled_from_there() -> None:
    found = curve_of(_windows(10, 10, 10, 10, 15, 16, 15, 15))
    assert found is not None
    assert (found.first_ms, found.last_ms, found.throttled_after_s) == (10, 15, 20.0)


def test_a_curve_that_comes_back_is_not_throttled() -> None:
    found = curve_of(_windows(10, 10, 10, 15, 15, 10, 10, 10))
    assert found is not None
    assert found.throttled_after_s is None


def test_fewer_than_four_windows_are_no_curve() -> None:
    assert curve_of(_windows(1, 2, 3)) is None


def test_a_ranking_that_does_not_last_is_told() -> None:
    steady = cell("onnx", (1,), sustained=_windows(*[12.0] * 8))
    hot = cell("onnx-int8", (1,), sustained=_windows(10, 10, 11, 12, 14, 15, 15, 15))
    assert flipped(run(steady, hot)) == ["the ranking flips: onnx-int8 is faster at first, onnx in the long run"]
    assert flipped(run(steady, steady)) == []
