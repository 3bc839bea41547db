"""Devices without Python: a shell that puts files in place, and a tool that runs an artifact and says how long it took.

It answers the same commands as the agent, so that nothing above knows the difference: a round comes back as
measurements, with single times where the tool gives them (our own runner does) and with its own figures elsewhere.
"""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from edgebench.agent.codec import decode, encode
from edgebench.agent.feeds import tensor_bytes
from edgebench.agent.wire import WIRE_VERSION, FeedFile, Job, Measurement, OutputFile, Round, RoundResult
from edgebench.config import home
from edgebench.errors import DeviceError, EdgebenchError
from edgebench.files import file_sha256
from edgebench.targets.agent import Ended
from edgebench.targets.commands import capture, drain
from edgebench.targets.native import TOOLS
from edgebench.targets.native.build_runner import build_runner, fetch_library
from edgebench.targets.native.results import RUNNER, from_one_start, of_runner, of_tool, taken_apart
from edgebench.targets.native.script import Script
from edgebench.targets.native.shell import DeviceShell
from edgebench.targets.probe import Probe, probe
from edgebench.targets.target import LinkLost, Target
from edgebench.types import DeviceProfile, ToolBinary

__all__ = ["RUNNER", "NativeAgent"]

T = TypeVar("T")

_RUNNER_RUNTIME = "onnxruntime"

_STALL_S = 30.0
_RECONNECT_S = 100.0
_MOST_ATTEMPTS = 5
# Of memory that is free, so much may be taken by runners that wait for their turns; a model takes about so many times
# the size of its file.
_SHARE, _MODEL_FACTOR = 0.5, 3


class NativeAgent:
    """What stands in for the agent on the device of `profile`, whose `tools` name what measures there."""

    takes_frames = False

    def __init__(self, profile: DeviceProfile, target: Target, warn: Callable[[str], None]) -> None:
        self._profile = profile
        self._target = target
        self._warn = warn
        self._shell = DeviceShell(profile, target)
        self._session = f"{self._shell.work_dir}/sessions/{int(time.time())}-{secrets.token_hex(4)}"
        self._kept: set[str] = set()
        self._interrupted = False
        self._seen: Probe | None = None

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What the device's shell says of it."""
        seen = self._probed
        found: dict[str, Any] = {"machine": seen.machine, "system": seen.system, "model": seen.model}
        found.update(cpus=seen.cores, usable_cpus=seen.cores, physical_cores=seen.cores)
        if seen.android:
            found["android"] = seen.android
        return {key: value for key, value in found.items() if value is not None}

    @property
    def _probed(self) -> Probe:
        assert self._seen is not None
        return self._seen

    def connect(self) -> None:
        """Reach the device and take the lock.

        Raises:
            DeviceError: it cannot be reached, or used, or another one uses it.
        """
        try:
            self._target.connect()
            self._seen = probe(self._target, self._shell.work_dir, self._profile.python)
            if not self._seen.writable:
                hint = f"set `work_dir` in devices/{self._profile.name}.toml to a directory of your own"
                raise self._shell.error(f"does not let us write to {self._shell.work_dir}", hint)
            self._shell.hold()
            if self._profile.governor is not None:
                self._warn(f"{self._profile.name}: `governor` is not held on a device without Python")
            sessions = f"{self._shell.work_dir}/sessions"
            self._shell.run('rm -rf "$1" && mkdir -p "$2" "$3"', sessions, self._session, self._shell.cache)
        except LinkLost as error:
            self._target.close()
            raise self._shell.error(f"does not answer: {error}") from error
        except BaseException:
            self.close()
            raise

    def place(self, paths: Sequence[Path], advance: Callable[[int], None]) -> dict[Path, str]:
        """Where the files are on the device; those that are not there are pushed."""
        # What a round needs together must not make room for each other; a tool is placed while a round is prepared.
        self._kept.update(file_sha256(path) for path in paths)
        push = self._shell.push
        return {path: self._retried(lambda path=path: push(path, self._kept, advance)) for path in paths}  # type: ignore[misc]

    def execute(self, command: str, message: Callable[[], Any], limit_s: float) -> Ended:
        """A round, or predictions, by a tool; nothing else can be had without Python."""
        self._kept.clear()
        if command == "round":
            return self._retried(lambda: self._round(decode(Round, message()), limit_s))
        if command == "predict":
            return self._retried(lambda: self._predict(decode(Job, message()), limit_s))
        return _answer(_unsupported(f"a device without Python cannot {command}"))

    def _round(self, work: Round, limit_s: float) -> Ended:
        self._shell.hold(limit_s)
        script = Script(self._session)
        script.show_state("before")
        found: dict[int, Measurement] = {}
        notes: list[str] = []
        chosen = random.Random(work.seed)
        runners: dict[int, list[str]] = {}
        others: dict[int, tuple[str, list[str]]] = {}
        for index, job in enumerate(work.jobs):
            try:
                tool, binary = self._tool(job)
                if tool == RUNNER:
                    runners[index] = self._measuring(binary, job, work, index)
                else:
                    runs, warmup = work.laps * work.turn, max(1, work.warmup)
                    argv = TOOLS[tool].argv(binary, job.artifact, threads=job.threads, warmup=warmup, runs=runs)
                    others[index] = (tool, self._bound(argv))
            except _CannotHere as error:
                found[index] = _unsupported(str(error))
        together = self._fit(work, list(runners))
        if not together:
            notes.append("memory may not hold all artifacts at once: they were measured one after the other")
        order = list(runners)
        chosen.shuffle(order)
        for group in [order] if together else [[index] for index in order]:
            for index in group:
                script.start(runners[index], index, err=f"err{index}")
            for _ in range(work.laps):
                chosen.shuffle(group)
                for index in group:
                    script.turn(index)
            for index in group:
                script.let_end(index)
        order = list(others)
        chosen.shuffle(order)
        for index in order:
            script.call(others[index][1], out=f"out{index}", err=f"err{index}")
        script.show_state("after")
        script.show("result*.json out* err*")
        printed, ended = self._run(script, limit_s)
        if ended is not None:
            return ended
        states, files = taken_apart(printed, self._probed.cores or 1)
        for index in runners:
            found[index] = of_runner(files, index)
        for index, (tool, _) in others.items():
            found[index] = of_tool(files, index, tool)
        measurements = from_one_start([found[index] for index in range(len(work.jobs))])
        return _answer(RoundResult(WIRE_VERSION, measurements, states, tuple(notes)))

    def _fit(self, work: Round, runners: Sequence[int]) -> bool:
        """Whether memory holds them all; what the device has is not known before its first state, so by its files."""
        available = self._shell.run("sed -n 's/^MemAvailable: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo").stdout.strip()
        sizes = 'for f in "$@"; do wc -c <"$f"; done'
        listed = self._shell.run(sizes, *[work.jobs[index].artifact for index in runners]).stdout if runners else ""
        wanted = _MODEL_FACTOR * sum(int(line) for line in listed.split())
        return not available.isdigit() or wanted < _SHARE * 1024 * int(available)

    def _measuring(self, binary: str, job: Job, work: Round, index: int) -> list[str]:
        if job.scenario.kind not in ("single-stream", "offline"):
            raise _CannotHere(f"{RUNNER} measures single-stream only, not {job.scenario.kind}")
        if work.sustained_s:
            raise _CannotHere(f"{RUNNER} measures no sustained runs")
        options = {
            "--warmup": work.warmup,
            "--max-warmup-s": work.max_warmup_s,
            "--longest-warmup-s": work.longest_warmup_s,
            "--laps": work.laps,
            "--turn": work.turn,
            "--turn-s": work.turn_s,
            "--max-time-s": work.max_time_s,
            "--origin-ns": 0,
        }
        words = [word for name, value in options.items() for word in (name, str(value))]
        return self._bound(
            [*self._runner(binary, "measure", job, f"result{index}.json"), *words, "--stop-before-turns"]
        )

    def _runner(self, binary: str, command: str, job: Job, result: str) -> list[str]:
        values = {
            "--wire-version": str(WIRE_VERSION),
            "--library": self._library(),
            "--model": job.artifact,
            "--threads": str(job.threads),
            "--result": result,
        }
        inputs = [word for file in job.feeds for word in _input(file)]
        return [binary, command, *(word for pair in values.items() for word in pair), *inputs]

    def _bound(self, argv: list[str]) -> list[str]:
        """The command with the profile's environment, on the profile's CPUs."""
        variables = [f"{name}={value}" for name, value in self._profile.environment.items()]
        pinned = [] if self._profile.cpus is None else ["taskset", f"{sum(1 << cpu for cpu in self._profile.cpus):x}"]
        return [*(["env", *variables] if variables else []), *pinned, *argv]

    def _predict(self, job: Job, limit_s: float) -> Ended:
        self._shell.hold(limit_s)
        try:
            tool, binary = self._tool(job)
            if tool != RUNNER:
                raise _CannotHere(f"{tool} gives no outputs: {RUNNER} does, for ONNX")
        except _CannotHere as error:
            return _answer(_unsupported(str(error)))
        script = Script(self._session)
        argv = self._bound([*self._runner(binary, "predict", job, "result0.json"), "--outputs", "."])
        script.call(argv, out="out0", err="err0")
        script.show("result0.json out0 err0")
        printed, ended = self._run(script, limit_s)
        if ended is not None:
            return ended
        _, files = taken_apart(printed, 1)
        found = of_runner({**files, "code 0": files.get("code out0", "")}, 0)
        outputs = tuple(replace(file, path=str(PurePosixPath(self._session, file.path))) for file in found.outputs)
        return _answer(replace(found, outputs=outputs))

    def tools(self) -> Iterator[tuple[str, str | DeviceError]]:
        """Each tool's name, and its path on the device, or why it cannot be run there."""
        for name, binary in self._profile.tools.items():
            try:
                path = self._retried(lambda name=name, binary=binary: self._binary(name, binary))  # type: ignore[misc]
                if name == RUNNER:
                    self._retried(self._library)
                if self._shell.run('[ -x "$1" ] && echo here', path).stdout.strip() != "here":
                    raise self._shell.error(
                        f"has no program {path}", f"set `path` of `tools.{name}` in its profile, or `push`"
                    )
            except DeviceError as error:
                yield name, error
            else:
                yield name, path

    def fetch(self, outputs: Sequence[OutputFile], directory: Path) -> list[Path]:
        """Copies of the last command's outputs."""
        paths = []
        for file in outputs:
            path, size = directory / PurePosixPath(file.path).name, file.count * tensor_bytes(file.spec)
            path.touch()
            for _ in range(_MOST_ATTEMPTS):
                if path.stat().st_size == size:
                    break
                command = ["tail", "-c", f"+{path.stat().st_size + 1}", file.path]
                drain(self._target.argv(command), path, stall_s=_STALL_S, advance=lambda count: None)
            if path.stat().st_size != size:
                raise self._shell.error(f"did not give back {file.path}")
            paths.append(path)
        return paths

    def _tool(self, job: Job) -> tuple[str, str]:
        """The name of the profile's tool for the job's runtime, and its path on the device."""
        for name, binary in self._profile.tools.items():
            runtime = _RUNNER_RUNTIME if name == RUNNER else TOOLS[name].RUNTIME
            if runtime == job.runtime:
                if job.scenario.kind not in ("single-stream", "offline"):
                    raise _CannotHere(f"{name} measures single-stream only, not {job.scenario.kind}")
                return name, self._binary(name, binary)
        raise _CannotHere(f"no tool of the profile `{self._profile.name}` runs {job.runtime}")

    def _binary(self, name: str, binary: ToolBinary) -> str:
        if binary.path is not None:
            return binary.path
        if not self._probed.executable:
            raise self._shell.error(
                f"runs no files below {self._shell.work_dir} (mounted noexec)",
                f"set `work_dir` in devices/{self._profile.name}.toml to a directory that is not",
            )
        source = self._built() if binary.push is None else Path(binary.push)
        if not source.is_file():
            raise self._shell.error(
                f"lacks its tool: {source} is not there", f"set `push` of `tools.{name}` in its profile"
            )
        return self.place([source], lambda count: None)[source]

    def _built(self) -> Path:
        try:
            return build_runner(self._probed.machine, home() / "native")
        except EdgebenchError as error:
            raise DeviceError(str(error), hint=error.hint) from error

    def _library(self) -> str:
        tool = self._profile.tools[RUNNER]
        if tool.library is not None:
            return tool.library
        try:
            source = (
                fetch_library(self._probed.machine, home() / "native")
                if tool.push_library is None
                else Path(tool.push_library)
            )
        except EdgebenchError as error:
            raise DeviceError(str(error), hint=error.hint) from error
        return self.place([source], lambda count: None)[source]

    def _run(self, script: Script, limit_s: float) -> tuple[list[tuple[str, str]], Ended | None]:
        """What the script printed; or how it ended, where it did not come to its end."""
        self._shell.run('cd "$1" && rm -f ./*', self._session)
        argv = self._target.argv(["sh", "-s"])
        done = capture(argv, timeout_s=limit_s, stdin=script.text())
        if self._interrupted:
            raise KeyboardInterrupt
        if done.timed_out:
            self._kill()
            return [], Ended(None, done.returncode, True, "it was stopped")
        if self._target.is_lost(done.returncode, done.stderr):
            raise LinkLost(done.stderr.strip())
        printed = script.sections(done.stdout)
        if not printed or printed[-1][0] != "end":
            if done.returncode == 0:
                raise LinkLost("the link went in the middle")
            lines = done.stderr.strip().splitlines() or ["it printed nothing"]
            return [], Ended(None, done.returncode, False, lines[-1])
        return printed, None

    def _kill(self) -> None:
        """End what a script left running."""
        self._shell.run('[ -r "$1/pid" ] && kill -9 -- "-$(cat "$1/pid")" 2>/dev/null; rm -f "$1/pid"', self._session)

    def _retried(self, work: Callable[[], T]) -> T:
        """Do it; once more over a new link where the link was lost in the middle."""
        lost = 0.0
        while True:
            try:
                if lost:
                    self._reach()
                    self._kill()
                    self._shell.hold()
                return work()
            except LinkLost as error:
                lost = lost or time.monotonic()
                if self._interrupted:
                    raise KeyboardInterrupt from error
                if time.monotonic() - lost > _RECONNECT_S:
                    raise self._shell.error(f"was lost: {error}") from error
                time.sleep(1.0)

    def _reach(self) -> None:
        try:
            self._target.connect()
        except DeviceError as error:
            # Its name is not found, or it is not attached, while it starts anew.
            raise LinkLost(str(error)) from error

    def interrupt(self) -> None:
        """End what runs there; the command that waits for it then ends too."""
        self._interrupted = True
        self._quietly(self._kill)

    def close(self) -> None:
        """Leave nothing but the cache of files."""
        self._quietly(self._kill)
        self._quietly(
            lambda: self._shell.run(
                'case $(cat "$2/owner" 2>/dev/null) in *" $3") rm -rf "$1" "$2" ;; esac',
                self._session,
                f"{self._shell.work_dir}/lock.d",
                self._shell.owner,
            )
        )
        self._target.close()

    def _quietly(self, work: Callable[[], object]) -> None:
        try:
            work()
        except LinkLost as error:
            self._warn(f"{self._profile.name}: could not be cleared up: {error}")


class _CannotHere(Exception):
    """No tool of the profile does this."""


def _input(file: FeedFile) -> list[str]:
    shape = "x".join(map(str, file.spec.shape)) or "scalar"
    return ["--input", file.spec.name, file.spec.dtype, shape, str(file.count), file.path]


def _unsupported(reason: str) -> Measurement:
    return Measurement(WIRE_VERSION, "unsupported", reason)


def _answer(result: Measurement | RoundResult) -> Ended:
    return Ended(encode(result), 0, False, "")
