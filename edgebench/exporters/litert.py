"""litert-torch, which writes TFLite files: where it is, and how it is run.

It is heavy (jax and more, 800 MB) and holds torch back (0.10 wants one below 2.15), so it runs in a process of its own,
by this Python where it is installed, or by another one that EDGEBENCH_TFLITE_PYTHON names. What goes there is torch's
exported program: one of 2.15 is read by 2.14.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from edgebench.errors import MissingExtra, StepError, UsageError

__all__ = ["PYTHON_VARIABLE", "Conversion", "convert", "converter_versions", "is_installed"]

PYTHON_VARIABLE = "EDGEBENCH_TFLITE_PYTHON"
_CHILD = Path(__file__).with_name("litert_child.py")


@dataclass(frozen=True)
class Conversion:
    """What a conversion cost, in bytes of its process's peak memory."""

    peak_rss_bytes: int


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


def convert(program: bytes, out: Path) -> Conversion:
    """Write a saved exported program as a float32 TFLite file, with the layout of its inputs and outputs kept.

    Raises:
        StepError: the converter does not take it; with its own last words.
    """
    with tempfile.TemporaryDirectory(prefix="edgebench-litert-") as name:
        source, made, report = (Path(name) / item for item in ("program.pt2", "model.tflite", "report.json"))
        source.write_bytes(program)
        ended = _run(_python(), str(_CHILD), str(source), str(made), str(report))
        if not report.is_file():
            words = [line.strip() for line in ended.stderr.splitlines() if line.strip()]
            raise StepError(f"litert-torch ended with {ended.returncode}: {words[-1] if words else 'no words'}")
        answer = json.loads(report.read_text())
        if "error" in answer:
            raise StepError(f"litert-torch: {answer['error']}")
        out.write_bytes(made.read_bytes())
    return Conversion(answer["peak_rss_bytes"])


def _python() -> str:
    return os.environ.get(PYTHON_VARIABLE) or sys.executable


@cache
def _versions(python: str) -> dict[str, str]:
    hint = f"name one with litert-torch by {PYTHON_VARIABLE}, or unset it; see docs/tflite.md"
    try:
        ended = _run(python, str(_CHILD), "--versions")
    except OSError as error:
        raise UsageError(f"{python} does not run: {error.strerror}", hint=hint) from error
    if ended.returncode != 0:
        raise UsageError(f"{python} has no litert-torch", hint=hint)
    versions: dict[str, str] = json.loads(ended.stdout)
    return versions


def _run(*argv: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONSAFEPATH": "1", "PYTHONWARNINGS": "ignore", "TF_CPP_MIN_LOG_LEVEL": "3"}
    return subprocess.run(
        argv, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False
    )
