"""Lets a process run below qemu-user with the plugin that counts its instructions, where the CPU has no counter.

Each instruction set gets one CPU model, so that runtimes choose the same kernels, and counts agree, on whatever machine
they were taken: `-cpu max` is what one version of qemu can do, and changes with it.
"""

from __future__ import annotations

import hashlib
import os
import pkgutil
import re
import shutil
import subprocess
import sys
from typing import Dict, List, NamedTuple, Tuple

from .instructions import (
    COUNTED_BY,
    ENVIRONMENT,
    INSTALL_COMPILER,
    INSTALL_QEMU,
    MARK_SYSCALL,
    MARKS,
    NoCounters,
    architecture,
)

_OLDEST_QEMU = (7, 2)  # The first that translates AVX2 and FMA.

_CPU = {
    # AVX2 and FMA, the most that qemu translates. Without erms, because `rep movsb` counts once a byte. The others are
    # of use to kernels only; qemu lacks them, and warns unless they are left out.
    "x86_64": "Haswell-noTSX,-erms,-pcid,-invpcid,-x2apic,-tsc-deadline",
    # A Raspberry Pi 4's. Pointer authentication makes `max` 13 times slower.
    "aarch64": "cortex-a72",
}


class QemuPrefix(NamedTuple):
    """What stands before `python ...` on a command line, and what its environment has in addition."""

    argv: Tuple[str, ...]
    environment: Dict[str, str]


def prepare(directory: str) -> QemuPrefix:
    """How to start processes below qemu; several may run at a time.

    The plugin is compiled into `directory`, and used again while its source stays the same. Nobody else may write
    there, as qemu loads what it finds.

    Raises:
        NoCounters: qemu-user or a C compiler is missing, or qemu loads no plugins.
    """
    name = "qemu-" + architecture()
    cpu = _CPU.get(architecture())
    if cpu is None:
        raise NoCounters("there is no CPU model to count %s with: use an x86-64 or 64-bit ARM device" % architecture())
    qemu = shutil.which(name)
    if qemu is None:
        raise NoCounters("%s is not installed: %s" % (name, INSTALL_QEMU))
    version = _version(qemu)
    directory = os.path.abspath(directory)
    plugin = _compile(directory)
    marks = os.path.join(directory, "marks-")
    # Commas separate the plugin's arguments; doubled ones stand for themselves.
    argv = (qemu, "-cpu", cpu, "-plugin", "%s,marks=%s" % (plugin.replace(",", ",,"), marks.replace(",", ",,")))
    ended = _run([*argv, sys.executable, "-I", "-S", "-c", ""])
    if ended.returncode != 0:
        raise NoCounters(
            "%s loads no plugin: %s. A statically linked qemu, as of Debian 13, never does; Debian 12's does: %s"
            % (qemu, _last_line(ended.stdout), INSTALL_QEMU)
        )
    method = "%s %s as %s" % (name, version, cpu.split(",")[0])
    return QemuPrefix(argv, {**ENVIRONMENT, MARKS: marks, COUNTED_BY: method})


def _version(qemu: str) -> str:
    text = _run([qemu, "--version"]).stdout
    found = re.search(r"version ((\d+)\.(\d+)[.\d]*)", text)
    if found is None:
        raise NoCounters("%s does not tell its version, but says `%s`: %s" % (qemu, _last_line(text), INSTALL_QEMU))
    if (int(found[2]), int(found[3])) < _OLDEST_QEMU:
        raise NoCounters("%s is of version %s, counting needs 7.2 or newer: %s" % (qemu, found[1], INSTALL_QEMU))
    return found[1]


def _compile(directory: str) -> str:
    # Through the loader, because the agent may be a zip file.
    source = pkgutil.get_data("edgebench.agent", "instruction_counter.c")
    assert source is not None
    options = ["-O2", "-shared", "-fPIC", "-DMARK_SYSCALL=%d" % MARK_SYSCALL]
    digest = hashlib.sha256(source + " ".join([architecture(), *options]).encode()).hexdigest()
    path = os.path.join(directory, "instruction_counter-%s.so" % digest[:16])
    if os.path.exists(path):
        return path
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise NoCounters("a C compiler is needed to count below qemu: %s" % INSTALL_COMPILER)
    os.makedirs(directory, exist_ok=True)
    partial = "%s.%d" % (path, os.getpid())
    ended = _run([compiler, *options, "-x", "c", "-o", partial, "-"], source.decode())
    if ended.returncode != 0:
        raise NoCounters("%s does not compile: %s; %s" % (compiler, _last_line(ended.stdout), INSTALL_COMPILER))
    os.replace(partial, path)
    return path


def _run(argv: List[str], text: str = "") -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        argv, input=text, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True, check=False
    )


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "it printed nothing")
