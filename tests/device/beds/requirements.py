"""What a machine must have before a bed can stand on it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping

__all__ = ["Unavailable", "child_of_this_run", "require_namespaces", "require_tools"]


class Unavailable(Exception):
    """This machine lacks something that a bed needs; the text names it. A test skips with it."""


def child_of_this_run(argv: list[str]) -> list[str]:
    """`argv`, so that the kernel kills the process when the thread that started it ends, however that ends."""
    return ["setpriv", "--pdeathsig", "KILL", *argv]


def require_tools(packages: Mapping[str, str]) -> None:
    """Each key is a command, its value the Debian package that brings it."""
    missing = [f"{tool} (apt-get install {package})" for tool, package in packages.items() if not shutil.which(tool)]
    if missing:
        raise Unavailable("needs " + ", ".join(missing))


def require_namespaces() -> None:
    """Root, and a kernel that lets it make namespaces: a container often has only the first."""
    if os.geteuid() != 0:
        raise Unavailable("needs root, to make namespaces")
    require_tools({"ip": "iproute2", "unshare": "util-linux", "nsenter": "util-linux", "setpriv": "util-linux"})
    probe = ["unshare", "--net", "--uts", "--mount", "--pid", "--fork", "--mount-proc"]
    probe += ["ip", "link", "add", "eb-probe", "type", "veth", "peer", "name", "eth0"]
    done = subprocess.run(probe, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Unavailable(f"needs namespaces and veth links, which this kernel refuses: {done.stderr.strip()}")
