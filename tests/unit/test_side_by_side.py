"""Devices measured at once: one's failure leaves the others, an interruption reaches all, and twins are refused."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from edgebench.errors import DeviceError, UsageError
from edgebench.measure.devices import _refuse_twins, side_by_side
from edgebench.types import DeviceProfile


class Waiting:
    """An agent whose work goes on until it is interrupted."""

    def __init__(self) -> None:
        self._interrupted = threading.Event()
        self.ended = False

    def work(self) -> None:
        assert self._interrupted.wait(20)
        time.sleep(0.05)
        self.ended = True
        raise KeyboardInterrupt

    def interrupt(self) -> None:
        self._interrupted.set()


class Broken(Waiting):
    """One whose link is lost just then."""

    def interrupt(self) -> None:
        super().interrupt()
        raise DeviceError("the link was lost")


def _interrupt_soon() -> threading.Timer:
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    return timer


def _do(agents: list[Waiting]) -> None:
    side_by_side([agent.work for agent in agents], agents)  # type: ignore[arg-type]


def test_an_interruption_reaches_all_and_is_raised_when_they_have_ended() -> None:
    agents = [Waiting(), Waiting(), Waiting()]
    timer = _interrupt_soon()
    with pytest.raises(KeyboardInterrupt):
        _do(agents)
    timer.join()
    assert all(agent.ended for agent in agents)


def test_one_that_cannot_be_interrupted_does_not_keep_it_from_the_others() -> None:
    agents: list[Waiting] = [Broken(), Waiting(), Waiting()]
    rescued: list[Waiting] = []

    def rescue() -> None:
        """Else it would wait for them."""
        rescued.extend(agent for agent in agents if not agent.ended)
        for agent in agents:
            Waiting.interrupt(agent)

    timers = [_interrupt_soon(), threading.Timer(2.0, rescue)]
    timers[1].start()
    with pytest.raises((KeyboardInterrupt, DeviceError)):
        _do(agents)
    for timer in timers:
        timer.cancel()
        timer.join()
    assert rescued == []


def test_all_are_done_at_once() -> None:
    barrier = threading.Barrier(3, timeout=10)
    # None of them could pass alone.
    side_by_side([lambda: barrier.wait() and None] * 3, [])


def test_a_failure_is_raised_after_the_others_have_ended() -> None:
    done: list[str] = []

    def fail() -> None:
        raise DeviceError("was lost")

    def slow() -> None:
        time.sleep(0.3)
        done.append("slow")

    work: list[Callable[[], None]] = [fail, slow]
    with pytest.raises(DeviceError, match="was lost"):
        side_by_side(work, [])
    assert done == ["slow"]


def test_one_device_is_measured_in_this_thread() -> None:
    # Where an interruption is heard without waiting for it.
    threads: list[int] = []
    side_by_side([lambda: threads.append(threading.get_ident())], [])
    assert threads == [threading.get_ident()]


PI = DeviceProfile("pi", "ssh", address="pi@10.0.0.12")


@pytest.mark.parametrize(
    "others",
    [
        (replace(PI, name="b"),),
        (replace(PI, name="b", address="x"), replace(PI, name="c")),
        (PI,),
        (DeviceProfile("l", "local"), DeviceProfile("m", "local")),
        (DeviceProfile("p", "adb", serial="1"), DeviceProfile("q", "adb", serial="1")),
        (DeviceProfile("p", "adb"), DeviceProfile("q", "adb")),
        (replace(PI, name="b", threads=(1,), python="python3.12"),),
    ],
)
def test_two_profiles_of_one_device_are_refused(others: tuple[DeviceProfile, ...]) -> None:
    with pytest.raises(UsageError, match="are one and the same"):
        _refuse_twins((PI, *others))


def test_three_twins_are_refused_too() -> None:
    with pytest.raises(UsageError, match="`pi` and `b` are one and the same"):
        _refuse_twins((PI, replace(PI, name="b"), replace(PI, name="c")))


@pytest.mark.parametrize(
    "other",
    [
        replace(PI, name="b", address="pi@10.0.0.13"),
        replace(PI, name="b", port=2222),
        replace(PI, name="b", ssh_config="/x"),
        DeviceProfile("b", "local"),
        DeviceProfile("b", "adb", serial="1"),
    ],
)
def test_devices_at_different_places_are_two(other: DeviceProfile) -> None:
    _refuse_twins((PI, other, DeviceProfile("c", "adb", serial="2")))
