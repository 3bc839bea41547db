"""`--json FILE` and its like: where a command's document goes, checked before the work begins and written whole."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from edgebench.errors import UsageError

__all__ = ["OutputFile"]


class OutputFile:
    """The file that the option `option` names; None writes nothing, `-` is stdout.

    Raises:
        UsageError: it cannot be written.
    """

    def __init__(self, option: str, path: str | None) -> None:
        self._option = option
        self._path = path
        if path not in (None, "-"):
            try:
                if Path(path).is_dir():
                    raise IsADirectoryError
                with tempfile.TemporaryFile(dir=Path(path).absolute().parent):
                    pass
            except OSError as error:
                hint = "name a file in a directory that can be written"
                raise UsageError(f"{option} {path} cannot be written", hint=hint) from error

    @staticmethod
    def refuse_two_on_stdout(files: Iterable[OutputFile]) -> None:
        """Two documents behind each other are none.

        Raises:
            UsageError: more than one of `files` is stdout.
        """
        taken = [file._option for file in files if file.is_stdout]
        if len(taken) > 1:
            raise UsageError(f"{' and '.join(taken)} cannot both go to stdout", hint="name a file for one of them")

    @property
    def is_stdout(self) -> bool:
        """Whether stdout is taken, so that nothing else may go there."""
        return self._path == "-"

    def write_json(self, document: object) -> None:
        """Write the document as JSON, whole or not at all."""
        self.write_text(json.dumps(document, indent=2, allow_nan=False) + "\n")

    def write_text(self, text: str) -> None:
        """Write `text`, whole or not at all."""
        from edgebench.files import write_atomically

        if self.is_stdout:
            sys.stdout.write(text)
        elif self._path is not None:
            write_atomically(Path(self._path), text.encode())
