"""`edgebench devices [list|show|doctor|new] [NAME]`: profiles, and what stands between a user and a figure."""

from __future__ import annotations

import argparse
from pathlib import Path

from edgebench.cli.options import positive_int

__all__ = ["add_parser", "run"]

# Findings without which nothing further is possible.
_NO_DEVICE = ("connection", "agent", "python")


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to `edgebench`."""
    parser = commands.add_parser(
        "devices",
        help="list, show or write profiles; doctor: is the device ready, and what to type to mend it",
        description="Device profiles (devices/*.toml), and whether a device is ready to be measured.",
        epilog="examples: edgebench devices new kitchen --ssh pi@10.0.0.12; edgebench devices doctor kitchen",
    )
    parser.add_argument(
        "action", choices=("list", "show", "doctor", "new"), nargs="?", default="list", help="(default: list)"
    )
    parser.add_argument("name", metavar="NAME", nargs="?", help="a profile (default: local)")
    new = parser.add_argument_group("new", "asks the device what it is and writes ./devices/NAME.toml")
    new.add_argument("--ssh", metavar="ADDRESS", help="USER@HOST, or a Host of ~/.ssh/config")
    new.add_argument("--port", metavar="PORT", type=positive_int, help="of --ssh (default: as ssh is configured)")
    new.add_argument("--ssh-config", metavar="FILE", help="read instead of ~/.ssh/config (default: no)")
    new.add_argument(
        "--adb", metavar="SERIAL", nargs="?", const="", help="as `adb devices` lists it (default: the only one)"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """List, show, write or examine; 1 when the doctor found something bad, 3 when nothing can be measured so."""
    if args.action == "list":
        return _list()
    if args.action == "new":
        return _new(args)
    return _show(args.name or "local") if args.action == "show" else _doctor(args.name or "local")


def _list() -> int:
    from rich.text import Text

    from edgebench.cli.terminal import data_console
    from edgebench.config import find_device, names
    from edgebench.errors import UsageError

    console = data_console()
    for name in names("devices"):
        try:
            profile = find_device(name)
        except UsageError as error:
            console.print(Text(f"{name:18} cannot be read: {error}", style="red"))
            continue
        reached = profile.address or profile.serial or ""
        console.print(
            Text(f"{name:18} {profile.transport:6} {reached:18} {profile.description}".rstrip()), soft_wrap=True
        )
    return 0


def _show(name: str) -> int:
    from rich.text import Text

    from edgebench.agent.codec import encode
    from edgebench.cli.terminal import data_console
    from edgebench.config import find_device

    for key, value in encode(find_device(name)).items():
        data_console().print(Text(f"{key:16} {'—' if value is None else value}"), soft_wrap=True)
    return 0


def _new(args: argparse.Namespace) -> int:
    from edgebench.cli.terminal import data_console
    from edgebench.errors import UsageError
    from edgebench.measure.new_device import new_device
    from edgebench.types import DeviceProfile

    hint = "edgebench devices new NAME --ssh USER@HOST, or edgebench devices new NAME --adb [SERIAL]"
    if args.name is None:
        raise UsageError("what shall the device be called?", hint=hint)
    if (args.ssh is None) == (args.adb is None):
        raise UsageError("say how the device is reached, by --ssh or by --adb", hint=hint)
    if args.ssh is not None:
        asked = DeviceProfile(args.name, "ssh", address=args.ssh, port=args.port, ssh_config=args.ssh_config)
    else:
        asked = DeviceProfile(args.name, "adb", serial=args.adb or None)
    path = new_device(args.name, asked, Path("devices"))
    console = data_console()
    console.print(f"wrote {path}:", markup=False)
    console.print(path.read_text(), markup=False, highlight=False)
    console.print(f"next: edgebench devices doctor {args.name}", markup=False)
    return 0


def _doctor(name: str) -> int:
    from rich.text import Text

    from edgebench.cli.terminal import data_console
    from edgebench.config import find_device
    from edgebench.measure.doctor import examine

    console = data_console()
    code = 0
    for finding in examine(find_device(name)):
        sign, style = {True: ("✓", "green"), False: ("✗", "red"), None: ("·", "")}[finding.good]
        line = Text(f"{sign} {finding.subject:20} {finding.found}", style=style)
        if finding.good is not True and finding.remedy:
            line.append(f"\n  next: {finding.remedy}", style="bold")
        console.print(line, soft_wrap=True)
        if finding.good is False:
            code = 3 if finding.subject in _NO_DEVICE else max(code, 1)
    return code
