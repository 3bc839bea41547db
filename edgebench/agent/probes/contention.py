"""Whether a process had the CPUs that it wanted: its own CPU time and waiting, and what the whole machine did.

Waiting is the kernel's own count of the time that runnable threads stood in a run queue (Linux, /proc/PID/schedstat),
which tells of contention to the nanosecond where /proc/stat counts in ticks of 10 ms.
"""

from __future__ import annotations

import os
import time
from typing import NamedTuple, Optional

from ..state import read_cpu


class Contention(NamedTuple):
    """Readings that only grow, in ns: of the process summed over its threads, of the machine over its CPUs."""

    at_ns: int
    cpu_ns: int
    waited_ns: Optional[int]
    busy_ns: Optional[int]
    steal_ns: Optional[int]

    def since(self, before: Contention) -> Contention:
        """What grew; None for what either of the two does not tell."""
        return Contention(
            self.at_ns - before.at_ns,
            self.cpu_ns - before.cpu_ns,
            *(None if now is None or then is None else now - then for now, then in zip(self[2:], before[2:])),
        )


def read() -> Contention:
    """The present readings of this process and machine."""
    machine = read_cpu()
    return Contention(
        time.perf_counter_ns(),
        time.process_time_ns(),
        _waited(),
        None if machine is None else machine.busy_ns,
        None if machine is None else machine.steal_ns,
    )


def _waited() -> Optional[int]:
    directory = "/proc/self/task"
    waited_ns = 0
    try:
        for task in os.listdir(directory):
            with open("%s/%s/schedstat" % (directory, task), encoding="ascii") as file:
                waited_ns += int(file.read().split()[1])
    except (OSError, IndexError, ValueError):
        return None
    return waited_ns
