"""TOML files to typed specifications, strictly, and where such files are looked for.

A name is looked up in the user's own directory first (`./calib`), then in the configuration directory, then in what
edgebench ships. A path is taken as it is.
"""

from __future__ import annotations

import os
import re
import sys
import tomllib
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar

from edgebench.agent.codec import DecodeError, decode
from edgebench.errors import UsageError
from edgebench.types import CalibrationSet, DeviceProfile, Preprocess

__all__ = ["check_device", "find_calibration_set", "find_device", "home", "load_preprocess", "search_directories"]

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
    """The device profile of that name. A profile that `extends` another one has that one's keys where it has none
    itself; one that extends its own name, the profile of that name further down the search path.

    Raises:
        UsageError: no such profile, one with an unknown key or value, or one that extends itself.
    """
    paths = _all("devices", name)
    if not paths:
        raise UsageError(
            f"there is no device profile `{name}`",
            hint=f"there are: {', '.join(names('devices'))}; `edgebench devices new {name}` writes one",
        )
    values, chain = _read_profile(paths[0]), [paths[0]]
    while (parent := values.pop("extends", None)) is not None:
        if not isinstance(parent, str):
            raise UsageError(f"{chain[-1]}: `extends` is the name of a profile, not {parent!r}")
        further = [path for path in _all("devices", parent) if path not in chain]
        if not further:
            known = "extends itself" if _all("devices", parent) else f"extends `{parent}`, and there is no such profile"
            raise UsageError(f"{chain[-1]} {known}", hint=f"there are: {', '.join(names('devices'))}")
        chain.append(further[0])
        values = {**_read_profile(further[0]), **values}
    return check_device(_decoded(DeviceProfile, values, chain[0], name=chain[0].stem), chain[0])


def _read_profile(path: Path) -> dict[str, Any]:
    """The keys of one file, each of which is right by itself; paths in it are relative to it."""
    values = _read_toml(path)
    own = {key: value for key, value in values.items() if key != "extends"}
    _decoded(DeviceProfile, {"transport": "local", **own}, path, name=path.stem)
    tools = values.get("tools", {})
    for table, keys in ((values, ("ssh_config",)), *((tool, ("push", "push_library")) for tool in tools.values())):
        for key in keys:
            if key in table:
                table[key] = str(path.resolve().parent / Path(table[key]).expanduser())
    return values


# What goes into a command line must be what it seems: no option, nothing for a shell.
_NAME = r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?"
_ADDRESS = re.compile(rf"(?:{_NAME}@)?(?:{_NAME}|[0-9a-fA-F]*:[0-9a-fA-F]*:[0-9a-fA-F:]*(?:%{_NAME})?)")
_SERIAL = re.compile(r"[A-Za-z0-9\[][A-Za-z0-9._:\[\]-]*")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_BREAKS = {"\n", "\0"}
_TOOLS = ("ort_runner", "onnxruntime_perf_test", "benchmark_model", "executor_runner")
# Which keys say something for which transport.
_ONLY = {"ssh": ("address", "port", "ssh_config"), "adb": ("serial",)}


def check_device(profile: DeviceProfile, path: Path) -> DeviceProfile:
    """The profile, which stands in the file at `path`.

    Raises:
        UsageError: a value that cannot be one, or that would be read as something else by a shell or a tool.
    """

    def refuse(key: str, expected: str) -> NoReturn:
        raise UsageError(f"{path}: `{key}` is {getattr(profile, key)!r}, expected {expected}")

    if not re.fullmatch(_NAME, profile.name):
        raise UsageError(f"`{profile.name}` cannot be a device's name", hint="letters, digits, `-`, `_` and `.` can")
    for transport, keys in _ONLY.items():
        for key in keys:
            if profile.transport != transport and getattr(profile, key) is not None:
                raise UsageError(f"{path}: `{key}` says nothing for a device with the transport `{profile.transport}`")
    if profile.transport == "ssh" and profile.address is None:
        raise UsageError(f"{path}: `address` is missing", hint='write address = "USER@HOST", as for `ssh`')
    if profile.address is not None and not _ADDRESS.fullmatch(profile.address):
        refuse("address", "USER@HOST, HOST or a `Host` of ~/.ssh/config")
    if profile.serial is not None and not _SERIAL.fullmatch(profile.serial):
        refuse("serial", "what `adb devices` lists, or HOST:PORT")
    if profile.port is not None and not 0 < profile.port < 65536:
        refuse("port", "1 to 65535")
    if profile.cache_mb < 1:
        refuse("cache_mb", "1 or more")
    if profile.threads is not None and (not profile.threads or min(profile.threads) < 1):
        refuse("threads", "a list of numbers from 1 on, as in [4]")
    if profile.cpus is not None and (not profile.cpus or min(profile.cpus) < 0):
        refuse("cpus", "a list of CPU numbers, as in [2, 3]")
    for key in ("work_dir", "python", "governor"):
        if (value := getattr(profile, key)) is not None and (
            not value or value.startswith("-") or set(value) & _BREAKS
        ):
            refuse(key, "a path" if key != "governor" else "a governor's name")
    if profile.tools and profile.transport == "local":
        raise UsageError(f"{path}: `tools` are for devices without Python, and this machine has it")
    for name in profile.tools:
        if name not in _TOOLS:
            raise UsageError(f"{path}: there is no tool `{name}`", hint=f"there are: {', '.join(_TOOLS)}")
        if name != "ort_runner" and profile.tools[name].path is None and profile.tools[name].push is None:
            raise UsageError(f"{path}: tools.{name}: `path` on the device or `push` from here is missing")
    for variable, value in profile.environment.items():
        if set(value) & _BREAKS:
            raise UsageError(f"{path}: environment: the value of `{variable}` holds a line break")
        if not _VARIABLE.fullmatch(variable):
            raise UsageError(f"{path}: environment: `{variable}` cannot be a variable's name")
    return profile


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


def _all(folder: Folder, name: str) -> list[Path]:
    """The files of that name, the one that counts first; a path is taken as it is."""
    if name.endswith(".toml"):
        return [Path(name)]
    if "/" in name or name.startswith("."):
        return []
    found = [path for directory in search_directories(folder) if (path := directory / f"{name}.toml").is_file()]
    # In a checkout the user's own directory is the one that is shipped.
    return list({path.resolve(): path for path in reversed(found)}.values())[::-1]


def _find(folder: Folder, name: str) -> Path | None:
    return next(iter(_all(folder, name)), None)


def _load(kind: type[T], path: Path, **defaults: Any) -> T:
    return _decoded(kind, _read_toml(path), path, **defaults)


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not TOML: {error}") from error


def _decoded(kind: type[T], values: dict[str, Any], path: Path, **defaults: Any) -> T:
    try:
        return decode(kind, {**defaults, **values}, str(path))
    except DecodeError as error:
        raise UsageError(str(error)) from error
