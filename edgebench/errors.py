"""The errors a user can meet, each with its next step and its exit code.

    EdgebenchError              1  something failed
    ├── UsageError              2  the command, a file or a configuration is not what was expected
    │   ├── SourceError         2  the model cannot be read
    │   ├── UntrustedError      2  reading the model would run code that came with it
    │   └── DataError           2  images, labels or a calibration set
    ├── EnvironmentFailure      3  this machine: no space, no permission
    │   └── MissingExtra        3  an optional dependency is not installed
    └── StepError               1  one export step failed; the others go on

Foreign errors are translated where the foreign library is called, with `raise ... from`.
"""

from __future__ import annotations

__all__ = [
    "DataError",
    "EdgebenchError",
    "EnvironmentFailure",
    "MissingExtra",
    "SourceError",
    "StepError",
    "UntrustedError",
    "UsageError",
    "first_line",
]


def first_line(error: BaseException) -> str:
    """The first line of a foreign error's text that says something, else its type's name."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


class EdgebenchError(Exception):
    """What happened, to which thing, what was expected; `hint` says what to do next."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(EdgebenchError):
    """The command line, a file or a configuration is not what was expected."""

    exit_code = 2


class SourceError(UsageError):
    """A model file or factory that cannot be read as a model."""


class UntrustedError(SourceError):
    """Reading the model would run code that came with it. `globals` names what it would call."""

    def __init__(self, message: str, *, hint: str | None = None, globals: tuple[str, ...] = ()) -> None:
        super().__init__(message, hint=hint)
        self.globals = globals


class DataError(UsageError):
    """Images, labels, preprocessing or a calibration set that cannot be used."""


class EnvironmentFailure(EdgebenchError):
    """This machine stands in the way: no space, no permission, a tool that is not there."""

    exit_code = 3


class DeviceError(EnvironmentFailure):
    """A device cannot be reached or used as things are."""


class MissingExtra(EnvironmentFailure):
    """An optional dependency is not installed; the message is one line that names the extra."""

    def __init__(self, module: str, extra: str) -> None:
        super().__init__(f"{module} is not installed", hint=f"pip install 'edgebench[{extra}]'")
        self.extra = extra


class StepError(EdgebenchError):
    """One export step failed. The chain records it in its artifact and goes on."""
