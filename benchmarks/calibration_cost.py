"""What calibration costs, as multiples of plain fp32 inference over the same images: time and peak memory.

    python benchmarks/calibration_cost.py [--rounds 5] [--images 64] [--many 1024] [NAME ...]

Every figure is of a fresh process with onnxruntime's default threads, and a ratio to the plain session's process of the
same round; time runs from before the model is loaded until the statistics are there. Ours: extremes alone, and extremes
with histograms, which is what `export` gathers. onnxruntime's own: its calibrators over the same file and --peer-images
images, few, because their memory grows with the number of images. Needs Linux.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

NETWORKS = ("resnet18", "mobilenet_v2")
OURS = ("minmax", "histograms")
PEERS = ("ort MinMax", "ort Percentile", "ort Entropy")
TIME_LIMITS = {
    ("resnet18", "minmax"): 1.3,
    ("mobilenet_v2", "minmax"): 2.5,
    ("resnet18", "histograms"): 1.8,
    ("mobilenet_v2", "histograms"): 4.0,
}
MEMORY_LIMIT, GROWTH_LIMIT = 1.3, 1.05
FEW = 16
SIDE = 224


def _export(name: str, directory: Path) -> Path:
    """The network with its weights in a file beside it and all shapes inferred."""
    import onnx
    import torch
    import torchvision

    torch.manual_seed(0)
    network = torchvision.models.get_model(name, weights=None).eval()
    example = torch.randn(1, 3, SIDE, SIDE)
    warnings.simplefilter("ignore")
    program = torch.onnx.export(
        network, (example,), dynamo=True, opset_version=20, input_names=["input"], verbose=False
    )
    assert program is not None
    model = onnx.shape_inference.infer_shapes(program.model_proto)
    path = directory / f"{name}.onnx"
    onnx.save(model, path, save_as_external_data=True, location=f"{name}.weights")
    return path


def _tensors(path: Path) -> list[str]:
    """What gets a scale: the float inputs and results of operators, save what only a Relu or a Clip reads."""
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    weights = {tensor.name for tensor in graph.initializer}
    readers: dict[str, set[str]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, set()).add(node.op_type)
    values = (*graph.input, *graph.value_info, *graph.output)
    floats = [value.name for value in values if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT]
    return [
        name
        for name in dict.fromkeys(floats)
        if name not in weights and not (readers.get(name) and readers[name] <= {"Relu", "Clip"})
    ]


def _images(count: int) -> Iterator[dict[str, Any]]:
    generator = np.random.default_rng(0)
    kept = [generator.standard_normal((1, 3, SIDE, SIDE)).astype(np.float32) for _ in range(4)]
    return ({"input": kept[index % 4]} for index in range(count))


class _Reader:
    def __init__(self, count: int) -> None:
        self._images = _images(count)

    def get_next(self) -> dict[str, Any] | None:
        return next(self._images, None)


def _work(kind: str, path: Path, count: int) -> None:
    import onnxruntime

    if kind == "plain":
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        for feed in _images(count):
            session.run(None, feed)
    elif kind in OURS:
        from edgebench.quantize.statistics import collect

        tensors = json.loads(path.with_suffix(".json").read_text())
        collect(path, tensors, _images(count), histograms=kind == "histograms")
    else:
        from onnxruntime.quantization.calibrate import CalibrationMethod, create_calibrator

        method = CalibrationMethod[kind.removeprefix("ort ")]
        augmented = path.with_name(f"{path.stem}.augmented.onnx")
        calibrator = create_calibrator(str(path), None, str(augmented), method)
        calibrator.collect_data(_Reader(count))
        calibrator.compute_data()


def _child(kind: str, path: Path, count: int) -> None:
    import onnxruntime

    onnxruntime.set_default_logger_severity(3)
    wall, cpu = time.perf_counter(), time.process_time()
    _work(kind, path, count)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    # Not ru_maxrss, which a process takes over from the one that started it.
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    print(json.dumps([wall, cpu, int(status["VmHWM"].split()[0])]), flush=True)


def _cost(kind: str, path: Path, count: int) -> tuple[float, float, float] | None:
    """Seconds of wall and CPU time and the peak RSS of a process; None where it failed."""
    done = subprocess.run(
        [sys.executable, __file__, "--child", kind, str(path), str(count)],
        capture_output=True,
        text=True,
        env={**os.environ, "ORT_DISABLE_TELEMETRY": "1"},
        check=False,
    )
    if done.returncode != 0:
        print(f"{kind}: {done.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
        return None
    wall, cpu, peak = json.loads(done.stdout.strip().splitlines()[-1])
    return wall, cpu, peak


def _ratios(kind: str, path: Path, count: int, rounds: int) -> list[tuple[float, ...]]:
    found = []
    for _ in range(rounds):
        plain, cost = _cost("plain", path, count), _cost(kind, path, count)
        if plain is None or cost is None:
            break
        found.append(tuple(a / b for a, b in zip(cost, plain, strict=True)))
    return found


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} [{min(values):.2f}, {max(values):.2f}]"


def main() -> int:
    """Print a row for each network and way; 1 when one of ours is above its limit."""
    if sys.argv[1:2] == ["--child"]:
        _child(sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]))
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", metavar="NAME", nargs="*", default=NETWORKS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--peer-images", type=int, default=16)
    parser.add_argument("--many", type=int, default=1024)
    args = parser.parse_args()
    held = True
    print(f"| network | way | wall time | CPU time | peak memory | {args.many} / {FEW} images, memory |")
    print("| --- | --- | ---: | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory(prefix="edgebench-calibration-") as scratch:
        for name in args.names:
            path = _export(name, Path(scratch))
            path.with_suffix(".json").write_text(json.dumps(_tensors(path)))
            for kind in (*OURS, *PEERS):
                ours = kind in OURS
                ratios = _ratios(kind, path, args.images if ours else args.peer_images, args.rounds)
                if not ratios:
                    print(f"| {name} | {kind} | failed | | | |", flush=True)
                    continue
                walls, cpus, peaks = (list(column) for column in zip(*ratios, strict=True))
                growth = None
                if ours and args.many:
                    many, few = _cost(kind, path, args.many), _cost(kind, path, FEW)
                    growth = many[2] / few[2] if many is not None and few is not None else None
                    limit = TIME_LIMITS.get((name, kind))
                    held &= limit is None or statistics.median(walls) <= limit >= statistics.median(cpus)
                    held &= statistics.median(peaks) <= MEMORY_LIMIT and growth is not None and growth <= GROWTH_LIMIT
                grown = "" if growth is None else f"{growth:.3f}"
                print(
                    f"| {name} | {kind} | {_spread(walls)} | {_spread(cpus)} | {_spread(peaks)} | {grown} |", flush=True
                )
    print("held" if held else "BROKEN")
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
