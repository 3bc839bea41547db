"""The options of `export` that say what int8 is to be, and what it may lose."""

from __future__ import annotations

import argparse
from typing import Any

from edgebench.cli.options import comma_separated, positive_int, seconds, tolerance
from edgebench.trade_off import Budget

__all__ = ["add_options", "read_options"]

_SWITCH = ("on", "off")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add both groups."""
    group = parser.add_argument_group("int8 (ONNX)", "defaults are what was measured to be best for the target")
    group.add_argument(
        "--target", metavar="NAME", help="x86-vnni, x86-avx2, arm, or a device's name (default: this machine)"
    )
    group.add_argument("--activations", choices=("uint8", "int8", "uint16", "int16"), help="(default: the target's)")
    group.add_argument("--weights", choices=("int8", "uint8"), help="(default: the target's)")
    group.add_argument("--per-tensor", action="store_true", help="one scale for all weights of a layer (default: no)")
    group.add_argument("--symmetric", action="store_true", help="activations without a zero point (default: no)")
    group.add_argument(
        "--reduce-range", choices=_SWITCH, help="7 bits of each weight, for x86 without VNNI (default: the target's)"
    )
    group.add_argument("--form", choices=("QDQ", "QOperator"), help="(default: QDQ)")
    group.add_argument("--equalize", choices=_SWITCH, help="equalise channels across layers (default: on)")
    group.add_argument("--bias-correction", choices=_SWITCH, help="(default: on, where it makes the outputs better)")
    group.add_argument(
        "--float", metavar="LIST", type=comma_separated, dest="floats",
        help="nodes or kinds of operators that stay float (default: by what int8 kernels there are)",
    )  # fmt: skip
    group.add_argument(
        "--int16",
        metavar="LIST",
        type=comma_separated,
        dest="wide",
        help="nodes with 16-bit activations (default: none)",
    )
    group = parser.add_argument_group("what int8 may lose", "products are kept out of int8 until it loses no more")
    group.add_argument("--max-drop", metavar="POINTS", type=tolerance, help="points of top-1 (default: no limit)")
    group.add_argument("--min-sqnr", metavar="DB", type=tolerance, help="SQNR of the outputs (default: no limit)")
    group.add_argument(
        "--data", metavar="DATA", help="labelled images to judge by (default: those beside the calibration images)"
    )
    group.add_argument("--data-samples", metavar="N", type=positive_int, help="how many of them (default: 1000)")
    group.add_argument(
        "--keep", choices=("float", "int16"), default=Budget.keep, help="what becomes of them (default: float)"
    )
    group.add_argument(
        "--max-evaluations", metavar="N", type=positive_int, default=Budget.evaluations,
        help=f"models to try at most (default: {Budget.evaluations})",
    )  # fmt: skip
    group.add_argument(
        "--search-time", metavar="SECONDS", type=seconds, default=Budget.seconds,
        help=f"when to stop trying (default: {Budget.seconds:.0f})",
    )  # fmt: skip


def read_options(args: argparse.Namespace) -> dict[str, Any]:
    """The arguments of `edgebench.export` that they stand for."""
    int8: dict[str, Any] = {
        name: getattr(args, name)
        for name in ("activations", "weights", "form", "floats", "wide")
        if getattr(args, name) is not None
    }
    if args.per_tensor:
        int8["per_channel"] = False
    if args.symmetric:
        int8["symmetric"] = True
    if args.reduce_range is not None:
        int8["weight_bits"] = 7 if args.reduce_range == "on" else 8
    for name, option in (("equalize", args.equalize), ("correct_bias", args.bias_correction)):
        if option is not None:
            int8[name] = option == "on"
    budget = None
    if args.max_drop is not None or args.min_sqnr is not None:
        budget = Budget(args.max_drop, args.min_sqnr, args.keep, args.max_evaluations, args.search_time)
    return {
        "target": args.target,
        "int8": int8,
        "budget": budget,
        "data": args.data,
        "data_samples": args.data_samples,
    }
