"""Energy of an NVIDIA card: from its counter where it has one, else from its power, sampled."""

from __future__ import annotations

import time
from typing import Callable, Optional, Tuple

from .energy import EnergyMeter
from .nvml import Gpu


class NvmlEnergyMeter(EnergyMeter):
    """The energy of one card, idle power included: from its counter, else from its power, which has to be sampled.

    The counter stands still between renewals: about 100 ms (ml.energy/blog, "Thermally Stable Profiling"), 10 ms on
    some older cards. A figure is hence of a window of nearly the right length that began and ended up to that much too
    early, and in a window T up to 100 ms / T of it are what was before. Of milliseconds nothing can be told: below
    `shortest_ns`, where that is a tenth, `stop` gives None. Power that is an average over a second comes late by half a
    second and needs ten times as long. Both see the board alone, and on A100 and H100 the sensor beneath them looks at
    a quarter of the time only (arXiv:2312.02741).
    """

    def __init__(self, gpu: Gpu, *, clock: Callable[[], int] = time.perf_counter_ns) -> None:
        self._clock = clock
        self._started_ns = clock()
        self.shortest_ns = 1_000_000_000
        if gpu.total_energy_mj() is not None:
            method = "energy counter of the card %s (NVML)" % gpu.name
            super().__init__(
                method, _growing(gpu.total_energy_mj), lambda before, after: (after[0] - before[0]) * 1000.0
            )
            return
        method = "power of the card %s (NVML), sampled" % gpu.name
        if gpu.averages_power():
            method += ", each an average over 1 s"
            self.shortest_ns *= 10

        def read() -> Optional[Tuple[int, ...]]:
            power_mw = gpu.power_mw()
            return None if power_mw is None else (clock(), power_mw)

        super().__init__(method, read, _trapezoid_uj)

    def start(self) -> None:
        """Count from here on."""
        super().start()
        self._started_ns = self._clock()

    def stop(self) -> Optional[int]:
        """Microjoules since `start`; None if a reading failed, the source stood still, or the window was too short."""
        microjoules = super().stop()
        return microjoules if self._clock() - self._started_ns >= self.shortest_ns else None


def open_meter(gpu: Gpu, *, clock: Callable[[], int] = time.perf_counter_ns) -> Optional[NvmlEnergyMeter]:
    """The meter of a card, or None where it tells neither energy nor power. `clock` counts nanoseconds."""
    if gpu.total_energy_mj() is None and gpu.power_mw() is None:
        return None
    return NvmlEnergyMeter(gpu, clock=clock)


def _growing(counter: Callable[[], Optional[int]]) -> Callable[[], Optional[Tuple[int, ...]]]:
    """Readings of a counter; the one at which it began anew, with its driver, is None."""
    last = 0

    def read() -> Optional[Tuple[int, ...]]:
        nonlocal last
        now = counter()
        before, last = last, now or 0
        return None if now is None or now < before else (now,)

    return read


def _trapezoid_uj(before: Tuple[int, ...], after: Tuple[int, ...]) -> float:
    """Microjoules between two readings of (nanoseconds, milliwatts)."""
    return (before[1] + after[1]) / 2 * (after[0] - before[0]) / 1e6
