"""Android phones and Linux boards over adb, by serial, over USB or TCP."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence

from edgebench.errors import DeviceError
from edgebench.targets.commands import Completed, capture
from edgebench.targets.target import LinkLost, remote_line
from edgebench.types import DeviceProfile

__all__ = ["AdbTarget", "attached"]

_ANSWER_S = 10.0
_OVER_TCP = re.compile(r".+:\d+")


def attached() -> dict[str, str]:
    """Serial and state (`device`, `unauthorized`, `offline`, ...) of what the adb server sees.

    Raises:
        DeviceError: there is no adb, or its server does not answer.
    """
    listed = _adb("devices")
    if listed.timed_out or listed.returncode != 0:
        raise DeviceError(f"adb does not answer: {_last(listed)}", hint="adb kill-server, then again")
    rows = (line.split("\t") for line in listed.stdout.splitlines() if "\t" in line)
    return {serial: state.strip() for serial, state, *_ in rows}


def _adb(*arguments: str) -> Completed:
    adb = shutil.which("adb")
    if adb is None:
        raise DeviceError(
            "there is no `adb` here", hint="install Android's platform tools (apt install adb) and put adb on the PATH"
        )
    return capture([adb, *arguments], timeout_s=_ANSWER_S)


def _last(completed: Completed) -> str:
    lines = (completed.stderr + completed.stdout).strip().splitlines()
    return lines[-1] if lines else "it said nothing"


class AdbTarget:
    """The device of `profile`, by its `serial`, or the only one that is attached."""

    def __init__(self, profile: DeviceProfile) -> None:
        self._name = profile.name
        self._serial = profile.serial
        self.address = f"adb -s {self._serial}" if self._serial else "adb"

    @property
    def serial(self) -> str | None:
        """Known once it was connected."""
        return self._serial

    def connect(self) -> None:
        """See that the device is attached and lets us in.

        Raises:
            DeviceError, LinkLost: as `Target.connect` says.
        """
        if self._serial is not None and _OVER_TCP.fullmatch(self._serial) and not self._answers():
            # A link that was cut is still called `device`. One that works may be another program's as well.
            _adb("disconnect", self._serial)
            answer = _adb("connect", self._serial)
            if answer.timed_out or "connected to" not in answer.stdout:
                raise LinkLost(_last(answer))
        found = attached()
        if self._serial is None:
            self._serial = self._only(found)
            self.address = f"adb -s {self._serial}"
        state = found.get(self._serial)
        if state == "device":
            if not self._answers():
                raise LinkLost("a command did not come back")
            return
        described = f"device `{self._name}` ({self.address})"
        if state == "unauthorized":
            raise DeviceError(
                f"{described} has not allowed this computer",
                hint="unlock it and accept `Allow USB debugging`; if nothing is asked: adb kill-server, then replug it",
            )
        if state is not None and state.startswith("no permissions"):
            raise DeviceError(
                f"{described} may not be opened by this user",
                hint="add yourself to the group `plugdev`, or install android-sdk-platform-tools-common (udev rules)",
            )
        if state is None:
            others = ", ".join(found) or "none"
            raise DeviceError(
                f"{described} is not attached; adb sees: {others}",
                hint=f"plug it in with USB debugging on, or set `serial` in devices/{self._name}.toml",
            )
        raise LinkLost(f"adb says that it is {state}")

    def _only(self, found: Mapping[str, str]) -> str:
        if len(found) == 1:
            return next(iter(found))
        what = "adb sees no device" if not found else f"adb sees several devices: {', '.join(found)}"
        raise DeviceError(
            f"{what}, and the profile `{self._name}` names no serial",
            hint=f'write `serial = "..."` into devices/{self._name}.toml; `adb devices` lists them',
        )

    def _answers(self) -> bool:
        if attached().get(str(self._serial)) != "device":
            return False
        # What is printed tells: a link that goes ends a command with 0.
        completed = capture(self.argv(["echo", "here"]), timeout_s=_ANSWER_S)
        return not completed.timed_out and completed.stdout.strip() == "here"

    def argv(self, command: Sequence[str], environment: Mapping[str, str] | None = None) -> list[str]:
        """The command here; adb's own shell protocol keeps streams apart and gives the exit code."""
        assert self._serial is not None
        return ["adb", "-s", self._serial, "shell", "-T", remote_line(command, environment)]

    def is_lost(self, returncode: int, stderr: str) -> bool:
        """adb's own errors end with 1 and its own words."""
        words = ("error: ", "adb: ", "protocol fault", "* daemon")
        return returncode in (1, 255) and any(line.startswith(words) for line in stderr.splitlines())

    def close(self) -> None:
        """Nothing is held: the adb server is the user's."""
