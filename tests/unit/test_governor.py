"""The frequency governor, held and put back on trees of /sys as devices show them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgebench.agent.governor import hold, restore
from edgebench.agent.lock import boot_id


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "governor.json"


def _tree(tmp_path: Path, *governors: str) -> list[Path]:
    """The policies' files, of which each has its own governor."""
    files = []
    for number, governor in enumerate(governors):
        policy = tmp_path / f"sys/devices/system/cpu/cpufreq/policy{number}"
        policy.mkdir(parents=True)
        (policy / "scaling_governor").write_text(f"{governor}\n")
        files.append(policy / "scaling_governor")
    return files


def _read(files: list[Path]) -> list[str]:
    return [file.read_text().strip() for file in files]


def test_all_policies_are_held_and_each_gets_its_own_back(tmp_path: Path, journal: Path) -> None:
    files = _tree(tmp_path, "ondemand", "schedutil", "performance")
    assert hold("performance", str(journal), str(tmp_path)) is None
    assert _read(files) == ["performance"] * 3
    restore(str(journal))
    assert _read(files) == ["ondemand", "schedutil", "performance"]
    assert not journal.exists()


def test_what_is_so_already_is_left_alone(tmp_path: Path, journal: Path) -> None:
    files = _tree(tmp_path, "performance")
    assert hold("performance", str(journal), str(tmp_path)) is None
    assert not journal.exists()
    restore(str(journal))
    assert _read(files) == ["performance"]


def test_a_device_without_governors_says_so(tmp_path: Path, journal: Path) -> None:
    assert "no frequency governor" in (hold("performance", str(journal), str(tmp_path)) or "")


def test_holding_twice_puts_back_what_was_found_first(tmp_path: Path, journal: Path) -> None:
    # A host that lost its link asks again.
    files = _tree(tmp_path, "ondemand", "schedutil")
    hold("performance", str(journal), str(tmp_path))
    hold("performance", str(journal), str(tmp_path))
    restore(str(journal))
    assert _read(files) == ["ondemand", "schedutil"]


def test_holding_again_after_somebody_changed_one_puts_back_what_was_found_first(tmp_path: Path, journal: Path) -> None:
    files = _tree(tmp_path, "ondemand", "schedutil")
    hold("performance", str(journal), str(tmp_path))
    files[1].write_text("powersave\n")
    hold("performance", str(journal), str(tmp_path))
    assert _read(files) == ["performance", "performance"]
    restore(str(journal))
    assert _read(files) == ["ondemand", "schedutil"]


def test_the_next_one_puts_back_what_a_crash_left(tmp_path: Path, journal: Path) -> None:
    files = _tree(tmp_path, "ondemand")
    hold("performance", str(journal), str(tmp_path))
    assert json.loads(journal.read_text()) == {"boot": boot_id(), "governors": {str(files[0]): "ondemand"}}
    # Another process knows the journal only.
    restore(str(journal))
    assert _read(files) == ["ondemand"]
    restore(str(journal))
    assert _read(files) == ["ondemand"]


def test_a_journal_of_another_boot_says_nothing(tmp_path: Path, journal: Path) -> None:
    files = _tree(tmp_path, "schedutil")
    journal.write_text(json.dumps({"boot": "another", "governors": {str(files[0]): "ondemand"}}))
    restore(str(journal))
    assert _read(files) == ["schedutil"]
    assert not journal.exists()


@pytest.mark.parametrize("text", ["", "{", '{"boot": 1}'])
def test_a_broken_journal_is_thrown_away(journal: Path, text: str) -> None:
    journal.write_text(text)
    restore(str(journal))
    assert not journal.exists()


def test_a_governor_that_may_not_be_set_is_told_and_the_others_are_put_back(tmp_path: Path, journal: Path) -> None:
    files = _tree(tmp_path, "ondemand", "schedutil", "ondemand")
    # /proc/version can be read, and written by nobody, root included.
    files[1].unlink()
    files[1].symlink_to("/proc/version")
    reason = hold("performance", str(journal), str(tmp_path))
    assert reason is not None
    assert "cannot be set to performance" in reason
    assert _read([files[0], files[2]]) == ["ondemand", "ondemand"]
    assert not journal.exists()


def test_a_policy_that_is_a_directory_is_passed_over(tmp_path: Path, journal: Path) -> None:
    files = _tree(tmp_path, "ondemand", "ondemand")
    files[1].unlink()
    files[1].mkdir()
    assert hold("performance", str(journal), str(tmp_path)) is None
    restore(str(journal))
    assert _read(files[:1]) == ["ondemand"]


def test_a_device_that_tells_no_governor_at_all_says_so(tmp_path: Path, journal: Path) -> None:
    (file,) = _tree(tmp_path, "ondemand")
    file.unlink()
    file.mkdir()
    # Nothing was set, and that is not the same as held.
    assert hold("performance", str(journal), str(tmp_path)) is not None
