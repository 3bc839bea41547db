"""`edgebench runs [list|show|rm]`: the stored runs."""

from __future__ import annotations

import argparse

__all__ = ["add_parser", "run"]


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to `edgebench`."""
    parser = commands.add_parser("runs", help="list, show or remove stored runs", description="The stored runs.")
    parser.add_argument("action", choices=("list", "show", "rm"), nargs="?", default="list", help="(default: list)")
    parser.add_argument("run_id", metavar="RUN", nargs="?", help="an id, its beginning, or latest (default: latest)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """List, show or remove."""
    from edgebench.cli.terminal import data_console
    from edgebench.errors import UsageError
    from edgebench.report.run_table import render, render_list
    from edgebench.run_file import load_run
    from edgebench.store import RunStore

    console = data_console()
    if args.action == "list":
        console.print(render_list(RunStore().list()))
    elif args.action == "show":
        console.print(render(load_run(args.run_id or "latest")))
    elif args.run_id is None:
        raise UsageError("which run is to be removed?", hint="edgebench runs rm RUN")
    else:
        console.print(f"removed {RunStore().remove(args.run_id)}", highlight=False)
    return 0
