"""Waits until the device is at rest, for a bounded time, and says what did not come to rest."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Callable, List, Optional

from .state import others_busy, read_cpu, read_temperatures

# Long enough for 25 ticks of the kernel's CPU accounting.
_WINDOW_S = 0.25


@dataclass(frozen=True)
class Waited:
    """`calm`: nothing that can be read here was restless at the end. `reason` names what was, or what was not waited
    for because it cannot be read; the latter leaves `calm` true."""

    seconds: float
    calm: bool
    reason: Optional[str]


def wait_until_calm(
    *,
    cooldown_c: Optional[float],
    busy_cpus: float,
    limit_s: float,
    root: str = "/",
    clock: Callable[[], int] = time.perf_counter_ns,
    sleep: Callable[[float], None] = time.sleep,
) -> Waited:
    """Wait until others use less than `busy_cpus` CPUs and the hottest sensor is at `cooldown_c` or below.

    It looks at windows of 0.25 s: at one of them whatever `limit_s`, and at no more than fit in it. Without
    `cooldown_c` heat is not looked at. `clock` counts nanoseconds.
    """
    started = clock()
    window_began, own_before, before = started, time.process_time_ns(), read_cpu(root)
    while True:
        sleep(_WINDOW_S)
        now, own_now, ticks = clock(), time.process_time_ns(), read_cpu(root)
        busy = None
        if before is not None and ticks is not None:
            busy = others_busy(before, ticks, own_ns=own_now - own_before, elapsed_ns=now - window_began)
        window_began, own_before, before = now, own_now, ticks
        restless: List[str] = []
        unseen: List[str] = []
        if busy is None:
            unseen.append("CPU use cannot be read here, so other processes were not waited for")
        elif busy >= busy_cpus:
            restless.append("other processes used %.2f CPUs, above %g" % (busy, busy_cpus))
        if cooldown_c is not None:
            temperatures = read_temperatures(root)
            if not temperatures:
                unseen.append("no temperature can be read here, so --cooldown was not waited for")
            else:
                hottest = max(temperatures, key=lambda name: temperatures[name])
                degrees = temperatures[hottest] / 1000
                if degrees > cooldown_c:
                    words = "the hottest sensor (%s) stood at %.1f °C, above %g °C"
                    restless.append(words % (hottest, degrees, cooldown_c))
        seconds = (now - started) / 1e9
        if not restless or seconds + _WINDOW_S > limit_s:
            return Waited(seconds, not restless, "; ".join(restless + unseen) or None)
