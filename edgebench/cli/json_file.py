"""`--json FILE`: where a command's JSON goes, checked before the work begins and written whole."""

from __future__ import annotations

import json
import sys
import tempfile
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
        if path not in (None, "-"):
            try:
                if Path(path).is_dir():
                    raise IsADirectoryError
                with tempfile.TemporaryFile(dir=Path(path).absolute().parent):
                    pass
            except OSError as error:
                hint = "name a file in a directory that can be written"
                raise UsageError(f"--json {path} cannot be written", hint=hint) from error

    @property
    def is_stdout(self) -> bool:
        """Whether stdout is taken, so that nothing else may go there."""
        return self._path == "-"

    def write(self, document: object) -> None:
        """Write the document, whole or not at all."""
        from edgebench.files import write_json

        if self.is_stdout:
            sys.stdout.write(json.dumps(document, indent=2, allow_nan=False) + "\n")
        elif self._path is not None:
            write_json(Path(self._path), document)
