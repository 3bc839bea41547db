"""Which operators of a vision transformer may be int8 in onnxruntime, at what accuracy and speed; and its fusions.

    python benchmarks/vit_int8.py [MODEL.onnx --inputs INPUTS.npz] [--rounds 10]

Without MODEL: torchvision's vit_b_16 at random weights, for speed (its SQNR says little). INPUTS.npz holds `x`, float32
`[N, C, H, W]`: the first half calibrates (min-max), the other half is what SQNR and agreement with float32 are taken
on. All forms are loaded in one process with one thread each and take turns, so the ratios of CPU time are of one run.
"""

from __future__ import annotations

import argparse
import logging
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgebench.errors import StepError
from edgebench.quantize.dynamic import write_dynamic
from edgebench.quantize.weights import write_int8_weights

Array = NDArray[Any]
# What is quantized beside convolutions and products with weights, one after the other and all together.
_MORE: dict[str, tuple[str, ...]] = {
    "products with weights": (),
    "+ query x key, weights x value": ("products",),
    "+ Softmax": ("Softmax",),
    "+ LayerNorm": ("LayerNormalization",),
    "+ Gelu": ("Gelu",),
    "+ residual sums": ("Add",),
    "all of these": ("products", "Softmax", "LayerNormalization", "Gelu", "Add"),
}


def _forms(source: Path, inputs: Array, directory: Path) -> dict[str, Path]:
    """Files of all forms; what fails is left out with a line that says why."""
    fused = directory / "fused.onnx"
    makers: dict[str, Callable[[Path], Any]] = {
        f"static, {label}": partial(_static, source, inputs=inputs, more=more) for label, more in _MORE.items()
    }
    makers["int8 weights"] = partial(write_int8_weights, source)
    makers["dynamic"] = partial(write_dynamic, source, reduce_range=False)
    makers["fused by onnxruntime.transformers"] = partial(_fuse, source)
    makers["fused, dynamic"] = partial(write_dynamic, fused, reduce_range=False)
    makers["fused, static, products with weights"] = partial(_static, fused, inputs=inputs, more=())
    _fuse(source, fused)
    made = {"float32": source}
    for index, (label, make) in enumerate(makers.items()):
        out = directory / f"{index}.onnx"
        try:
            make(out)
        except (StepError, RuntimeError, ValueError, KeyError) as error:
            print(f"{label}: {error}", file=sys.stderr)
        else:
            made[label] = out
    return made


def _fuse(source: Path, out: Path) -> None:
    from onnxruntime.transformers import optimizer

    model = optimizer.optimize_model(str(source), model_type="vit", opt_level=0, use_gpu=False)
    print(f"fusions: {model.get_fused_operator_statistics()}", file=sys.stderr)
    model.save_model_to_file(str(out))


def _static(source: Path, out: Path, *, inputs: Array, more: tuple[str, ...]) -> None:
    import onnx
    from onnxruntime import quantization as q
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = out.with_suffix(".prepared.onnx")
    quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
    model = onnx.load(prepared)
    names = {tensor.name for tensor in model.graph.initializer}
    for index, node in enumerate(model.graph.node):
        node.name = node.name or f"node{index}"
    onnx.save(model, prepared)
    products = [node.name for node in model.graph.node if node.op_type == "MatMul" and node.input[1] not in names]
    # Sums of two computed tensors are the residual ones; the others are biases.
    biases = [node.name for node in model.graph.node if node.op_type == "Add" and names & set(node.input)]
    feed = model.graph.input[0].name
    q.quantize_static(
        str(prepared),
        str(out),
        _Reader({feed: x[None]} for x in inputs),
        op_types_to_quantize=["Conv", "Gemm", "MatMul", *(kind for kind in more if kind != "products")],
        nodes_to_exclude=[*([] if "products" in more else products), *biases],
        per_channel=True,
        activation_type=q.QuantType.QUInt8,
        weight_type=q.QuantType.QInt8,
    )


class _Reader:
    def __init__(self, feeds: Iterable[dict[str, Array]]) -> None:
        self._feeds = iter(feeds)

    def get_next(self) -> dict[str, Array] | None:
        return next(self._feeds, None)


def _vit_b_16(directory: Path) -> Path:
    import torch
    import torchvision

    torch.manual_seed(0)
    model = torchvision.models.vit_b_16(weights=None).eval()
    # Zero as it comes.
    torch.nn.init.normal_(model.heads.head.weight, std=0.02)
    program = torch.onnx.export(model, (torch.randn(1, 3, 224, 224),), dynamo=True, opset_version=20, verbose=False)
    assert program is not None
    program.save(str(directory / "vit_b_16.onnx"), external_data=False)
    return directory / "vit_b_16.onnx"


def _row(label: str, times: list[float], base: list[float], expected: Array, found: Array) -> str:
    ratio = statistics.median(own / other for own, other in zip(times, base, strict=True))
    noise = float(np.sum((expected - found) ** 2))
    sqnr = "" if not noise else f"{10 * np.log10(np.sum(expected**2) / noise):.1f}"
    agreement = np.mean(expected.argmax(axis=1) == found.argmax(axis=1))
    return f"| {label} | {ratio:.2f} | {sqnr} | {agreement:.1%} |"


def main() -> int:
    """Print a row for each form: its time over float32's, SQNR against float32, top-1 answers that are the same."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", metavar="MODEL", nargs="?", type=Path)
    parser.add_argument("--inputs", metavar="INPUTS.npz", type=Path)
    parser.add_argument("--rounds", type=int, default=10)
    args = parser.parse_args()
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    import onnxruntime

    with tempfile.TemporaryDirectory() as scratch:
        source = args.model or _vit_b_16(Path(scratch))
        if args.inputs is not None:
            inputs = np.load(args.inputs)["x"]
        else:
            inputs = np.random.default_rng(0).standard_normal((8, 3, 224, 224)).astype(np.float32)
        calibration, held_out = inputs[: len(inputs) // 2], inputs[len(inputs) // 2 :]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        sessions = {
            label: onnxruntime.InferenceSession(str(path), options)
            for label, path in _forms(source, calibration, Path(scratch)).items()
        }
    feed = sessions["float32"].get_inputs()[0].name
    answers = {
        label: np.concatenate([session.run(None, {feed: x[None]})[0] for x in held_out])
        for label, session in sessions.items()
    }
    times: dict[str, list[float]] = {label: [] for label in sessions}
    for _ in range(args.rounds):
        for label, session in sessions.items():
            session.run(None, {feed: held_out[0][None]})
            started = time.process_time()
            for x in held_out[:3]:
                session.run(None, {feed: x[None]})
            times[label].append(time.process_time() - started)
    print("| form | × float32 | SQNR dB | same top-1 |\n| --- | ---: | ---: | ---: |")
    for label in sessions:
        print(_row(label, times[label], times["float32"], answers["float32"], answers[label]), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
