"""Runtimes that are not there say what installs them, and what a runtime cannot be fed is said before it is tried."""

# ruff: noqa: F811

from __future__ import annotations

import platform
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import onnxruntime
import pytest

from edgebench.agent.conductor import conduct
from edgebench.agent.environment import switch_telemetry_off
from edgebench.agent.feeds import Tensor
from edgebench.agent.runtimes import Unsupported, find, on_gpu
from edgebench.agent.wire import Job, TensorSpec
from edgebench.errors import StepError, UsageError
from edgebench.exporters.chain import plan_steps
from edgebench.exporters.converter import convert
from edgebench.measure.subjects import RUNTIMES, USUAL_RUNTIMES
from tests.unit.test_agent import _round, job  # noqa: F401

ROOT = Path(__file__).resolve().parents[2]
ON_PIP = {
    "openvino": "pip install openvino",
    "ncnn": "pip install ncnn",
    "executorch": "pip install executorch",
    "onnxruntime-openvino": "pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime-openvino",
    "onnxruntime-xnnpack": "build onnxruntime with `./build.sh --use_xnnpack --build_wheel`",
    "onnxruntime-qnn": "pip install onnxruntime-qnn",
    "torch-aot": "pip install 'edgebench[torch]'",
}
PROVIDERS = {"onnxruntime-openvino": "OpenVINOExecutionProvider", "onnxruntime-xnnpack": "XnnpackExecutionProvider"}


@pytest.mark.parametrize(("runtime", "remedy"), ON_PIP.items())
def test_a_runtime_without_its_library_ends_with_what_installs_it(runtime: str, remedy: str) -> None:
    code = (
        "import sys\n"
        "from edgebench.agent.runtimes import Unsupported, find\n"
        "try:\n    find(sys.argv[1]).load_library()\n"
        "except Unsupported as error:\n    print(error)\n"
    )
    # Without site-packages (-S) no library is installed.
    done = subprocess.run(
        [sys.executable, "-S", "-c", code, runtime], cwd=ROOT, capture_output=True, text=True, check=True
    )

    assert done.stdout.rstrip().endswith(remedy)
    assert " is not installed: " in done.stdout


@pytest.mark.parametrize(("runtime", "provider"), PROVIDERS.items())
def test_an_onnxruntime_without_the_provider_is_refused_by_name_and_version(runtime: str, provider: str) -> None:
    switch_telemetry_off()
    if provider in onnxruntime.get_available_providers():
        pytest.skip(f"needs an onnxruntime without {provider}")

    with pytest.raises(Unsupported) as refused:
        find(runtime).load_library()

    assert f"{onnxruntime.__version__} has no {provider}: " in str(refused.value)
    assert str(refused.value).endswith(ON_PIP[runtime])


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="needs x86-64, where QNN simulates")
def test_a_simulated_npu_is_not_measured() -> None:
    pytest.importorskip("onnxruntime_qnn", reason="needs onnxruntime-qnn (pip install onnxruntime-qnn)")

    with pytest.raises(Unsupported, match="only simulates the NPU on x86-64"):
        find("onnxruntime-qnn").load_library()


@pytest.mark.parametrize("runtime", sorted(ON_PIP))
def test_each_is_known_to_bench_with_the_formats_that_it_opens(runtime: str) -> None:
    assert RUNTIMES[runtime] == find(runtime).FORMATS
    assert not on_gpu(runtime)


def test_what_another_runtime_opens_too_is_measured_by_these_only_when_they_are_asked_for() -> None:
    assert {"ncnn", "executorch"} <= USUAL_RUNTIMES.keys()
    assert not USUAL_RUNTIMES.keys() & (ON_PIP.keys() - {"ncnn", "executorch"})


@pytest.mark.parametrize(
    ("dtype", "shape"),
    [("float32", (2, 3, 4, 4)), ("int64", (1, 8)), ("float32", (1,)), ("float32", (1, 1, 1, 1, 1, 1))],
)
def test_ncnn_is_not_fed_a_batch_or_another_type(dtype: str, shape: tuple[int, ...]) -> None:
    tensor = Tensor(TensorSpec("x", shape, dtype), memoryview(b""))

    with pytest.raises(Unsupported) as refused:
        find("ncnn").prepare({"x": tensor})

    assert f"`x` is {dtype} {list(shape)}" in str(refused.value)


@pytest.mark.parametrize(
    ("source", "formats", "steps"),
    [
        ("source", ("ncnn",), ["ncnn"]),
        ("onnx-source", ("ncnn",), ["onnx", "onnx-sim", "ncnn"]),
        ("source", ("executorch-int8",), ["torch-export", "executorch-int8"]),
        ("source", ("ort-int8",), ["onnx", "onnx-sim", "onnx-int8", "ort-int8"]),
        ("onnx-source", ("onnx-w8", "onnx"), ["onnx", "onnx-w8"]),
    ],
)
def test_what_a_format_is_made_from_depends_on_the_source(
    source: str, formats: tuple[str, ...], steps: list[str]
) -> None:
    assert [step.format for step in plan_steps(formats, source)] == steps


def test_an_onnx_file_cannot_become_what_torch_alone_makes() -> None:
    with pytest.raises(UsageError, match="an ONNX source cannot become `executorch`"):
        plan_steps(("executorch",), "onnx-source")


def test_a_converter_gives_what_it_printed(tmp_path: Path) -> None:
    assert convert("pnnx", [sys.executable, "-c", "import os; print(os.getcwd())"], tmp_path).strip() == str(
        tmp_path.resolve()
    )


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import sys; print('first', file=sys.stderr); sys.exit('no such layer')", "ended with 1: no such layer"),
        (
            "import sys; print('  what():  no such tensor\\nframe #0: 0x1', file=sys.stderr); sys.exit(134)",
            "ended with 134: no such tensor",
        ),
        ("import os; os.kill(os.getpid(), 9)", "was killed by signal 9: it said nothing"),
    ],
)
def test_a_converter_that_fails_is_a_failed_step_with_its_last_words(code: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(StepError, match=reason):
        convert("pnnx", [sys.executable, "-c", code], tmp_path)


def test_a_file_that_does_not_say_its_inputs_is_refused(job: Job, tmp_path: Path) -> None:
    (only,) = conduct(_round(replace(job, feeds=())), str(tmp_path / "scratch")).measurements

    assert only.status == "unsupported"
    assert "does not say what it is fed with: give the bundle" in (only.reason or "")
