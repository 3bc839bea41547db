"""The same trained network as ONNX and as TFLite, in float32 and int8: accuracy, parity and speed of the four.

    python benchmarks/tflite_twins.py [--processes 5] [--epochs 0] [NAME ...]

Each network is trained on scikit-learn's digits (RGB pixels, 32x32 or 64x64) with fixed seeds, exported with one set of
calibration images, and measured in one run, one thread, all artifacts in turn. Needs litert-torch; see docs/tflite.md.
Weights are kept in the data directory's `benchmarks/`, so that a second call trains nothing.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import edgebench
from edgebench.config import home
from edgebench.figures import figures, latency_ratio
from edgebench.report.units import MISSING, with_interval
from edgebench.training import Recipe, save_checkpoint, train
from edgebench.types import Artifact, Cell, Run

FORMATS = ("onnx", "onnx-int8", "tflite", "tflite-int8")
# The ONNX of the same precision.
TWIN = {"tflite": "onnx", "tflite-int8": "onnx-int8"}
SEED = 0
_FACTORIES = """
import torchvision

def resnet18():
    return torchvision.models.resnet18(num_classes=10)

def mobilenet_v2():
    return torchvision.models.mobilenet_v2(num_classes=10)

def mobilenet_v3_small():
    return torchvision.models.mobilenet_v3_small(num_classes=10)

def efficientnet_b0():
    return torchvision.models.efficientnet_b0(num_classes=10)

def vit():
    return torchvision.models.VisionTransformer(
        image_size=32, patch_size=4, num_layers=4, num_heads=3, hidden_dim=96, mlp_dim=192, num_classes=10
    )
"""


@dataclass(frozen=True)
class Network:
    """The side of its images in pixels, and how it is trained."""

    side: int
    epochs: int
    learning_rate: float


NETWORKS = {
    "resnet18": Network(32, 4, 0.05),
    "mobilenet_v2": Network(64, 8, 0.05),
    "mobilenet_v3_small": Network(64, 15, 0.05),
    "efficientnet_b0": Network(64, 6, 0.05),
    "vit": Network(32, 25, 0.05),
}


def _prepared(directory: Path, side: int) -> Path:
    path = directory / f"digits{side}.toml"
    path.write_text(f'resize = [{side}, {side}]\nchannels = "rgb"\nscale = {1 / 255!r}\nmean = [0.5]\nstd = [0.5]\n')
    return path


def _trained(name: str, epochs: int, directory: Path) -> Path:
    """The checkpoint, trained where there is none yet."""
    import torch

    network = NETWORKS[name]
    epochs = epochs or network.epochs
    path = home() / "benchmarks" / f"twins-{name}-{network.side}-{epochs}.pt"
    if path.is_file():
        return path
    factories: dict[str, Any] = {}
    exec(_FACTORIES, factories)
    # Before the factory, which draws the initial weights.
    torch.manual_seed(SEED)
    model = factories[name]()
    recipe = Recipe(
        str(_prepared(directory, network.side)), epochs, 32, network.learning_rate,
        warm_up=0.2, weight_decay=5e-4, shift=network.side // 16, precise_norm=512,
    )  # fmt: skip
    result = train(model, recipe, "digits", seed=SEED, threads=1)
    print(f"{name}: {result.test_top1:.1f} % after {epochs} epochs, {result.seconds:.0f} s", file=sys.stderr)
    save_checkpoint(path, model, result, architecture=f"nets.py:{name}")
    return path


def _row(run: Run, cell: Cell, artifact: Artifact, cells: dict[str, Cell]) -> str:
    if cell.accuracy is None or artifact.parity is None:
        return f"| {artifact.name} | {cell.status}: {cell.reason} |"
    found = figures(run, cell)
    drop = found.drop
    lost = agreement = MISSING
    if drop is not None and artifact.format != run.baseline:
        low, high = drop.ci
        lost = f"{drop.drop_points:+.2f} [{low:+.2f}, {high:+.2f}], p = {drop.mcnemar_p:.2g}"
        agreement = f"{100 * drop.agreement:.1f} %"
    against = artifact.parity.sqnr_db
    twin = latency_ratio(cells[TWIN[artifact.format]], cell) if artifact.format in TWIN else None
    relative = None if artifact.format == run.baseline else found.relative
    ratios = [MISSING if ratio is None else with_interval(ratio.ratio, ratio.ci) for ratio in (relative, twin)]
    return (
        f"| {artifact.name} | {cell.accuracy.top1:.2f} | {lost} | {agreement} "
        f"| {'bit-equal' if against is None else f'{against:.1f}'} | {' | '.join(ratios)} |"
    )


def _measure(name: str, arguments: argparse.Namespace, directory: Path) -> None:
    (directory / "nets.py").write_text(_FACTORIES)
    exported = edgebench.export(
        _trained(name, arguments.epochs, directory), directory / f"{name}.eb", formats=FORMATS,
        arch=f"{directory / 'nets.py'}:{name}", calib="digits:train", samples=256,
        preprocess=str(_prepared(directory, NETWORKS[name].side)),
        input_shape=(1, 3, NETWORKS[name].side, NETWORKS[name].side),
    )  # fmt: skip
    artifacts = {artifact.format: artifact for artifact in exported.bundle.artifacts}
    run = edgebench.bench(
        exported, data="digits:test", threads=[1], baseline="onnx",
        settings=edgebench.BenchSettings(processes=arguments.processes),
    )  # fmt: skip
    cells = {cell.artifact.format: cell for cell in run.cells}
    side = NETWORKS[name].side
    samples = next((cell.accuracy.samples for cell in run.cells if cell.accuracy is not None), 0)
    print(f"\n{name}, {side}x{side}, {samples} test images\n")
    print("| artifact | top-1 % | drop [95 %], McNemar | agrees with onnx | SQNR dB to parent | × onnx | × its twin |")
    print("| --- | ---: | --- | ---: | ---: | ---: | ---: |")
    for format in FORMATS:
        artifact = artifacts[format]
        if artifact.status != "ok":
            print(f"| {format} | {artifact.status}: {artifact.reason} |")
        else:
            print(_row(run, cells[format], artifact, cells))
    for format in FORMATS:
        for note in artifacts[format].notes:
            print(f"- {format}: {note}", file=sys.stderr)
    sys.stdout.flush()


def main() -> int:
    """Print one table per network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", metavar="NAME", nargs="*", default=list(NETWORKS), help=", ".join(NETWORKS))
    parser.add_argument("--processes", type=int, default=5, help="rounds (default: 5)")
    parser.add_argument("--epochs", type=int, default=0, help="of training (default: the network's own number)")
    arguments = parser.parse_args()
    for name in arguments.names:
        with tempfile.TemporaryDirectory() as directory:
            _measure(name, arguments, Path(directory))
    return 0


if __name__ == "__main__":
    sys.exit(main())
