"""`edgebench`: parses the command line, runs the command, and turns errors into one clear message and an exit code.

Nothing heavy is imported here or in the commands' modules: a command imports what it needs when it runs.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from types import FrameType

from edgebench._version import __version__
from edgebench.cli import bench, compare, demo, devices, explain, export, inspect, profile, runs
from edgebench.errors import EdgebenchError

__all__ = ["main"]

_INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; its exit code: 0 done, 1 failed, 2 usage, 3 environment, 4 not trustworthy, 130 interrupted."""
    args = _parser().parse_args(argv)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    try:
        return int(args.run(args))
    except EdgebenchError as error:
        say(f"error: {error}")
        if error.hint:
            say(f"hint: {error.hint}")
        return error.exit_code
    except KeyboardInterrupt:
        say("interrupted: what was finished is saved")
        return _INTERRUPTED
    except BrokenPipeError:
        # `edgebench runs | head`: the reader went. Python would complain once more while it flushes at exit.
        sys.stdout = None
        return 0


def say(text: str) -> None:
    """One line for people, on stderr."""
    sys.stderr.write(f"{text}\n")


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="edgebench",
        description="From a PyTorch model to a decision about what to ship on a small device.",
        epilog="Exit codes: 0 done, 1 something failed, 2 usage, 3 device or environment, "
        "4 not trustworthy enough for what was asked, 130 interrupted.",
    )
    parser.add_argument("--version", action="version", version=f"edgebench {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in (demo, export, bench, compare, profile, explain, inspect, devices, runs):
        command.add_parser(commands)
    return parser
