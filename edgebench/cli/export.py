"""`edgebench export MODEL`: a bundle of every format, each proved equal to its parent."""

from __future__ import annotations

import argparse
from pathlib import Path

from edgebench.cli.int8_options import add_options, read_options
from edgebench.cli.options import comma_separated, positive_int, shape, tolerance
from edgebench.quantize.settings import METHODS
from edgebench.types import Tolerance

__all__ = ["add_parser", "run"]

_DESCRIPTION = """\
Export MODEL to TorchScript, ONNX, simplified ONNX, static int8 ONNX and, where litert-torch is installed, TFLite and
int8 TFLite, and prove each equal to its parent.

MODEL is a .pt/.pth file (state dict, checkpoint, pickled module, TorchScript), a .pt2, an .onnx, torchvision:NAME,
PATH.py:FACTORY or package.module:FACTORY."""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to `edgebench`."""
    parser = commands.add_parser(
        "export",
        help="a model to a bundle: TorchScript, ONNX, TFLite, int8, each proved equal to its parent",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("-o", "--out", metavar="DIR", type=Path, help="the bundle (default: MODEL's name + .eb)")
    parser.add_argument(
        "--formats",
        metavar="LIST",
        type=comma_separated,
        help="which formats (default: those above; there are more: docs/exporting.md)",
    )
    parser.add_argument(
        "--calib",
        metavar="DATA",
        help="images for int8 and parity, e.g. imagefolder:photos/, or `random` for numbers that "
        "are made up (default: none, no int8)",
    )
    parser.add_argument("--samples", metavar="N", type=positive_int, help="how many of them (default: 128)")
    parser.add_argument(
        "--method", choices=METHODS, default="auto", help="ranges from the calibration images: minmax, moving-average, "
        "percentile, entropy, mse (default: auto, the one whose outputs are the most faithful)",
    )  # fmt: skip
    parser.add_argument(
        "--percentile", metavar="PERCENT", type=float, default=99.99, help="of the values that --method percentile "
        "keeps (default: 99.99)",
    )  # fmt: skip
    parser.add_argument(
        "--preprocess", metavar="NAME_OR_TOML", help="imagenet, cifar10, mnist, fashion-mnist, digits, none or a TOML "
        "file (default: what the architecture or the data is known to use)",
    )  # fmt: skip
    parser.add_argument(
        "--input-shape", metavar="N,C,H,W", type=shape, help="(default: the architecture's, else that of the images)"
    )
    parser.add_argument(
        "--arch", metavar="ARCH", help="torchvision name, PATH.py:FACTORY or package.module:FACTORY that a state dict "
        "belongs to (default: found by its file's name and its keys)",
    )  # fmt: skip
    parser.add_argument("--opset", metavar="N", type=positive_int, help="ONNX operator set (default: 20)")
    parser.add_argument(
        "--atol", metavar="X", type=tolerance, default=Tolerance.atol, help="a float step may differ from its parent "
        "by X + --rtol times the parent's largest output (default: 1e-5)",
    )  # fmt: skip
    parser.add_argument(
        "--rtol", metavar="X", type=tolerance, default=Tolerance.rtol, help="see --atol (default: 1e-3)"
    )
    parser.add_argument(
        "--trust", action="store_true", help="read a pickle or .pt2 that runs code when read (default: refuse it)"
    )
    add_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Export, print what was made; 1 when an artifact failed, or was asked for by name and skipped."""
    from edgebench.cli.terminal import data_console, open_progress
    from edgebench.pipeline import export
    from edgebench.report.bundle_table import render

    with open_progress() as progress:
        result = export(
            args.model,
            args.out,
            formats=args.formats,
            calib=args.calib,
            samples=args.samples,
            method=args.method,
            percentile=args.percentile,
            preprocess=args.preprocess,
            input_shape=args.input_shape,
            arch=args.arch,
            opset=args.opset,
            atol=args.atol,
            rtol=args.rtol,
            trust=args.trust,
            **read_options(args),
            progress=progress,
        )
    data_console().print(render(result.bundle, result.path, result.reused))
    unmade = [artifact for artifact in result.bundle.artifacts if artifact.status != "ok"]
    return 1 if any(artifact.status == "failed" or artifact.name in (args.formats or ()) for artifact in unmade) else 0
