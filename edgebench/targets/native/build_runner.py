"""Builds the native runner for a machine, and finds the ONNX Runtime library that goes with it.

Built with zig's C compiler where `ziglang` is installed, as that compiles for other machines and against an old glibc
without a sysroot; else with the host's `cc`, for the host alone. The library is the one in ONNX Runtime's own wheel.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from edgebench.errors import EnvironmentFailure
from edgebench.files import write_atomically

__all__ = ["build_runner", "fetch_library"]

SOURCE = Path(__file__).with_name("ort_runner.c")

# As `uname -m` says it, to zig's name. glibc 2.28 (Debian 10) is what the wheels of ONNX Runtime need.
_ZIG_TARGETS = {
    "x86_64": "x86_64-linux-gnu.2.28",
    "aarch64": "aarch64-linux-gnu.2.28",
    "armv7l": "arm-linux-gnueabihf.2.28",
}
_ALIASES = {"amd64": "x86_64", "arm64": "aarch64", "armv8l": "armv7l"}
# By what `cc -dumpmachine` begins and ends with.
_CC_MACHINES = {("x86_64", "gnu"): "x86_64", ("aarch64", "gnu"): "aarch64", ("arm", "gnueabihf"): "armv7l"}

_OPTIONS = ("-std=c11", "-O2", "-Wall", "-Wextra", "-s")
_PLATFORMS = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014")
_BUILD_TIMEOUT_S = 300.0
_DOWNLOAD_TIMEOUT_S = 900.0
_INSTALL_ZIG = "pip install ziglang"


class _Compiler(NamedTuple):
    argv: tuple[str, ...]
    version: str
    environment: Mapping[str, str]


def build_runner(machine: str, cache: Path) -> Path:
    """The runner's executable for `machine` (as `uname -m` says it), built into `cache` unless it is there.

    Nobody else may write to `cache`, as what is found there will run.

    Raises:
        EnvironmentFailure: the machine is not one of those it is built for, there is no compiler for it, or the
            compiler fails.
    """
    machine = _known(machine)
    compiler = _zig(machine, cache) or _cc(machine)
    if compiler is None:
        raise EnvironmentFailure(f"no C compiler here builds for {machine} Linux", hint=_INSTALL_ZIG)
    source = SOURCE.read_bytes()
    parts = [hashlib.sha256(source).hexdigest(), _ZIG_TARGETS[machine], compiler.version, *_OPTIONS]
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()
    path = cache / f"ort_runner-{machine}-{key[:16]}"
    if path.is_file():
        return path
    with _scratch(cache) as directory:
        built = directory / "ort_runner"
        argv = [*compiler.argv, *_OPTIONS, "-o", str(built), str(SOURCE), "-ldl"]
        ended = _run(argv, timeout_s=_BUILD_TIMEOUT_S, environment=compiler.environment)
        if ended.returncode != 0 or not built.is_file():
            raise EnvironmentFailure(
                f"the native runner does not compile for {machine} with {compiler.version}: {_complaint(ended.stdout)}",
                hint=f"install another compiler: {_INSTALL_ZIG}",
            )
        built.chmod(0o755)
        built.replace(path)
    return path


def fetch_library(machine: str, cache: Path, *, version: str | None = None) -> Path:
    """ONNX Runtime's shared library for `machine`, of the version that is installed here unless another is asked for.

    It is the installed wheel's own where that fits, else the library of the wheel for that machine, which pip fetches
    into `cache` unless it is there.

    Raises:
        EnvironmentFailure: there is no such wheel, or it cannot be had.
    """
    machine = _known(machine)
    installed = _installed_version()
    version = version or installed
    if version is None:
        raise EnvironmentFailure(
            "which version of ONNX Runtime is wanted is not known, as none is installed here",
            hint="pip install onnxruntime",
        )
    if version == installed and machine == _own_machine():
        own = _installed_library()
        if own is not None:
            return own
    directory = cache / f"onnxruntime-{version}-{machine}"
    found = sorted(directory.glob("libonnxruntime.so*"))
    return found[0] if found else _download(machine, version, directory)


def _known(machine: str) -> str:
    name = _ALIASES.get(machine.lower(), machine.lower())
    if name not in _ZIG_TARGETS:
        raise EnvironmentFailure(
            f"the native runner is not built for `{machine}`, expected one of {', '.join(_ZIG_TARGETS)}",
            hint=f"compile {SOURCE} on the device: cc -std=c11 -O2 -o ort_runner ort_runner.c -ldl",
        )
    return name


def _own_machine() -> str | None:
    if sys.platform != "linux":
        return None
    machine = platform.machine().lower()
    return _ALIASES.get(machine, machine)


def _zig(machine: str, cache: Path) -> _Compiler | None:
    if importlib.util.find_spec("ziglang") is None:
        return None
    # Its own cache would lie in the home directory.
    environment = {name: str(cache / "zig") for name in ("ZIG_GLOBAL_CACHE_DIR", "ZIG_LOCAL_CACHE_DIR")}
    zig = (sys.executable, "-m", "ziglang")
    ended = _run([*zig, "version"], environment=environment)
    if ended.returncode != 0:
        return None
    return _Compiler((*zig, "cc", "-target", _ZIG_TARGETS[machine]), f"zig {ended.stdout.strip()}", environment)


def _cc(machine: str) -> _Compiler | None:
    cc = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if cc is None:
        return None
    triple = _run([cc, "-dumpmachine"]).stdout.strip().split("-")
    if _CC_MACHINES.get((triple[0], triple[-1])) != machine:
        return None
    return _Compiler((cc,), _first(_run([cc, "--version"]).stdout), {})


def _installed_version() -> str | None:
    with suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version("onnxruntime")
    return None


def _installed_library() -> Path | None:
    # Not imported: that takes time, and starts what an import of it starts.
    spec = importlib.util.find_spec("onnxruntime")
    for directory in (spec and spec.submodule_search_locations) or ():
        for path in sorted(Path(directory, "capi").glob("libonnxruntime.so*")):
            return path
    return None


def _download(machine: str, version: str, directory: Path) -> Path:
    with _scratch(directory.parent) as scratch:
        python = f"{sys.version_info.major}{sys.version_info.minor}"
        argv = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        argv += ["--only-binary=:all:", "--implementation", "cp", "--python-version", python, "--abi", f"cp{python}"]
        for name in _PLATFORMS:
            argv += ["--platform", f"{name}_{machine}"]
        ended = _run([*argv, "--dest", str(scratch), f"onnxruntime=={version}"], timeout_s=_DOWNLOAD_TIMEOUT_S)
        wheels = sorted(scratch.glob("*.whl"))
        if ended.returncode != 0 or not wheels:
            raise EnvironmentFailure(
                f"pip found no wheel of onnxruntime {version} for {machine} Linux: {_complaint(ended.stdout)}",
                hint="give the path of a libonnxruntime.so that was built for the device",
            )
        with zipfile.ZipFile(wheels[0]) as wheel:
            for member in wheel.namelist():
                name = member.rpartition("/")[2]
                if member == f"onnxruntime/capi/{name}" and name.startswith("libonnxruntime.so"):
                    write_atomically(directory / name, wheel.read(member))
                    return directory / name
    raise EnvironmentFailure(
        f"the wheel of onnxruntime {version} for {machine} Linux has no libonnxruntime.so (none before 1.19 has)",
        hint="ask for a newer version, or give the path of a libonnxruntime.so that was built for the device",
    )


@contextmanager
def _scratch(parent: Path) -> Iterator[Path]:
    """A directory below `parent`, so that what is made in it can be renamed to its place."""
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".new-", dir=parent) as directory:
        yield Path(directory)


def _run(
    argv: Sequence[str], *, timeout_s: float = 60.0, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
            env={**os.environ, **(environment or {})},
        )
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(argv, 124, f"error: it took longer than {timeout_s:g} s", None)


def _first(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "it printed nothing")


def _complaint(text: str) -> str:
    """The last line that reports an error, as pip and compilers put theirs among warnings."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return next((line for line in reversed(lines) if "error" in line.lower()), lines[-1] if lines else "no message")
