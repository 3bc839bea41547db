"""The devices that tests share, one of each for the whole session; a test skips with what this machine lacks for it."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

import edgebench
from tests.integration.conftest import TINY_NET, own_home, write_photos

from .beds.adb import AdbBed, AdbServer
from .beds.emulation import Emulation
from .beds.requirements import Unavailable, require_namespaces, require_tools
from .beds.rootfs import amd64_rootfs, arm64_rootfs, qemu_aarch64, tree_cache
from .beds.ssh import SshBed

__all__ = ["own_home"]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup() -> Generator[None]:
    """A fixture's lack is a skip."""
    try:
        return (yield)
    except Unavailable as lack:
        pytest.skip(str(lack))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None]:
    """So is that of a bed that a test makes for itself."""
    try:
        return (yield)
    except Unavailable as lack:
        pytest.skip(str(lack))


@pytest.fixture(scope="session")
def ssh_bed() -> Iterator[SshBed]:
    """This machine's files and programs behind a real sshd, root with an empty home."""
    with closing(SshBed()) as bed:
        yield bed


@pytest.fixture(scope="session")
def amd64() -> Path:
    """A small x86-64 Linux with adbd, Python, numpy and onnxruntime."""
    # Before the bootstrap, which would take seconds to no use.
    require_namespaces()
    require_tools({"adb": "adb"})
    return amd64_rootfs(tree_cache())


@pytest.fixture(scope="session")
def adb_bed(amd64: Path) -> Iterator[AdbBed]:
    """That Linux behind its adbd."""
    with closing(AdbBed(amd64)) as bed:
        yield bed


@pytest.fixture(scope="session")
def adb_server() -> Iterator[AdbServer]:
    """An adb server without a device, for `AdbStateBed`."""
    with closing(AdbServer()) as server:
        yield server


@pytest.fixture(scope="session")
def aarch64() -> Iterator[Path]:
    """A small aarch64 Linux whose programs run here, emulated: times and memory on it say nothing."""
    require_namespaces()
    rootfs = arm64_rootfs(tree_cache())
    with closing(Emulation(qemu_aarch64(tree_cache()))):
        yield rootfs


@pytest.fixture(scope="session")
def ssh_aarch64_bed(aarch64: Path) -> Iterator[SshBed]:
    """The emulated device behind its own emulated sshd."""
    with closing(SshBed(rootfs=aarch64, emulated=True)) as bed:
        yield bed


@pytest.fixture(scope="session")
def adb_aarch64_bed(aarch64: Path) -> Iterator[AdbBed]:
    """The emulated device behind its own emulated adbd."""
    with closing(AdbBed(aarch64, emulated=True)) as bed:
        yield bed


@dataclass(frozen=True)
class Bed:
    """A device with a profile that reaches it, of the name `bed`, in the current directory."""

    device: SshBed | AdbBed
    work_dir: Path

    def left(self) -> set[str]:
        """What is in the work directory but for the cache of files and agents, and locks that nobody holds."""
        found = {path.name for path in self.work_dir.iterdir()} if self.work_dir.is_dir() else set()
        sessions = self.work_dir / "sessions"
        return found - {"agent", "cache", "lock", "sessions"} | {
            path.name for path in (sessions.iterdir() if sessions.is_dir() else ())
        }


def profile_of(device: SshBed | AdbBed, **values: str) -> str:
    """A profile's text. On this machine's files, this Python has the runtimes."""
    reached = (
        {"transport": "ssh", "address": device.host, "ssh_config": str(device.config)}
        if isinstance(device, SshBed)
        else {"transport": "adb", "serial": device.serial}
    )
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in {**reached, **values}.items())


@pytest.fixture(params=["ssh", "adb"])
def bed(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bed]:
    """Each of the devices with this machine's CPU, with an empty work directory."""
    yield from _bed(request, tmp_path, monkeypatch)


@pytest.fixture(params=["ssh-aarch64", "adb-aarch64"])
def slow_bed(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bed]:
    """Each of the emulated devices, on which a process takes seconds to start."""
    yield from _bed(request, tmp_path, monkeypatch)


def _bed(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bed]:
    device = request.getfixturevalue(f"{request.param.replace('-', '_')}_bed")
    work_dir = f"/tmp/eb-{tmp_path.name[:20]}"
    values = {"work_dir": work_dir, **({"python": sys.executable} if request.param == "ssh" else {})}
    (tmp_path / "devices").mkdir()
    (tmp_path / "devices" / "bed.toml").write_text(profile_of(device, **values))
    if isinstance(device, AdbBed):
        for name, value in device.environment.items():
            monkeypatch.setenv(name, value)
    # A path of the device, seen from here.
    seen = Path(device.root, work_dir.lstrip("/"))
    yield Bed(device, seen)
    shutil.rmtree(seen, ignore_errors=True)


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small classifier, exported here with images of four classes, and those images beside it."""
    directory = tmp_path_factory.mktemp("exported")
    (directory / "tiny_net.py").write_text(TINY_NET)
    write_photos(directory / "photos")
    exported = edgebench.export(
        f"{directory / 'tiny_net.py'}:tiny",
        directory / "tiny.eb",
        calib=f"imagefolder:{directory / 'photos'}",
        preprocess="cifar10",
    )
    return exported.path
