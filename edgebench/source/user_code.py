"""Running code that the user gave: with its folder importable, its prints off stdout, and a record of what it read.

The record lets a cache tell when a file changed that the network depends on: the factory's own file, the modules beside
it, a weights file that it opens. Files that C++ opens behind Python's back are not seen.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
import sysconfig
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path

import edgebench
from edgebench.errors import EdgebenchError, SourceError

__all__ = ["OWN_PREFIX", "running_user_code"]

# Modules that are executed anew at every load, and so are not remembered as read once.
OWN_PREFIX = "_edgebench_"

_recorder: tuple[int, set[str]] | None = None
_hooked = False
# A module is read from disk once in a process, so a later load must be told what an earlier one found in it: by module
# name, its file's sha256 at that time.
_modules_read: dict[str, dict[str, str]] = {}


@contextlib.contextmanager
def running_user_code(what: str, folder: Path, *, hint: str | None = None) -> Iterator[dict[str, str]]:
    """Run the block with `folder` first on sys.path; the yielded dict then maps each local file it read to its sha256.

    Local is what is neither Python's own nor installed. Every exception of the block is about `what`; `hint` goes with
    those that do not suggest one of their own.

    Raises:
        SourceError: the block raised something of its own.
    """
    folder = folder.resolve()
    dependencies: dict[str, str] = {}
    before = set(sys.modules)
    sys.path.insert(0, str(folder))
    try:
        # stdout is data; what user code prints is not.
        with _recording() as opened, contextlib.redirect_stdout(sys.stderr):
            yield dependencies
    except EdgebenchError:
        raise
    except (Exception, SystemExit) as error:
        message = f"{what} raised {type(error).__name__}: {error}{_place(error)}"
        raise SourceError(message, hint=_hint(error, folder) or hint) from error
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(str(folder))
    installed = _installed_roots(folder)
    for name in set(sys.modules) - before:
        if not name.startswith(OWN_PREFIX) and (path := _file_of(name)):
            _modules_read[name] = _hashes({path}, installed)
    dependencies.update(_hashes(opened, installed))
    for name, read in _modules_read.items():
        if _file_of(name) in read:
            dependencies.update(read)


@contextlib.contextmanager
def _recording() -> Iterator[set[str]]:
    """The paths that this thread opens for reading. An audit hook cannot be removed, so one stays and is switched."""
    global _recorder, _hooked
    if not _hooked:
        sys.addaudithook(_hook)
        _hooked = True
    outer, opened = _recorder, set[str]()
    _recorder = (threading.get_ident(), opened)
    try:
        yield opened
    finally:
        _recorder = outer


def _hook(event: str, arguments: tuple[object, ...]) -> None:
    if event != "open" or _recorder is None or _recorder[0] != threading.get_ident():
        return
    path, mode, flags = arguments
    reads = ("r" in mode or "+" in mode) if isinstance(mode, str) else _opens_for_reading(flags)
    if reads and isinstance(path, (str, bytes)):
        _recorder[1].add(os.path.abspath(os.fsdecode(path)))  # noqa: PTH100  Path.absolute keeps `..`


def _opens_for_reading(flags: object) -> bool:
    return isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR) != os.O_WRONLY


def _installed_roots(folder: Path) -> list[Path]:
    """What is not the user's own. A prefix that holds the folder itself (`/usr` for `/usr/src/app`) says nothing."""
    prefixes = [Path(sys.prefix), Path(sys.base_prefix), Path(edgebench.__file__).parent]
    prefixes += [Path(root) for root in ("/proc", "/sys", "/dev", "/etc")]
    always = [Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    return [root.resolve() for root in prefixes if not folder.is_relative_to(root.resolve())] + [
        root.resolve() for root in always
    ]


def _file_of(module: str) -> str | None:
    file = getattr(sys.modules.get(module), "__file__", None)
    return str(Path(file).resolve()) if isinstance(file, str) else None


def _hashes(paths: set[str], installed: list[Path]) -> dict[str, str]:
    found = {}
    for path in {Path(path).resolve() for path in paths}:
        packaged = {"site-packages", "dist-packages"} & set(path.parts)
        if packaged or path.suffix == ".pyc" or any(path.is_relative_to(root) for root in installed):
            continue
        with contextlib.suppress(OSError):
            if path.is_file():
                with path.open("rb") as file:
                    found[str(path)] = hashlib.file_digest(file, "sha256").hexdigest()
    return dict(sorted(found.items()))


def _place(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    others = (str(Path(edgebench.__file__).parent), sysconfig.get_path("stdlib"), "<")
    theirs = [f for f in frames if not f.filename.startswith(others) and "site-packages" not in f.filename]
    return f" ({theirs[-1].filename}, line {theirs[-1].lineno})" if theirs else ""


def _hint(error: BaseException, folder: Path) -> str | None:
    if isinstance(error, ImportError) and "relative import" in str(error):
        return "a file of a package is named through it: package.module:FACTORY, from the folder that holds the package"
    if isinstance(error, ModuleNotFoundError):
        return f"install `{error.name}`, or put it in {folder}"
    return None
