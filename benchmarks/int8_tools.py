"""One quantizer on one fp32 ONNX file, run by the interpreter of the environment that the quantizer is installed in.

    PYTHON benchmarks/int8_tools.py TOOL MODEL.onnx CALIBRATION.npz OUT.onnx

The calibration inputs are the array `x` of the file, float32 `[N, C, H, W]`, and are fed one at a time. Each tool is
called as its documentation shows, with its own defaults save for what its name here says. `edgebench` is measured as
its users call it too, with what it proves on the way.
"""

from __future__ import annotations

import resource
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

__all__ = ["ENVIRONMENTS", "TOOLS"]

Feed = dict[str, Any]


class Inputs:
    """The calibration inputs, as every quantizer here but NNCF wants them: `get_next` until None, then `rewind`."""

    def __init__(self, model: Path, calibration: Path) -> None:
        import numpy as np
        import onnx

        graph = onnx.load(model, load_external_data=False).graph
        weights = {tensor.name for tensor in graph.initializer}
        self.name = next(value.name for value in graph.input if value.name not in weights)
        self.transformer = {node.op_type for node in graph.node} >= {"Softmax", "MatMul"}
        self._x = np.load(calibration)["x"]
        self._next = 0

    def __len__(self) -> int:
        return len(self._x)

    def __iter__(self) -> Iterator[Feed]:
        for index in range(len(self._x)):
            yield {self.name: self._x[index : index + 1]}

    def get_next(self) -> Feed | None:
        if self._next == len(self._x):
            return None
        self._next += 1
        return {self.name: self._x[self._next - 1 : self._next]}

    def rewind(self) -> None:
        self._next = 0


def fp32(model: Path, calibration: Path, out: Path) -> None:
    """No quantizer: plain inference over the calibration inputs, which time and memory are compared with."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 0
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    for feed in Inputs(model, calibration):
        session.run(None, feed)
    shutil.copyfile(model, out)


def edgebench(model: Path, calibration: Path, out: Path) -> None:
    """This project, with its defaults."""
    from edgebench import export

    with tempfile.TemporaryDirectory() as directory:
        made = export(
            model, Path(directory) / "model.eb", formats=("onnx", "onnx-int8"), calib=f"npz:{calibration}",
            samples=len(Inputs(model, calibration)), preprocess="none",
        )  # fmt: skip
        artifact = made.bundle.artifacts[-1]
        for note in artifact.notes:
            print(f"note: {note}")
        if artifact.seconds is not None and artifact.peak_rss_bytes is not None:
            # The rest is what the import and the proofs take.
            print(f"note: its step alone: {artifact.seconds:.1f} s, {artifact.peak_rss_bytes / 1e6:.0f} MB")
        if artifact.file is None:
            raise SystemExit(f"{artifact.status}: {artifact.reason}")
        if artifact.status != "ok":
            # What failed its parity alone is there, and is measured: the table shall show it.
            print(f"note: {artifact.status}: {artifact.reason}")
        shutil.copyfile(made.path / artifact.file, out)


def onnxruntime_default(model: Path, calibration: Path, out: Path) -> None:
    """`quantize_static` with nothing but its required arguments, after the preprocessing that its guide asks for."""
    _quantize_static(model, calibration, out)


def onnxruntime_u8s8(model: Path, calibration: Path, out: Path) -> None:
    """`quantize_static` with unsigned activations and signed weights per channel."""
    from onnxruntime.quantization import QuantType

    _quantize_static(
        model, calibration, out, activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, per_channel=True
    )


def _quantize_static(model: Path, calibration: Path, out: Path, **options: Any) -> None:
    from onnxruntime.quantization import quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as directory:
        prepared = Path(directory) / "prepared.onnx"
        quant_pre_process(str(model), str(prepared))
        quantize_static(str(prepared), str(out), Inputs(model, calibration), **options)


def nncf(model: Path, calibration: Path, out: Path) -> None:
    """`nncf.quantize` over all inputs; a transformer is named as one, as its guide asks."""
    import nncf
    import onnx

    inputs = Inputs(model, calibration)
    kind = nncf.ModelType.TRANSFORMER if inputs.transformer else None
    dataset = nncf.Dataset(list(inputs))
    quantized = nncf.quantize(onnx.load(model), dataset, subset_size=len(inputs), model_type=kind)
    onnx.save(quantized, out)


def onnx_neural_compressor(model: Path, calibration: Path, out: Path) -> None:
    """`quantize` with a `StaticQuantConfig` over all inputs."""
    from onnx_neural_compressor.quantization import config, quantize

    inputs = Inputs(model, calibration)
    settings = config.StaticQuantConfig(calibration_data_reader=inputs, calibration_sampling_size=len(inputs))
    quantize(str(model), str(out), settings)


def olive_default(model: Path, calibration: Path, out: Path) -> None:
    """The pass OnnxStaticQuantization with its defaults."""
    _olive(model, calibration, out, {})


def olive_u8s8(model: Path, calibration: Path, out: Path) -> None:
    """The pass OnnxStaticQuantization with unsigned activations and signed weights per channel."""
    _olive(model, calibration, out, {"activation_type": "uint8", "precision": "int8", "per_channel": True})


def _olive(model: Path, calibration: Path, out: Path, options: dict[str, Any]) -> None:
    from olive.data.config import DataComponentConfig, DataConfig
    from olive.data.registry import Registry
    from olive.hardware.accelerator import DEFAULT_CPU_ACCELERATOR
    from olive.model import ONNXModelHandler
    from olive.passes.olive_pass import create_pass_from_dict
    from olive.passes.onnx.quantization import OnnxStaticQuantization

    inputs = list(Inputs(model, calibration))

    @Registry.register_dataset()  # type: ignore[untyped-decorator]
    def calibration_inputs(**_: Any) -> list[tuple[Feed, int]]:
        return [(feed, 0) for feed in inputs]

    options["data_config"] = DataConfig(
        name="calibration",
        load_dataset_config=DataComponentConfig(type="calibration_inputs"),
        pre_process_data_config=DataComponentConfig(type="skip_pre_process"),
        dataloader_config=DataComponentConfig(type="no_auto_batch_dataloader"),
    )
    with tempfile.TemporaryDirectory() as directory:
        pass_ = create_pass_from_dict(
            OnnxStaticQuantization, options, disable_search=True, accelerator_spec=DEFAULT_CPU_ACCELERATOR
        )
        made = pass_.run(ONNXModelHandler(str(model)), f"{directory}/out")
        shutil.copyfile(made.model_path, out)


TOOLS: dict[str, Callable[[Path, Path, Path], None]] = {
    "fp32": fp32,
    "edgebench": edgebench,
    "onnxruntime": onnxruntime_default,
    "onnxruntime-u8s8": onnxruntime_u8s8,
    "nncf": nncf,
    "onnx-neural-compressor": onnx_neural_compressor,
    "olive": olive_default,
    "olive-u8s8": olive_u8s8,
}
# The environment that a tool runs in, where that is not the benchmark's own.
ENVIRONMENTS = {tool: tool.removesuffix("-u8s8") for tool in TOOLS if tool not in ("fp32", "edgebench")}


def _peak_bytes() -> int:
    """The highest resident memory of this process, or of a child of its where that is more.

    Not the caller's `wait4`: Linux counts there what a child held before it became another program, which is a copy of
    its parent's memory.
    """
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    status = Path("/proc/self/status")
    if not status.is_file():
        return int(max(children, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss))
    peak = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
    return 1024 * max(children, int(peak.split()[1]))


if __name__ == "__main__":
    TOOLS[sys.argv[1]](*map(Path, sys.argv[2:5]))
    print(f"peak: {_peak_bytes()}")
