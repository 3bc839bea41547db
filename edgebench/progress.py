"""How long work tells where it is: the library reports, the command line draws."""

from __future__ import annotations

from typing import Protocol, Self

__all__ = ["Progress", "Silent"]


class Progress(Protocol):
    """What export, bench and training call while they work."""

    def start(self, label: str, total: int | None = None) -> None:
        """A new piece of work begins; it ends the one before. `total` is its number of steps, if known."""

    def advance(self, count: int = 1) -> None:
        """`count` steps of the present piece are done."""

    def done(self, text: str) -> None:
        """The present piece ended; `text` is its result in one line."""

    def warn(self, text: str) -> None:
        """Something the user should know now; `text` names the remedy."""

    def beside(self, name: str) -> Progress:
        """Progress of work that goes on beside other work, in a thread of its own, under its name."""


class Silent:
    """Progress that nobody watches: what the Python API uses unless it is given one."""

    def start(self, label: str, total: int | None = None) -> None:
        pass

    def advance(self, count: int = 1) -> None:
        pass

    def done(self, text: str) -> None:
        pass

    def warn(self, text: str) -> None:
        pass

    def beside(self, name: str) -> Self:
        return self
