"""A first look at a device by its shell alone, before anything is put there."""

from __future__ import annotations

import time
from dataclasses import dataclass

from edgebench.targets.commands import capture
from edgebench.targets.target import LinkLost, Target

__all__ = ["Probe", "probe"]

_TIMEOUT_S = 30.0

# What dash, busybox and Android's mksh with toybox all understand. $1 is the work directory, $2 the profile's Python.
_SCRIPT = r"""
say() { printf '%s=%s\n' "$1" "$2"; }
say machine "$(uname -m)"
say system "$(uname -s)"
say now "$(date +%s)"
say bits "$(getconf LONG_BIT 2>/dev/null)"
say cores "$(nproc 2>/dev/null)"
say model "$(tr -d '\000' </proc/device-tree/model 2>/dev/null)"
say android "$(getprop ro.build.version.release 2>/dev/null)"
say product "$(getprop ro.product.model 2>/dev/null)"
for python in "$2" python3 python; do
    version=$("$python" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null) || continue
    case $version in [23].*) ;; *) continue ;; esac
    case $version in *[!0-9.]*) continue ;; esac
    say python "$(command -v "$python")"
    say python_version "$version"
    break
done
mkdir -p "$1" 2>/dev/null
shell=/bin/sh
[ -x "$shell" ] || shell=/system/bin/sh
if { printf '#!%s\nexit 0\n' "$shell" >"$1/.probe"; } 2>/dev/null; then
    say writable 1
    chmod 700 "$1/.probe"
    "$1/.probe" 2>/dev/null && say executable 1
    rm -f "$1/.probe"
fi
set -- $(df -Pk "$1" 2>/dev/null | tail -n 1)
say free_kb "$4"
"""


@dataclass(frozen=True)
class Probe:
    """What the shell said. machine: as `uname -m`; `bits` of its programs, None where `getconf` is not there;
    clock_ahead_s: of this machine's clock; python: the path of the first Python that works, and its version;
    writable, executable: whether files in the work directory can be written, and run; android: its version."""

    machine: str
    system: str
    bits: int | None
    cores: int | None
    model: str | None
    android: str | None
    clock_ahead_s: float
    python: str | None
    python_version: tuple[int, ...] | None
    writable: bool
    executable: bool
    free_bytes: int | None


def probe(target: Target, work_dir: str, python: str) -> Probe:
    """Look at the device behind a target that is connected.

    Raises:
        LinkLost: it did not answer.
    """
    before = time.time()
    done = capture(target.argv(["sh", "-s", work_dir, python]), timeout_s=_TIMEOUT_S, stdin=_SCRIPT.encode())
    after = time.time()
    said = dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)
    if done.timed_out or "free_kb" not in said:
        raise LinkLost((done.stderr or done.stdout).strip() or "its shell did not answer")
    version = said.get("python_version")
    return Probe(
        machine=said["machine"],
        system=said["system"],
        bits=_number(said["bits"]),
        cores=_number(said["cores"]),
        model=said["model"] or said["product"] or None,
        android=said["android"] or None,
        clock_ahead_s=0.0 if (now := _number(said["now"])) is None else now - (before + after) / 2,
        python=said.get("python"),
        python_version=None if version is None else tuple(map(int, version.split("."))),
        writable="writable" in said,
        executable="executable" in said,
        free_bytes=None if (free_kb := _number(said.get("free_kb", ""))) is None else free_kb * 1024,
    )


def _number(text: str) -> int | None:
    return int(text) if text.strip().isdigit() else None
