"""How a device's answers are said to differ from ours, and that frames normalised there are the same inputs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgebench.agent.codec import encode
from edgebench.agent.predicting import _normalised
from edgebench.agent.wire import WIRE_VERSION, FeedFile, Job, Preprocess, TensorSpec
from edgebench.evaluation.datasets import batches, open_dataset, pixels
from edgebench.evaluation.preprocess import BUILT_IN
from edgebench.measure.jobs import write_frames
from edgebench.measure.scoring import _disagreement

HERE = np.array([[1.0, 2.0, 0.0], [5.0, 1.0, 0.0], [0.0, 0.0, 3.0], [4.0, 0.0, 0.0]], np.float32)


def _there(*changes: tuple[int, int, float]) -> NDArray[np.float32]:
    there = HERE.copy()
    for row, column, value in changes:
        there[row, column] = value
    return there


def test_equal_answers_have_no_worst_image() -> None:
    found = _disagreement((7, 8, 9, 10), HERE, HERE.copy())
    assert (found.classes, found.max_abs_error, found.worst) == (0, 0.0, ())


def test_images_of_another_class_come_first_and_by_their_own_numbers() -> None:
    # Image 30 changes its class by 0.5; image 40 differs by 1 and keeps it.
    found = _disagreement((10, 20, 30, 40), HERE, _there((2, 2, -0.5), (3, 0, 3.0)))
    assert found.classes == 1
    assert found.max_abs_error == 3.5
    assert [(item.index, item.max_abs_error, item.here, item.there) for item in found.worst] == [
        (30, 3.5, 2, 0),
        (40, 1.0, 0, 0),
    ]


def test_no_more_than_ten_are_named() -> None:
    here = np.zeros((50, 2), np.float32)
    there = here + np.arange(50, dtype=np.float32)[:, np.newaxis]
    found = _disagreement(tuple(range(50)), here, there)
    assert [item.index for item in found.worst] == [49, 48, 47, 46, 45, 44, 43, 42, 41, 40]


def test_half_precision_is_compared_exactly() -> None:
    # 2049 is no float16; its neighbour is 2048.
    found = _disagreement((0,), np.array([[2049.0, 0.0]], np.float32), np.array([[2049.0, 0.0]], np.float16))
    assert found.max_abs_error == 1.0


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_scores_that_are_no_numbers_can_be_stored_and_count_as_another_class(broken: float) -> None:
    found = _disagreement((10, 20, 30, 40), HERE, _there((1, 0, broken)))
    # As RunStore.save writes it.
    json.dumps(encode(found), allow_nan=False)
    if broken != np.inf:
        assert found.classes == 1
        assert found.worst[0].index == 20


def test_the_same_broken_scores_on_both_sides_can_be_stored() -> None:
    json.dumps(encode(_disagreement((10, 20, 30, 40), _there((1, 0, np.inf)), _there((1, 0, np.inf)))), allow_nan=False)


@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 7),
    st.sampled_from([1, 2, 3, -1]),
    st.sampled_from(["float32", "float16", "float64"]),
    st.sampled_from(["imagenet", "cifar10", "digits", "none", "bgr", "gray", "nhwc"]),
)
@settings(max_examples=30, deadline=None)
def test_frames_that_are_normalised_on_the_device_are_the_same_inputs(
    tmp_path_factory: pytest.TempPathFactory, seed: int, count: int, batch: int, dtype: str, name: str
) -> None:
    own = {
        "bgr": Preprocess("bgr", resize=(9, 7), channels="bgr", mean=(1.5, 2.5, 3.5), std=(3.0, 7.0, 11.0)),
        "gray": Preprocess("gray", crop=5, channels="gray", scale=1 / 3, mean=(0.1,)),
        "nhwc": Preprocess("nhwc", resize=8, crop=(6, 8), channels="rgb", scale=1 / 127.5, mean=(1.0,), layout="nhwc"),
    }
    directory = tmp_path_factory.mktemp("frames")
    images = np.random.default_rng(seed).integers(0, 256, (count, 10, 12, 3), np.uint8)
    preprocess = own.get(name) or BUILT_IN[name]
    np.savez(directory / "images.npz", x=images, y=np.zeros(count, np.int64))
    dataset = open_dataset(f"npz:{directory / 'images.npz'}")
    spec = TensorSpec("x", (batch, -1, -1, -1), dtype)
    arranged = pixels(dataset, range(count), preprocess, spec)
    assert arranged is not None
    frames = write_frames(directory / "frames.raw", arranged)
    job = Job(WIRE_VERSION, "predict", "", "null", 1, (), frames=(frames,), preprocess=preprocess, input=spec)
    there = [feed["x"] for feed in _normalised(job)]
    here = list(batches(dataset, range(count), preprocess, spec))
    assert [tensor.spec.shape for tensor in there] == [batch.shape for batch in here]
    assert [bytes(tensor.data) for tensor in there] == [batch.tobytes() for batch in here]


def test_frames_need_to_know_the_input(tmp_path: Path) -> None:
    (tmp_path / "frames.raw").write_bytes(bytes(3))
    frames = FeedFile(TensorSpec("frame", (1, 1, 3), "uint8"), str(tmp_path / "frames.raw"), 1)
    with pytest.raises(ValueError, match="preprocess and input"):
        next(_normalised(Job(WIRE_VERSION, "predict", "", "null", 1, (), frames=(frames,))))
