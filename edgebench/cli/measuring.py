"""The options of commands that measure: what with, how long, and under which conditions."""

from __future__ import annotations

import argparse
from typing import Any

from edgebench.cli.options import (
    comma_separated,
    non_negative_int,
    positive_int,
    positive_ints,
    seconds,
    tolerance,
)
from edgebench.types import BenchSettings

__all__ = ["add_options", "arguments_of", "settings_of"]


def add_options(parser: argparse.ArgumentParser, *, max_time_s: float, max_time_help: str) -> None:
    """Add the options to a command."""
    group = parser.add_argument_group("measuring")
    group.add_argument(
        "--runtime",
        metavar="LIST",
        type=comma_separated,
        help="onnxruntime, tflite, openvino, ..., or all (default: the usual one of each format)",
    )
    group.add_argument(
        "--threads", metavar="LIST", type=positive_ints, help="a cell for each number (default: the physical cores)"
    )
    group.add_argument("--data", metavar="DATA", help="labelled images for top-1 and top-5 (default: no accuracy)")
    group.add_argument("--samples", metavar="N", type=positive_int, help="how many of them (default: all)")
    group.add_argument(
        "--preprocess", metavar="NAME_OR_TOML", help="for a file outside a bundle (default: the bundle's own)"
    )
    group.add_argument(
        "--processes", metavar="N", type=positive_int, default=BenchSettings.processes,
        help="fresh processes per cell, at least (default: 5)",
    )  # fmt: skip
    group.add_argument(
        "--warmup", metavar="RUNS", type=non_negative_int, default=BenchSettings.warmup,
        help="untimed runs per process, within 10 seconds; they go on while it gets faster (default: 5 runs)",
    )  # fmt: skip
    group.add_argument(
        "--iterations", metavar="N", type=positive_int, default=BenchSettings.iterations,
        help="timed runs per process, more where they take microseconds (default: 50)",
    )  # fmt: skip
    group.add_argument(
        "--max-time", metavar="SECONDS", type=seconds, default=max_time_s,
        help=f"{max_time_help}, in seconds per cell (default: {max_time_s:g})",
    )  # fmt: skip
    group.add_argument(
        "--cooldown", metavar="CELSIUS", type=tolerance,
        help="before each round wait until the hottest sensor is this cool, within --max-wait (default: no)",
    )  # fmt: skip
    group.add_argument(
        "--max-wait", metavar="SECONDS", type=tolerance, default=BenchSettings.max_wait_s,
        help="before each round wait so long at most for other processes to be quiet (default: 5)",
    )  # fmt: skip
    group.add_argument(
        "--timeout", metavar="SECONDS", type=seconds, default=BenchSettings.timeout_s,
        help="a process that does not load, or not run its turn, in this time is stopped (default: 300)",
    )  # fmt: skip
    group.add_argument(
        "--count", choices=("instructions",),
        help="also count the instructions of one inference: a figure without noise (default: no)",
    )  # fmt: skip
    group.add_argument(
        "--resume", metavar="RUN", help="go on with an interrupted run, in its own settings (default: a new run)"
    )


def arguments_of(args: argparse.Namespace) -> dict[str, Any]:
    """What `bench` and `compare` of the library are given besides the settings."""
    return {
        "runtimes": args.runtime,
        "threads": args.threads,
        "data": args.data,
        "samples": args.samples,
        "preprocess": args.preprocess,
        "resume": args.resume,
    }


def settings_of(args: argparse.Namespace, **others: Any) -> BenchSettings:
    """The settings that the options give, and those that the command has besides."""
    return BenchSettings(
        processes=args.processes,
        warmup=args.warmup,
        iterations=args.iterations,
        max_time_s=args.max_time,
        cooldown_c=args.cooldown,
        max_wait_s=args.max_wait,
        timeout_s=args.timeout,
        count=args.count,
        **others,
    )
