"""Shell scripts that a device runs from stdin, and what they print, in named sections.

What dash, busybox and Android's mksh with toybox understand is little, and each word of a command is quoted here.
"""

from __future__ import annotations

import re
import secrets
import shlex
from collections.abc import Sequence

from edgebench.targets.native.shell_state import FILES, TOOLS

__all__ = ["Script"]

# $1 is a process. One that stopped itself, or has ended, has settled.
_FUNCTIONS = """
settle() {
    while read -r line 2>/dev/null <"/proc/$1/stat"; do
        line=${line##*) }
        case $line in T*|t*|Z*|X*) return ;; esac
        sleep 0.02 2>/dev/null || sleep 1
    done
}
turn() { kill -CONT "$1" 2>/dev/null && settle "$1"; }
"""


class Script:
    """A script that is put together line by line; `sections` reads what it printed."""

    def __init__(self, directory: str) -> None:
        # Nothing that a tool prints can be taken for a mark of ours.
        self._mark = f"@@{secrets.token_hex(8)}"
        self._lines = [
            _FUNCTIONS,
            f"cd {shlex.quote(directory)} || exit 90",
            # The shell leads its process group, so that this ends all that it started.
            "echo $$ >pid",
        ]

    def call(self, argv: Sequence[str], *, out: str, err: str) -> None:
        """Run a command to its end, with its streams in files; its exit code is the section `code OUT`."""
        self._lines.append(f"{shlex.join(argv)} </dev/null >{shlex.quote(out)} 2>{shlex.quote(err)}")
        self._lines.append(f'printf "%s %s\\n%s\\n" {shlex.quote(self._mark)} {shlex.quote(f"code {out}")} "$?"')

    def start(self, argv: Sequence[str], number: int, *, err: str) -> None:
        """Start a process that stops itself before each of its turns, and wait until it first does."""
        self._lines.append(f"{shlex.join(argv)} </dev/null >/dev/null 2>{shlex.quote(err)} &")
        self._lines.append(f'p{number}=$!; settle "$p{number}"')

    def turn(self, number: int) -> None:
        """Let that process have a turn, and wait for its end."""
        self._lines.append(f'turn "$p{number}"')

    def let_end(self, number: int) -> None:
        """Let it go on, and wait until it has ended."""
        mark, name = shlex.quote(self._mark), shlex.quote(f"code {number}")
        self._lines.append(f'kill -CONT "$p{number}" 2>/dev/null; wait "$p{number}"')
        self._lines.append(f'printf "%s %s\\n%s\\n" {mark} {name} "$?"')

    def show(self, patterns: str) -> None:
        """Print the files, each as a section of its name, those that can be read."""
        mark = shlex.quote(self._mark)
        self._lines.append(
            f'for f in {patterns}; do [ -r "$f" ] && {{ printf "%s %s\\n" {mark} "$f"; cat "$f" 2>/dev/null; echo; }}; '
            "done"
        )

    def show_state(self, name: str) -> None:
        """Print what the device's state is read from; the section `state NAME` comes before it."""
        mark = shlex.quote(self._mark)
        self._lines.append(f'printf "%s %s\\n" {mark} {shlex.quote(f"state {name}")}')
        self.show(FILES)
        for tool in TOOLS:
            program = tool.partition(" ")[0]
            self._lines.append(
                f'command -v {program} >/dev/null 2>&1 && {{ printf "%s %s\\n" {mark} {shlex.quote(tool)}; '
                f"{tool} 2>/dev/null; echo; }}"
            )

    def text(self) -> bytes:
        """For the stdin of `sh -s`."""
        return "\n".join([*self._lines, f'printf "%s end\\n" {shlex.quote(self._mark)}', ""]).encode()

    def sections(self, stdout: str) -> list[tuple[str, str]]:
        """Name and text of each section in order; the last is called `end` where the script came so far."""
        parts = re.split(rf"(?m)^{re.escape(self._mark)} (.*)\n", stdout)
        return [(name.rstrip("\r"), text) for name, text in zip(parts[1::2], parts[2::2], strict=True)]
