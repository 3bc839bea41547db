"""A network of two ends, one on this machine and one in a namespace, whose link can be cut.

The namespace has no name in /run/netns: a process of this run holds it, and when that ends, killed or not, the kernel
takes the namespace and the link away. A named one would stay behind after a killed run.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path

from .requirements import child_of_this_run, require_namespaces

__all__ = ["Network", "wait_for"]


def wait_for(port: int, address: str, *, timeout_s: float) -> None:
    """Return when something accepts connections there; raises TimeoutError."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            with socket.create_connection((address, port), timeout=1):
                return
        except OSError as error:
            if time.monotonic() > deadline:
                raise TimeoutError(f"nothing listens on {address}:{port} after {timeout_s:g} s: {error}") from error
            time.sleep(0.02)


class Network:
    """`address` is the bed's end and `host_address` this machine's; `holder` a process in the namespace."""

    def __init__(self) -> None:
        require_namespaces()
        self._holder = subprocess.Popen(
            child_of_this_run(["unshare", "--net", "sleep", "infinity"]),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            # Into a new session: a Ctrl-C is for the tests, which then close their beds.
            start_new_session=True,
        )
        try:
            self._namespace = self._wait_for_namespace()
            self._number = self._connect()
        except BaseException:
            self._holder.kill()
            self._holder.wait()
            raise

    @property
    def address(self) -> str:
        return f"10.99.{self._number}.2"

    @property
    def host_address(self) -> str:
        return f"10.99.{self._number}.1"

    @property
    def path(self) -> str:
        """For `nsenter --net=`."""
        return f"/proc/{self._holder.pid}/ns/net"

    def cut(self, *, noticed: bool = False) -> None:
        """No packet passes from here on, and what waits for an answer waits on.

        A new connection waits too, as for a device behind a router. With `noticed` it fails after 3 s with "No route to
        host", as for one in the same network, whose absence the kernel notices.
        """
        # It is the bed's end that goes down. Were it this machine's, its route would go too, and a new connection would
        # leave by the default route or fail at once.
        self._ip_inside("link", "set", "eth0", "down")
        if not noticed:
            # Any address does: nothing is delivered.
            neighbour = (self.address, "lladdr", "02:00:00:00:00:01", "dev", f"eb-{self._number}")
            _ip("neigh", "replace", *neighbour, "nud", "permanent")

    def mend(self) -> None:
        """Packets pass again."""
        self._ip_inside("link", "set", "eth0", "up")
        # After a failed look-up the kernel would wait before it asks for the neighbour again.
        _ip("neigh", "flush", "dev", f"eb-{self._number}", "nud", "all")

    def pids(self) -> list[int]:
        """Every process in the namespace, as `ip netns pids` would list it."""
        found = []
        for process in Path("/proc").iterdir():
            if process.name.isdigit():
                with suppress(OSError):
                    if _identity(process / "ns/net") == self._namespace:
                        found.append(int(process.name))
        return found

    def close(self) -> None:
        """End every process in the namespace and, with the last of them, the namespace and the link."""
        if self._holder.returncode is not None:
            # Closed before: the number of the link, and the pids, may be another bed's by now.
            return
        # The kernel would do it too, but a second after the namespace's end.
        _ip("link", "del", f"eb-{self._number}", check=False)
        deadline = time.monotonic() + 10
        while remaining := self.pids():
            for pid in remaining:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if time.monotonic() > deadline:
                raise TimeoutError(f"processes {remaining} of the bed {self.address} do not end")
            time.sleep(0.01)
        self._holder.wait()

    def _wait_for_namespace(self) -> tuple[int, int]:
        ours = _identity(Path("/proc/self/ns/net"))
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline and self._holder.poll() is None:
            with suppress(FileNotFoundError):
                if (identity := _identity(Path(self.path))) != ours:
                    return identity
            time.sleep(0.005)
        raise TimeoutError(f"no network namespace: `unshare --net` ended with {self._holder.returncode}")

    def _connect(self) -> int:
        taken = {tuple(address.split(".")[:3]) for address in _addresses()}
        for number in range(1, 255):
            if ("10", "99", str(number)) in taken:
                continue
            # That the name is unique on the machine settles a race between two test runs for a number.
            peer = ("type", "veth", "peer", "name", "eth0", "netns", str(self._holder.pid))
            done = _ip("link", "add", f"eb-{number}", *peer, check=False)
            if done.returncode == 0:
                break
            if "File exists" not in done.stderr:
                raise RuntimeError(f"no link to a bed: {done.stderr.strip()}")
        else:
            raise RuntimeError("no network of 10.99.0.0/16 is free")
        _ip("addr", "add", f"10.99.{number}.1/30", "dev", f"eb-{number}")
        _ip("link", "set", f"eb-{number}", "up")
        self._ip_inside("link", "set", "lo", "up")
        self._ip_inside("addr", "add", f"10.99.{number}.2/30", "dev", "eth0")
        self._ip_inside("link", "set", "eth0", "up")
        return number

    def _ip_inside(self, *arguments: str) -> None:
        subprocess.run(["nsenter", f"--net={self.path}", "ip", *arguments], check=True)


def _identity(namespace: Path) -> tuple[int, int]:
    status = namespace.stat()
    return status.st_dev, status.st_ino


def _ip(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["ip", *arguments], capture_output=True, text=True, check=check)


def _addresses() -> list[str]:
    links = json.loads(_ip("-json", "-4", "addr").stdout)
    return [entry["local"] for link in links for entry in link.get("addr_info", [])]
