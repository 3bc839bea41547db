"""GPU runtimes with the real libraries: on a GPU where there is one, and else how they refuse."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

import edgebench
from edgebench.agent.codec import decode, encode
from edgebench.agent.conductor import conduct
from edgebench.agent.feeds import Feed, Tensor
from edgebench.agent.probes import nvml
from edgebench.agent.runtimes import Unsupported, find
from edgebench.agent.runtimes.torchscript_cuda import TorchScriptGpuSession
from edgebench.agent.wire import WIRE_VERSION, FeedFile, Job, Measurement, Round, RoundResult, TensorSpec
from edgebench.types import BenchSettings
from tests.integration.conftest import ROOT

SPEC = TensorSpec("x", (1, 3, 64, 64), "float32")
FEED_COUNT = 2

GPU = torch.cuda.is_available()
needs_gpu = pytest.mark.skipif(not GPU, reason="needs an NVIDIA GPU and a torch with CUDA")
# `InferenceSession` may fail still, and that is for the tests to show.
needs_ort_gpu = pytest.mark.skipif(
    not GPU or "CUDAExecutionProvider" not in onnxruntime.get_available_providers(),
    reason="needs an NVIDIA GPU, and onnxruntime-gpu in place of onnxruntime: "
    "pip uninstall -y onnxruntime && pip install 'onnxruntime-gpu[cuda,cudnn]'",
)


@pytest.fixture(autouse=True)
def agent_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers are started in the test's directory."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


@pytest.fixture
def arrays() -> np.ndarray:
    """Two inputs."""
    return np.random.default_rng(0).standard_normal((FEED_COUNT, *SPEC.shape)).astype(np.float32)


@pytest.fixture
def feeds(arrays: np.ndarray, tmp_path: Path) -> tuple[FeedFile, ...]:
    """The two inputs as a file."""
    path = tmp_path / "x.raw"
    path.write_bytes(arrays.tobytes())
    return (FeedFile(SPEC, str(path), FEED_COUNT),)


@pytest.fixture
def module() -> nn.Module:
    """Two convolutions and a matrix product; its answer is a dictionary in a tuple."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1))
            self.head = nn.Linear(32, 10)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
            seen = self.body(x).mean((2, 3))
            return self.head(seen), {"seen": seen}

    torch.manual_seed(0)
    return Net().eval()


@pytest.fixture
def script(module: nn.Module, tmp_path: Path) -> str:
    """The module as an archive."""
    path = str(tmp_path / "net.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(module, torch.zeros(SPEC.shape), strict=False), path)
    return path


@pytest.fixture
def onnx_file(tmp_path: Path) -> str:
    """A convolution, whose shape arithmetic onnxruntime keeps on the CPU, and an activation."""
    weights = np.random.default_rng(1).standard_normal((8, 3, 3, 3)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["c"], name="conv"), helper.make_node("Relu", ["c"], ["y"], name="relu")],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, SPEC.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 8, 62, 62))],
        [numpy_helper.from_array(weights, "w")],
    )
    return _saved(graph, tmp_path)


@pytest.fixture
def integer_file(tmp_path: Path) -> str:
    """A convolution of integers, for which onnxruntime has no kernel on CUDA."""
    weights = np.ones((8, 3, 3, 3), np.uint8)
    graph = helper.make_graph(
        [
            helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
            helper.make_node("ConvInteger", ["q", "w", "z"], ["i"]),
            helper.make_node("Cast", ["i"], ["y"], to=TensorProto.FLOAT),
        ],
        "integers",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, SPEC.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 8, 62, 62))],
        [numpy_helper.from_array(weights, "w")],
    )
    return _saved(graph, tmp_path)


def _saved(graph: Any, directory: Path) -> str:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, directory / "net.onnx")
    return str(directory / "net.onnx")


def _job(runtime: str, artifact: str, feeds: tuple[FeedFile, ...]) -> Job:
    return Job(WIRE_VERSION, "measure", artifact, runtime, 1, feeds)


def _measure(*jobs: Job, directory: Path, **changes: Any) -> RoundResult:
    result = conduct(Round(WIRE_VERSION, jobs, "a", **{"laps": 3, **changes}), str(directory / "scratch"))
    return decode(RoundResult, json.loads(json.dumps(encode(result))))


def _run(runtime: str, artifact: str, array: np.ndarray) -> list[np.ndarray]:
    """The outputs of one run in this process."""
    module = find(runtime)
    module.load_library()
    feed: Feed = {SPEC.name: Tensor(SPEC, memoryview(array.tobytes()))}
    session = module.open_session(artifact, 1)
    try:
        return [
            np.frombuffer(data, spec.dtype).reshape(spec.shape)
            for spec, data in session.named_outputs(session.run(module.prepare(feed)))
        ]
    finally:
        session.close()


# Without a GPU


@pytest.mark.skipif(GPU, reason="there is a GPU")
@pytest.mark.parametrize("runtime", ["onnxruntime-cuda", "onnxruntime-tensorrt", "torchscript-cuda"])
def test_without_a_gpu_each_runtime_refuses_and_says_what_to_do(
    runtime: str, script: str, onnx_file: str, feeds: tuple[FeedFile, ...], tmp_path: Path
) -> None:
    artifact = script if runtime == "torchscript-cuda" else onnx_file

    (only,) = _measure(_job(runtime, artifact, feeds), directory=tmp_path).measurements

    assert only.status == "unsupported"
    assert any(words in (only.reason or "") for words in ("pip ", "install it", "see `nvidia-smi", "unset it"))
    assert only.turns == ()


@pytest.mark.skipif(GPU, reason="there is a GPU")
def test_torch_says_why_it_has_no_cuda() -> None:
    with pytest.raises(Unsupported, match=r"^torch \S+ cannot use CUDA: "):
        find("torchscript-cuda").load_library()


def test_a_module_that_was_put_elsewhere_answers_in_host_memory_as_ever(script: str, arrays: np.ndarray) -> None:
    feed: Feed = {SPEC.name: Tensor(SPEC, memoryview(arrays[0].tobytes()))}
    prepared = find("torchscript-cuda").prepare(feed)
    module = find("torchscript").load_module(script, "cpu")
    session = TorchScriptGpuSession(torch, module, "cpu", "the CPU, for once")

    found = session.named_outputs(session.run(prepared))

    with torch.inference_mode():
        logits, rest = module(*prepared)
    assert [spec.shape for spec, _ in found] == [(1, 10), (1, 32)]
    assert [data for _, data in found] == [logits.numpy().tobytes(), rest["seen"].numpy().tobytes()]


# With one


def _is_whole(measured: Measurement) -> None:
    assert measured.status == "ok", measured.reason
    assert len(measured.turns) == 3
    parts = measured.parts
    assert parts is not None
    assert len(parts.to_device_ns) == len(parts.compute_ns) == len(parts.to_host_ns) > 0
    assert min(*parts.to_device_ns, *parts.compute_ns, *parts.to_host_ns) > 0
    # A convolution of 64 x 64 pixels on a GPU takes microseconds, or up to milliseconds with the launches; a clock in
    # other units, or one that does not wait, is out by thousands.
    assert 1e3 < sorted(parts.compute_ns)[len(parts.compute_ns) // 2] < 1e8


@needs_gpu
def test_torchscript_on_a_gpu_gives_the_cpus_answer(script: str, arrays: np.ndarray) -> None:
    for array in arrays:
        for found, expected in zip(
            _run("torchscript-cuda", script, array), _run("torchscript", script, array), strict=True
        ):
            # TF32 has 10 bits of mantissa.
            np.testing.assert_allclose(found, expected, atol=1e-2)


@needs_gpu
def test_torchscript_on_a_gpu_is_measured(script: str, feeds: tuple[FeedFile, ...], tmp_path: Path) -> None:
    result = _measure(*[_job("torchscript-cuda", script, feeds)] * 2, directory=tmp_path)

    for measured in result.measurements:
        _is_whole(measured)
        assert torch.cuda.get_device_name(0) in (measured.provider or "")
        assert (measured.gpu_memory_bytes or 0) > 1 << 20


@needs_gpu
@pytest.mark.skipif(nvml.open_gpu() is None or nvml.open_gpu(1) is not None, reason="needs one card that NVML tells of")
def test_a_gpus_state_and_energy_are_read(script: str, feeds: tuple[FeedFile, ...], tmp_path: Path) -> None:
    result = _measure(_job("torchscript-cuda", script, feeds), directory=tmp_path, sustained_s=4.0, window_s=2.0)

    assert all(state.gpu is not None for state in result.states)
    if result.energy_method is not None:
        (first, _) = result.measurements[0].windows
        assert first.energy is not None
        # No board takes less than 1 W or more than 2 kW.
        assert 1e3 < first.energy.microjoules / first.energy.span_ns * 1e6 < 2e6
        assert "the GPU board only" in result.energy_method


@needs_gpu
def test_torch_names_the_card_as_the_driver_does() -> None:
    session = TorchScriptGpuSession(torch, None, "cuda:0", "")
    if session.gpu_uuid is None:
        pytest.skip("this torch does not tell the card's uuid")
    assert nvml.why_not(uuid=session.gpu_uuid) == ""


@needs_ort_gpu
def test_onnxruntime_on_a_gpu_gives_the_cpus_answer(onnx_file: str, arrays: np.ndarray) -> None:
    for array in arrays:
        (found,), (expected,) = (_run(name, onnx_file, array) for name in ("onnxruntime-cuda", "onnxruntime"))
        np.testing.assert_allclose(found, expected, atol=3e-2)


@needs_ort_gpu
def test_onnxruntime_on_a_gpu_is_measured(onnx_file: str, feeds: tuple[FeedFile, ...], tmp_path: Path) -> None:
    result = _measure(*[_job("onnxruntime-cuda", onnx_file, feeds)] * 2, directory=tmp_path)

    for measured in result.measurements:
        _is_whole(measured)
        assert (measured.provider or "").startswith("CUDAExecutionProvider (2 of 2 nodes, ")


@needs_ort_gpu
def test_onnxruntime_refuses_a_model_that_the_gpu_has_no_kernel_for(
    integer_file: str, feeds: tuple[FeedFile, ...], tmp_path: Path
) -> None:
    (only,) = _measure(_job("onnxruntime-cuda", integer_file, feeds), directory=tmp_path).measurements

    assert only.status == "unsupported"
    assert "ConvInteger" in (only.reason or "")


@needs_ort_gpu
def test_onnxruntime_says_it_when_its_card_is_hidden(
    onnx_file: str, feeds: tuple[FeedFile, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")

    (only,) = _measure(_job("onnxruntime-cuda", onnx_file, feeds), directory=tmp_path).measurements

    assert only.status == "unsupported"
    assert "CUDA_VISIBLE_DEVICES=-1 leaves no device" in (only.reason or "")


@needs_ort_gpu
@pytest.mark.skipif(os.environ.get("EDGEBENCH_TENSORRT") != "1", reason="needs TensorRT, and EDGEBENCH_TENSORRT=1")
def test_tensorrt_is_measured(onnx_file: str, feeds: tuple[FeedFile, ...], tmp_path: Path) -> None:
    (only,) = _measure(_job("onnxruntime-tensorrt", onnx_file, feeds), directory=tmp_path).measurements

    _is_whole(only)
    assert (only.provider or "").startswith("TensorrtExecutionProvider (")


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler (apt install g++)")
def test_an_exported_program_is_compiled_and_answers_as_its_source(tiny_net: str, photos: str) -> None:
    exported = edgebench.export(
        tiny_net, "tiny.eb", formats=["torch-export", "onnx"], calib=photos, preprocess="cifar10"
    )
    assert {artifact.format: artifact.status for artifact in exported.bundle.artifacts} == {
        "torch-export": "ok",
        "onnx": "ok",
    }

    settings = BenchSettings(processes=1, warmup=1, iterations=5, max_wait_s=0)
    run = edgebench.bench(exported, data=photos, settings=settings, threads=[1])

    cells = {cell.runtime: cell for cell in run.cells}
    compiled = cells["torch-compiled"]
    assert compiled.status == "ok", compiled.reason
    assert compiled.provider == "inductor, CPU"
    assert compiled.accuracy is not None and cells["onnxruntime"].accuracy is not None
    assert compiled.accuracy.predictions == cells["onnxruntime"].accuracy.predictions
