"""`edgebench compare A B`: what changed, how sure that is, and whether the gates of a CI hold."""

from __future__ import annotations

import argparse
import sys

from edgebench.cli.measuring import add_options, arguments_of, settings_of
from edgebench.cli.options import comma_separated, percentage
from edgebench.cli.output_file import OutputFile

__all__ = ["add_parser", "run"]

_FORMATS = {
    "json": "every figure",
    "markdown": "for the summary of a CI",
    "junit": "XML, one test case per gate and artifact",
    "github": "JSON for github-action-benchmark (customSmallerIsBetter)",
}


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to `edgebench`."""
    parser = commands.add_parser(
        "compare",
        help="two runs, or two artifacts measured now in alternation: ratio, interval, verdict, gates",
        description="Compare two runs (ids or JSON files), or two bundles or artifacts, which are measured now in "
        "alternation. Exit code: 1 when a gate failed, 4 when one is undecided.",
    )
    parser.add_argument("before", metavar="A", help="a run, a JSON file of one, a bundle or an artifact")
    parser.add_argument("after", metavar="B", help="another of the same kind")
    parser.add_argument(
        "--fail-if", metavar="GATE", action="append", default=[],
        help="fail when it became worse by more: 'p50>5%%', 'memory>10%%', 'accuracy>1pt'; repeatable (default: none)",
    )  # fmt: skip
    parser.add_argument(
        "--margin", metavar="PERCENT", type=percentage, default=1.0,
        help="two latencies are the same when the interval is within this (default: 1)",
    )  # fmt: skip
    parser.add_argument(
        "--noise-floor", action="store_true", help="measure A against itself as well, in the same rounds (default: no)"
    )
    parser.add_argument(
        "--allow", metavar="LIST", type=comma_separated, default=(),
        help="in what runs may differ: device, threads, batch (default: nothing)",
    )  # fmt: skip
    parser.add_argument(
        "--device", metavar="NAME", default="local", help="the profile to measure artifacts on (default: local)"
    )
    for name, what in _FORMATS.items():
        parser.add_argument(f"--{name}", metavar="FILE", help=f"also write {what}, - for stdout alone (default: no)")
    add_options(parser, max_time_s=60.0, max_time_help="artifacts are measured so long at most until all is decided")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Compare and print; 1 when a gate failed or one side could not be measured, 4 when a gate is undecided."""
    from edgebench.cli.terminal import data_console, open_progress
    from edgebench.gate import decide, parse_gates
    from edgebench.measure.compare import compare
    from edgebench.report import ci
    from edgebench.report.comparison import markdown, render

    gates = parse_gates(args.fail_if)
    files = {name: OutputFile(f"--{name}", getattr(args, name)) for name in _FORMATS}
    OutputFile.refuse_two_on_stdout(files.values())
    with open_progress() as progress:
        result = compare(
            args.before,
            args.after,
            fail_if=args.fail_if,
            margin=args.margin,
            noise_floor=args.noise_floor,
            allow=args.allow,
            device=args.device,
            settings=settings_of(args),
            command=("edgebench", *sys.argv[1:]),
            progress=progress,
            **arguments_of(args),
        )
    margin = args.margin / 100
    decisions = [decide(gate, pair) for gate in gates for pair in result.pairs]
    files["json"].write_json(ci.document(result, decisions, margin))
    files["github"].write_json(ci.github_benchmark(result))
    files["junit"].write_text(ci.junit(result, decisions, margin))
    files["markdown"].write_text(markdown(result, decisions, margin))
    if not any(file.is_stdout for file in files.values()):
        data_console().print(render(result, decisions, margin))
    outcomes = {decision.outcome for decision in decisions}
    if "failed" in outcomes or result.failed or not result.pairs or (gates and result.missing):
        return 1
    return 4 if "undecided" in outcomes else 0
