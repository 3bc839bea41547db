"""`edgebench bench BUNDLE...`: latency, memory, size and accuracy of every artifact; the run is stored."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from edgebench.cli.measuring import add_options, arguments_of, settings_of
from edgebench.cli.options import comma_separated, percentage, percentiles, positive_ints, tolerance
from edgebench.cli.output_file import OutputFile
from edgebench.types import BenchSettings

__all__ = ["add_parser", "run"]


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to `edgebench`."""
    parser = commands.add_parser(
        "bench",
        help="measure latency, memory, size and accuracy of every artifact of a bundle",
        description="Measure every artifact, each time in a fresh process, all of them in turn; the run is stored.",
    )
    parser.add_argument("paths", metavar="BUNDLE_OR_ARTIFACT", nargs="+", type=Path)
    parser.add_argument(
        "--device", metavar="NAME", action="append", help="a profile of devices/, may be repeated (default: local)"
    )
    parser.add_argument(
        "--scenario", metavar="LIST", type=comma_separated, default=("single-stream",),
        help="single-stream, multi-stream:N, offline, paced:FPS, end-to-end; a cell for each (default: single-stream)",
    )  # fmt: skip
    parser.add_argument(
        "--batch-size", metavar="LIST", type=positive_ints,
        help="inputs at once, a cell for each (default: as it was exported)",
    )  # fmt: skip
    parser.add_argument(
        "--sustained", metavar="MINUTES", type=tolerance, default=0.0,
        help="then run each artifact for so long without a pause: does it throttle? (default: 0)",
    )  # fmt: skip
    parser.add_argument("--baseline", metavar="NAME", help="what others are compared with (default: the fp32 ONNX)")
    parser.add_argument(
        "--precision", metavar="PERCENT", type=percentage,
        help="go on until p50 and its ratio to the baseline are known this well; 4 if not reached (default: no)",
    )  # fmt: skip
    parser.add_argument(
        "--percentiles", metavar="LIST", type=percentiles, default=BenchSettings.percentiles,
        help="those in the table (default: 50,95)",
    )  # fmt: skip
    parser.add_argument(
        "--include-failed", action="store_true", help="also measure what failed its parity (default: no)"
    )
    parser.add_argument("--json", metavar="FILE", help="also write the run as JSON, - for stdout (default: no)")
    add_options(parser, max_time_s=BenchSettings.max_time_s, max_time_help="bounds the measuring")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Measure and print; 1 when a cell failed or none may be measured, 3 when a device was lost or has no runtime, 4
    when the precision that was asked for was not reached."""
    from edgebench.cli.terminal import data_console, open_progress
    from edgebench.figures import is_precise
    from edgebench.measure.bench import bench
    from edgebench.report.run_table import render
    from edgebench.run_file import run_document

    json_file = OutputFile("--json", args.json)
    with open_progress() as progress:
        result = bench(
            *args.paths,
            devices=args.device or ("local",),
            scenarios=args.scenario,
            batch_sizes=args.batch_size,
            baseline=args.baseline,
            settings=settings_of(
                args, precision=args.precision, percentiles=args.percentiles, sustained_min=args.sustained
            ),
            include_failed=args.include_failed,
            command=("edgebench", *sys.argv[1:]),
            progress=progress,
            **arguments_of(args),
        )
    json_file.write_json(run_document(result))
    if not json_file.is_stdout:
        data_console().print(render(result))
    if any(device.error is not None for device in result.devices):
        return 3
    statuses = {cell.status for cell in result.cells}
    if "failed" in statuses or statuses == {"skipped"}:
        return 1
    if "ok" not in statuses:
        return 3
    asked = result.settings.precision
    precise = asked is None or all(is_precise(result, cell, asked) for cell in result.cells if cell.status == "ok")
    return 0 if precise else 4
