"""The devices that tests share, one of each for the whole session; a test skips with what this machine lacks for it."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from .beds.adb import AdbBed, AdbServer
from .beds.emulation import Emulation
from .beds.requirements import Unavailable, require_namespaces, require_tools
from .beds.rootfs import amd64_rootfs, arm64_rootfs, qemu_aarch64, tree_cache
from .beds.ssh import SshBed


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


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Runs and caches go below the test's directory, and relative paths start there."""
    home = tmp_path / "edgebench-home"
    monkeypatch.setenv("EDGEBENCH_HOME", str(home))
    monkeypatch.chdir(tmp_path)
    return home


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
