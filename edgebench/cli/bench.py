"""`edgebench bench BUNDLE...`: latency, memory, size and accuracy of every artifact; the run is stored."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from edgebench.cli.options import (
    comma_separated,
    non_negative_int,
    percentage,
    percentiles,
    positive_int,
    positive_ints,
    seconds,
    tolerance,
)
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
        "--runtime", metavar="LIST", type=comma_separated, help="onnxruntime, torchscript (default: all)"
    )
    parser.add_argument(
        "--threads", metavar="LIST", type=positive_ints, help="a cell for each number (default: the physical cores)"
    )
    parser.add_argument(
        "--scenario", metavar="LIST", type=comma_separated, default=("single-stream",),
        help="single-stream, multi-stream:N, offline, paced:FPS, end-to-end; a cell for each (default: single-stream)",
    )  # fmt: skip
    parser.add_argument(
        "--sustained", metavar="MINUTES", type=tolerance, default=0.0,
        help="then run each artifact for so long without a pause: does it throttle? (default: 0)",
    )  # fmt: skip
    parser.add_argument("--data", metavar="DATA", help="labelled images for top-1 and top-5 (default: no accuracy)")
    parser.add_argument("--samples", metavar="N", type=positive_int, help="how many of them (default: all)")
    parser.add_argument(
        "--preprocess", metavar="NAME_OR_TOML", help="for a file outside a bundle (default: the bundle's own)"
    )
    parser.add_argument("--baseline", metavar="NAME", help="what others are compared with (default: the fp32 ONNX)")
    parser.add_argument(
        "--processes", metavar="N", type=positive_int, default=BenchSettings.processes,
        help="fresh processes per cell, at least (default: 5)",
    )  # fmt: skip
    parser.add_argument(
        "--warmup", metavar="RUNS", type=non_negative_int, default=BenchSettings.warmup,
        help="untimed runs per process, at least; they go on while it gets faster (default: 5 runs)",
    )  # fmt: skip
    parser.add_argument(
        "--iterations", metavar="N", type=positive_int, default=BenchSettings.iterations,
        help="timed runs per process, more where they take microseconds (default: 50)",
    )  # fmt: skip
    parser.add_argument(
        "--precision", metavar="PERCENT", type=percentage,
        help="go on until p50 and its ratio to the baseline are known this well; 4 if not reached (default: no)",
    )  # fmt: skip
    parser.add_argument(
        "--max-time", metavar="SECONDS", type=seconds, default=BenchSettings.max_time_s,
        help="bounds the measuring, in seconds per cell (default: 30)",
    )  # fmt: skip
    parser.add_argument(
        "--count", choices=("instructions",),
        help="also count the instructions of one inference: a figure without noise (default: no)",
    )  # fmt: skip
    parser.add_argument(
        "--percentiles", metavar="LIST", type=percentiles, default=BenchSettings.percentiles,
        help="those in the table (default: 50,95)",
    )  # fmt: skip
    parser.add_argument(
        "--cooldown", metavar="CELSIUS", type=tolerance,
        help="before each round wait until the hottest sensor is this cool, within --max-wait (default: no)",
    )  # fmt: skip
    parser.add_argument(
        "--max-wait", metavar="SECONDS", type=tolerance, default=BenchSettings.max_wait_s,
        help="before each round wait so long at most for other processes to be quiet (default: 5)",
    )  # fmt: skip
    parser.add_argument(
        "--timeout", metavar="SECONDS", type=seconds, default=BenchSettings.timeout_s,
        help="a process that does not load, or not run its turn, in this time is stopped (default: 300)",
    )  # fmt: skip
    parser.add_argument(
        "--include-failed", action="store_true", help="also measure what failed its parity (default: no)"
    )
    parser.add_argument("--json", metavar="FILE", help="also write the run as JSON, - for stdout (default: no)")
    parser.add_argument(
        "--resume", metavar="RUN", help="go on with an interrupted run, in its own settings (default: a new run)"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Measure and print; 1 when a cell failed or none may be measured, 3 when no runtime is here, 4 when the precision
    that was asked for was not reached."""
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
            runtimes=args.runtime,
            threads=args.threads,
            scenarios=args.scenario,
            data=args.data,
            samples=args.samples,
            preprocess=args.preprocess,
            baseline=args.baseline,
            settings=BenchSettings(
                processes=args.processes,
                warmup=args.warmup,
                iterations=args.iterations,
                max_time_s=args.max_time,
                precision=args.precision,
                cooldown_c=args.cooldown,
                max_wait_s=args.max_wait,
                timeout_s=args.timeout,
                percentiles=args.percentiles,
                count=args.count,
                sustained_min=args.sustained,
            ),
            include_failed=args.include_failed,
            resume=args.resume,
            command=("edgebench", *sys.argv[1:]),
            progress=progress,
        )
    json_file.write_json(run_document(result))
    if not json_file.is_stdout:
        data_console().print(render(result))
    statuses = {cell.status for cell in result.cells}
    if "failed" in statuses or statuses == {"skipped"}:
        return 1
    if "ok" not in statuses:
        return 3
    asked = result.settings.precision
    precise = asked is None or all(is_precise(result, cell, asked) for cell in result.cells if cell.status == "ok")
    return 0 if precise else 4
