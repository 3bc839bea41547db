"""A device's agent over a link: deployed once, asked over one long command, found again when the link was cut.

The host asks, the device answers (agent.serve). Every request may be sent twice, so a lost link is connected anew and
the last request repeated; what the device was doing meanwhile went on there. A thread keeps the host's heartbeat going.
"""

from __future__ import annotations

import getpass
import platform
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgebench._version import __version__
from edgebench.agent.feeds import tensor_bytes
from edgebench.agent.wire import OutputFile
from edgebench.errors import DeviceError
from edgebench.files import file_sha256
from edgebench.targets.agent import Ended
from edgebench.targets.channel import Channel, last_line
from edgebench.targets.commands import capture
from edgebench.targets.target import LinkLost, Target
from edgebench.targets.zipapp import agent_zipapp
from edgebench.types import DeviceProfile

__all__ = ["RemoteAgent", "work_dir_of"]

_ANSWER_S = 15.0
_BEAT_S = 5.0
# A request to wait is answered when there is something to say, or after so long.
_HOLD_S = 5.0
# Python's start on a slow device, with a hash over what it was given before.
_GREETING_S = 60.0
_SETUP_S = 60.0
# So long the device keeps a session whose host is silent. The host gives up before: a link that is lost is noticed
# after 20 s, and an attempt to connect takes up to 20 s.
_GRACE_S = 120.0
_RECONNECT_S = 75.0
_PAUSES_S = (0.2, 0.5, 1.0, 2.0, 5.0)
_MOST_ATTEMPTS = 5

# The names of exit codes of `env` and of shells.
_NOT_FOUND, _NOT_EXECUTABLE = 127, 126


class _Refused(LinkLost):
    """The device cannot be reached as things are, which may pass while it starts anew."""

    def __init__(self, error: DeviceError) -> None:
        super().__init__(str(error))
        self.error = error


class RemoteAgent:
    """The agent on the device of `profile`, reached through `target`.

    `warn` is told what the user should know, such as a link that was lost and found; it is looked for for
    `reconnect_s`.
    """

    takes_frames = True

    def __init__(
        self,
        profile: DeviceProfile,
        target: Target,
        warn: Callable[[str], None],
        *,
        reconnect_s: float = _RECONNECT_S,
    ) -> None:
        self._reconnect_s = reconnect_s
        self._profile = profile
        self._target = target
        self._warn = warn
        self._session = f"{int(time.time())}-{secrets.token_hex(4)}"
        self._work_dir = work_dir_of(profile)
        self._channel: Channel | None = None
        self._mutex = threading.RLock()
        self._closing = threading.Event()
        self._interrupted = threading.Event()
        self._greeting: dict[str, Any] = {}
        # Of a device that was started anew in between: what was under way is gone.
        self._lives = 0
        self._restarted = False
        self._jobs = 0
        self._said = ""

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What the device says of itself."""
        return dict(self._greeting["device"])

    def connect(self) -> None:
        """Reach the device, put the agent there where it is missing, take the lock.

        Raises:
            DeviceError: it cannot be reached, or used, or another one uses it.
        """
        try:
            self._target.connect()
            self._connect()
        except LinkLost as error:
            self._drop()
            raise self._error(f"does not answer: {error}") from error
        except BaseException:
            self.close()
            raise
        threading.Thread(target=self._beat, daemon=True).start()

    def _reach(self) -> None:
        try:
            self._target.connect()
        except DeviceError as error:
            raise _Refused(error) from error

    def _connect(self) -> None:
        """Over a target that is connected."""
        greeting = self._greet()
        if greeting is None:
            # Missing, or damaged by a loss of power.
            self._deploy()
            greeting = self._greet()
        if greeting is None:
            raise self._error(
                f"did not start the agent: {self._said}", f"edgebench devices doctor {self._profile.name}"
            )
        if self._greeting and not greeting["resumed"]:
            self._lives += 1
            self._restarted = greeting["boot"] != self._greeting["boot"]
        self._greeting = greeting
        if self._profile.governor is not None or self._profile.cpus is not None:
            held = self._exchange({"do": "hold", "governor": self._profile.governor, "cpus": self._profile.cpus})
            self._see_error(held)
            if held.get("reason"):
                self._warn(f"{self._profile.name}: {held['reason']}")

    def _greet(self) -> dict[str, Any] | None:
        """Start the agent and hear what it greets with; None where it does not start, and then `_said` has why."""
        name, _ = agent_zipapp()
        owner = f"{getpass.getuser()}@{platform.node()}, edgebench {__version__}"
        command = [self._profile.python, self._remote("agent", name), "serve", self._work_dir, self._session, owner]
        words = [*command, str(self._profile.cache_mb << 20), str(_GRACE_S)]
        self._channel = Channel(self._target.argv(words, self._profile.environment))
        greeting = self._channel.greeting(_GREETING_S)
        if greeting is None:
            returncode, said = self._channel.ended(_ANSWER_S)
            if "Session open refused" in said:
                hint = "set `MaxSessions 10` in its /etc/ssh/sshd_config: edgebench uses two over one connection"
                raise self._error("allows no second session over its connection", hint)
            if self._target.is_lost(returncode, said):
                raise LinkLost(last_line(said))
            self._channel.close()
            self._channel = None
            if returncode in (_NOT_FOUND, _NOT_EXECUTABLE):
                raise self._error(
                    f"has no `{self._profile.python}`",
                    f"install Python 3.8 or newer there, or set `python` in devices/{self._profile.name}.toml; a "
                    "device without Python is measured with `tools`",
                )
            self._said = last_line(said)
            return None
        if "busy" in greeting:
            raise self._error(*_busy(greeting["busy"]))
        self._see_error(greeting)
        return greeting

    def _deploy(self) -> None:
        name, content = agent_zipapp()
        # Its size tells a whole file from one whose link was cut. A device that loses its power afterwards must not
        # have the name without the content.
        script = (
            'mkdir -p "$1" && cd "$1" && rm -rf "$2.d" && cat >"$2.part" && [ "$(wc -c <"$2.part")" -eq "$3" ] && sync '
            '&& mv "$2.part" "$2" && echo whole || { rm -f "$2.part"; exit 1; }'
        )
        command = ["sh", "-c", script, "sh", self._remote("agent"), name, str(len(content))]
        done = capture(self._target.argv(command), timeout_s=_SETUP_S, stdin=content)
        if done.stdout.endswith("whole\n"):
            return
        if done.timed_out or done.returncode == 0 or self._target.is_lost(done.returncode, done.stderr):
            raise LinkLost(last_line(done.stderr))
        raise self._error(
            f"does not let us write to {self._work_dir}: {last_line(done.stderr)}",
            f"set `work_dir` in devices/{self._profile.name}.toml, or make room there",
        )

    def _remote(self, *parts: str) -> str:
        return "/".join((self._work_dir, *parts))

    def ask(self, request: Mapping[str, Any], timeout_s: float = _ANSWER_S) -> dict[str, Any]:
        """The device's answer, over a new link where the old one was lost.

        Raises:
            DeviceError: it did not come back, or says that it cannot do this.
        """
        with self._mutex:
            while True:
                try:
                    answer = self._exchange(request, timeout_s)
                    break
                except LinkLost as error:
                    self._find_again(error)
        self._see_error(answer)
        return answer

    def _exchange(self, request: Mapping[str, Any], timeout_s: float = _ANSWER_S) -> dict[str, Any]:
        channel = self._channel_now()
        channel.write(request)
        return channel.answer(timeout_s)

    def _channel_now(self) -> Channel:
        if self._channel is None:
            raise LinkLost("there is no link")
        return self._channel

    def _see_error(self, answer: Mapping[str, Any]) -> None:
        if "no_room" in answer:
            hint = f"free some space there, or set `work_dir` in devices/{self._profile.name}.toml to another disk"
            raise self._error(f"has no room: {answer['no_room']}", hint)
        if "error" in answer:
            raise self._error(f"cannot do what it was asked: {answer['error']}")

    def _find_again(self, error: LinkLost) -> None:
        """Connect anew, for as long as the device keeps the session."""
        lost = time.monotonic()
        attempt = 0
        while True:
            self._drop()
            if self._interrupted.is_set():
                raise KeyboardInterrupt
            refused: DeviceError | None = None
            try:
                self._reach()
                self._connect()
            except _Refused as again:
                # Its name is not found, or it is not attached, while it starts anew.
                refused = again.error
            except LinkLost as again:
                error = again
            else:
                self._warn(f"{self._profile.name}: the link was lost for {time.monotonic() - lost:.0f} s")
                return
            if time.monotonic() - lost > self._reconnect_s:
                raise refused or self._error(f"was lost: {error}") from error
            time.sleep(_PAUSES_S[min(attempt, len(_PAUSES_S) - 1)])
            attempt += 1

    def _drop(self) -> None:
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        self._target.close()

    def _beat(self) -> None:
        """Until it is closed, tell the device that this host is there."""
        while not self._closing.wait(_BEAT_S):
            # A request under way tells it as well.
            if self._mutex.acquire(blocking=False):
                try:
                    self._exchange({"do": "ping"})
                except LinkLost:
                    # The next request finds the device again, or says that it is lost.
                    self._drop()
                finally:
                    self._mutex.release()

    def place(self, paths: Sequence[Path], advance: Callable[[int], None] = lambda count: None) -> dict[Path, str]:
        """Where the files are on the device; those that are not there are pushed. `advance` is told the bytes."""
        known = {path: (file_sha256(path), path.stat().st_size) for path in paths}
        sizes = dict(known.values())
        # Asked anew each time: what is not used for long may have had to go.
        answer = self.ask({"do": "missing", "sizes": sizes}, _GREETING_S)
        sources = {sha256: path for path, (sha256, _) in known.items()}
        for sha256 in answer["missing"]:
            self._push(sources[sha256], sha256, sizes, advance)
        return {path: answer["paths"][sha256] for path, (sha256, _) in known.items()}

    def _push(self, path: Path, sha256: str, sizes: Mapping[str, int], advance: Callable[[int], None]) -> None:
        """Send the rest of a file; the others of `sizes` have to stay there."""
        for _ in range(_MOST_ATTEMPTS):
            there = self.ask({"do": "missing", "sizes": sizes}, _GREETING_S)["missing"]
            if sha256 not in there:
                return
            offset, size = there[sha256], sizes[sha256]
            with self._mutex:
                try:
                    channel = self._channel_now()
                    channel.write({"do": "receive", "sha256": sha256, "size": size, "offset": offset})
                    channel.write_file(path, offset, advance)
                    self._see_error(channel.answer(_GREETING_S))
                except LinkLost as error:
                    self._find_again(error)
                except KeyboardInterrupt:
                    # The rest of the file would be read as requests.
                    self._drop()
                    raise
        raise self._error(f"did not take {path.name} ({sizes[sha256]} bytes)")

    def execute(self, command: str, message: Callable[[], Any], limit_s: float) -> Ended:
        """Run a command of the agent to its end; `message` is called for what it is told, again if the device was
        started anew in the middle, when all is done once more."""
        for _ in range(2):
            life = self._lives
            if self._jobs:
                self.ask({"do": "forget", "id": str(self._jobs)})
            self._jobs += 1
            identifier = str(self._jobs)
            self.ask({"do": "start", "id": identifier, "command": command, "message": message(), "limit_s": limit_s})
            ended, result = self._wait(identifier, life)
            if ended is None:
                why = "the device was started anew" if self._restarted else "the device had given this host up"
                self._warn(f"{self._profile.name}: {why} in the middle; measuring again")
                continue
            return Ended(result, ended["returncode"], ended["timed_out"], ended["last_words"])
        return Ended(None, None, False, "the device was started anew in the middle, twice")

    def _wait(self, identifier: str, life: int) -> tuple[dict[str, Any] | None, Any]:
        while True:
            if self._interrupted.is_set():
                raise KeyboardInterrupt
            answer = self.ask({"do": "wait", "id": identifier, "hold_s": _HOLD_S}, _HOLD_S + _ANSWER_S)
            if self._lives != life:
                return None, None
            if answer["ended"] is not None:
                return answer["ended"], answer["result"]

    def fetch(self, outputs: Sequence[OutputFile], directory: Path) -> list[Path]:
        """Copies of the last command's outputs in `directory`."""
        return [self._fetch(file, directory / file.path.rpartition("/")[2]) for file in outputs]

    def _fetch(self, file: OutputFile, path: Path) -> Path:
        size = file.count * tensor_bytes(file.spec)
        path.touch()
        for _ in range(_MOST_ATTEMPTS):
            with self._mutex:
                try:
                    channel = self._channel_now()
                    request = {"do": "send", "id": str(self._jobs), "name": path.name, "offset": path.stat().st_size}
                    channel.write(request)
                    answer = channel.answer(_GREETING_S)
                    self._see_error(answer)
                    channel.read_file(path, answer["bytes"])
                    channel.answer(_ANSWER_S)
                except LinkLost as error:
                    self._find_again(error)
                except KeyboardInterrupt:
                    self._drop()
                    raise
            if path.stat().st_size == size:
                return path
        raise self._error(f"did not give back {file.path}")

    def interrupt(self) -> None:
        """Let what another thread waits for here end with KeyboardInterrupt."""
        self._interrupted.set()

    def close(self) -> None:
        """End the session: nothing of it is left on the device but the cache of files."""
        self._closing.set()
        with self._mutex:
            try:
                if self._channel is None and self._greeting:
                    self._target.connect()
                    self._connect()
                if self._channel is not None:
                    # What was asked before an interruption may be answered first.
                    self._channel.write({"do": "end"})
                    while (line := self._channel.read_line(_ANSWER_S)) and line != b'{"ended": true}':
                        pass
            except (LinkLost, DeviceError):
                # The device ends it by itself.
                pass
            finally:
                self._drop()

    def _error(self, what: str, hint: str | None = None) -> DeviceError:
        default = f"check the device and its cable, or run: edgebench devices doctor {self._profile.name}"
        return DeviceError(f"device `{self._profile.name}` {what} ({self._target.address})", hint=hint or default)


def work_dir_of(profile: DeviceProfile) -> str:
    """The directory on the device that everything is written to."""
    if profile.work_dir is not None:
        # A login starts at home.
        return profile.work_dir.removeprefix("~/")
    return "/data/local/tmp/edgebench" if profile.transport == "adb" else ".cache/edgebench"


def _busy(busy: Mapping[str, Any]) -> tuple[str, str]:
    silent = busy["silent_s"]
    if silent is not None and silent > 2 * _BEAT_S:
        left = max(1, round(_GRACE_S - silent))
        return (
            f"is in use by {busy['owner']}, whose link has been silent for {silent:.0f} s",
            f"if it does not come back, the device is free in {left} s",
        )
    return f"is in use by {busy['owner']}, since {busy['age_s']:.0f} s", "wait until it is done"
