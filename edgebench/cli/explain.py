"""`edgebench explain ARTIFACT`: why an int8 model is slow or inaccurate, and what to type."""

from __future__ import annotations

import argparse

from edgebench.cli.options import positive_int
from edgebench.cli.output_file import OutputFile

__all__ = ["add_parser", "run"]


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to `edgebench`."""
    parser = commands.add_parser(
        "explain",
        help="why an int8 model is slow or inaccurate: what runs in float, what clips, what to do",
        description="Say what an int8 file is, which of its operators the runtime really computes in int8 and "
        "what the others cost, and layer by layer what its values lose against the float model; with remedies.",
    )
    parser.add_argument(
        "artifact", metavar="ARTIFACT", help="an int8 artifact of a bundle, or anyone's quantized .onnx or .tflite"
    )
    parser.add_argument("--device", metavar="NAME", default="local", help="where it is timed (default: local)")
    parser.add_argument(
        "--against", metavar="ONNX", help="the float model that it was made of (default: the one in its bundle)"
    )
    parser.add_argument(
        "--data", metavar="DATA", help="images to look at its values with (default: the inputs that the bundle keeps)"
    )
    parser.add_argument("--samples", metavar="N", type=positive_int, default=16, help="how many of them (default: 16)")
    parser.add_argument(
        "--preprocess", metavar="NAME_OR_TOML", help="for images of a file outside a bundle (default: the data's own)"
    )
    parser.add_argument("--threads", metavar="N", type=positive_int, help="per inference (default: the physical cores)")
    parser.add_argument(
        "--runs", metavar="N", type=positive_int, default=20,
        help="so many inferences with the profiler, and so many without (default: 20)",
    )  # fmt: skip
    parser.add_argument("--top", metavar="N", type=positive_int, default=10, help="so many layers (default: 10)")
    parser.add_argument("--json", metavar="FILE", help="also write every figure, - for stdout alone (default: no)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Explain, print, and write what was asked for."""
    from edgebench.cli.terminal import data_console, open_progress
    from edgebench.measure.explain import explain
    from edgebench.report import explain_json
    from edgebench.report.explain_table import render

    json_file = OutputFile("--json", args.json)
    with open_progress() as progress:
        explained = explain(
            args.artifact,
            device=args.device,
            against=args.against,
            data=args.data,
            samples=args.samples,
            preprocess=args.preprocess,
            threads=args.threads,
            runs=args.runs,
            progress=progress,
        )
    json_file.write_json(explain_json.document(explained))
    if not json_file.is_stdout:
        data_console().print(render(explained, args.top))
    return 0
