"""`edgebench devices [list|show|doctor] [NAME]`: profiles, and what can be seen and held still on a device."""

from __future__ import annotations

import argparse

__all__ = ["add_parser", "run"]


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to `edgebench`."""
    parser = commands.add_parser(
        "devices",
        help="list or show profiles; doctor: what can be measured on one, and what edgebench itself adds",
        description="Device profiles (devices/*.toml), and what can be measured on a device.",
    )
    parser.add_argument("action", choices=("list", "show", "doctor"), nargs="?", default="list", help="(default: list)")
    parser.add_argument("name", metavar="NAME", nargs="?", default="local", help="a profile (default: local)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """List, show or examine; 1 when the doctor found something bad."""
    from rich.text import Text

    from edgebench.agent.codec import encode
    from edgebench.cli.terminal import data_console
    from edgebench.config import find_device, names

    console = data_console()
    if args.action == "list":
        for name in names("devices"):
            console.print(Text(f"{name:16} {find_device(name).description}"))
        return 0
    profile = find_device(args.name)
    if args.action == "show":
        for key, value in encode(profile).items():
            console.print(Text(f"{key:16} {'—' if value is None else value}"))
        return 0
    from edgebench.measure.doctor import examine

    bad = False
    for finding in examine(profile):
        sign, style = {True: ("✓", "green"), False: ("✗", "red"), None: ("·", "")}[finding.good]
        line = Text(f"{sign} {finding.subject:20} {finding.found}", style=style)
        if finding.good is not True and finding.remedy:
            line.append(f"\n  next: {finding.remedy}", style="bold")
        console.print(line)
        bad = bad or finding.good is False
    return 1 if bad else 0
