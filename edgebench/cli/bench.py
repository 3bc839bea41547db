"""`edgebench bench BUNDLE...`: latency, memory, size and accuracy of every artifact; the run is stored."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from edgebench.cli.json_file import JsonFile
from edgebench.cli.options import comma_separated, positive_int, positive_ints, seconds
from edgebench.errors import UsageError
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
    parser.add_argument("--data", metavar="DATA", help="labelled images for top-1 and top-5 (default: no accuracy)")
    parser.add_argument("--samples", metavar="N", type=positive_int, help="how many of them (default: all)")
    parser.add_argument(
        "--preprocess", metavar="NAME_OR_TOML", help="for a file outside a bundle (default: the bundle's own)"
    )
    parser.add_argument("--baseline", metavar="NAME", help="what others are compared with (default: the fp32 ONNX)")
    parser.add_argument(
        "--processes",
        metavar="N",
        type=positive_int,
        default=BenchSettings.processes,
        help="fresh processes per cell (default: 5)",
    )
    parser.add_argument(
        "--warmup",
        metavar="RUNS",
        type=int,
        default=BenchSettings.warmup,
        help="untimed runs per process (default: 5 runs)",
    )
    parser.add_argument(
        "--iterations",
        metavar="N",
        type=positive_int,
        default=BenchSettings.iterations,
        help="timed runs per process (default: 50)",
    )
    parser.add_argument(
        "--max-time", metavar="SECONDS", type=seconds, default=BenchSettings.max_time_s,
        help="a process stops timing after this, but not before 5 runs (default: 5)",
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
    """Measure and print; 1 when a cell failed or none may be measured, 3 when no runtime is here."""
    from edgebench.cli.terminal import data_console, open_progress
    from edgebench.measure.bench import bench
    from edgebench.report.run_table import render
    from edgebench.run_file import run_document

    if args.warmup < 0:
        raise UsageError(f"--warmup {args.warmup}: expected 0 runs or more")
    json_file = JsonFile(args.json)
    with open_progress() as progress:
        result = bench(
            *args.paths,
            devices=args.device or ("local",),
            runtimes=args.runtime,
            threads=args.threads,
            data=args.data,
            samples=args.samples,
            preprocess=args.preprocess,
            baseline=args.baseline,
            settings=BenchSettings(
                processes=args.processes, warmup=args.warmup, iterations=args.iterations, max_time_s=args.max_time
            ),
            include_failed=args.include_failed,
            resume=args.resume,
            command=("edgebench", *sys.argv[1:]),
            progress=progress,
        )
    json_file.write(run_document(result))
    if not json_file.is_stdout:
        data_console().print(render(result))
    statuses = {cell.status for cell in result.cells}
    if "failed" in statuses or statuses == {"skipped"}:
        return 1
    return 0 if "ok" in statuses else 3
