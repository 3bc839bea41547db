"""MACs as edgebench counts them, on the network and on its ONNX file, over those that torchvision publishes.

    python benchmarks/macs.py [NAME...]

torchvision's are in the metadata of its weights (`_ops`, in 10^9, three digits), counted by its authors. Parameters are
over the published number as well; an ONNX file has fewer where the exporter folds batch norms into convolutions.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import edgebench
from edgebench.types import Costs

NAMES = (
    "resnet18", "resnet50", "mobilenet_v2", "mobilenet_v3_small", "efficientnet_b0", "shufflenet_v2_x1_0",
    "squeezenet1_1", "densenet121", "vit_b_16", "swin_t", "convnext_tiny",
)  # fmt: skip
FORMATS = ("torchscript", "onnx")


def main() -> None:
    """Print a line for each network."""
    import torchvision

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", default=NAMES)
    print(f"{'network':20} {'GMACs':>8} {'published':>9} " + " ".join(f"{name:>12} {'params':>7}" for name in FORMATS))
    for name in parser.parse_args().names:
        meta = torchvision.models.get_model_weights(name).DEFAULT.meta
        # The weights may be of another size of image than the network's usual one.
        with tempfile.TemporaryDirectory() as directory:
            exported = edgebench.export(f"torchvision:{name}", out=Path(directory) / "bundle", formats=FORMATS)
        costs = {item.format: item.costs for item in exported.bundle.artifacts}
        ratios = " ".join(_ratios(costs[format], meta) for format in FORMATS)
        counted = costs["torchscript"]
        print(f"{name:20} {counted.macs / 1e9 if counted else 0:8.3f} {meta['_ops']:9.3f} {ratios}", flush=True)


def _ratios(costs: Costs | None, meta: dict[str, float]) -> str:
    if costs is None:
        return f"{'not counted':>20}"
    return f"{costs.macs / 1e9 / meta['_ops']:12.3f} {costs.parameters / meta['num_params']:7.3f}"


if __name__ == "__main__":
    main()
