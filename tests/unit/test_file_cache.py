"""The cache of pushed files: whole or not there, resumed at any offset, bounded by what was used least lately."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgebench.agent.file_cache import FileCache, NoRoom

ROOMY = 1 << 40


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _source(content: bytes) -> Callable[[memoryview], int]:
    """Fills buffers with the content; the last one is not full."""
    rest = memoryview(content)

    def read(buffer: memoryview) -> int:
        nonlocal rest
        count = min(len(buffer), len(rest))
        buffer[:count] = rest[:count]
        rest = rest[count:]
        return count

    return read


def _fill(cache: FileCache, *contents: bytes) -> list[str]:
    """The files, the first one used least lately; their names."""
    names = []
    for age, content in enumerate(reversed(contents)):
        name = _sha256(content)
        assert cache.receive(name, len(content), 0, _source(content)) == "whole"
        os.utime(cache.path(name), (1e9 - age, 1e9 - age))
        names.append(name)
    return names[::-1]


def _there(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def test_a_file_is_there_under_its_hash(tmp_path: Path) -> None:
    cache, content = FileCache(str(tmp_path), ROOMY), b"content"
    name = _sha256(content)
    assert cache.missing({name: 7}) == {name: 0}
    assert cache.receive(name, 7, 0, _source(content)) == "whole"
    assert Path(cache.path(name)).read_bytes() == content
    assert _there(tmp_path) == {name}
    assert cache.missing({name: 7}) == {}


def test_an_empty_file_is_a_file(tmp_path: Path) -> None:
    cache, name = FileCache(str(tmp_path), ROOMY), _sha256(b"")
    assert cache.missing({name: 0}) == {name: 0}
    assert cache.receive(name, 0, 0, _source(b"")) == "whole"
    assert cache.missing({name: 0}) == {}


@given(content=st.binary(min_size=1, max_size=200), cuts=st.lists(st.integers(0, 200), max_size=4))
@settings(max_examples=40, deadline=None)
def test_a_file_goes_on_wherever_it_was_cut(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, cuts: list[int]
) -> None:
    directory = tmp_path_factory.mktemp("cache")
    cache, name = FileCache(str(directory), ROOMY), _sha256(content)
    for cut in sorted({cut for cut in cuts if cut < len(content)}):
        (offset,) = cache.missing({name: len(content)}).values()
        assert cache.receive(name, len(content), offset, _source(content[offset:cut])) == "cut"
        assert not Path(cache.path(name)).exists()
    (offset,) = cache.missing({name: len(content)}).values()
    assert cache.receive(name, len(content), offset, _source(content[offset:])) == "whole"
    assert Path(cache.path(name)).read_bytes() == content
    assert _there(directory) == {name}


@given(content=st.binary(min_size=2, max_size=100), part=st.integers(0, 100), offset=st.integers(0, 100))
@settings(max_examples=40, deadline=None)
def test_only_the_file_itself_gets_its_name(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, part: int, offset: int
) -> None:
    directory = tmp_path_factory.mktemp("cache")
    cache, name = FileCache(str(directory), ROOMY), _sha256(content)
    before = content[: min(part, len(content))]
    (directory / f"{name}.part").write_bytes(before)
    offset = min(offset, len(content))
    found = cache.receive(name, len(content), offset, _source(content[offset:]))
    # A host that goes on further than what is there leaves a hole that nothing may fill.
    assert found == ("whole" if offset <= len(before) else "cut")
    assert Path(cache.path(name)).exists() is (found == "whole")


@pytest.mark.parametrize("came", [b"Xbcdefgh", b"abcdefgX"])
def test_a_damaged_file_leaves_nothing(tmp_path: Path, came: bytes) -> None:
    cache, name = FileCache(str(tmp_path), ROOMY), _sha256(b"abcdefgh")
    assert cache.receive(name, 8, 0, _source(came)) == "damaged"
    assert _there(tmp_path) == set()


def test_a_damaged_part_is_found_out_at_the_end(tmp_path: Path) -> None:
    cache, content = FileCache(str(tmp_path), ROOMY), b"abcdefgh"
    name = _sha256(content)
    (tmp_path / f"{name}.part").write_bytes(b"abXd")
    assert cache.receive(name, 8, 4, _source(content[4:])) == "damaged"
    assert cache.missing({name: 8}) == {name: 0}


def test_a_part_that_is_longer_than_its_file_is_overcome(tmp_path: Path) -> None:
    cache, content = FileCache(str(tmp_path), ROOMY), b"abcdefgh"
    name = _sha256(content)
    (tmp_path / f"{name}.part").write_bytes(b"abcdefgh and more")
    for _ in range(3):
        absent = cache.missing({name: 8})
        if not absent:
            break
        cache.receive(name, 8, absent[name], _source(content[absent[name] :]))
    assert Path(cache.path(name)).read_bytes() == content


def test_a_file_of_another_length_is_missing(tmp_path: Path) -> None:
    cache, content = FileCache(str(tmp_path), ROOMY), b"abcdefgh"
    name = _sha256(content)
    # A disk that was full, or a power cut on a file system without order.
    Path(cache.path(name)).write_bytes(b"abc")
    assert cache.missing({name: 8}) == {name: 0}
    assert cache.receive(name, 8, 0, _source(content)) == "whole"
    assert Path(cache.path(name)).read_bytes() == content


def test_what_was_used_least_lately_goes_first(tmp_path: Path) -> None:
    oldest, middle, newest = _fill(FileCache(str(tmp_path), ROOMY), b"a" * 100, b"b" * 100, b"c" * 100)
    FileCache(str(tmp_path), 200).trim()
    assert _there(tmp_path) == {middle, newest}
    FileCache(str(tmp_path), 199).trim()
    assert _there(tmp_path) == {newest}
    assert oldest not in _there(tmp_path)


def test_a_file_that_is_asked_for_is_used(tmp_path: Path) -> None:
    cache = FileCache(str(tmp_path), ROOMY)
    oldest, newest = _fill(cache, b"a" * 100, b"b" * 100)
    cache.missing({oldest: 100})
    FileCache(str(tmp_path), 100).trim()
    assert _there(tmp_path) == {oldest}
    assert newest not in _there(tmp_path)


def test_a_file_within_its_bound_stays(tmp_path: Path) -> None:
    names = _fill(FileCache(str(tmp_path), ROOMY), b"a" * 100, b"b" * 100)
    FileCache(str(tmp_path), 200).trim()
    assert _there(tmp_path) == set(names)


def test_room_is_made_for_what_comes_and_not_of_what_is_wanted_with_it(tmp_path: Path) -> None:
    wanted, other = _fill(FileCache(str(tmp_path), ROOMY), b"a" * 100, b"b" * 100)
    coming = _sha256(b"c" * 100)
    # `wanted` is the older one, and stays: the same run needs it.
    assert FileCache(str(tmp_path), 200).missing({wanted: 100, coming: 100}) == {coming: 0}
    assert _there(tmp_path) == {wanted}
    assert other not in _there(tmp_path)


def test_a_part_counts_and_is_kept_for_its_file(tmp_path: Path) -> None:
    (other,) = _fill(FileCache(str(tmp_path), ROOMY), b"a" * 100)
    coming = _sha256(b"c" * 100)
    (tmp_path / f"{coming}.part").write_bytes(b"c" * 60)
    os.utime(tmp_path / f"{coming}.part", (1.0, 1.0))
    assert FileCache(str(tmp_path), 200).missing({coming: 100}) == {coming: 60}
    assert _there(tmp_path) == {other, f"{coming}.part"}
    assert FileCache(str(tmp_path), 199).missing({coming: 100}) == {coming: 60}
    assert _there(tmp_path) == {f"{coming}.part"}


def test_more_than_the_disk_holds_is_refused_before_anything_is_thrown_away_for_nothing(tmp_path: Path) -> None:
    cache = FileCache(str(tmp_path), 1 << 62)
    with pytest.raises(NoRoom, match="MB are free below"):
        cache.missing({"0" * 64: 1 << 60})


def test_nothing_missing_needs_no_room(tmp_path: Path) -> None:
    names = _fill(FileCache(str(tmp_path), ROOMY), b"a" * 100, b"b" * 100)
    # The bound is for the session's end: what the run needs now stays.
    assert FileCache(str(tmp_path), 0).missing(dict.fromkeys(names, 100)) == {}
    assert _there(tmp_path) == set(names)
