"""Export torchvision's networks in every ONNX form and print their parity as a Markdown table (docs/torchvision.md).

    python benchmarks/torchvision_parity.py --calib imagefolder:photos/ [--samples 32] [NAME ...]

The weights are untrained (seed 0): the table is about the exporters, and error and SQNR need no training; but the
agreement of int8 is lower than with trained ones, as the classes of an untrained network are nearly tied.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import edgebench
from edgebench.types import Artifact

NETWORKS = (
    "resnet18",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "efficientnet_b0",
    "shufflenet_v2_x1_0",
    "squeezenet1_1",
    "vgg16",
    "densenet121",
    "vit_b_16",
    "swin_t",
    "convnext_tiny",
)
FORMATS = ("onnx", "onnx-sim", "onnx-int8")


def main() -> int:
    """Print the table; 1 when an artifact was not made."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", metavar="NAME", nargs="*", default=NETWORKS)
    parser.add_argument("--calib", required=True)
    parser.add_argument("--samples", type=int, default=32)
    args = parser.parse_args()
    print("| network | step | status | MB | max error | rel. error | SQNR dB | top-1 agrees | nodes |")
    print("| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | --- |")
    complete = True
    for name in args.names:
        with tempfile.TemporaryDirectory() as directory:
            exported = edgebench.export(
                f"torchvision:{name}",
                Path(directory) / f"{name}.eb",
                calib=args.calib,
                samples=args.samples,
                formats=FORMATS,
            )
        for artifact in exported.bundle.artifacts:
            print(_row(name, artifact), flush=True)
            complete &= artifact.status == "ok"
    return 0 if complete else 1


def _row(name: str, artifact: Artifact) -> str:
    parity = artifact.parity
    if parity is None or artifact.bytes is None:
        return f"| {name} | {artifact.name} | {artifact.status}: {artifact.reason} | | | | | | |"
    sqnr = "identical" if parity.sqnr_db is None else f"{parity.sqnr_db:.1f}"
    agreement = "" if parity.top1_agreement is None else f"{100 * parity.top1_agreement:.1f} %"
    note = next((note for note in artifact.notes if "nodes" in note), "")
    return (
        f"| {name} | {artifact.name} | {artifact.status} | {artifact.bytes / 1e6:.1f} | {parity.max_abs_error:.1e} "
        f"| {parity.relative_error:.1e} | {sqnr} | {agreement} | {note} |"
    )


if __name__ == "__main__":
    sys.exit(main())
