"""The agent's TFLite runtime, on files of which every number is known."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgebench.agent.codec import decode, encode
from edgebench.agent.runtimes import tflite, tflite_no_xnnpack
from edgebench.agent.wire import WIRE_VERSION, FeedFile, Job, Measurement, Round, RoundResult, Scenario, TensorSpec
from tests.unit.tflite_files import dense, floats, int8_dense, model, operator, subtraction, tensor

pytest.importorskip("ai_edge_litert", reason="needs ai-edge-litert (the extra `tflite`)")

ROOT = Path(__file__).resolve().parents[2]
X = np.array([[1, -2, 0.5, 100]], np.float32)

both = pytest.mark.parametrize("runtime", [tflite, tflite_no_xnnpack], ids=["xnnpack", "no-xnnpack"])


def _answers(runtime: ModuleType, path: Path, **feed: NDArray[Any]) -> list[NDArray[Any]]:
    session = runtime.open_session(str(path), 1)
    try:
        found: list[NDArray[Any]] = floats(session, session.run(session.adapt(feed)))
        return found
    finally:
        session.close()


@both
def test_a_float_model_answers_in_floats(runtime: ModuleType, tmp_path: Path) -> None:
    (found,) = _answers(runtime, dense(tmp_path / "dense.tflite"), x=X)
    np.testing.assert_array_equal(found, [[2, -2, 100]])
    assert found.dtype == np.float32


@both
def test_integers_are_quantized_and_clipped_on_the_way_in_and_floats_again_on_the_way_out(
    runtime: ModuleType, tmp_path: Path
) -> None:
    path = int8_dense(tmp_path / "int8.tflite")
    session = runtime.open_session(str(path), 1)
    ((_, given),) = session.adapt({"x": X})
    # q = real / 0.5 - 1, at most 127.
    np.testing.assert_array_equal(given, [[1, -5, 0, 127]])
    assert given.dtype == np.int8
    # 127 stands for 64; y = 64 would be 64 / 0.5 + 10 = 138, so 127 again, which stands for 58.5.
    (found,) = floats(session, session.run([(session.adapt({"x": X})[0][0], given)]))
    np.testing.assert_array_equal(found, [[2, -2, 58.5]])
    assert found.dtype == np.float32


@both
def test_values_below_what_int8_holds_are_clipped_too(runtime: ModuleType, tmp_path: Path) -> None:
    session = runtime.open_session(str(int8_dense(tmp_path / "int8.tflite")), 1)
    ((_, given),) = session.adapt({"x": np.array([[-1000, -63.5, -63.6, -64]], np.float32)})
    np.testing.assert_array_equal(given, [[-128, -128, -128, -128]])


def test_integers_that_are_fed_as_such_are_left_as_they_are(tmp_path: Path) -> None:
    session = tflite.open_session(str(int8_dense(tmp_path / "int8.tflite")), 1)
    ((_, given),) = session.adapt({"x": np.array([[1, -5, 0, 127]], np.int8)})
    np.testing.assert_array_equal(given, [[1, -5, 0, 127]])


@both
def test_inputs_are_told_by_their_names(runtime: ModuleType, tmp_path: Path) -> None:
    left, right = np.array([[7, 5]], np.float32), np.array([[1, 2]], np.float32)
    (found,) = _answers(runtime, subtraction(tmp_path / "sub.tflite"), right=right, left=left)
    np.testing.assert_array_equal(found, [[6, 3]])


def test_inputs_of_other_names_are_taken_in_their_order(tmp_path: Path) -> None:
    left, right = np.array([[7, 5]], np.float32), np.array([[1, 2]], np.float32)
    (found,) = _answers(tflite, subtraction(tmp_path / "sub.tflite"), input_1=left, input_0=right)
    np.testing.assert_array_equal(found, [[6, 3]])


def test_a_feed_that_lacks_an_input_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="2 inputs, 1 were given"):
        _answers(tflite, subtraction(tmp_path / "sub.tflite"), left=np.zeros((1, 2), np.float32))


@both
def test_another_batch_is_taken_where_the_file_leaves_it_free(runtime: ModuleType, tmp_path: Path) -> None:
    path = dense(tmp_path / "dense.tflite", free_batch=True)
    session = runtime.open_session(str(path), 1)
    for rows in (2, 1, 3):
        x = np.arange(4 * rows, dtype=np.float32).reshape(rows, 4)
        (found,) = floats(session, session.run(session.adapt({"x": x})))
        np.testing.assert_array_equal(found, x[:, [0, 1, 3]] + [1, 0, 0])


def test_feeds_that_were_adapted_before_keep_their_values(tmp_path: Path) -> None:
    session = tflite.open_session(str(dense(tmp_path / "dense.tflite")), 1)
    adapted = [session.adapt({"x": X * factor}) for factor in (1, 2, 3)]
    assert [floats(session, session.run(item))[0][0, 0] for item in adapted] == [2, 3, 4]


def test_answers_that_were_given_before_are_not_overwritten(tmp_path: Path) -> None:
    session = tflite.open_session(str(dense(tmp_path / "dense.tflite")), 1)
    first = session.run(session.adapt({"x": X}))
    session.run(session.adapt({"x": 2 * X}))
    np.testing.assert_array_equal(floats(session, first)[0], [[2, -2, 100]])


def test_outputs_have_their_names_and_the_order_of_the_graph(tmp_path: Path) -> None:
    path = model(
        tmp_path / "two.tflite",
        [tensor("left", (1, 2)), tensor("right", (1, 2)), tensor("there", (1, 2)), tensor("back", (1, 2))],
        [operator("SUB", (0, 1), (2,)), operator("SUB", (1, 0), (3,))],
        inputs=(0, 1),
        outputs=(3, 2),
    )
    session = tflite.open_session(str(path), 1)
    feed = {"left": np.array([[7, 5]], np.float32), "right": np.array([[1, 2]], np.float32)}
    found = session.named_outputs(session.run(session.adapt(feed)))
    assert [spec for spec, _ in found] == [TensorSpec(name, (1, 2), "float32") for name in ("back", "there")]
    assert [np.frombuffer(data, np.float32).tolist() for _, data in found] == [[-6, -3], [6, 3]]


def test_it_is_said_whether_xnnpack_computes(tmp_path: Path) -> None:
    path = str(dense(tmp_path / "dense.tflite"))
    assert tflite.open_session(path, 1).provider == "CPU, XNNPACK in 1 part"
    assert tflite_no_xnnpack.open_session(path, 1).provider == "CPU, built-in"


def test_the_library_that_runs_is_named() -> None:
    version, package = tflite.load_library().split(" ", 1)
    assert package == "(ai-edge-litert)"
    assert version[0].isdigit()


def test_opening_a_file_says_nothing_on_stderr(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    tflite.open_session(str(dense(tmp_path / "dense.tflite")), 1)
    assert capfd.readouterr() == ("", "")


@pytest.fixture
def job(tmp_path: Path) -> Job:
    dense(tmp_path / "dense.tflite")
    feed = tmp_path / "x.raw"
    feed.write_bytes(np.concatenate([X, 2 * X]).tobytes())
    return Job(
        version=WIRE_VERSION,
        kind="measure",
        artifact=str(tmp_path / "dense.tflite"),
        runtime="tflite",
        threads=1,
        feeds=(FeedFile(TensorSpec("x", (1, 4), "float32"), str(feed), 2),),
    )


def _agent(
    command: str, message: Job | Round, directory: Path, *, python: str = sys.executable, **environment: str
) -> dict[str, Any]:
    (directory / "message.json").write_text(json.dumps(encode(message)))
    done = subprocess.run(
        [
            *(python, "-m", "edgebench.agent", command),
            *(str(directory / "message.json"), str(directory / "result.json")),
        ],
        cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads((directory / "result.json").read_text())
    return answer


def _measured(job: Job, directory: Path, *, python: str = sys.executable, **environment: str) -> Measurement:
    work = Round(WIRE_VERSION, (job,), "a", laps=2, turn=3)
    (only,) = decode(RoundResult, _agent("round", work, directory, python=python, **environment)).measurements
    return only


def _blocked(directory: Path) -> str:
    """A directory with neither of the two packages."""
    for package in ("ai_edge_litert", "tflite_runtime"):
        (directory / package).mkdir(parents=True)
        (directory / package / "__init__.py").write_text("raise ImportError('blocked')")
    return str(directory)


@pytest.mark.parametrize("runtime", ["tflite", "tflite-no-xnnpack"])
def test_the_agent_measures_it(runtime: str, job: Job, tmp_path: Path) -> None:
    found = _measured(replace(job, runtime=runtime), tmp_path)
    assert found.status == "ok", found.reason
    assert [len(turn.samples_ns) >= 3 for turn in found.turns] == [True, True]
    assert found.provider == ("CPU, built-in" if "no" in runtime else "CPU, XNNPACK in 1 part")
    assert found.runtime_version is not None
    assert found.runtime_version.endswith("(ai-edge-litert)")


def test_the_agent_predicts_with_it_in_order(job: Job, tmp_path: Path) -> None:
    (tmp_path / "outputs").mkdir()
    int8_dense(tmp_path / "int8.tflite")
    job = replace(job, kind="predict", artifact=str(tmp_path / "int8.tflite"))
    found = decode(Measurement, _agent("predict", job, tmp_path))
    assert found.status == "ok", found.reason
    (only,) = found.outputs
    assert only.spec == TensorSpec("y", (1, 3), "float32")
    # Real inputs are 1, -2 and 64, then 2, -4 and 64: clipped as above.
    np.testing.assert_array_equal(
        np.fromfile(only.path, np.float32).reshape(only.count, 3), [[2, -2, 58.5], [3, -4, 58.5]]
    )


def test_several_streams_are_refused(job: Job, tmp_path: Path) -> None:
    found = _measured(replace(job, scenario=Scenario("multi-stream", streams=2)), tmp_path)
    assert found.status == "unsupported"
    assert found.reason == "TFLite's interpreter runs one inference at a time: leave multi-stream out"


@pytest.mark.parametrize("runtime", ["tflite", "tflite-no-xnnpack"])
def test_without_the_library_it_is_unsupported_and_says_what_installs_it(
    runtime: str, job: Job, tmp_path: Path
) -> None:
    found = _measured(replace(job, runtime=runtime), tmp_path, PYTHONPATH=_blocked(tmp_path / "blocked"))
    assert found.status == "unsupported"
    assert "pip install ai-edge-litert" in (found.reason or "")


def _with_the_old_library(directory: Path) -> str:
    """A directory with tflite-runtime as it is met with numpy 2: it imports, and its interpreter does not open."""
    _blocked(directory)
    (directory / "tflite_runtime" / "__init__.py").write_text("")
    (directory / "tflite_runtime" / "interpreter.py").write_text(
        "def Interpreter(**options):\n    raise SystemError('returned a result with an exception set')\n"
    )
    (directory / "tflite_runtime-2.14.0.dist-info").mkdir()
    (directory / "tflite_runtime-2.14.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: tflite-runtime\nVersion: 2.14.0\n"
    )
    return str(directory)


needs_numpy_2 = pytest.mark.skipif(int(np.__version__.partition(".")[0]) < 2, reason="needs numpy 2")


@needs_numpy_2
def test_tflite_runtime_is_refused_with_numpy_2_before_it_fails_without_words(job: Job, tmp_path: Path) -> None:
    found = _measured(job, tmp_path, PYTHONPATH=_with_the_old_library(tmp_path / "old"))
    assert found.status == "unsupported"
    assert found.reason == "tflite-runtime 2.14.0 does not work with numpy 2: pip install 'numpy<2'"


@needs_numpy_2
def test_the_command_refuses_tflite_runtime_with_numpy_2_in_the_same_words(tmp_path: Path) -> None:
    path = dense(tmp_path / "model.tflite")
    before = _with_the_old_library(tmp_path / "old")
    done = _edgebench("bench", str(path), "--json", "-", *QUICK, home=tmp_path, before=before)
    assert "Traceback" not in done.stderr
    assert done.returncode == 3
    (cell,) = json.loads(done.stdout)["cells"]
    assert cell["status"] == "unsupported"
    assert "pip install 'numpy<2'" in cell["reason"]


@pytest.fixture
def old_python() -> str:
    """A Python of an older device."""
    python = os.environ.get("EDGEBENCH_TEST_TFLITE_RUNTIME")
    if not python:
        pytest.skip(
            "needs EDGEBENCH_TEST_TFLITE_RUNTIME, a Python with tflite-runtime and numpy<2 and no ai-edge-litert"
        )
    return python


@pytest.mark.parametrize("runtime", ["tflite", "tflite-no-xnnpack"])
def test_tflite_runtime_measures_and_answers_as_its_successor_does(
    runtime: str, job: Job, tmp_path: Path, old_python: str
) -> None:
    (tmp_path / "outputs").mkdir()
    int8_dense(tmp_path / "int8.tflite")
    measured = _measured(replace(job, runtime=runtime), tmp_path, python=old_python)
    assert measured.status == "ok", measured.reason
    assert (measured.runtime_version or "").endswith("(tflite-runtime)")
    assert measured.provider == ("CPU, built-in" if "no" in runtime else "CPU, XNNPACK in 1 part")
    job = replace(job, kind="predict", runtime=runtime, artifact=str(tmp_path / "int8.tflite"))
    answered = decode(Measurement, _agent("predict", job, tmp_path, python=old_python))
    assert answered.status == "ok", answered.reason
    np.testing.assert_array_equal(
        np.fromfile(answered.outputs[0].path, np.float32).reshape(2, 3), [[2, -2, 58.5], [3, -4, 58.5]]
    )


def test_a_damaged_file_fails_with_the_interpreters_words(job: Job, tmp_path: Path) -> None:
    path = Path(job.artifact)
    path.write_bytes(path.read_bytes()[:100])
    found = _measured(job, tmp_path)
    assert found.status == "failed"
    assert found.reason


def _edgebench(*arguments: str, home: Path, before: str = "") -> subprocess.CompletedProcess[str]:
    """The command in a home of its own, with the modules in the directory `before` ahead of those installed."""
    code = "import sys; from edgebench.cli.main import main; sys.exit(main())"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=home,
        env={**os.environ, "EDGEBENCH_HOME": str(home), "PYTHONPATH": f"{before}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
        check=False,
    )


QUICK = ("--threads", "1", "--processes", "1", "--warmup", "1", "--iterations", "3", "--max-wait", "0")


@pytest.mark.parametrize("write", [dense, int8_dense])
def test_all_runtimes_are_tried_on_a_file_and_those_that_are_not_there_say_what_installs_them(
    write: Any, tmp_path: Path
) -> None:
    path = write(tmp_path / "model.tflite")
    done = _edgebench("bench", str(path), "--runtime", "all", "--json", "-", *QUICK, home=tmp_path)
    assert done.returncode == 0, done.stderr
    cells = {cell["runtime"]: cell for cell in json.loads(done.stdout)["cells"]}
    assert set(cells) >= {"tflite", "tflite-no-xnnpack"}
    for name in ("tflite", "tflite-no-xnnpack"):
        assert cells[name]["status"] == "ok", cells[name]["reason"]
        assert cells[name]["artifact"]["precision"] == ("int8" if write is int8_dense else "fp32")
        assert cells[name]["latency"]["samples"] >= 3
    for name in set(cells) - {"tflite", "tflite-no-xnnpack"}:
        assert cells[name]["status"] == "unsupported"
        assert cells[name]["reason"]


def test_without_the_library_the_command_says_what_installs_it(tmp_path: Path) -> None:
    path = dense(tmp_path / "model.tflite")
    before = _blocked(tmp_path / "blocked")
    done = _edgebench("bench", str(path), "--json", "-", *QUICK, home=tmp_path, before=before)
    assert done.returncode == 3, done.stderr
    (cell,) = json.loads(done.stdout)["cells"]
    assert (cell["runtime"], cell["status"]) == ("tflite", "unsupported")
    assert "pip install ai-edge-litert" in cell["reason"]


def test_accuracy_of_what_takes_no_images_is_an_error_with_a_hint(tmp_path: Path) -> None:
    path = subtraction(tmp_path / "sub.tflite")
    generator = np.random.default_rng(0)
    np.savez(tmp_path / "data.npz", x=generator.integers(0, 255, (4, 2, 2, 3), np.uint8), y=np.arange(4))
    done = _edgebench(
        "bench", str(path), "--data", f"npz:{tmp_path / 'data.npz'}", "--preprocess", "none", *QUICK, home=tmp_path
    )
    assert done.returncode == 2, done.stdout
    assert done.stderr.startswith("error: ")
    assert "hint: " in done.stderr
    assert "Traceback" not in done.stderr


def test_a_damaged_file_is_an_error_with_a_hint(tmp_path: Path) -> None:
    path = dense(tmp_path / "model.tflite")
    path.write_bytes(path.read_bytes()[:100])
    done = _edgebench("bench", str(path), *QUICK, home=tmp_path)
    assert done.returncode == 2
    assert "TFLite model, damaged or cut short" in done.stderr
    assert "hint: " in done.stderr
    assert "Traceback" not in done.stderr
