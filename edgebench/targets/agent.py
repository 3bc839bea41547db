"""What measures on a device: the agent there, as the host sees it, wherever it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from edgebench.agent.wire import OutputFile

__all__ = ["Agent", "Ended"]


@dataclass(frozen=True)
class Ended:
    """How a command of the agent ended: its `result` as JSON, or None and what is known of its end. `returncode` is
    negative for a signal, and None where nobody saw it."""

    result: dict[str, Any] | None
    returncode: int | None
    timed_out: bool
    last_words: str


class Agent(Protocol):
    """The agent of one device. `takes_frames`: a predict job's images may be normalised there."""

    takes_frames: bool

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What the device says of itself."""

    def place(self, paths: Sequence[Path], advance: Callable[[int], None]) -> dict[Path, str]:
        """Where the files are on the device, once they are there. `advance` is told the bytes that were sent."""

    def execute(self, command: str, message: Callable[[], Any], limit_s: float) -> Ended:
        """Run one of its commands to its end, for `limit_s` at most. `message` gives what it is told, as JSON, with
        paths of the device; it is called again where all has to be done again."""

    def fetch(self, outputs: Sequence[OutputFile], directory: Path) -> list[Path]:
        """The output files of the last command here: where they are, or copies in `directory`."""

    def interrupt(self) -> None:
        """Let what another thread waits for here end with KeyboardInterrupt."""

    def close(self) -> None:
        """Leave the device as it was found."""
