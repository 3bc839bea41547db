"""Counting instructions, as far as it needs neither counters nor qemu: arithmetic, marks, and what failures say."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgebench.agent.instructions import (
    COUNTED_BY,
    MARKS,
    MarkCounter,
    NoCounters,
    architecture,
    count,
    open_counter,
    parse_marks,
)
from edgebench.agent.under_qemu import prepare

# As the plugin wrote it for two intervals, below qemu-x86_64 7.2.22.
RECORDED = "0 211532760\n1 211536007\n2 211541391\n3 211544638\n"

needs_a_cpu_model = pytest.mark.skipif(
    architecture() not in ("x86_64", "aarch64"), reason="needs an x86-64 or 64-bit ARM machine"
)


class Meter:
    """A counter whose inference costs what it is fed, and whose interval costs 7 by itself."""

    method = "meter"

    def __init__(self) -> None:
        self.total = 0
        self.fed: list[int] = []
        self._begun = 0

    def run(self, feed: int) -> None:
        self.fed.append(feed)
        self.total += feed

    def start(self) -> None:
        self._begun = self.total

    def stop(self) -> int | None:
        self.total += 7
        return self.total - self._begun


class BlindMeter(Meter):
    """One that never saw the whole interval."""

    def stop(self) -> int | None:
        return None


def executable(path: Path, script: str) -> None:
    path.write_text("#!/bin/sh\n" + script)
    path.chmod(0o755)


def test_counts_are_those_of_the_feeds_in_turn_without_the_interval_itself() -> None:
    meter = Meter()
    assert count(meter.run, [100, 200], meter, warmup=3, runs=4) == (100, 200, 100, 200)
    assert meter.fed == [100, 200, 100, 100, 200, 100, 200]


def test_two_inferences_at_least_go_unmeasured() -> None:
    meter = Meter()
    count(meter.run, [1], meter, warmup=0, runs=1)
    assert meter.fed == [1, 1, 1]


def test_an_inference_counted_in_part_is_no_count() -> None:
    meter = BlindMeter()
    with pytest.raises(NoCounters, match="meter: an inference was counted in part only"):
        count(meter.run, [1], meter, warmup=2, runs=1)


def test_marks_are_read_from_the_plugins_lines() -> None:
    assert parse_marks(RECORDED) == {0: 211532760, 1: 211536007, 2: 211541391, 3: 211544638}


def test_an_interval_is_the_difference_of_its_two_marks(tmp_path: Path) -> None:
    counter = MarkCounter(str(tmp_path / "marks-1"), "recorded")
    (tmp_path / "marks-1").write_text(RECORDED)
    intervals = []
    for _ in range(2):
        counter.start()
        intervals.append(counter.stop())
    assert intervals == [3247, 3247]


def test_marks_of_a_killed_process_of_the_same_id_are_not_taken(tmp_path: Path) -> None:
    (tmp_path / "marks-1").write_text(RECORDED)
    counter = MarkCounter(str(tmp_path / "marks-1"), "recorded")
    counter.start()
    assert counter.stop() is None


def test_marks_without_a_plugin_are_no_counter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MARKS, str(tmp_path / "marks-"))
    monkeypatch.setenv(COUNTED_BY, "qemu-x86_64 7.2.22 as Haswell-noTSX")
    with pytest.raises(NoCounters, match=f"Haswell-noTSX: it counts nothing in this process; .* or unset {MARKS}"):
        open_counter()


@needs_a_cpu_model
def test_without_qemu_the_line_that_installs_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NoCounters, match=r"is not installed: sudo apt-get install qemu-user$"):
        prepare(str(tmp_path / "plugin"))


@needs_a_cpu_model
def test_a_qemu_that_lacks_avx_is_too_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    executable(tmp_path / f"qemu-{architecture()}", "echo 'qemu version 6.2.0 (Debian 1:6.2+dfsg-2ubuntu6)'")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NoCounters, match=r"is of version 6\.2\.0, counting needs 7\.2 or newer"):
        prepare(str(tmp_path / "plugin"))


@needs_a_cpu_model
def test_without_a_compiler_the_line_that_installs_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    executable(tmp_path / f"qemu-{architecture()}", "echo 'qemu version 7.2.22'")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NoCounters, match=r"sudo apt-get install gcc libc6-dev$"):
        prepare(str(tmp_path / "plugin"))


@needs_a_cpu_model
def test_a_static_qemu_is_told_from_one_that_loads_plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuses = (
        "[ $1 = --version ] && { echo 'qemu version 10.0.7'; exit; }\necho \"unknown option 'plugin'\" >&2; exit 1"
    )
    executable(tmp_path / f"qemu-{architecture()}", refuses)
    executable(tmp_path / "cc", 'while [ $# -gt 0 ]; do [ "$1" = -o ] && : > "$2"; shift; done')
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NoCounters, match=r"loads no plugin: unknown option 'plugin'\. A statically linked qemu"):
        prepare(str(tmp_path / "plugin"))
