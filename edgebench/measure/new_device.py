"""A profile for a device, written after asking the device what it is."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from edgebench.config import check_device, find_device, names
from edgebench.errors import DeviceError, UsageError
from edgebench.files import write_atomically
from edgebench.measure.devices import open_target
from edgebench.targets.adb import AdbTarget
from edgebench.targets.probe import Probe, probe
from edgebench.targets.remote import work_dir_of
from edgebench.targets.target import LinkLost
from edgebench.types import DeviceProfile

__all__ = ["new_device"]

# What a board calls itself (/proc/device-tree/model) to the profile that knows it.
_BOARDS = {
    "Raspberry Pi 3": "rpi3",
    "Raspberry Pi 4": "rpi4",
    "Raspberry Pi 5": "rpi5",
    "Raspberry Pi Zero 2": "rpi-zero2w",
    "Orin Nano": "jetson-orin-nano",
}
_GENERIC = {"aarch64": "aarch64", "armv7l": "armv7"}


def new_device(name: str, asked: DeviceProfile, directory: Path) -> Path:
    """Write `directory/NAME.toml` for the device that `asked` reaches; the path.

    Raises:
        UsageError: there is such a file already, or a value that cannot stand in a profile.
        DeviceError: the device cannot be reached.
    """
    path = directory / f"{name}.toml"
    check_device(asked, path)
    if path.exists():
        raise UsageError(f"{path} is there already", hint="edit it, or give another name")
    target = open_target(asked)
    try:
        target.connect()
        seen = probe(target, work_dir_of(asked), asked.python)
        if isinstance(target, AdbTarget):
            asked = replace(asked, serial=target.serial)
    except LinkLost as error:
        raise DeviceError(
            f"{target.address} does not answer: {error}", hint="is it switched on and connected?"
        ) from error
    finally:
        target.close()
    values = _values(asked, seen)
    directory.mkdir(parents=True, exist_ok=True)
    write_atomically(path, _toml(values).encode())
    find_device(str(path))
    return path


def _values(asked: DeviceProfile, seen: Probe) -> dict[str, object]:
    board = next((profile for words, profile in _BOARDS.items() if words in (seen.model or "")), None)
    parent = board if asked.transport == "ssh" else ("android-arm64" if seen.android else "adb-linux")
    if parent is None:
        parent = _GENERIC.get("armv7l" if (seen.machine, seen.bits) == ("aarch64", 32) else seen.machine)
    system = f"Android {seen.android}" if seen.android else f"{seen.machine} {seen.system}"
    values: dict[str, object] = {"extends": parent} if parent in names("devices") else {"transport": asked.transport}
    values["description"] = ", ".join(filter(None, (seen.model, system)))
    for key in ("address", "port", "ssh_config", "serial"):
        if (value := getattr(asked, key)) is not None:
            values[key] = str(Path(value).expanduser().resolve()) if key == "ssh_config" else value
    if seen.cores is not None:
        values["threads"] = [seen.cores]
    if seen.python is not None and not seen.python.endswith("/python3"):
        values["python"] = seen.python
    return values


def _toml(values: dict[str, object]) -> str:
    """Strings, numbers and lists are written alike in JSON and in TOML, but for one control character."""
    lines = (f"{key} = {json.dumps(value, ensure_ascii=False)}\n" for key, value in values.items())
    return "".join(lines).replace("\x7f", "\\u007f")
