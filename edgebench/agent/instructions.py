"""Counts the instructions that one warm inference executes in user space: a cost without the noise of a clock.

The CPU's own counter is read through perf_event_open(2). Virtual machines and containers often have none; there
`under_qemu` starts the process below qemu-user, whose plugin counts, and this module marks where an inference begins
and ends. The two do not give the same figure: qemu shows the process the same CPU model everywhere, and runtimes choose
their kernels by the model. So a count is only compared with counts of the same `method`.

Count with one thread: a pool that waits for work executes instructions, as many as there is time for.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import gc
import os
import platform
import struct
import sys
from typing import Any, Callable, Dict, Optional, Protocol, Sequence, Tuple

# For the process that counts: another hash seed in each would move the counts of a small model by 100 ppm.
ENVIRONMENT = {"PYTHONHASHSEED": "0"}

# What `under_qemu` tells the process: the path of its marks but for the process id, and how it is counted.
MARKS = "EDGEBENCH_MARKS"
COUNTED_BY = "EDGEBENCH_COUNTED_BY"

# No system has a call of this number: qemu-user tells its plugin of it, and then answers ENOSYS.
MARK_SYSCALL = 25956

INSTALL_QEMU = "sudo apt-get install qemu-user"
INSTALL_COMPILER = "sudo apt-get install gcc libc6-dev"

_LEAST_WARMUP = 2
_EMPTY_INTERVALS = 10

# From perf_event_open(2) and <linux/perf_event.h>.
_PERF_EVENT_OPEN = {"x86_64": 298, "i386": 336, "aarch64": 241, "arm": 364, "riscv64": 241}
_PERF_TYPE_HARDWARE = 0
_PERF_COUNT_HW_INSTRUCTIONS = 1
_PERF_FORMAT_TOTAL_TIMES = 1 | 2
_INHERIT, _EXCLUDE_KERNEL, _EXCLUDE_HV = 1 << 1, 1 << 5, 1 << 6
_PERF_FLAG_FD_CLOEXEC = 8
_ATTR = struct.Struct("=IIQQQQQIIQ")
_READING = struct.Struct("=QQQ")


class NoCounters(Exception):
    """Instructions cannot be counted here; the message ends with what to type."""


class Counter(Protocol):
    """Counts what all threads of this process execute between `start` and `stop`, which gives None where it could not
    see all of it. `method` says how, as far as figures depend on it."""

    method: str

    def start(self) -> None: ...

    def stop(self) -> Optional[int]: ...


def open_counter() -> Counter:
    """The counter of this process. To be opened before a runtime is imported, see `HardwareCounter`.

    Raises:
        NoCounters: there is none, or it does not count.
    """
    counter: Counter
    if MARKS in os.environ:
        counter = MarkCounter(os.environ[MARKS] + str(os.getpid()), os.environ[COUNTED_BY])
        remedy = "start it as `under_qemu.prepare` says, or unset %s" % MARKS
    else:
        counter = HardwareCounter()
        remedy = "count below qemu: " + INSTALL_QEMU
    counter.start()
    # The counter of a virtual machine may well open and then stay at 0.
    if not counter.stop():
        raise NoCounters("%s: it counts nothing in this process; %s" % (counter.method, remedy))
    return counter


def count(run: Callable[[Any], Any], feeds: Sequence[Any], counter: Counter, warmup: int, runs: int) -> Tuple[int, ...]:
    """Instructions of each of `runs` warm inferences, after `warmup` (at least 2) unmeasured ones; feeds in turn.

    The first inference allocates, and CPython from 3.11 on specialises the code around it during the first ten or so:
    after a shorter warm-up the first counts are some thousand instructions higher. What an interval around an empty
    function costs is measured and subtracted. The garbage collector rests meanwhile.

    Raises:
        NoCounters: an inference was not counted as a whole.
    """

    def interval(function: Callable[[Any], Any], feed: Any) -> int:
        counter.start()
        function(feed)
        counted = counter.stop()
        if counted is None:
            raise NoCounters(
                "%s: an inference was counted in part only; stop other users of the counters (perf, watchdogs), and"
                " keep to cores of one kind: taskset --cpu-list 0" % counter.method
            )
        return counted

    gc.collect()
    gc.disable()
    try:
        for index in range(max(warmup, _LEAST_WARMUP)):
            interval(run, feeds[index % len(feeds)])
        empty = min([interval(_nothing, None) for _ in range(_EMPTY_INTERVALS)])
        return tuple([interval(run, feeds[index % len(feeds)]) - empty for index in range(runs)])
    finally:
        gc.enable()


def _nothing(_: Any) -> None:
    pass


def architecture() -> str:
    """The instruction set of this process, as qemu names it."""
    machine = platform.machine()
    # The kernel's, which is of 64 bits below many a Raspberry Pi's 32-bit Python.
    if sys.maxsize < 2**32:
        machine = {"aarch64": "arm", "x86_64": "i386"}.get(machine, machine)
    if machine.startswith("armv"):
        return "arm"
    return "i386" if machine in ("i486", "i586", "i686") else machine


class HardwareCounter:
    """The CPU's counter of retired instructions, in user space only.

    Threads inherit it that this one and its children create after it was opened, not those that were there before:
    hence it comes before the runtime. A read() of the one descriptor gives the sum over this thread, living children
    and those that ended; only reads of a group would not.
    """

    method = "hardware counter"

    def __init__(self) -> None:
        number = _PERF_EVENT_OPEN.get(architecture())
        if number is None or not sys.platform.startswith(("linux", "android")):
            raise NoCounters("instructions are counted on Linux only (x86, ARM, RISC-V): use another device")
        attr = _ATTR.pack(
            _PERF_TYPE_HARDWARE,
            _ATTR.size,
            _PERF_COUNT_HW_INSTRUCTIONS,
            0,
            0,
            _PERF_FORMAT_TOTAL_TIMES,
            _INHERIT | _EXCLUDE_KERNEL | _EXCLUDE_HV,
            0,
            0,
            0,
        )
        perf_event_open = _system_call(ctypes.c_void_p, *[ctypes.c_long] * 4)
        # This thread, on any CPU, in no group.
        buffer = ctypes.create_string_buffer(attr, len(attr))
        self._descriptor: int = perf_event_open(number, buffer, 0, -1, -1, _PERF_FLAG_FD_CLOEXEC)
        if self._descriptor < 0:
            raise NoCounters(_refusal(ctypes.get_errno()))
        self._begun = b""

    def start(self) -> None:
        """Begin an interval."""
        self._begun = os.read(self._descriptor, _READING.size)

    def stop(self) -> Optional[int]:
        """Its count; None if other events, or a core of another kind, had the counter for a part of it."""
        ended = os.read(self._descriptor, _READING.size)
        pairs = zip(_READING.unpack(ended), _READING.unpack(self._begun))
        instructions, enabled, running = (now - then for now, then in pairs)
        return instructions if running == enabled else None


class MarkCounter:
    """What qemu's plugin, `instruction_counter.c`, notes in the file at `path` when this process marks an interval."""

    def __init__(self, path: str, method: str) -> None:
        self.method = method
        self._path = path
        self._serial = 0
        self._mark = _system_call(ctypes.c_long)
        with contextlib.suppress(FileNotFoundError):
            os.remove(path)  # Left by a process of the same id that was killed.

    def start(self) -> None:
        """Begin an interval."""
        self._mark(MARK_SYSCALL, self._serial)

    def stop(self) -> Optional[int]:
        """Its count, of the marks' own instructions too; None if no plugin saw it."""
        self._mark(MARK_SYSCALL, self._serial + 1)
        begun, ended = self._serial, self._serial + 1
        self._serial += 2
        try:
            with open(self._path, encoding="ascii") as file:
                marks = parse_marks(file.read())
            return marks[ended] - marks[begun]
        except (FileNotFoundError, KeyError):
            return None


def parse_marks(text: str) -> Dict[int, int]:
    """The plugin's count at each serial number."""
    return {int(serial): int(counted) for serial, counted in (line.split() for line in text.splitlines())}


def _system_call(*arguments: Any) -> Callable[..., int]:
    function = ctypes.CDLL(None, use_errno=True).syscall
    # Longs all, where they are not pointers: a variadic function may find rubbish in the upper half of an int.
    function.argtypes = (ctypes.c_long, *arguments)
    function.restype = ctypes.c_long
    return function


def _refusal(number: int) -> str:
    below_qemu = "count below qemu: " + INSTALL_QEMU
    if number in (errno.EACCES, errno.EPERM):
        return (
            "this user may not read the CPU's counters (perf_event_open: %s): sudo sysctl kernel.perf_event_paranoid=2,"
            " in a container also --cap-add PERFMON; or %s" % (os.strerror(number), below_qemu)
        )
    return "this machine has no counter of instructions (perf_event_open: %s); %s" % (os.strerror(number), below_qemu)
