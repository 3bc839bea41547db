"""Verdicts, and the conditions that they are drawn from."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edgebench.agent.state import State
from edgebench.agent.wire import Measurement, Turn, WarmUp
from edgebench.conditions import Conditions, conditions
from edgebench.types import Cell, LedgerEntry, Run
from edgebench.verdict import Verdict, judge
from tests.unit.runs import cell, measurement, run

MS = 1_000_000
QUIET = State(
    at_ns=0,
    governors=("performance",),
    frequency_khz=(2_000_000, 2_000_000),
    max_frequency_khz=(2_000_000, 2_000_000),
    turbo=False,
    temperatures_mc={"cpu": 50_000},
    throttle_events=3,
    throttle_flags=0,
    cpu_ticks=None,
    load_1min=0.1,
    running=1,
    available_bytes=4_000_000_000,
    swap_used_bytes=0,
    memory_pressure_us=0,
    cpu_pressure_us=0,
    power="mains",
    affinity=(0, 1),
    usable_cpus=2,
    cgroup_throttled_us=0,
)


def _noisy(seed: int, median_ms: float = 10.0, turns: int = 10) -> tuple[Turn, ...]:
    generator = np.random.default_rng(seed)
    samples = generator.normal(median_ms, 0.01 * median_ms, (turns, 5))
    return tuple(
        Turn(lap, lap, tuple(round(ms * MS) for ms in row), 50 * MS, 50 * MS, 0, 50 * MS, 0)
        for lap, row in enumerate(samples)
    )


def _processes(*medians_ms: float, **changes: object) -> tuple[Measurement, ...]:
    return tuple(
        measurement(number=number, turns=_noisy(number, ms), **changes) for number, ms in enumerate(medians_ms)
    )


def _judged(
    measurements: tuple[Measurement, ...], states: tuple[State, ...] = (QUIET, QUIET, QUIET)
) -> tuple[Verdict, Conditions]:
    only = cell("onnx", measurements=measurements)
    found = _with_ledger(only, states)
    met = conditions(found, only)
    return judge(only, met), met


def _with_ledger(only: Cell, states: tuple[State, ...]) -> Run:
    rounds = [item.round or 0 for item in only.measurements]
    return replace(run(only), ledger=tuple(LedgerEntry("local", number, states) for number in rounds))


STEADY = (10.0, 10.05, 9.97, 10.02, 9.99)


def test_a_quiet_machine_is_stable() -> None:
    verdict, met = _judged(_processes(*STEADY))
    assert verdict == Verdict("stable")
    assert met.other_cpus == pytest.approx(0.0)
    assert met.waited_share == 0.0
    assert met.governors == ("performance",)
    assert met.hottest_c == (50.0, 50.0, 50.0)
    assert met.frequency_mhz == (2000.0, 2000.0)


def test_fewer_than_three_processes_are_not_judged() -> None:
    assert _judged(_processes(10.0, 20.0))[0].word is None


@pytest.mark.parametrize(
    ("changed", "evidence"),
    [
        ({"steal_ns": 5 * MS}, "took 10% of the time"),
        ({"waited_ns": 10 * MS}, "17% of the time that they wanted one"),
        ({"busy_ns": 80 * MS}, "other processes used 0.6 CPUs"),
    ],
)
def test_what_others_took_pollutes(changed: dict[str, int], evidence: str) -> None:
    measurements = tuple(
        replace(item, turns=tuple(replace(turn, **changed) for turn in item.turns)) for item in _processes(*STEADY)
    )
    verdict, _ = _judged(measurements)
    assert verdict.word == "polluted"
    assert evidence in verdict.evidence[0]
    assert verdict.remedy


def test_two_modes_pollute_and_their_shares_are_told() -> None:
    # A quarter of the runs of each process takes 1.5 times as long.
    slow = tuple(
        replace(
            item,
            turns=tuple(
                replace(turn, samples_ns=tuple(s * 3 // 2 for s in turn.samples_ns)) if turn.lap % 4 == 0 else turn
                for turn in item.turns
            ),
        )
        for item in _processes(*STEADY)
    )
    verdict, _ = _judged(slow)
    assert verdict.word == "polluted"
    assert "30% of the runs took 1.50 times as long" in " ".join(verdict.evidence)


@pytest.mark.parametrize("seed", range(20))
def test_one_mode_with_a_tail_is_not_taken_for_two(seed: int) -> None:
    generator = np.random.default_rng(seed)
    measurements = tuple(
        measurement(
            number=number,
            turns=tuple(
                Turn(lap, lap, tuple(round((10 + x) * MS) for x in generator.gamma(2, 0.3, 5))) for lap in range(10)
            ),
        )
        for number in range(5)
    )
    assert not any("modes" in evidence for evidence in _judged(measurements)[0].evidence)


def test_processes_that_get_slower_one_after_the_other_drift() -> None:
    verdict, _ = _judged(_processes(10.0, 10.3, 10.6, 10.9, 11.2))
    assert verdict.word == "drifting"
    assert "12% slower from the first to the last" in verdict.evidence[0]


def test_processes_that_each_get_slower_while_they_run_drift() -> None:
    measurements = tuple(
        replace(
            item,
            turns=tuple(
                replace(turn, samples_ns=tuple(round(s * (1 + 0.02 * turn.lap)) for s in turn.samples_ns))
                for turn in item.turns
            ),
        )
        for item in _processes(*STEADY)
    )
    verdict, _ = _judged(measurements)
    assert verdict.word == "drifting"
    assert "each process became" in verdict.evidence[0]


def test_a_warm_up_that_did_not_settle_is_told() -> None:
    verdict, _ = _judged(_processes(*STEADY, warm_up=WarmUp(400, False)))
    assert verdict.word == "drifting"
    assert "still getting faster" in verdict.evidence[0]
    assert "--warmup" in (verdict.remedy or "")


def test_processes_that_differ_by_a_fifth_are_told() -> None:
    verdict, _ = _judged(_processes(10.0, 12.5, 10.1, 9.9, 10.0))
    assert any("the slowest took 1.2" in evidence for evidence in verdict.evidence)


def test_a_p50_that_is_hardly_known_is_not_called_stable() -> None:
    verdict, _ = _judged(_processes(10.0, 10.5, 11.0, 11.8, 11.3, 10.8, 10.2))
    assert verdict.word == "drifting"
    assert "its processes wander: p50 is known to ±" in verdict.evidence[0]


@pytest.mark.parametrize(
    ("changed", "evidence"),
    [
        ({"throttle_events": 5}, "throttled itself"),
        ({"throttle_flags": 0x4}, "the firmware reports throttling"),
        ({"throttle_flags": 0x10000}, "the firmware reports under-voltage"),
        ({"cgroup_throttled_us": 900_000}, "CPU quota held it back"),
    ],
)
def test_a_device_that_slowed_itself_down_is_throttled(changed: dict[str, int], evidence: str) -> None:
    verdict, _ = _judged(_processes(*STEADY), (QUIET, QUIET, replace(QUIET, **changed)))
    assert verdict.word == "throttled"
    assert evidence in verdict.evidence[0]


def test_flags_that_stood_since_boot_are_no_news() -> None:
    before = replace(QUIET, throttle_flags=0x50000)
    assert _judged(_processes(*STEADY), (before, before, before))[0].word == "stable"


def test_a_frequency_that_falls_under_load_is_throttling_and_an_idle_one_before_is_not() -> None:
    slow = replace(QUIET, frequency_khz=(1_200_000, 1_200_000))
    idle = replace(QUIET, frequency_khz=(600_000, 600_000))
    assert _judged(_processes(*STEADY), (idle, QUIET, QUIET, idle))[0].word == "stable"
    verdict, met = _judged(_processes(*STEADY), (idle, QUIET, slow, idle))
    assert verdict.word == "throttled"
    assert met.slowed_share == pytest.approx(0.4)


def test_what_a_device_does_not_tell_is_none_and_no_evidence() -> None:
    only = cell("onnx", *[(10 * MS,) * 9] * 5)
    met = conditions(run(only), only)
    unknown = {name: value for name, value in vars(met).items() if name != "notes"}
    assert set(unknown.values()) == {None}
    assert judge(only, met).word == "stable"
