"""What int8 loses on an x86-64 CPU with AVX2 and without VNNI, and which kind does not: SQNR against float32.

    python benchmarks/int8_avx2.py MODEL.onnx --inputs INPUTS.npz [--samples 40]

qemu-user stands for such a CPU (`qemu-x86_64 -cpu Haswell`): its answers are that CPU's, its times are nobody's.
INPUTS.npz holds `x`, float32 `[N, C, H, W]`: the first `--samples` calibrate (min-max, onnxruntime's own quantizer,
per channel), as many after them are answered.
"""

from __future__ import annotations

import argparse
import logging
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgebench.quantize.dynamic import write_dynamic

Array = NDArray[Any]
QEMU = ("qemu-x86_64", "-cpu", "Haswell")
# Activations, weights, whether a bit of the weights is left unused.
STATIC = {
    "U8S8": ("QUInt8", "QInt8", False),
    "U8S8, 7-bit weights": ("QUInt8", "QInt8", True),
    "U8U8": ("QUInt8", "QUInt8", False),
    "S8S8": ("QInt8", "QInt8", False),
}
RUN = """
import sys
import numpy
import onnxruntime

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
options.log_severity_level = 3
inputs = numpy.load(sys.argv[1])
for model in sys.argv[2:]:
    session = onnxruntime.InferenceSession(model, options)
    name = session.get_inputs()[0].name
    numpy.save(model + ".npy", numpy.concatenate([session.run(None, {name: x[None]})[0] for x in inputs]))
"""


def _forms(source: Path, inputs: Array, directory: Path) -> dict[str, Path]:
    from onnxruntime import quantization as q
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = directory / "prepared.onnx"
    quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
    made = {"float32": prepared}
    for index, (label, (activations, weights, reduce_range)) in enumerate(STATIC.items()):
        made[label] = directory / f"{index}.onnx"
        q.quantize_static(
            str(prepared), str(made[label]), _Reader({_input(prepared): x[None]} for x in inputs), per_channel=True,
            activation_type=q.QuantType[activations], weight_type=q.QuantType[weights], reduce_range=reduce_range,
        )  # fmt: skip
    for label, reduce_range in (("dynamic", False), ("dynamic, 7-bit weights", True)):
        made[label] = directory / f"{label}.onnx"
        write_dynamic(source, made[label], reduce_range=reduce_range)
    return made


def _input(path: Path) -> str:
    import onnx

    return str(onnx.load(path, load_external_data=False).graph.input[0].name)


class _Reader:
    def __init__(self, feeds: Iterable[dict[str, Array]]) -> None:
        self._feeds = iter(feeds)

    def get_next(self) -> dict[str, Array] | None:
        return next(self._feeds, None)


def _answers(prefix: Sequence[str], inputs: Path, forms: dict[str, Path]) -> dict[str, Array]:
    subprocess.run([*prefix, sys.executable, "-c", RUN, str(inputs), *map(str, forms.values())], check=True)
    return {label: np.load(f"{path}.npy") for label, path in forms.items()}


def _figures(expected: Array, found: Array) -> str:
    noise = float(np.sum((expected - found) ** 2))
    sqnr = f"{10 * np.log10(np.sum(expected**2) / noise):.1f}" if noise else "identical"
    return f"{sqnr} | {np.mean(expected.argmax(axis=1) == found.argmax(axis=1)):.1%}"


def main() -> int:
    """Print a row for each form: SQNR and the share of the same top-1 answers, on this machine and with AVX2 alone."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", metavar="MODEL.onnx", type=Path)
    parser.add_argument("--inputs", metavar="INPUTS.npz", type=Path, required=True)
    parser.add_argument("--samples", type=int, default=40)
    args = parser.parse_args()
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    inputs = np.load(args.inputs)["x"]
    with tempfile.TemporaryDirectory() as scratch:
        forms = _forms(args.model, inputs[: args.samples], Path(scratch))
        held_out = Path(scratch) / "inputs.npy"
        np.save(held_out, inputs[args.samples : 2 * args.samples])
        here = _answers((), held_out, forms)
        expected, _ = here.pop("float32"), forms.pop("float32")
        there = _answers(QEMU, held_out, forms)
    print("| form | SQNR dB here | same top-1 | SQNR dB with AVX2 | same top-1 |\n| --- | ---: | ---: | ---: | ---: |")
    for label in forms:
        print(f"| {label} | {_figures(expected, here[label])} | {_figures(expected, there[label])} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
