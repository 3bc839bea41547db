"""A runtime that does nothing: what is measured of it is the harness itself."""

from __future__ import annotations

import platform
from typing import Any, List, Tuple

from ..feeds import Feed
from ..wire import TensorSpec

FORMATS = ("null",)
INSTALL = "it is always there"


def load_library() -> str:
    """The version of Python, which is all that it needs."""
    return platform.python_version()


def prepare(feed: Feed) -> Feed:
    """The feed as it is."""
    return feed


def open_session(path: str, threads: int) -> NullSession:
    """A session that ignores both."""
    return NullSession()


class NullSession:
    """Answers nothing."""

    provider = "none"

    def run(self, prepared: Any) -> None:
        """Return at once."""

    def named_outputs(self, outputs: Any) -> List[Tuple[TensorSpec, bytes]]:
        """No outputs."""
        return []

    def close(self) -> None:
        """Nothing is held."""
