"""Files that are whole or not there, and the cache on top of them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edgebench import cache as cache_module
from edgebench.cache import ArtifactCache, key_of
from edgebench.files import copy_whole, file_sha256, write_atomically, write_json
from edgebench.types import Artifact


def _artifact(file: Path) -> Artifact:
    return Artifact("onnx", "onnx", "fp32", file.name, file_sha256(file), file.stat().st_size, None, "onnx")


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"weights" * 100)
    return path


def test_a_cached_artifact_comes_back_with_its_file(tmp_path: Path, exported: Path) -> None:
    cache = ArtifactCache(tmp_path / "cache")
    cache.add("key", _artifact(exported), exported)
    found = cache.find("key")
    assert found is not None
    assert found[0] == _artifact(exported)
    assert found[1].read_bytes() == exported.read_bytes()


def test_a_changed_file_is_not_taken_from_the_cache(tmp_path: Path, exported: Path) -> None:
    cache = ArtifactCache(tmp_path / "cache")
    cache.add("key", _artifact(exported), exported)
    (tmp_path / "cache" / "artifacts" / "key" / "file").write_bytes(b"other")
    assert cache.find("key") is None


def test_an_unfinished_entry_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "cache" / "artifacts" / "key").mkdir(parents=True)
    assert ArtifactCache(tmp_path / "cache").find("key") is None


def test_the_least_recently_used_goes_first(tmp_path: Path, exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = ArtifactCache(tmp_path / "cache")
    for age, key in enumerate(("old", "older")):
        cache.add(key, _artifact(exported), exported)
        os.utime(tmp_path / "cache" / "artifacts" / key, (1000 - age, 1000 - age))
    entry_bytes = sum(file.stat().st_size for file in (tmp_path / "cache" / "artifacts" / "old").iterdir())
    monkeypatch.setattr(cache_module, "LARGEST_CACHE_BYTES", 2 * entry_bytes)
    cache.add("new", _artifact(exported), exported)
    assert [cache.find(key) is not None for key in ("older", "old", "new")] == [False, True, True]


def test_keys_tell_apart_what_decides_the_result() -> None:
    assert key_of(step="onnx", opset=18) == key_of(opset=18, step="onnx")
    assert key_of(step="onnx", opset=18) != key_of(step="onnx", opset=19)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "bundle.json"
    write_atomically(path, b"old")
    path.chmod(0o644)
    with pytest.raises(TypeError):
        write_atomically(path, "not bytes")  # type: ignore[arg-type]
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_number_that_json_does_not_have_is_never_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "bundle.json", {"agreement": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_record_is_a_miss(tmp_path: Path) -> None:
    cache = ArtifactCache(tmp_path)
    cache.add_record("key", {"bytes": 3})
    (tmp_path / "records" / "key").write_text("[1, ")
    assert cache.find_record("key") is None


def test_a_copy_replaces_what_was_there_and_shares_nothing_with_it(tmp_path: Path, exported: Path) -> None:
    target = tmp_path / "bundle.onnx"
    target.write_bytes(b"before")
    copy_whole(exported, target)
    assert target.read_bytes() == exported.read_bytes()
    assert target.stat().st_ino != exported.stat().st_ino
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle.onnx", "model.onnx"]
