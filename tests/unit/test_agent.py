"""The agent as a process, on a real ONNX model that is small enough to be written by hand."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgebench.agent.codec import decode, encode
from edgebench.agent.loop import measure
from edgebench.agent.wire import FeedFile, Job, Measurement, TensorSpec

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
        version=1,
        kind="measure",
        artifact=str(tmp_path / "relu.onnx"),
        runtime="onnxruntime",
        threads=1,
        feeds=(FeedFile(SPEC, str(feed), 2),),
        iterations=20,
    )


def _agent(job: Job, directory: Path, **environment: str) -> Measurement:
    job_path, result_path = directory / "job.json", directory / "result.json"
    job_path.write_text(json.dumps(encode(job)))
    done = subprocess.run(
        [sys.executable, "-m", "edgebench.agent", str(job_path), str(result_path)],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    return decode(Measurement, json.loads(result_path.read_text()))


def test_a_job_gives_raw_samples_and_memory(job: Job, tmp_path: Path) -> None:
    result = _agent(job, tmp_path)
    assert result.status == "ok", result.reason
    assert len(result.samples_ns) == 20
    assert all(sample > 0 for sample in result.samples_ns)
    assert result.load_ns is not None
    assert result.first_ns is not None
    assert result.memory is not None
    assert result.memory.baseline_bytes <= result.memory.peak_bytes


def test_predictions_come_back_in_order(job: Job, tmp_path: Path) -> None:
    outputs = tmp_path / "outputs"
    outputs.mkdir()
    predict = Job(**{**vars(job), "kind": "predict", "outputs_directory": str(outputs)})
    result = _agent(predict, tmp_path)
    assert result.status == "ok", result.reason
    (only,) = result.outputs
    found = np.fromfile(only.path, np.float32).reshape(only.count, *only.spec.shape)
    np.testing.assert_array_equal(found, [[[0, 2, 0, 4]], [[5, 0, 7, 0]]])


def test_a_model_that_does_not_load_is_a_failed_measurement(job: Job, tmp_path: Path) -> None:
    Path(job.artifact).write_bytes(b"not a model")
    result = _agent(job, tmp_path)
    assert result.status == "failed"
    assert result.reason


def test_a_missing_runtime_is_unsupported_and_says_what_installs_it(job: Job, tmp_path: Path) -> None:
    blocker = tmp_path / "blocked"
    blocker.mkdir()
    (blocker / "onnxruntime.py").write_text("raise ImportError('blocked')")
    result = _agent(job, tmp_path, PYTHONPATH=str(blocker))
    assert result.status == "unsupported"
    assert "pip install onnxruntime" in (result.reason or "")


def test_a_feed_of_the_wrong_length_is_refused(job: Job, tmp_path: Path) -> None:
    Path(job.feeds[0].path).write_bytes(b"1234")
    result = _agent(job, tmp_path)
    assert result.status == "failed"
    assert "expected 2 tensors of 16" in (result.reason or "")


def test_the_runtime_writes_nothing_to_the_home_directory(job: Job, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    result = _agent(job, tmp_path, HOME=str(home), XDG_CACHE_HOME=str(home / ".cache"))
    assert result.status == "ok"
    assert list(home.iterdir()) == []


def test_feeds_are_used_in_turn_and_the_first_runs_are_not_samples() -> None:
    seen: list[str] = []
    first, samples = measure(seen.append, ["a", "b"], warmup=3, iterations=4, min_iterations=1, max_time_s=60.0)
    assert seen == ["a", "a", "b", "a", "a", "b", "a", "b"]
    assert first > 0
    assert len(samples) == 4


def test_time_ends_a_measurement_but_not_before_its_least_count() -> None:
    _, samples = measure(lambda _: None, [0], warmup=0, iterations=10**6, min_iterations=7, max_time_s=0.0)
    assert len(samples) == 7
