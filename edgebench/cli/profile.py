"""`edgebench profile ARTIFACT`: the time of each operator, kind and PyTorch module, by the runtime's own profiler."""

from __future__ import annotations

import argparse

from edgebench.cli.options import positive_int, shape
from edgebench.cli.output_file import OutputFile

__all__ = ["add_parser", "run"]

_VIEWS = ("kind", "kernel", "module")


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to `edgebench`."""
    parser = commands.add_parser(
        "profile",
        help="where the time goes: by operator, kernel and PyTorch module; two artifacts side by side",
        description="Run an artifact below its runtime's own profiler: the time of each operator, of each kind, and of "
        "each module of the PyTorch network that it came from. Two artifacts are shown side by side.",
    )
    parser.add_argument(
        "artifact",
        metavar="ARTIFACT",
        help="an artifact of a bundle, a single .onnx file, or a source as `export` takes it, which PyTorch runs",
    )
    parser.add_argument("other", metavar="OTHER", nargs="?", help="another one to set beside it (default: none)")
    parser.add_argument("--device", metavar="NAME", default="local", help="the profile of a device (default: local)")
    parser.add_argument(
        "--runtime", metavar="NAME", help="onnxruntime, tflite or torchscript (default: the artifact's usual one)"
    )
    parser.add_argument("--threads", metavar="N", type=positive_int, help="per inference (default: the physical cores)")
    parser.add_argument(
        "--runs", metavar="N", type=positive_int, default=20,
        help="so many inferences with the profiler, and so many without (default: 20)",
    )  # fmt: skip
    parser.add_argument(
        "--by", metavar="VIEW", choices=_VIEWS, action="append",
        help=f"show the sums by {', '.join(_VIEWS)}; repeatable (default: kind and module)",
    )  # fmt: skip
    parser.add_argument(
        "--top",
        metavar="N",
        type=positive_int,
        default=10,
        help="show the N slowest operators, kinds, ... (default: 10)",
    )
    parser.add_argument(
        "--depth", metavar="N", type=positive_int,
        help="cut modules to N parts: 2 makes features.1.block features.1 (default: as deep as stays an overview)",
    )  # fmt: skip
    parser.add_argument(
        "--trace", metavar="FILE", help="also write a Chrome trace, for chrome://tracing and Perfetto (default: no)"
    )
    parser.add_argument("--json", metavar="FILE", help="also write every figure, - for stdout alone (default: no)")
    group = parser.add_argument_group("for a source")
    group.add_argument("--input-shape", metavar="N,C,H,W", type=shape, help="(default: the architecture's)")
    group.add_argument("--arch", metavar="ARCH", help="of a state dict, as for export (default: found by its keys)")
    group.add_argument(
        "--trust", action="store_true", help="read a pickle or .pt2 that runs code when read (default: refuse it)"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Profile, print, and write what was asked for."""
    from edgebench.cli.terminal import data_console, open_progress
    from edgebench.measure.profile import profile
    from edgebench.report import chrome_trace, profile_json
    from edgebench.report.profile_table import render

    files = {name: OutputFile(f"--{name}", getattr(args, name)) for name in ("json", "trace")}
    OutputFile.refuse_two_on_stdout(files.values())
    with open_progress() as progress:
        profiles = profile(
            [path for path in (args.artifact, args.other) if path is not None],
            device=args.device,
            runtime=args.runtime,
            threads=args.threads,
            runs=args.runs,
            arch=args.arch,
            trust=args.trust,
            input_shape=args.input_shape,
            progress=progress,
        )
    files["json"].write_json(profile_json.document(profiles, args.depth))
    files["trace"].write_json(chrome_trace.document(profiles))
    if not any(file.is_stdout for file in files.values()):
        data_console().print(render(profiles, args.by or ("kind", "module"), args.top, args.depth))
    return 0
