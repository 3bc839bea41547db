"""The agent as a process, on a real ONNX model that is small enough to be written by hand."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgebench.agent.codec import decode, encode
from edgebench.agent.conductor import has_room
from edgebench.agent.loop import Loop
from edgebench.agent.process import WorkerProcess
from edgebench.agent.wire import WIRE_VERSION, FeedFile, Job, Measurement, Round, RoundResult, TensorSpec

ROOT = Path(__file__).resolve().parents[2]
SPEC = TensorSpec("x", (1, 4), "float32")


def _varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def _field(number: int, content: bytes | int) -> bytes:
    if isinstance(content, int):
        return _varint(number << 3) + _varint(content)
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _value_info(name: str) -> bytes:
    """ValueInfoProto: float32 [1, 4]."""
    shape = b"".join(_field(1, _field(1, length)) for length in (1, 4))
    return _field(1, name.encode()) + _field(2, _field(1, _field(1, 1) + _field(2, shape)))


def _relu_model() -> bytes:
    """An ONNX ModelProto with one Relu, spelled out in protobuf (onnx.proto), as base tests do without onnx."""
    node = _field(1, b"x") + _field(2, b"y") + _field(4, b"Relu")
    graph = _field(1, node) + _field(2, b"g") + _field(11, _value_info("x")) + _field(12, _value_info("y"))
    return _field(1, 8) + _field(7, graph) + _field(8, _field(1, b"") + _field(2, 13))


@pytest.fixture
def job(tmp_path: Path) -> Job:
    (tmp_path / "relu.onnx").write_bytes(_relu_model())
    feed = tmp_path / "x.raw"
    feed.write_bytes(np.array([[-1, 2, -3, 4], [5, -6, 7, -8]], np.float32).tobytes())
    return Job(
        version=WIRE_VERSION,
        kind="measure",
        artifact=str(tmp_path / "relu.onnx"),
        runtime="onnxruntime",
        threads=1,
        feeds=(FeedFile(SPEC, str(feed), 2),),
    )


def _agent(command: str, message: Job | Round, directory: Path, **environment: str) -> dict[str, Any]:
    message_path, result_path = directory / "message.json", directory / "result.json"
    message_path.write_text(json.dumps(encode(message)))
    done = subprocess.run(
        [sys.executable, "-m", "edgebench.agent", command, str(message_path), str(result_path)],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    result: dict[str, Any] = json.loads(result_path.read_text())
    return result


def _round(*jobs: Job, **changes: Any) -> Round:
    return Round(**{"version": WIRE_VERSION, "jobs": jobs, "seed": "a", "laps": 4, "turn": 5, **changes})


def _measure(work: Round, directory: Path, **environment: str) -> RoundResult:
    return decode(RoundResult, _agent("round", work, directory, **environment))


def _predict(job: Job, directory: Path, **environment: str) -> Measurement:
    outputs = directory / "outputs"
    outputs.mkdir()
    return decode(
        Measurement,
        _agent("predict", replace(job, kind="predict"), directory, **environment),
    )


def test_a_round_gives_raw_samples_memory_and_states(job: Job, tmp_path: Path) -> None:
    result = _measure(_round(job), tmp_path)
    (only,) = result.measurements
    assert only.status == "ok", only.reason
    assert [turn.lap for turn in only.turns] == [0, 1, 2, 3]
    assert all(len(turn.samples_ns) >= 5 for turn in only.turns)
    assert all(sample > 0 for sample in only.samples_ns)
    assert only.cold_ns is not None
    assert only.load_ns is not None
    assert only.first_ns is not None
    assert only.cold_ns > only.load_ns + only.first_ns
    assert only.memory is not None
    assert only.memory.baseline_bytes <= only.memory.peak_bytes
    assert result.states[0].at_ns < result.states[-1].at_ns


def test_jobs_of_a_round_take_turns_in_one_lap_after_the_other(job: Job, tmp_path: Path) -> None:
    result = _measure(_round(job, job, job), tmp_path)
    turns = sorted(
        (turn.started_ns, turn.lap, index) for index, m in enumerate(result.measurements) for turn in m.turns
    )
    assert [lap for _, lap, _ in turns] == [lap for lap in range(4) for _ in range(3)]
    orders = [tuple(index for _, lap, index in turns if lap == number) for number in range(4)]
    assert all(sorted(order) == [0, 1, 2] for order in orders)
    assert len(set(orders)) > 1


@pytest.mark.parametrize(
    ("available_gb", "fits"),
    [
        ((8.0,), True),  # The first always loads.
        ((8.0, 5.0), True),  # Another 3 leave 2 of 8.
        ((8.0, 4.9), False),  # Another 3.1 leave 1.8, which is less than a quarter.
        ((8.0, 7.9, 5.0, 4.5), False),  # As large as the largest, not as the last.
        ((8.0, 8.2), True),
        ((None, None, None), True),
    ],
)
def test_one_more_process_is_loaded_while_memory_holds_it(available_gb: tuple[float | None, ...], fits: bool) -> None:
    assert has_room([None if value is None else int(value * 1e9) for value in available_gb]) is fits


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="needs Linux's schedstat")
def test_a_process_that_waits_for_its_turn_uses_no_cpu(tmp_path: Path, job: Job) -> None:
    waiting = WorkerProcess(job, str(tmp_path / "waiting"))
    try:
        assert waiting.ask(None, 60) is not None
        waiting.pause()
        before = _cpu_ns(waiting.pid)
        time.sleep(0.2)
        assert _cpu_ns(waiting.pid) == before
        waiting.resume()
        answer = waiting.ask({"do": "turn", "runs": 5, "limit_s": 1.0}, 60)
        assert answer is not None
        assert len(answer["samples_ns"]) >= 5
    finally:
        waiting.close()


def _cpu_ns(pid: int) -> int:
    tasks = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(task.read_text().split()[0]) for task in tasks)


def test_a_job_that_fails_leaves_the_others_their_turns(job: Job, tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"not a model")
    bad, good = _measure(_round(replace(job, artifact=str(broken)), job), tmp_path).measurements
    assert bad.status == "failed"
    assert bad.reason
    assert good.status == "ok"
    assert len(good.turns) == 4


def test_a_process_that_is_killed_in_its_turn_keeps_what_it_measured(job: Job, tmp_path: Path) -> None:
    process = _start(_round(job, laps=100000, max_time_s=60.0), tmp_path)
    worker = _child_of(process.pid)
    time.sleep(4.0)  # It loads within a second or so, and then has turns for a minute.
    os.kill(worker, signal.SIGKILL)
    assert process.wait(timeout=60) == 0
    (only,) = decode(RoundResult, json.loads((tmp_path / "result.json").read_text())).measurements
    assert only.status == "failed"
    assert "killed from outside" in (only.reason or "")
    assert len(only.turns) > 0


def test_workers_end_with_a_conductor_that_is_killed(job: Job, tmp_path: Path) -> None:
    process = _start(_round(job, job, laps=100000, max_time_s=60.0), tmp_path)
    worker = _child_of(process.pid)
    time.sleep(1.0)
    process.kill()
    process.wait()
    deadline = time.monotonic() + 30
    while _lives(worker) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _lives(worker)


def _start(work: Round, directory: Path) -> subprocess.Popen[bytes]:
    message_path, result_path = directory / "message.json", directory / "result.json"
    message_path.write_text(json.dumps(encode(work)))
    command = [sys.executable, "-m", "edgebench.agent", "round", str(message_path), str(result_path)]
    return subprocess.Popen(command, cwd=ROOT)


def _child_of(pid: int) -> int:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        if children:
            return int(children[0])
        time.sleep(0.02)
    raise AssertionError("no worker was started")


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_process_that_does_not_answer_is_stopped(job: Job, tmp_path: Path) -> None:
    (only,) = _measure(_round(job, timeout_s=0.01), tmp_path).measurements
    assert only.status == "failed"
    assert "no answer after" in (only.reason or "")


def test_predictions_come_back_in_order(job: Job, tmp_path: Path) -> None:
    result = _predict(job, tmp_path)
    assert result.status == "ok", result.reason
    (only,) = result.outputs
    found = np.fromfile(only.path, np.float32).reshape(only.count, *only.spec.shape)
    np.testing.assert_array_equal(found, [[[0, 2, 0, 4]], [[5, 0, 7, 0]]])


def test_a_missing_runtime_is_unsupported_and_says_what_installs_it(job: Job, tmp_path: Path) -> None:
    blocker = tmp_path / "blocked"
    blocker.mkdir()
    (blocker / "onnxruntime.py").write_text("raise ImportError('blocked')")
    (measured,) = _measure(_round(job), tmp_path, PYTHONPATH=str(blocker)).measurements
    predicted = _predict(job, tmp_path, PYTHONPATH=str(blocker))
    for result in (measured, predicted):
        assert result.status == "unsupported"
        assert "pip install onnxruntime" in (result.reason or "")


def test_a_feed_of_the_wrong_length_is_refused(job: Job, tmp_path: Path) -> None:
    Path(job.feeds[0].path).write_bytes(b"1234")
    (result,) = _measure(_round(job), tmp_path).measurements
    assert result.status == "failed"
    assert "expected 2 tensors of 16" in (result.reason or "")


def test_the_runtime_writes_nothing_to_the_home_directory(job: Job, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (result,) = _measure(_round(job), tmp_path, HOME=str(home), XDG_CACHE_HOME=str(home / ".cache")).measurements
    assert result.status == "ok"
    assert list(home.iterdir()) == []


def test_feeds_are_used_in_turn_and_the_first_run_is_not_a_sample() -> None:
    seen: list[str] = []
    loop = Loop(seen.append, ["a", "b"])
    assert loop.first() > 0
    assert len(loop.timed(4, 60.0)) == 4
    assert seen == ["a", "b", "a", "b", "a"]


def test_time_ends_a_turn_but_not_before_its_first_run() -> None:
    assert len(Loop(lambda _: None, [0]).timed(10**6, 0.0)) == 1


def test_short_runs_are_timed_more_often_than_asked() -> None:
    assert len(Loop(lambda _: None, [0]).turn(5, 1.0)) > 5


def test_a_warm_up_goes_on_while_it_gets_faster() -> None:
    pauses = iter([0.02] * 5 + [0.01] * 5 + [0.005] * 1000)
    found = Loop(lambda _: time.sleep(next(pauses)), [0]).warm_up(1, 60.0, 300)
    assert found.steady
    assert found.runs >= 15


def test_a_warm_up_that_never_settles_ends_with_its_time_and_says_so() -> None:
    pauses = iter([0.03 / 1.05**number for number in range(1000)])
    found = Loop(lambda _: time.sleep(next(pauses)), [0]).warm_up(1, 0.2, 1)
    assert not found.steady


def test_a_slow_model_is_not_called_unsteady_for_want_of_time() -> None:
    found = Loop(lambda _: time.sleep(0.03), [0]).warm_up(5, 0.05, 0.25)
    assert found.steady
    assert found.runs >= 5


def test_the_runs_that_were_asked_for_have_a_limit_of_their_own() -> None:
    assert Loop(lambda _: time.sleep(0.02), [0]).warm_up(1000, 0.05, 0.25).runs < 100


def test_no_warm_up_is_none() -> None:
    seen: list[int] = []
    assert Loop(seen.append, [0]).warm_up(0, 60.0, 300).runs == 0
    assert seen == []
