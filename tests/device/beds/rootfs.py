"""Debian 13 file trees for beds, and the emulator for the aarch64 one: made once, then kept in a cache.

Debian 13 because 12 has no adbd, and because 12's qemu (7.2) crashes in `import onnxruntime`. Packages are extracted,
not configured: configuring them would run thousands of emulated scripts (316 s instead of 7).
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from .requirements import Unavailable, require_tools

__all__ = ["amd64_rootfs", "arm64_rootfs", "qemu_aarch64", "tree_cache"]

_SUITE = "trixie"
_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_DEVICE_PACKAGES = "python3,adbd,toybox,procps,base-files,base-passwd"
_CONSTRAINTS = Path(__file__).resolve().parents[3] / "constraints.txt"
# A changed recipe below needs a new number: a tree in the cache is otherwise taken for the same.
_RECIPE = "1"


def tree_cache() -> Path:
    """EDGEBENCH_TEST_CACHE, or a directory of this user below the temporary one."""
    if given := os.environ.get("EDGEBENCH_TEST_CACHE"):
        cache = Path(given).resolve()
        cache.mkdir(parents=True, exist_ok=True)
        return cache
    cache = Path(tempfile.gettempdir()).resolve() / f"edgebench-test-cache-{os.getuid()}"
    cache.mkdir(mode=0o700, exist_ok=True)
    # Programs in it are run as root, so nobody else may have made it.
    status = cache.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise Unavailable(f"{cache} is not a directory that only this user writes to")
    return cache


def amd64_rootfs(cache: Path) -> Path:
    """A device of this machine's architecture: adbd, Python, numpy and onnxruntime."""
    wheels = _wheels()
    return cached(cache, "amd64", [_DEVICE_PACKAGES, *wheels], lambda path: _make_device(path, "amd64", wheels))


def arm64_rootfs(cache: Path) -> Path:
    """The same for aarch64, with an sshd; it runs once `Emulation` is registered."""
    wheels = _wheels()
    return cached(
        cache,
        "arm64",
        [_DEVICE_PACKAGES, *wheels],
        lambda path: _make_device(path, "arm64", wheels, more_packages=",openssh-server"),
    )


def qemu_aarch64(cache: Path) -> Path:
    """A static qemu-aarch64 10.x."""
    return cached(cache, "qemu", [], _make_qemu) / "qemu-aarch64"


def _make_device(path: Path, architecture: str, wheels: list[str], *, more_packages: str = "") -> None:
    require_tools({"mmdebstrap": "mmdebstrap"})
    bootstrap(path, architecture, "--include=?essential", f"--include={_DEVICE_PACKAGES}{more_packages}")
    for name in ("passwd", "group"):
        shutil.copy(path / f"usr/share/base-passwd/{name}.master", path / f"etc/{name}")
    with (path / "etc/passwd").open("a") as passwd:
        # What the maintainer script of openssh-server would have added.
        passwd.write("sshd:*:100:65534::/run/sshd:/usr/sbin/nologin\n")
    for copied_from_this_machine in ("hostname", "resolv.conf"):
        (path / "etc" / copied_from_this_machine).unlink(missing_ok=True)
    (path / "data/local/tmp").mkdir(parents=True)
    python = (path / "usr/bin/python3").readlink().name
    version = python.removeprefix("python3.")
    machine = {"amd64": "x86_64", "arm64": "aarch64"}[architecture]
    packages = path / f"usr/local/lib/{python}/dist-packages"
    packages.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="edgebench-wheels-") as downloads:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        pip += ["--only-binary=:all:", "--implementation", "cp", "--python-version", f"3{version}"]
        pip += ["--abi", f"cp3{version}", "--dest", downloads]
        for glibc in (28, 27):
            pip += ["--platform", f"manylinux_2_{glibc}_{machine}"]
        _run([*pip, *wheels], "wheels for the device could not be downloaded")
        for wheel in sorted(Path(downloads).glob("*.whl")):
            shutil.unpack_archive(wheel, packages, "zip")


def _make_qemu(path: Path) -> None:
    require_tools({"mmdebstrap": "mmdebstrap"})
    with tempfile.TemporaryDirectory(prefix="edgebench-qemu-") as scratch:
        bootstrap(Path(scratch) / "root", "amd64", "--include=qemu-user")
        path.mkdir()
        # One of 38 emulators in a package of 450 MB.
        shutil.copy(Path(scratch) / "root/usr/bin/qemu-aarch64", path)


def bootstrap(path: Path, architecture: str, *options: str) -> None:
    if not _KEYRING.exists():
        raise Unavailable(f"needs {_KEYRING} (apt-get install debian-archive-keyring)")
    # With `--keyring` apt would also take what any key in /etc/apt/trusted.gpg.d signed.
    source = f"deb [signed-by={_KEYRING}] {_mirror()} {_SUITE} main"
    bootstrap = ["mmdebstrap", "--mode=root", "--variant=extract", f"--arch={architecture}", "--skip=check/qemu"]
    bootstrap += [*options, _SUITE, str(path), source]
    _run(bootstrap, f"Debian {_SUITE} could not be fetched for {architecture}")


def _mirror() -> str:
    """The mirror that this machine's apt uses for Debian itself, not for what others offer or for security updates."""
    require_tools({"apt-get": "apt"})
    listed = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(ORIGIN)\t$(LABEL)\t$(REPO_URI)", "Created-By: Packages"],
        capture_output=True,
        text=True,
        check=True,
    )
    for line in listed.stdout.splitlines():
        origin, label, address = line.split("\t")
        if origin == label == "Debian":
            return address
    raise Unavailable("needs a Debian mirror in apt's configuration, and `apt-get update` run once")


def _wheels() -> list[str]:
    """numpy and the runtimes in the versions of this release."""
    lines = _CONSTRAINTS.read_text().splitlines()
    return [line for line in lines if line.startswith(("numpy==", "onnxruntime==", "ai-edge-litert=="))]


def _run(argv: list[str], failure: str) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Unavailable(f"{failure}: {done.stderr.strip()[-500:]}")


def cached(cache: Path, name: str, inputs: list[str], make: Callable[[Path], None]) -> Path:
    """`make` writes to another path first: a tree under its own name is whole."""
    recipe = hashlib.sha256("\0".join([_RECIPE, _SUITE, *inputs]).encode()).hexdigest()[:12]
    tree = cache / f"{name}-{recipe}"
    with _locked(cache / f"{name}.lock"):
        if not tree.exists():
            unfinished = cache / f"{name}.unfinished"
            # rm stays on one file system, in case an interrupted bootstrap left a mount.
            subprocess.run(["rm", "-rf", "--one-file-system", str(unfinished)], check=True)
            make(unfinished)
            unfinished.rename(tree)
    return tree


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Two test runs make a tree once; the kernel lets go of the lock of one that is killed."""
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
