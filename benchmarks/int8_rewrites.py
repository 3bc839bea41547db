"""What rewriting operators without an int8 kernel gains (edgebench/quantize/rewrite.py): ratios to float32.

    python benchmarks/int8_rewrites.py [--rounds 25] [NAME ...]

torchvision's networks at random weights, quantized by onnxruntime's own quantizer (U8S8 per channel, random data: speed
does not depend on it). All variants of a network are loaded in one process with one thread each and take turns.
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
from pathlib import Path
from typing import Any

import numpy as np

from edgebench.quantize.rewrite import rewritten, without_scalings

NETWORKS = ("efficientnet_b0", "mobilenet_v3_small", "mobilenet_v3_large")
TURN = 4
SHAPE = (1, 3, 224, 224)


def _variants(name: str, directory: Path) -> dict[str, Path]:
    import onnx
    import torch
    import torchvision
    from onnxruntime import quantization as q
    from onnxruntime.quantization.shape_inference import quant_pre_process

    torch.manual_seed(0)
    model = torchvision.models.get_model(name, weights=None).eval()
    program = torch.onnx.export(
        model, (torch.randn(SHAPE),), dynamo=True, opset_version=20, input_names=["input"], verbose=False
    )
    assert program is not None
    files = {
        label: directory / f"{label}.onnx" for label in ("float32", "prepared", "changed", "exported", "rewritten")
    }
    program.save(str(files["float32"]), external_data=False)
    quant_pre_process(str(files["float32"]), str(files["prepared"]), skip_symbolic_shape=True)
    changed = onnx.load(files["prepared"])
    said = rewritten(changed)
    onnx.save(changed, files["changed"])
    for source, target in (("prepared", "exported"), ("changed", "rewritten")):
        q.quantize_static(
            str(files[source]), str(files[target]), _Reader(), per_channel=True,
            activation_type=q.QuantType.QUInt8, weight_type=q.QuantType.QInt8,
        )  # fmt: skip
    scaled = onnx.load(files["rewritten"])
    print(f"{name}: {'; '.join(said)}; {without_scalings(scaled)} scalings taken out", file=sys.stderr)
    files["no scalings"] = directory / "no scalings.onnx"
    onnx.save(scaled, files["no scalings"])
    return {label: files[label] for label in ("float32", "exported", "rewritten", "no scalings")}


class _Reader:
    def __init__(self) -> None:
        generator = np.random.default_rng(0)
        self._feeds = [generator.standard_normal(SHAPE).astype(np.float32) for _ in range(2)]

    def get_next(self) -> dict[str, Any] | None:
        return {"input": self._feeds.pop()} if self._feeds else None


def _ratios(paths: dict[str, Path], rounds: int) -> dict[str, float]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    sessions = {label: onnxruntime.InferenceSession(str(path), options) for label, path in paths.items()}
    feed = {"input": np.random.default_rng(1).standard_normal(SHAPE).astype(np.float32)}
    times: dict[str, list[float]] = {label: [] for label in sessions}
    for _ in range(rounds):
        for label, session in sessions.items():
            session.run(None, feed)
            started = time.process_time()
            for _ in range(TURN):
                session.run(None, feed)
            times[label].append(time.process_time() - started)
    base = times["float32"]
    return {
        label: statistics.median(own / other for own, other in zip(values, base, strict=True))
        for label, values in times.items()
    }


def main() -> int:
    """Print one row per network: the time of int8 over float32's, CPU time, median of paired rounds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", metavar="NAME", nargs="*", default=NETWORKS)
    parser.add_argument("--rounds", type=int, default=25)
    args = parser.parse_args()
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    print("| network | as exported | rewritten | and without scalings |\n| --- | ---: | ---: | ---: |")
    for name in args.names:
        with tempfile.TemporaryDirectory() as directory:
            ratios = _ratios(_variants(name, Path(directory)), args.rounds)
        figures = " | ".join(f"{ratios[label]:.2f}" for label in ("exported", "rewritten", "no scalings"))
        print(f"| {name} | {figures} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
