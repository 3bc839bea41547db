"""Which opset and which kind of int8 onnxruntime is fastest with on this machine: ratios to fp32 at opset 18.

    python benchmarks/onnx_settings.py [--rounds 15] [NAME ...]

All variants of a network are loaded in one process with one thread each (idle pools of several threads would spin), and
take turns of 5 runs. Untrained weights and random calibration data: speed does not depend on them.
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

NETWORKS = ("resnet18", "mobilenet_v2", "efficientnet_b0", "convnext_tiny")
OPSETS = (18, 20, 23)
TURN = 5


def _variants(name: str, directory: Path) -> dict[str, Path]:
    import torch
    import torchvision
    from onnxruntime import quantization as q

    torch.manual_seed(0)
    model = torchvision.models.get_model(name, weights=None).eval()
    example = torch.randn(1, 3, 224, 224)
    found: dict[str, Path] = {}
    for opset in OPSETS:
        path = directory / f"{name}-{opset}.onnx"
        program = torch.onnx.export(
            model, (example,), dynamo=True, opset_version=opset, input_names=["input"], verbose=False
        )
        assert program is not None
        program.save(str(path), external_data=False)
        found[f"fp32 opset {opset}"] = path
    source = found["fp32 opset 18"]
    s8, u8 = q.QuantType.QInt8, q.QuantType.QUInt8
    for label, activations, weights, per_channel in (
        ("S8S8 (default)", s8, s8, False),
        ("U8S8", u8, s8, False),
        ("U8S8 per channel", u8, s8, True),
        ("U8S8 per channel opset 20", u8, s8, True),
        ("U8U8", u8, u8, False),
    ):
        path = directory / f"{name}-{label}.onnx"
        q.quantize_static(
            str(found["fp32 opset 20"] if "20" in label else source), str(path), _Reader(),
            quant_format=q.QuantFormat.QDQ, activation_type=activations,
            weight_type=weights, per_channel=per_channel,
        )  # fmt: skip
        found[label] = path
    return found


class _Reader:
    def __init__(self) -> None:
        generator = np.random.default_rng(0)
        self._feeds = [generator.standard_normal((1, 3, 224, 224)).astype(np.float32) for _ in range(2)]

    def get_next(self) -> dict[str, Any] | None:
        return {"input": self._feeds.pop()} if self._feeds else None


def _ratios(paths: dict[str, Path], rounds: int) -> dict[str, float]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    sessions = {
        label: onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        for label, path in paths.items()
    }
    feed = {"input": np.random.default_rng(1).standard_normal((1, 3, 224, 224)).astype(np.float32)}
    times: dict[str, list[float]] = {label: [] for label in sessions}
    for turn in range(rounds + 1):
        for label, session in sessions.items():
            session.run(None, feed)
            started = time.process_time()
            for _ in range(TURN):
                session.run(None, feed)
            if turn:  # the first round warms up
                times[label].append(time.process_time() - started)
    base = times["fp32 opset 18"]
    return {
        label: statistics.median(b / a for a, b in zip(values, base, strict=True)) for label, values in times.items()
    }


def main() -> int:
    """Print one row per network: speed-up over fp32 at opset 18, CPU time, median of paired rounds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", metavar="NAME", nargs="*", default=NETWORKS)
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    header: list[str] = []
    for name in args.names:
        with tempfile.TemporaryDirectory() as directory:
            ratios = _ratios(_variants(name, Path(directory)), args.rounds)
        if not header:
            header = list(ratios)
            print("| network | " + " | ".join(header) + " |")
            print("| --- |" + " ---: |" * len(header))
        print(f"| {name} | " + " | ".join(f"{ratios[label]:.2f}" for label in header) + " |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
