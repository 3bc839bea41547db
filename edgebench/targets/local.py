"""This machine as a device: the agent's commands are child processes of this Python."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import edgebench
from edgebench.agent import governor
from edgebench.agent.environment import TELEMETRY_OFF, describe_machine
from edgebench.agent.wire import OutputFile
from edgebench.errors import DeviceError
from edgebench.targets.agent import Ended
from edgebench.targets.commands import capture, stop
from edgebench.types import DeviceProfile

__all__ = ["LocalAgent"]


class LocalAgent:
    """Runs the agent's commands here, with their files below `scratch`. `warn` is told what could not be held."""

    takes_frames = True

    def __init__(self, profile: DeviceProfile, scratch: Path, warn: Callable[[str], None]) -> None:
        self._profile = profile
        self._scratch = scratch
        self._count = 0
        self._mutex = threading.Lock()
        self._process: subprocess.Popen[Any] | None = None
        self._interrupted = False
        self._journal = str(scratch / "governor.json")
        if profile.governor is not None and (reason := governor.hold(profile.governor, self._journal)):
            warn(f"{profile.name}: {reason}")

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What this machine says of itself."""
        return describe_machine()

    def place(self, paths: Sequence[Path], advance: Callable[[int], None]) -> dict[Path, str]:
        """They are where they are."""
        return {path: str(path) for path in paths}

    def execute(self, command: str, message: Callable[[], Any], limit_s: float) -> Ended:
        """Run a command in a process of its own."""
        self._count += 1
        directory = self._scratch / f"job-{self._count}"
        (directory / "outputs").mkdir(parents=True)
        message_path, result_path = directory / "message.json", directory / "result.json"
        message_path.write_text(json.dumps(message()))
        root = str(Path(edgebench.__file__).resolve().parents[1])
        search = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
        ended = capture(
            [sys.executable, "-m", "edgebench.agent", command, str(message_path), str(result_path)],
            timeout_s=limit_s,
            # Safe path: a json.py in the user's directory is not ours to import.
            environment={
                **TELEMETRY_OFF,
                **self._profile.environment,
                "PYTHONPATH": search,
                "PYTHONSAFEPATH": "1",
            },
            started=self._remember,
        )
        if self._interrupted:
            raise KeyboardInterrupt
        result = json.loads(result_path.read_text()) if result_path.is_file() and not ended.timed_out else None
        lines = [line.strip() for line in ended.stderr.splitlines() if line.strip()]
        return Ended(result, ended.returncode, ended.timed_out, lines[-1] if lines else "it printed nothing")

    def _remember(self, process: subprocess.Popen[Any]) -> None:
        with self._mutex:
            self._process = process
        if self._profile.cpus is not None:
            try:
                os.sched_setaffinity(process.pid, self._profile.cpus)
            except OSError as error:
                listed = ", ".join(map(str, self._profile.cpus))
                raise DeviceError(
                    f"this machine has not all the CPUs {listed}", hint="mend `cpus` in the device's profile"
                ) from error

    def fetch(self, outputs: Sequence[OutputFile], directory: Path) -> list[Path]:
        """They are here."""
        return [Path(file.path) for file in outputs]

    def interrupt(self) -> None:
        """Stop the command that runs."""
        self._interrupted = True
        with self._mutex:
            if self._process is not None and self._process.poll() is None:
                stop(self._process)

    def close(self) -> None:
        """Put back what was held."""
        governor.restore(self._journal)
