"""What executes artifacts, one file a runtime.

A runtime's module defines:

- `FORMATS`: the artifact formats it opens, and `INSTALL`: what to type where it is missing;
- `load_library() -> str`: imports its library and gives its version, or raises `Unsupported`;
- `prepare(feed)`: the feed as the library takes it, outside the clock and before memory is looked at;
- `open_session(path, threads) -> Session`.

A Session has `provider`, `run(prepared)`, which is what the clock sees, `named_outputs(outputs)` and `close()`.
"""

from __future__ import annotations

import importlib
from typing import Any


class Unsupported(Exception):
    """This runtime cannot work here; the message ends with what installs it."""


def find(name: str) -> Any:
    """The runtime's module.

    Raises:
        Unsupported: there is none.
    """
    try:
        return importlib.import_module("." + name, __name__)
    except ModuleNotFoundError as error:
        if error.name != __name__ + "." + name:
            raise
        words = "edgebench's agent does not run %s: a tool under `tools` in the device's profile may (docs/devices.md)"
        raise Unsupported(words % name) from error
