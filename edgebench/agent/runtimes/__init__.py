"""What executes artifacts, one file a runtime.

A runtime's module defines:

- `FORMATS`: the artifact formats it opens, and `INSTALL`: what to type where it is missing;
- `load_library() -> str`: imports its library and gives its version, or raises `Unsupported`;
- `prepare(feed)`: the feed as the library takes it, outside the clock and before memory is looked at;
- `open_session(path, threads) -> Session`.

A Session has `provider`, `run(prepared)`, which is what the clock sees, `named_outputs(outputs)` and `close()`.
"""

from __future__ import annotations


class Unsupported(Exception):
    """This runtime cannot work here; the message ends with what installs it."""
