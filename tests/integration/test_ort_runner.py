"""The native runner, compiled here, against the library of the installed wheel and against onnxruntime in Python."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgebench.agent.codec import decode
from edgebench.agent.feeds import ITEM_BYTES
from edgebench.agent.wire import WIRE_VERSION, Measurement
from edgebench.errors import EnvironmentFailure
from edgebench.targets.native.build_runner import SOURCE, build_runner, fetch_library

MACHINE = platform.machine()
FEED_COUNT = 3

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or (shutil.which("cc") is None and importlib.util.find_spec("ziglang") is None),
    reason="needs Linux and a C compiler (apt install gcc, or pip install ziglang)",
)


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_runner(MACHINE, tmp_path_factory.mktemp("built"))


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fetch_library(MACHINE, tmp_path_factory.mktemp("library"))


class Model:
    """An ONNX file, tensors for its inputs, and what the runner says of it."""

    def __init__(self, path: Path, arrays: dict[str, np.ndarray], runner: Path, library: Path) -> None:
        self.path = path
        self.arrays = arrays
        self._runner = runner
        self._library = library
        self._directory = path.parent
        self.result = path.parent / "a result.json"

    def inputs(self) -> list[str]:
        words = []
        for index, (name, array) in enumerate(self.arrays.items()):
            raw = self._directory / f"input {index}.raw"
            array.tofile(raw)
            shape = "x".join(map(str, array.shape[1:])) or "scalar"
            words += ["--input", name, str(array.dtype), shape, str(len(array)), str(raw)]
        return words

    def argv(self, command: str, *options: str, **changed: str) -> list[str]:
        values = {
            "wire_version": str(WIRE_VERSION),
            "library": str(self._library),
            "model": str(self.path),
            "threads": "1",
            "result": str(self.result),
            **changed,
        }
        words = [word for name, value in values.items() for word in (f"--{name.replace('_', '-')}", value)]
        return [str(self._runner), command, *words, *self.inputs(), *options]

    def run(self, command: str, *options: str, **changed: str) -> Measurement:
        argv = self.argv(command, *options, **changed)
        ended = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
        assert ended.returncode == 0, ended.stderr
        assert ended.stdout == ""
        assert not list(self._directory.glob("*.partial"))
        return decode(Measurement, json.loads(self.result.read_text()), "the runner's result")

    def predict(self, **changed: str) -> tuple[Measurement, list[np.ndarray]]:
        """The measurement, and each output as `[tensor, ...]`."""
        directory = self._directory / "the outputs"
        directory.mkdir(exist_ok=True)
        found = self.run("predict", "--outputs", str(directory), **changed)
        arrays = []
        for file in found.outputs:
            data = np.fromfile(file.path, dtype=file.spec.dtype)
            arrays.append(data.reshape(file.count, *file.spec.shape))
        return found, arrays

    def reference(self) -> list[np.ndarray]:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(self.path, options, providers=["CPUExecutionProvider"])
        count = len(next(iter(self.arrays.values())))
        feeds = [{name: np.asarray(array[i]) for name, array in self.arrays.items()} for i in range(count)]
        runs = [session.run(None, feed) for feed in feeds]
        return [np.stack(outputs) for outputs in zip(*runs, strict=True)]


def save(path: Path, nodes: list, inputs: list, outputs: list, weights: dict[str, np.ndarray] | None = None) -> None:
    initializers = [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()]
    graph = helper.make_graph(nodes, "g", inputs, outputs, initializers)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


@pytest.fixture
def convolution(tmp_path: Path, runner: Path, library: Path) -> Model:
    """8x16x16 in, 16x16x16 out."""
    generator = np.random.default_rng(0)
    save(
        tmp_path / "a model.onnx",
        [helper.make_node("Conv", ["x", "w"], ["c"], pads=[1] * 4), helper.make_node("Relu", ["c"], ["y"])],
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 8, 16, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 16, 16, 16])],
        {"w": generator.normal(size=(16, 8, 3, 3)).astype(np.float32)},
    )
    arrays = {"x": generator.normal(size=(FEED_COUNT, 1, 8, 16, 16)).astype(np.float32)}
    return Model(tmp_path / "a model.onnx", arrays, runner, library)


def test_a_measurement_has_what_the_plan_asks_for(convolution: Model) -> None:
    found = convolution.run("measure", "--laps", "3", "--turn", "4", "--first-lap", "7", "--warmup", "12")

    assert (found.version, found.status, found.reason) == (WIRE_VERSION, "ok", None)
    assert found.provider == "CPUExecutionProvider"
    assert found.runtime_version == onnxruntime.__version__
    assert found.warm_up is not None and found.warm_up.runs >= 12
    assert found.cold_ns is not None and found.load_ns is not None and found.first_ns is not None
    assert found.cold_ns > found.load_ns + found.first_ns
    assert [turn.lap for turn in found.turns] == [7, 8, 9]
    assert all(4 <= len(turn.samples_ns) <= 200 for turn in found.turns)


def test_a_turn_tells_what_else_happened_meanwhile(convolution: Model) -> None:
    found = convolution.run("measure", "--laps", "4")

    starts = [turn.started_ns for turn in found.turns]
    assert starts == sorted(starts) and starts[0] > 0
    for turn in found.turns:
        assert turn.wall_ns is not None and turn.cpu_ns is not None
        assert 0 < sum(turn.samples_ns) <= turn.wall_ns
        # One thread can use no more than one CPU; the two clocks are read one after the other.
        assert 0 < turn.cpu_ns <= turn.wall_ns + 1_000_000
        assert turn.waited_ns is None or turn.waited_ns >= 0
        assert turn.busy_ns is None or turn.busy_ns >= 0


def test_the_longest_time_ends_a_measurement(convolution: Model) -> None:
    found = convolution.run("measure", "--laps", "1000", "--max-time-s", "0")

    assert (found.status, found.turns) == ("ok", ())


def test_no_warm_up_is_steady_as_in_the_agent(convolution: Model) -> None:
    found = convolution.run("measure", "--warmup", "0", "--laps", "1")

    assert found.warm_up is not None
    assert (found.warm_up.runs, found.warm_up.steady) == (0, True)


def test_memory_rises_with_the_model_by_its_weights(tmp_path: Path, runner: Path, library: Path) -> None:
    # 64 MB, which are copied when they are packed for the matrix product.
    weights = np.random.default_rng(0).normal(size=(4096, 4096)).astype(np.float32)
    save(
        tmp_path / "m.onnx",
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4096])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4096])],
        {"w": weights},
    )
    model = Model(tmp_path / "m.onnx", {"x": np.ones((1, 1, 4096), np.float32)}, runner, library)

    memory = model.run("measure", "--laps", "1").memory

    assert memory is not None
    assert "VmHWM" in memory.method
    # A runtime needs some MB by itself, the model its weights at least once.
    assert memory.baseline_bytes > 2**20
    assert memory.loaded_bytes - memory.baseline_bytes >= weights.nbytes
    assert memory.peak_bytes >= memory.loaded_bytes


def test_predictions_are_those_of_python_to_the_bit(convolution: Model) -> None:
    found, (output,) = convolution.predict()
    (reference,) = convolution.reference()

    assert found.status == "ok"
    assert [(file.spec.name, file.spec.dtype, file.count) for file in found.outputs] == [("y", "float32", FEED_COUNT)]
    assert output.tobytes() == reference.tobytes()


def test_two_inputs_and_two_outputs_of_several_types_keep_their_names(
    tmp_path: Path, runner: Path, library: Path
) -> None:
    # TensorFlow's names have colons; quotes, backslashes and other scripts are allowed as well.
    first, second, picked, total = "input ids:0", 'the "scale"\\', "pické:0\n", "total"
    save(
        tmp_path / "m.onnx",
        [
            helper.make_node("Gather", ["table", first], [picked]),
            helper.make_node("Cast", [first], ["as_float"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["as_float", second], ["scaled"]),
            helper.make_node("Cast", ["scaled"], [total], to=TensorProto.INT64),
        ],
        [
            helper.make_tensor_value_info(first, TensorProto.INT64, [1, "length"]),
            helper.make_tensor_value_info(second, TensorProto.FLOAT, []),
        ],
        [
            helper.make_tensor_value_info(picked, TensorProto.UINT8, None),
            helper.make_tensor_value_info(total, TensorProto.INT64, None),
        ],
        {"table": np.arange(40, dtype=np.uint8).reshape(10, 4)},
    )
    generator = np.random.default_rng(0)
    arrays = {
        first: generator.integers(0, 10, size=(FEED_COUNT, 1, 6)),
        second: np.array([1.5, -2.0, 1e6], np.float32),
    }
    model = Model(tmp_path / "m.onnx", arrays, runner, library)

    found, outputs = model.predict()

    assert [(file.spec.name, file.spec.dtype, file.spec.shape) for file in found.outputs] == [
        (picked, "uint8", (1, 6, 4)),
        (total, "int64", (1, 6)),
    ]
    for output, reference in zip(outputs, model.reference(), strict=True):
        np.testing.assert_array_equal(output, reference)
    assert model.run("measure", "--laps", "1").status == "ok"


@pytest.mark.parametrize("dtype", [*ITEM_BYTES, "uint16", "uint32", "uint64"])
def test_every_type_passes_through_unchanged(tmp_path: Path, runner: Path, library: Path, dtype: str) -> None:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    save(
        tmp_path / "m.onnx",
        [helper.make_node("Identity", ["x"], ["y"])],
        [helper.make_tensor_value_info("x", kind, [2, 3])],
        [helper.make_tensor_value_info("y", kind, [2, 3])],
    )
    array = np.arange(FEED_COUNT * 6).reshape(FEED_COUNT, 2, 3).astype(dtype)

    found, (output,) = Model(tmp_path / "m.onnx", {"x": array}, runner, library).predict()

    assert found.outputs[0].spec.dtype == dtype
    assert output.tobytes() == array.tobytes()


def test_an_output_that_changes_its_shape_is_refused(tmp_path: Path, runner: Path, library: Path) -> None:
    save(
        tmp_path / "m.onnx",
        [helper.make_node("NonZero", ["x"], ["y"])],
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4])],
        [helper.make_tensor_value_info("y", TensorProto.INT64, None)],
    )
    array = np.array([[1, 1, 0, 0], [1, 1, 1, 0]], np.float32)

    found, _ = Model(tmp_path / "m.onnx", {"x": array}, runner, library).predict()

    assert (found.status, found.outputs) == ("failed", ())
    assert found.reason == "output y changed its shape or dtype between inputs"


def test_a_missing_model_fails_with_its_path(convolution: Model) -> None:
    missing = str(convolution.path.with_name("missing.onnx"))

    found = convolution.run("measure", model=missing)

    assert found.status == "failed"
    assert found.reason is not None and missing in found.reason and "loading the model" in found.reason
    assert found.runtime_version == onnxruntime.__version__


def test_a_wrong_shape_fails_with_what_was_loaded_kept(convolution: Model) -> None:
    convolution.arrays["x"] = convolution.arrays["x"].reshape(FEED_COUNT, 1, 8, 8, 32)

    found = convolution.run("measure")

    assert found.status == "failed"
    assert found.reason is not None and "invalid dimensions for input: x" in found.reason
    assert found.load_ns is not None
    assert found.turns == ()


def test_an_unknown_input_fails_with_its_name(convolution: Model) -> None:
    convolution.arrays["elsewhere"] = convolution.arrays.pop("x")

    found = convolution.run("measure")

    assert found.status == "failed"
    assert found.reason is not None and "elsewhere" in found.reason


def test_a_file_cut_short_fails_before_the_model_is_loaded(convolution: Model) -> None:
    argv = convolution.argv("measure")
    raw = convolution.path.with_name("input 0.raw")
    raw.write_bytes(raw.read_bytes()[:-4])

    subprocess.run(argv, check=True, timeout=120)

    found = decode(Measurement, json.loads(convolution.result.read_text()))
    # 1x8x16x16 float32.
    assert found.reason == f"{raw} has {3 * 8192 - 4} bytes, expected 3 tensors of 8192"
    assert found.load_ns is None


def test_what_is_no_library_fails_with_its_path(convolution: Model) -> None:
    found = convolution.run("measure", library=str(convolution.path))

    assert found.status == "failed"
    assert found.reason is not None and str(convolution.path) in found.reason
    assert found.runtime_version is None


def test_a_library_of_something_else_is_named(convolution: Model) -> None:
    found = convolution.run("measure", library="libm.so.6")

    assert found.reason == "libm.so.6 is not ONNX Runtime: it has no OrtGetApiBase"


@pytest.mark.parametrize("version", ["1.15.1", "2.0.0", "nightly"])
def test_a_version_that_is_not_known_is_refused(convolution: Model, version: str) -> None:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs cc to make a library")
    source = (
        f'static const char *version(void) {{ return "{version}"; }}\n'
        "static const void *api(unsigned wanted) { (void)wanted; return 0; }\n"
        "static const struct { const void *(*api)(unsigned); const char *(*version)(void); } base = {api, version};\n"
        "const void *OrtGetApiBase(void) { return &base; }\n"
    )
    library = convolution.path.with_name("libonnxruntime.so")
    subprocess.run([compiler, "-shared", "-fPIC", "-x", "c", "-o", library, "-"], input=source, text=True, check=True)

    found = convolution.run("measure", library=str(library))

    assert found.reason == f"{library} is ONNX Runtime {version}, expected 1.16 or a newer 1.x"


def test_a_crash_is_a_result(convolution: Model) -> None:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs cc to make a library")
    library = convolution.path.with_name("libonnxruntime.so")
    source = "void abort(void);\nconst void *OrtGetApiBase(void) { abort(); }\n"
    subprocess.run([compiler, "-shared", "-fPIC", "-x", "c", "-o", library, "-"], input=source, text=True, check=True)

    found = convolution.run("measure", library=str(library))

    assert found.status == "failed"
    assert found.reason == "the process crashed (SIGABRT) while loading the library"


def test_a_result_that_cannot_be_written_is_said_before_the_work(convolution: Model) -> None:
    argv = convolution.argv("measure", result="/nonexistent/result.json", model="/nonexistent/model.onnx")

    ended = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)

    assert ended.returncode == 3
    assert ended.stderr == "ort_runner: cannot write /nonexistent/result.json.partial: No such file or directory\n"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--laps", "many"], "--laps: `many` is not a whole number"),
        (["--turn-s", "-1"], "--turn-s: `-1` is not a number of seconds"),
        (["--outputs", "here"], "--outputs: unknown"),
        (["--laps"], "--laps: unknown, or a value is missing"),
        (["--input", "x", "string", "1", "1", "file"], "--input x: unknown dtype `string`"),
        (["--input", "x", "int8", "1x", "1", "file"], "`1x` is not a shape"),
        (["--input", "x", "int8", "-1x3", "1", "file"], "`-1x3` is not a shape"),
        (["--input", "x", "int8", "9999999999x9999999999", "1", "file"], "is too large"),
    ],
)
def test_wrong_usage_is_named(convolution: Model, options: list[str], said: str) -> None:
    ended = subprocess.run(convolution.argv("measure", *options), capture_output=True, text=True, check=False)

    assert ended.returncode == 2
    assert said in ended.stderr.splitlines()[0]


def test_several_take_turns_where_each_stops_before_its_own(convolution: Model) -> None:
    """As a script on the device would have it: kill -CONT, wait for state T in /proc/PID/stat."""
    results = [convolution.path.with_name(f"result{index}.json") for index in range(2)]
    options = ["--stop-before-turns", "--laps", "3", "--origin-ns", "0"]
    processes = [subprocess.Popen(convolution.argv("measure", *options, result=str(path))) for path in results]
    try:
        for process in processes:
            os.waitpid(process.pid, os.WUNTRACED)
        before_ns = time.perf_counter_ns()
        for _ in range(3):
            for process in processes:
                os.kill(process.pid, signal.SIGCONT)
                os.waitpid(process.pid, os.WUNTRACED)
    finally:
        for process in processes:
            process.kill()
            # Reaped above where all went well, which Popen is not told.
            process.wait()

    first, second = (decode(Measurement, json.loads(path.read_text())) for path in results)
    starts = [turn.started_ns for pair in zip(first.turns, second.turns, strict=True) for turn in pair]
    assert len(starts) == 6
    assert starts == sorted(starts)
    # Python's is the same clock, from the same origin.
    assert starts[0] >= before_ns


def test_a_build_is_used_again(tmp_path: Path) -> None:
    built = build_runner(MACHINE, tmp_path)
    stamp = built.stat().st_mtime_ns

    assert build_runner(MACHINE, tmp_path) == built
    assert built.stat().st_mtime_ns == stamp
    assert [path.name for path in tmp_path.iterdir() if path.name != "zig"] == [built.name]


def test_the_source_compiles_without_a_warning(tmp_path: Path) -> None:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs cc")
    options = ["-std=c11", "-O2", "-Wall", "-Wextra", "-Wpedantic", "-Werror"]
    subprocess.run([compiler, *options, "-o", tmp_path / "runner", SOURCE, "-ldl"], check=True)


@pytest.mark.parametrize("machine", ["x86_64", "aarch64", "armv7l"])
def test_zig_builds_for_other_machines(tmp_path: Path, machine: str) -> None:
    pytest.importorskip("ziglang", reason="needs zig's compiler (pip install ziglang)")

    built = build_runner(machine, tmp_path)

    # e_machine at byte 18 of an ELF header: 62 is x86-64, 183 AArch64, 40 ARM (the ELF specifications).
    assert int.from_bytes(built.read_bytes()[18:20], "little") == {"x86_64": 62, "aarch64": 183, "armv7l": 40}[machine]


def test_another_machine_without_zig_says_what_to_install(tmp_path: Path) -> None:
    if importlib.util.find_spec("ziglang") is not None:
        pytest.skip("needs to be without zig")
    other = "x86_64" if MACHINE != "x86_64" else "aarch64"

    with pytest.raises(EnvironmentFailure, match=f"no C compiler here builds for {other} Linux") as failure:
        build_runner(other, tmp_path)

    assert failure.value.hint == "pip install ziglang"


def test_a_machine_that_is_not_known_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFailure, match="not built for `mips`"):
        build_runner("mips", tmp_path)
    with pytest.raises(EnvironmentFailure, match="not built for `mips`"):
        fetch_library("mips", tmp_path)
