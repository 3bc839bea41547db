"""Bundles on disk."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from edgebench.bundle import BUNDLE_FILE, check_directory, load_bundle, load_inputs, save_bundle, save_inputs
from edgebench.errors import UsageError
from edgebench.types import Bundle, Preprocess, SourceInfo, TensorSpec


def _bundle(path: str = "resnet18.pt") -> Bundle:
    return Bundle(
        schema=1,
        name="resnet18",
        source=SourceInfo(path, "00", "state-dict", "torchvision:resnet18", 11_689_512, "read from the file"),
        inputs=(TensorSpec("input", (1, 3, 224, 224), "float32"),),
        outputs=(TensorSpec("output0", (1, 1000), "float32"),),
        preprocess=Preprocess("imagenet", resize=256, crop=224),
        calibration=None,
        artifacts=(),
    )


def test_a_bundle_is_read_as_it_was_written(tmp_path: Path) -> None:
    save_bundle(tmp_path, _bundle())
    assert load_bundle(tmp_path) == _bundle()


def test_a_new_or_empty_directory_may_be_used(tmp_path: Path) -> None:
    check_directory(tmp_path / "new", source="a.pt")
    check_directory(tmp_path, source="a.pt")


def test_the_bundle_of_the_same_source_may_be_made_again(tmp_path: Path) -> None:
    save_bundle(tmp_path, _bundle("resnet18.pt"))
    check_directory(tmp_path, source="resnet18.pt")


def test_what_an_interruption_left_half_written_blocks_nothing(tmp_path: Path) -> None:
    (tmp_path / ".a.onnx.123.partial").touch()
    check_directory(tmp_path, source="a.pt")


def test_a_directory_that_holds_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UsageError, match="not a bundle; nothing was written"):
        check_directory(tmp_path, source="a.pt")


def test_the_bundle_of_another_source_is_refused(tmp_path: Path) -> None:
    save_bundle(tmp_path, _bundle("resnet18.pt"))
    with pytest.raises(UsageError, match=r"bundle of resnet18\.pt"):
        check_directory(tmp_path, source="vgg16.pt")


def test_a_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_text("")
    with pytest.raises(UsageError, match="is a file"):
        check_directory(path, source="a.pt")


def test_an_unknown_key_is_named(tmp_path: Path) -> None:
    save_bundle(tmp_path, _bundle())
    document = json.loads((tmp_path / BUNDLE_FILE).read_text())
    (tmp_path / BUNDLE_FILE).write_text(json.dumps({**document, "colour": "blue"}))
    with pytest.raises(UsageError, match="unknown key `colour`"):
        load_bundle(tmp_path)


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    (tmp_path / BUNDLE_FILE).write_text('{"schema": 99}')
    with pytest.raises(UsageError, match="schema 99"):
        load_bundle(tmp_path)


def test_a_damaged_bundle_is_refused(tmp_path: Path) -> None:
    (tmp_path / BUNDLE_FILE).write_text('{"schema": 1, "na')
    with pytest.raises(UsageError, match="cannot be read"):
        load_bundle(tmp_path)


def test_inputs_come_back_as_they_were_kept(tmp_path: Path) -> None:
    feeds = [{"input": np.full((1, 3, 2, 2), value, np.float32)} for value in (1.0, 2.0)]
    save_inputs(tmp_path, feeds)
    found = load_inputs(tmp_path, [TensorSpec("input", (1, 3, 2, 2), "float32")])
    assert [float(feed["input"].mean()) for feed in found] == [1.0, 2.0]


def test_a_bundle_without_inputs_has_none(tmp_path: Path) -> None:
    assert load_inputs(tmp_path, _bundle().inputs) == []


def test_inputs_that_do_not_belong_to_the_bundle_are_refused(tmp_path: Path) -> None:
    save_inputs(tmp_path, [{"input": np.zeros((1, 3, 8, 8), np.float32)}])
    with pytest.raises(UsageError, match="does not hold the inputs of its bundle"):
        load_inputs(tmp_path, _bundle().inputs)
    (tmp_path / "inputs.npz").write_bytes(b"PK\x03\x04 damaged")
    with pytest.raises(UsageError, match="cannot be read"):
        load_inputs(tmp_path, _bundle().inputs)


def test_saving_no_inputs_removes_those_of_an_earlier_export(tmp_path: Path) -> None:
    save_inputs(tmp_path, [{"input": np.zeros((1, 3, 224, 224), np.float32)}])
    save_inputs(tmp_path, [])
    assert load_inputs(tmp_path, _bundle().inputs) == []


@pytest.mark.parametrize(("key", "value"), [("dtype", "foo"), ("outputs", [])])
def test_a_bundle_that_describes_no_tensor_is_refused(key: str, value: object, tmp_path: Path) -> None:
    save_bundle(tmp_path, _bundle())
    document = json.loads((tmp_path / BUNDLE_FILE).read_text())
    (document if key in document else document["inputs"][0])[key] = value
    (tmp_path / BUNDLE_FILE).write_text(json.dumps(document))
    with pytest.raises(UsageError, match="describes"):
        load_bundle(tmp_path)
