"""TOML files to typed specifications, strictly, and where such files are looked for.

A name is looked up in the user's own directory first (`./calib`), then in the configuration directory, then in what
edgebench ships. A path is taken as it is.
"""

from __future__ import annotations

import os
import sys
import tomllib
from pathlib import Path
from typing import Any, Literal, TypeVar

from edgebench.agent.codec import DecodeError, decode
from edgebench.errors import UsageError
from edgebench.types import CalibrationSet, DeviceProfile, Preprocess

__all__ = ["find_calibration_set", "find_device", "home", "load_preprocess", "search_directories"]

T = TypeVar("T")
Folder = Literal["models", "calib", "devices"]


def home() -> Path:
    """The directory of runs and caches: `EDGEBENCH_HOME`, or the platform's place for a user's data."""
    if chosen := os.environ.get("EDGEBENCH_HOME"):
        return Path(chosen).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "edgebench"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "edgebench"
    return Path(os.environ.get("XDG_DATA_HOME", Path.home() / ".local" / "share")) / "edgebench"


def search_directories(folder: Folder) -> tuple[Path, ...]:
    """Where files of `folder` are looked for, the user's own first."""
    package = Path(__file__).resolve().parent
    # A wheel carries the folder inside the package; a checkout (and an editable install) has it beside the package.
    shipped = next(path for path in (package / folder, package.parent / folder) if path.is_dir())
    return (Path.cwd() / folder, home() / folder, shipped)


def find_calibration_set(name: str) -> CalibrationSet | None:
    """The calibration set of that name, or None where there is no such file."""
    path = _find("calib", name)
    return None if path is None else _load(CalibrationSet, path, name=path.stem)


def find_device(name: str) -> DeviceProfile:
    """The device profile of that name.

    Raises:
        UsageError: no such profile, or one with an unknown key.
    """
    path = _find("devices", name)
    if path is None:
        raise UsageError(
            f"there is no device profile `{name}`", hint=f"there are: {', '.join(names('devices'))} (devices/*.toml)"
        )
    return _load(DeviceProfile, path, name=path.stem)


def load_preprocess(path: Path) -> Preprocess:
    """A preprocessing that the user wrote as TOML; its name is the file's stem.

    Raises:
        UsageError: not readable, not TOML, or with an unknown key.
    """
    return _load(Preprocess, path, name=path.stem)


def names(folder: Folder) -> list[str]:
    """The names of the TOML files of `folder`, of all directories, sorted."""
    found = {path.stem for directory in search_directories(folder) for path in directory.glob("*.toml")}
    return sorted(found)


def _find(folder: Folder, name: str) -> Path | None:
    if name.endswith(".toml"):
        return Path(name)
    return next(
        (path for directory in search_directories(folder) if (path := directory / f"{name}.toml").is_file()), None
    )


def _load(kind: type[T], path: Path, **defaults: Any) -> T:
    try:
        with path.open("rb") as file:
            return decode(kind, {**defaults, **tomllib.load(file)}, str(path))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path} is not TOML: {error}") from error
    except DecodeError as error:
        raise UsageError(str(error)) from error
