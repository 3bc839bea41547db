"""What executes artifacts, one file a runtime.

A runtime's module defines:

- `FORMATS`: the artifact formats it opens, and `INSTALL`: what to type where it is missing;
- `load_library() -> str`: imports its library and gives its version, or raises `Unsupported`;
- `open_session(path, threads) -> Session`.

A Session has `provider`, `prepare(feed)` (outside the clock), `run(prepared)` (inside it), `named_outputs(outputs)` and
`close()`.
"""

from __future__ import annotations


class Unsupported(Exception):
    """This runtime cannot work here; the message ends with what installs it."""
