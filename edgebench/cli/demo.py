"""`edgebench demo`: the main job on a bare machine, with nothing to download."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

__all__ = ["add_parser", "run"]


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to `edgebench`."""
    parser = commands.add_parser(
        "demo",
        help="train, export and measure a ResNet18 on data that needs no download",
        description="Train the CIFAR-style ResNet18 with ReLU and with ReLU6 on scikit-learn's digits, export and "
        "measure both, and compare fp32 with int8. Takes a few minutes on two cores.",
    )
    parser.add_argument(
        "-o", "--out", metavar="DIR", type=Path, default=Path("edgebench-demo"), help="(default: edgebench-demo)"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the demo and print its tables; 1 when something in it failed."""
    from edgebench.cli.terminal import data_console, open_progress
    from edgebench.demo import VARIANTS, demo
    from edgebench.report import bundle_table, demo_table, run_table

    with open_progress() as progress:
        bundles, result = demo(args.out, progress, command=("edgebench", *sys.argv[1:]))
    console = data_console()
    for exported in bundles:
        console.print(bundle_table.render(exported.bundle, exported.path, exported.reused))
    console.print(run_table.render(result))
    console.print(demo_table.render(result, VARIANTS))
    failed = any(artifact.status == "failed" for exported in bundles for artifact in exported.bundle.artifacts)
    return 1 if failed or any(cell.status != "ok" for cell in result.cells) else 0
