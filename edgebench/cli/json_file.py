"""`--json FILE`: where a command's JSON goes, checked before the work begins and written whole."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from edgebench.errors import UsageError

__all__ = ["JsonFile"]


class JsonFile:
    """The file of `--json`; None writes nothing, `-` is stdout.

    Raises:
        UsageError: it cannot be written.
    """

    def __init__(self, path: str | None) -> None:
        self._path = path
        if path not in (None, "-") and (not Path(path).absolute().parent.is_dir() or Path(path).is_dir()):
            raise UsageError(f"--json {path} cannot be written", hint="name a file in an existing directory")

    @property
    def is_stdout(self) -> bool:
        """Whether stdout is taken, so that nothing else may go there."""
        return self._path == "-"

    def write(self, document: object) -> None:
        """Write the document, whole or not at all."""
        from edgebench.files import write_atomically

        text = json.dumps(document, indent=2) + "\n"
        if self.is_stdout:
            sys.stdout.write(text)
        elif self._path is not None:
            write_atomically(Path(self._path), text)
