"""litert-torch, which writes TFLite files: where it is, and how it is run.

It is heavy (jax and more, 800 MB) and holds torch back (0.10 wants one below 2.15), so it runs in a process of its own,
by this Python where it is installed, or by another one that EDGEBENCH_TFLITE_PYTHON names. What goes there is torch's
exported program: one of 2.15 is read by 2.14.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import tempfile
from functools import cache
from pathlib import Path

from edgebench.errors import MissingExtra, StepError, UsageError
from edgebench.exporters import converter

__all__ = ["PYTHON_VARIABLE", "convert", "converter_versions", "is_installed"]

PYTHON_VARIABLE = "EDGEBENCH_TFLITE_PYTHON"
_NAME = "litert-torch"
_CHILD = Path(__file__).with_name("litert_child.py")


def is_installed() -> bool:
    """Whether there is a Python that has it."""
    return bool(os.environ.get(PYTHON_VARIABLE)) or importlib.util.find_spec("litert_torch") is not None


def converter_versions() -> dict[str, str]:
    """The versions of what converts.

    Raises:
        MissingExtra: it is not installed.
        UsageError: the Python that was named does not run, or has it not either.
    """
    if not is_installed():
        raise MissingExtra("litert_torch", "tflite-export")
    return _versions(_python())


def convert(program: bytes, out: Path) -> int:
    """Write a saved exported program as a float32 TFLite file, with the layout of its inputs and outputs kept; the peak
    memory in bytes of the process that did it.

    Raises:
        StepError: the converter does not take it; with its own last words.
    """
    with tempfile.TemporaryDirectory(prefix="edgebench-litert-") as name:
        source, made = Path(name) / "program.pt2", Path(name) / "model.tflite"
        source.write_bytes(program)
        said = converter.convert(_NAME, _argv(_python(), str(source), str(made)), Path(name))
        out.write_bytes(made.read_bytes())
    return int(said.split()[-1])


def _python() -> str:
    return os.environ.get(PYTHON_VARIABLE) or sys.executable


def _argv(python: str, *arguments: str) -> list[str]:
    # Isolated: the child's neighbours are called as what it imports.
    return [python, "-I", "-W", "ignore", str(_CHILD), *arguments]


@cache
def _versions(python: str) -> dict[str, str]:
    hint = f"name one with litert-torch by {PYTHON_VARIABLE}, or unset it; see docs/tflite.md"
    try:
        versions: dict[str, str] = json.loads(converter.convert(_NAME, _argv(python, "--versions"), Path.cwd()))
    except OSError as error:
        raise UsageError(f"{python} does not run: {error.strerror}", hint=hint) from error
    except StepError as error:
        raise UsageError(f"{python} has no litert-torch: {error}", hint=hint) from error
    return versions
