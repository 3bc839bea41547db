"""GPU runtimes on a machine without a GPU: refusals in words, and whole rounds on a card that only seems to be there.

The onnxruntime of these rounds is the installed one, which is told that its CPU is called CUDA; the card is the C
stand-in of `test_nvml.py`.
"""
# ruff: noqa: F811

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgebench.agent.codec import decode, encode
from edgebench.agent.conductor import conduct
from edgebench.agent.probes import cuda
from edgebench.agent.runtimes import Unsupported, find, on_gpu
from edgebench.agent.runtimes.onnxruntime_cuda import BoundRun
from edgebench.agent.runtimes.onnxruntime_providers import placement
from edgebench.agent.visible_gpu import open_visible_gpu
from edgebench.agent.wire import Energy, Job, Measurement, Parts, RoundResult, Window
from tests.unit.test_agent import ROOT, _relu_model, _round, job  # noqa: F401
from tests.unit.test_nvml import GIB, UUID, _Driver, driver, install  # noqa: F401

GPU_RUNTIMES = ("onnxruntime-cuda", "onnxruntime-tensorrt", "torchscript-cuda")
CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
NO_LIBRARY = "/nowhere/libnvidia-ml.so.1"

# Stands in front of the installed onnxruntime and becomes it.
ONNXRUNTIME = """
import os, sys
from types import SimpleNamespace

fault = os.environ.get("FAULT")
del sys.modules["onnxruntime"]
sys.path.remove(os.path.dirname(__file__))
import onnxruntime as real

available = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
real.get_available_providers = lambda: available[2:] if fault == "cpu build" else available
real.package_name, real.cuda_version = "onnxruntime-gpu", "13.0"


class Binding(real.IOBinding):
    def bind_output(self, name, device, number):
        assert device == "cuda"
        if fault == "no binding":
            raise RuntimeError("cannot bind " + name)
        super().bind_output(name, "cpu", number)


class Value(real.OrtValue):
    @staticmethod
    def ortvalue_from_shape_and_type(shape, kind, device, number):
        assert device == "cuda"
        return real_value.ortvalue_from_shape_and_type(shape, kind, "cpu", number)


class Session(real.InferenceSession):
    def __init__(self, path, options, providers, enable_fallback):
        assert enable_fallback == 0
        if fault == "constructor":
            raise RuntimeError("CUDA failure 35")
        super().__init__(path, options, providers=["CPUExecutionProvider"])
        self._asked = [one if isinstance(one, str) else one[0] for one in providers]

    def get_providers(self):
        return (self._asked if fault != "silent" else []) + ["CPUExecutionProvider"]

    def get_provider_graph_assignment_info(self):
        found = super().get_provider_graph_assignment_info()
        if fault == "on the cpu":
            return found
        return [SimpleNamespace(ep_name=self._asked[0], get_nodes=part.get_nodes) for part in found]

    def io_binding(self):
        return Binding(self)


real_value, real.OrtValue, real.InferenceSession = real.OrtValue, Value, Session

if "CARD" in os.environ:
    from edgebench.agent.runtimes.onnxruntime_cuda import OrtGpuSession

    OrtGpuSession.gpu_uuid = os.environ["CARD"]
"""

LIBCUDA = """
#include <stdlib.h>
static int code(void) { const char *set = getenv("CU_INIT"); return set ? atoi(set) : 0; }
int cuInit(unsigned int flags) { return flags ? 1 : code(); }
int cuDriverGetVersion(int *version) {
    const char *set = getenv("CU_VERSION");
    *version = set ? atoi(set) : 12040;
    return 0;
}
int cuGetErrorString(int error, const char **text) { *text = error == 999 ? "unknown error" : "other"; return 0; }
"""


@pytest.fixture
def libcuda(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A driver of CUDA 12.4, which processes find where they look for one."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler: apt install gcc")
    directory = tmp_path / "libcuda"
    directory.mkdir()
    library = str(directory / "libcuda.so.1")
    subprocess.run([compiler, "-shared", "-fPIC", "-x", "c", "-o", library, "-"], input=LIBCUDA, text=True, check=True)
    monkeypatch.setenv("LD_LIBRARY_PATH", str(directory))
    return library


@pytest.fixture
def seeming_cuda(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers have an onnxruntime with CUDA."""
    (tmp_path / "seeming").mkdir()
    (tmp_path / "seeming" / "onnxruntime.py").write_text(ONNXRUNTIME)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'seeming'}:{ROOT}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE", raising=False)


def _measure(*jobs: Job, directory: Path, library: str = NO_LIBRARY, **changes: float) -> RoundResult:
    """A round, as it comes over the wire."""
    result = conduct(_round(*jobs, laps=2, **changes), str(directory / "scratch"), nvml_library=library)
    return decode(RoundResult, json.loads(json.dumps(encode(result))))


# Refusals


@pytest.mark.parametrize("runtime", GPU_RUNTIMES)
def test_a_gpu_runtime_is_found_and_known_as_one_without_its_library(runtime: str) -> None:
    module = find(runtime)
    assert on_gpu(runtime)
    # Beside what is optimised for the CPU.
    assert set(find(runtime.partition("-")[0]).FORMATS) - set(module.FORMATS) <= {"ort", "ort-int8"}


@pytest.mark.parametrize("runtime", ["onnxruntime", "torchscript", "null", "no such runtime"])
def test_others_are_not(runtime: str) -> None:
    assert not on_gpu(runtime)


@pytest.mark.parametrize("runtime", GPU_RUNTIMES)
def test_a_missing_library_is_unsupported_and_says_what_installs_it(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runtime: str
) -> None:
    for name in ("onnxruntime", "torch", "tensorrt"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('blocked')")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")

    result = _measure(replace(job, runtime=runtime), directory=tmp_path)

    (only,) = result.measurements
    assert only.status == "unsupported"
    assert "pip install" in (only.reason or "")
    assert [note for note in result.notes if "GPU's state and energy were not read: no NVIDIA driver" in note]


@pytest.mark.usefixtures("seeming_cuda", "libcuda")
@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("cpu build", "onnxruntime-gpu VERSION has no %s: pip uninstall -y onnxruntime onnxruntime-gpu"),
        ("silent", "%s did not load, and CPUExecutionProvider would have run the model: the driver"),
        ("constructor", "%s: the driver serves CUDA up to 12.4, and the library is built for CUDA 13"),
        ("on the cpu", "%s has no kernel for parts of this model, and its Relu would have run on the"),
    ],
)
@pytest.mark.parametrize("runtime", ["onnxruntime-cuda", "onnxruntime-tensorrt"])
def test_what_would_run_on_the_cpu_is_refused(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runtime: str, fault: str, words: str
) -> None:
    monkeypatch.setenv("FAULT", fault)

    (only,) = _measure(replace(job, runtime=runtime), directory=tmp_path).measurements

    provider = CUDA if runtime == "onnxruntime-cuda" else "TensorrtExecutionProvider"
    version = pytest.importorskip("onnxruntime").__version__
    assert only.status == "unsupported"
    assert (words % provider).replace("VERSION", version) in (only.reason or "")


@pytest.mark.usefixtures("seeming_cuda", "libcuda")
@pytest.mark.parametrize("fault", ["silent", "constructor"])
@pytest.mark.parametrize(
    ("runtime", "library", "package"),
    [
        ("onnxruntime-cuda", "cuda", "onnxruntime-gpu[cuda,cudnn]"),
        ("onnxruntime-tensorrt", "tensorrt", "tensorrt-cu13"),
    ],
)
def test_a_library_that_is_missing_is_named_with_what_installs_it(
    job: Job,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fault: str,
    runtime: str,
    library: str,
    package: str,
) -> None:
    monkeypatch.setenv("FAULT", fault)
    monkeypatch.setenv("CU_VERSION", "13020")

    (only,) = _measure(replace(job, runtime=runtime), directory=tmp_path).measurements

    assert only.status == "unsupported"
    assert f"libonnxruntime_providers_{library}.so: cannot open shared object file" in (only.reason or "")
    assert package in (only.reason or "")


@pytest.mark.usefixtures("seeming_cuda")
def test_no_driver_is_unsupported_before_a_model_is_loaded(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("libcuda.so.1", "libnvidia-ml.so.1"):
        (tmp_path / name).write_text("not a library")
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))

    (only,) = _measure(replace(job, runtime="onnxruntime-cuda"), directory=tmp_path).measurements

    assert only.status == "unsupported"
    assert (only.reason or "").startswith(f"{CUDA}: no NVIDIA driver (")


@pytest.mark.parametrize(
    ("nodes", "words"),
    [
        ({CUDA: ["Conv", "Relu"]}, "2 of 2 nodes"),
        ({CUDA: ["Conv", "Relu"], CPU: ["Shape", "Gather", "Shape"]}, "2 of 5 nodes, Gather Shape on the CPU"),
        ({CUDA: ["Conv"], "Other": ["Gemm"]}, "1 of 2 nodes, 1 on Other"),
        ({}, "0 of 0 nodes"),
    ],
)
def test_where_nodes_are_is_said(nodes: dict[str, list[str]], words: str) -> None:
    assert placement(CUDA, nodes) == words


@pytest.mark.parametrize(
    "kind",
    ["Conv", "ConvTranspose", "FusedConv", "Gemm", "MatMul", "MatMulNBits", "QLinearConv", "Attention", "LSTM", "GRU"],
)
def test_an_operator_that_computes_is_not_left_to_the_cpu(kind: str) -> None:
    with pytest.raises(Unsupported, match=f"its {kind} would have run on the CPU"):
        placement(CUDA, {CUDA: ["Relu"] * 99, CPU: [kind, "Shape"]})


def test_a_provider_that_has_no_node_is_refused() -> None:
    with pytest.raises(Unsupported, match="its Relu, Shape would have run on the CPU"):
        placement(CUDA, {CPU: ["Shape", "Relu"]})


# CUDA's driver


@pytest.mark.parametrize(
    ("code", "visible", "words"),
    [
        ("100", None, "the CUDA driver finds no device: see `nvidia-smi -L`"),
        ("100", "7", "CUDA_VISIBLE_DEVICES=7 leaves no device: unset it"),
        ("999", None, "the CUDA driver does not start (unknown error): see `nvidia-smi`"),
    ],
)
def test_a_driver_without_a_device_says_why(
    libcuda: str, monkeypatch: pytest.MonkeyPatch, code: str, visible: str | None, words: str
) -> None:
    monkeypatch.setenv("CU_INIT", code)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    assert cuda.no_driver(libcuda) == ""
    assert cuda.why_not(library=libcuda).startswith(words)


def test_a_driver_that_is_too_old_for_a_library_is_told_from_one_that_is_not(libcuda: str) -> None:
    assert cuda.why_not(13, library=libcuda).endswith("built for CUDA 13: install a newer driver")
    assert cuda.why_not(12, library=libcuda) == ""
    assert cuda.why_not(library=libcuda) == ""


# Which card


@pytest.mark.parametrize("visible", [None, "0", UUID, f"{UUID},GPU-1"])
def test_the_only_card_or_the_named_one_is_read(driver: _Driver, visible: str | None) -> None:
    gpu, why = open_visible_gpu(visible, library=driver.library)

    assert gpu is not None
    assert (gpu.uuid, why) == (UUID, "")
    assert driver.users == 1


@pytest.mark.parametrize(
    ("visible", "words"),
    [
        ("", "leaves no card"),
        ("-1", "leaves no card"),
        ("MIG-1", "names an instance"),
        ("GPU-0", "there is no card GPU-0"),
    ],
)
def test_no_card_is_guessed(driver: _Driver, visible: str, words: str) -> None:
    gpu, why = open_visible_gpu(visible, library=driver.library)

    assert gpu is None
    assert words in why
    assert driver.users == 0


@pytest.mark.parametrize("visible", [None, "0", "1"])
def test_of_several_cards_a_number_tells_nothing(driver: _Driver, visible: str | None) -> None:
    driver.set(device_count=2)

    gpu, why = open_visible_gpu(visible, library=driver.library)

    assert gpu is None
    assert "there are several cards: set CUDA_VISIBLE_DEVICES to the uuid" in why
    assert driver.users == 0


# Rounds


@contextmanager
def _working(driver: _Driver, *, watts: int, used: int) -> Iterator[None]:
    """The card takes power, and has memory of each process that this one started."""
    done = threading.Event()

    def work() -> None:
        started = time.monotonic()
        while not done.wait(0.01):
            driver.set(energy_mj=1000 + round((time.monotonic() - started) * watts * 1000))
            children = [
                int(child)
                for file in Path("/proc/self/task").glob("*/children")
                for child in (file.read_text() if file.exists() else "").split()
            ]
            driver.processes(*[(child, used) for child in children])

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@pytest.mark.usefixtures("seeming_cuda", "libcuda")
@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's list of a process's children")
def test_a_round_on_a_card_has_its_state_memory_energy_and_the_parts(job: Job, tmp_path: Path, driver: _Driver) -> None:
    gpu_job = replace(job, runtime="onnxruntime-cuda")

    with _working(driver, watts=20, used=3 * GIB):
        result = _measure(
            gpu_job, gpu_job, directory=tmp_path, library=driver.library, sustained_s=1.2, window_s=1.2, turn_s=0.6
        )

    for measured in result.measurements:
        assert measured.status == "ok", measured.reason
        assert measured.provider == f"{CUDA} (1 of 1 nodes, TF32 allowed)"
        assert (measured.runtime_version or "").endswith(" (onnxruntime-gpu, CUDA 13.0)")
        assert measured.gpu_memory_bytes == 3 * GIB
        assert "NVML" in (measured.gpu_memory_method or "")
        assert measured.memory is not None
        assert measured.parts is not None
        lengths = [len(getattr(measured.parts, f"{name}_ns")) for name in ("to_device", "compute", "to_host")]
        assert lengths == [20, 20, 20]
        # A turn of a small model is shorter than the counter can tell of.
        assert [turn.energy for turn in measured.turns] == [None, None]
        (window,) = measured.windows
        assert window.energy is not None
        # 20 W; the stand-in's counter moves every 10 ms or so.
        assert window.energy.microjoules / window.energy.span_ns * 1e3 == pytest.approx(20, rel=0.2)
        assert window.energy.runs == window.runs
    assert result.energy_method == "energy counter of the card NVIDIA H100 80GB HBM3 (NVML), the GPU board only"
    assert result.idle_microwatts == pytest.approx(20e6, rel=0.2)
    assert all(state.gpu is not None and state.gpu.sm_clock_mhz == 1410 for state in result.states)
    assert driver.users == 0


@pytest.mark.usefixtures("seeming_cuda", "libcuda")
def test_a_card_for_one_process_at_a_time_gets_one_at_a_time(job: Job, tmp_path: Path, driver: _Driver) -> None:
    driver.set(compute_mode=3, energy_code=3, power_code=3)
    gpu_job = replace(job, runtime="onnxruntime-cuda")

    result = _measure(gpu_job, gpu_job, directory=tmp_path, library=driver.library)

    first, second = sorted(result.measurements, key=lambda item: item.turns[0].started_ns)
    assert {turn.lap for turn in first.turns}.isdisjoint(turn.lap for turn in second.turns)
    assert [note for note in result.notes if "sudo nvidia-smi -c DEFAULT" in note]


@pytest.mark.usefixtures("seeming_cuda", "libcuda")
def test_of_several_cards_the_one_that_a_runtime_names_is_read_from_then_on(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, driver: _Driver
) -> None:
    driver.set(device_count=2)
    monkeypatch.setenv("CARD", UUID)

    result = _measure(replace(job, runtime="onnxruntime-cuda"), directory=tmp_path, library=driver.library)

    assert result.states[0].gpu is None
    assert result.states[-1].gpu is not None
    (note,) = [note for note in result.notes if "GPU" in note]
    assert note.startswith(
        "the GPU's energy was not read, and its state only once a runtime had named it: there are several cards"
    )


@pytest.mark.usefixtures("seeming_cuda", "libcuda")
def test_parts_that_cannot_be_taken_leave_the_turns_and_a_note(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAULT", "no binding")

    result = _measure(replace(job, runtime="onnxruntime-cuda"), directory=tmp_path)

    (only,) = result.measurements
    assert (only.status, len(only.turns), only.parts) == ("ok", 2, None)
    assert only.memory is not None
    words = "copies and computation of onnxruntime-cuda were not told apart: RuntimeError: cannot bind y"
    assert words in result.notes


def test_a_round_on_the_cpu_does_not_wake_a_card(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))

    result = _measure(job, directory=tmp_path)

    (only,) = result.measurements
    assert (only.status, only.parts, only.gpu_memory_bytes) == ("ok", None, None)
    assert all(state.gpu is None for state in result.states)
    # A round with a GPU job would say that there is no library.
    assert not [note for note in result.notes if "GPU" in note]


def test_bound_inputs_and_outputs_give_what_a_run_gives() -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(_relu_model(), providers=[CPU])
    feeds = [{"x": np.array([row], np.float32)} for row in ([-1, 2, -3, 4], [5, -6, 7, -8])]
    kept = [feed["x"].copy() for feed in feeds]
    bound = BoundRun(session, "cpu", feeds[0])

    for feed in (*feeds, feeds[0]):
        parts = bound.parts(feed)
        np.testing.assert_array_equal(bound.outputs, session.run(None, feed))
        assert all(part > 0 for part in parts)
    for feed, before in zip(feeds, kept, strict=True):
        np.testing.assert_array_equal(feed["x"], before)


def test_what_a_card_adds_to_a_measurement_comes_back_over_the_wire() -> None:
    measured = Measurement(
        3,
        "ok",
        windows=(Window(0, 10, 2, 5, 6, energy=Energy(7, 10, 2)),),
        parts=Parts("by hand", (1, 2), (30, 40), (5, 6)),
        gpu_memory_bytes=GIB,
        gpu_memory_method="by hand",
    )

    assert decode(Measurement, json.loads(json.dumps(encode(measured)))) == measured
