"""The devices of a run: connected at once, told apart, and measured side by side, each in a thread of its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edgebench.errors import DeviceError, UsageError
from edgebench.progress import Progress
from edgebench.targets.adb import AdbTarget
from edgebench.targets.agent import Agent
from edgebench.targets.local import LocalAgent
from edgebench.targets.native.agent import NativeAgent
from edgebench.targets.remote import RemoteAgent
from edgebench.targets.ssh import SshTarget
from edgebench.targets.target import Target
from edgebench.types import Device, DeviceProfile

__all__ = ["Connected", "connected", "open_agent", "open_target", "side_by_side"]

_POLL_S = 0.2


@dataclass(frozen=True)
class Connected:
    """A device with its agent, or with the error that stands in the way; `scratch` is for files of this machine."""

    profile: DeviceProfile
    device: Device
    scratch: Path
    agent: Agent | None
    error: DeviceError | None = None


def open_agent(profile: DeviceProfile, scratch: Path, warn: Callable[[str], None]) -> Agent:
    """The agent of a device, connected; `warn` is told what the user should know.

    Raises:
        DeviceError: it cannot be reached or used.
    """
    if profile.transport == "local":
        return LocalAgent(profile, scratch, warn)
    agent = (NativeAgent if profile.tools else RemoteAgent)(profile, open_target(profile), warn)
    agent.connect()
    return agent


def open_target(profile: DeviceProfile) -> Target:
    """The target of a device that is not this machine, not yet connected."""
    return SshTarget(profile) if profile.transport == "ssh" else AdbTarget(profile)


@contextmanager
def connected(profiles: Sequence[DeviceProfile], scratch: Path, progress: Progress) -> Iterator[list[Connected]]:
    """All devices connected, side by side; those that cannot be have their error.

    Raises:
        UsageError: two profiles are one device.
        DeviceError: none of them can be reached.
    """
    _refuse_twins(profiles)

    def connect(profile: DeviceProfile) -> Connected:
        own = scratch / profile.name
        own.mkdir()
        try:
            agent = open_agent(profile, own, progress.warn)
        except DeviceError as error:
            return Connected(profile, Device(profile.name, profile.name, {}, error=str(error)), own, None, error)
        seen = agent.fingerprint
        return Connected(
            profile,
            Device(
                profile.name,
                profile.name,
                seen,
                emulated=profile.emulated or "emulated_by" in seen,
                background=profile.transport == "adb" and bool(seen.get("android")),
            ),
            own,
            agent,
        )

    opened: list[Connected] = []
    try:
        if len(profiles) == 1:
            opened.append(connect(profiles[0]))
        else:
            with ThreadPoolExecutor(len(profiles)) as pool:
                # Noted at once: an interruption must not lose those that are connected.
                for future in [pool.submit(lambda item=item: opened.append(connect(item))) for item in profiles]:  # type: ignore[misc]
                    future.result()
        found = sorted(opened, key=lambda item: profiles.index(item.profile))
        errors = [item.error for item in found if item.error is not None]
        if len(errors) == len(found):
            raise errors[0]
        for error in errors:
            progress.warn(f"{error}; {error.hint}; the other devices go on")
        yield found
    finally:
        for item in opened:
            if item.agent is not None:
                item.agent.close()


def _refuse_twins(profiles: Sequence[DeviceProfile]) -> None:
    def place(profile: DeviceProfile) -> tuple[object, ...]:
        return (profile.transport, profile.address, profile.port, profile.ssh_config, profile.serial)

    for shared, count in Counter(map(place, profiles)).items():
        if count > 1:
            one, other, *_ = (profile.name for profile in profiles if place(profile) == shared)
            raise UsageError(
                f"the devices `{one}` and `{other}` are one and the same: {_described(profiles, one)}",
                hint="give one of them, or set the `address` or `serial` of the other",
            )


def _described(profiles: Sequence[DeviceProfile], name: str) -> str:
    profile = next(profile for profile in profiles if profile.name == name)
    return " ".join(filter(None, (profile.transport, profile.address or profile.serial)))


def side_by_side(work: Sequence[Callable[[], None]], agents: Sequence[Agent]) -> None:
    """Do all of `work`, one each on an agent, at once; an interruption reaches all of them and is raised when they
    have ended."""
    if len(work) == 1:
        work[0]()
        return
    with ThreadPoolExecutor(len(work)) as pool:
        futures = [pool.submit(item) for item in work]
        try:
            # In steps, so that an interruption is heard.
            while wait(futures, timeout=_POLL_S).not_done:
                pass
        except KeyboardInterrupt:
            with ThreadPoolExecutor(len(agents)) as calls:
                # Each by itself: one whose link is cut takes long.
                wait([calls.submit(agent.interrupt) for agent in agents])
            wait(futures)
            raise
    for future in futures:
        future.result()
