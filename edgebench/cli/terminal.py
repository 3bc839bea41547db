"""How commands speak: progress on stderr, drawn on a terminal and in plain lines elsewhere; data on stdout."""

from __future__ import annotations

import copy
import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar
from rich.text import Text

from edgebench.progress import Progress

__all__ = ["TerminalProgress", "data_console", "open_progress"]

# In a log file one line this often is enough to see that it lives.
_PLAIN_EVERY_S = 10.0


def data_console() -> Console:
    """Where tables go. A pipe or file gets them as wide as they are, not cut to 80 columns."""
    console = Console()
    return console if console.is_terminal else Console(width=200)


def open_progress() -> TerminalProgress:
    """Progress on stderr; use it in a `with`."""
    console = Console(stderr=True)
    return _DrawnProgress(console) if console.is_terminal else _PlainProgress()


class TerminalProgress(Progress):
    """Progress that can be closed."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop drawing."""


class _DrawnProgress(TerminalProgress):
    def __init__(self, console: Console) -> None:
        self._name = ""
        self._bar = Bar(
            SpinnerColumn(finished_text="[green]✓"),
            TextColumn("{task.description:<12}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("[dim]{task.fields[result]}"),
            console=console,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def start(self, label: str, total: int | None = None) -> None:
        self._task = self._bar.add_task(f"{self._name}{label}", total=total, result="")

    def advance(self, count: int = 1) -> None:
        if self._task is not None:
            self._bar.advance(self._task, count)

    def done(self, text: str) -> None:
        if self._task is not None:
            task = self._bar.tasks[self._task]
            total = task.total or 1
            self._bar.update(self._task, total=total, completed=total, result=text)

    def warn(self, text: str) -> None:
        self._bar.console.print(Text(f"warning: {text}", style="yellow"))

    def beside(self, name: str) -> _DrawnProgress:
        """The same bars, with tasks of its own."""
        other = copy.copy(self)
        other._name, other._task = f"{name}: ", None
        return other


class _PlainProgress(TerminalProgress):
    def __init__(self, name: str = "") -> None:
        self._name = name
        self._label = ""
        self._total: int | None = None
        self._count = 0
        self._spoke = 0.0

    def start(self, label: str, total: int | None = None) -> None:
        self._label, self._total, self._count, self._spoke = f"{self._name}{label}", total, 0, time.monotonic()
        _say(f"{self._label} ...")

    def advance(self, count: int = 1) -> None:
        self._count += count
        now = time.monotonic()
        if now - self._spoke > _PLAIN_EVERY_S:
            self._spoke = now
            _say(f"{self._label}: {self._count} of {self._total or '?'}")

    def done(self, text: str) -> None:
        _say(f"{self._label}: {text}")

    def warn(self, text: str) -> None:
        _say(f"warning: {text}")

    def beside(self, name: str) -> _PlainProgress:
        """Lines that begin with the name."""
        return _PlainProgress(f"{name}: ")


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
