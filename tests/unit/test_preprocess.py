"""Images become the inputs that the preprocessing describes, or the user is told why not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgebench.errors import DataError, UsageError
from edgebench.evaluation.preprocess import BUILT_IN, apply, keeps_values, resolve_preprocess
from edgebench.types import Preprocess


def ramp(height: int, width: int) -> np.ndarray:
    """[H, W, 1], each pixel 10 * row + column."""
    rows, columns = np.mgrid[:height, :width]
    return (10 * rows + columns).astype(np.uint8)[..., np.newaxis]


def colour(red: int, green: int, blue: int, side: int = 2) -> np.ndarray:
    return np.full((side, side, 3), (red, green, blue), dtype=np.uint8)


def test_none_gives_pixels_as_float_channels_first() -> None:
    values = apply(colour(10, 20, 30), BUILT_IN["none"])

    assert values.dtype == np.float32
    assert values.shape == (3, 2, 2)
    assert values[:, 0, 0].tolist() == [10, 20, 30]


def test_nhwc_keeps_channels_last() -> None:
    values = apply(colour(10, 20, 30), Preprocess("p", layout="nhwc"))

    assert values.shape == (2, 2, 3)
    assert values[0, 0].tolist() == [10, 20, 30]
    assert values.flags.c_contiguous


def test_bgr_swaps_red_and_blue() -> None:
    assert apply(colour(10, 20, 30), Preprocess("p", channels="bgr"))[:, 0, 0].tolist() == [30, 20, 10]


@pytest.mark.parametrize("channels", ["rgb", "bgr"])
def test_gray_image_is_replicated_to_three_channels(channels: str) -> None:
    values = apply(ramp(3, 3), replace(BUILT_IN["none"], channels=channels))

    assert values.shape == (3, 3, 3)
    assert (values == values[0]).all()
    assert values[0, 2, 1] == 21


def test_colour_becomes_gray_by_the_rec_601_weights() -> None:
    # ITU-R BT.601 luma, as Pillow's documentation of mode L has it: (299 R + 587 G + 114 B) / 1000 = 124.2
    values = apply(colour(100, 150, 55), Preprocess("p", channels="gray"))

    assert values.shape == (1, 2, 2)
    assert values[0, 0, 0] == 124


def test_normalisation_scales_then_subtracts_then_divides() -> None:
    preprocess = Preprocess("p", scale=0.5, mean=(1.0, 2.0, 3.0), std=(2.0, 4.0, 8.0))

    # (10 / 2 - 1) / 2, (20 / 2 - 2) / 4, (30 / 2 - 3) / 8
    assert apply(colour(10, 20, 30), preprocess)[:, 0, 0].tolist() == [2.0, 2.0, 1.5]


def test_one_mean_and_std_serve_all_channels() -> None:
    assert apply(colour(10, 20, 30), Preprocess("p", mean=(10.0,), std=(5.0,)))[:, 0, 0].tolist() == [0.0, 2.0, 4.0]


def test_mnist_black_is_minus_mean_over_std() -> None:
    values = apply(np.zeros((28, 28, 1), dtype=np.uint8), BUILT_IN["mnist"])

    assert values.shape == (1, 28, 28)
    np.testing.assert_allclose(values, -0.1307 / 0.3081, rtol=1e-6)


def test_imagenet_gives_224_whatever_the_image_size() -> None:
    assert apply(np.zeros((300, 411, 3), dtype=np.uint8), BUILT_IN["imagenet"]).shape == (3, 224, 224)


def test_resize_of_one_number_sets_the_shorter_side() -> None:
    # 7 * 4 / 3 = 9.33, cut off
    assert apply(np.zeros((3, 4, 1), dtype=np.uint8), Preprocess("p", resize=7)).shape == (1, 7, 9)
    assert apply(np.zeros((4, 3, 1), dtype=np.uint8), Preprocess("p", resize=7)).shape == (1, 9, 7)


def test_resize_of_two_numbers_is_height_and_width() -> None:
    assert apply(np.zeros((3, 4, 1), dtype=np.uint8), Preprocess("p", resize=(5, 6))).shape == (1, 5, 6)


def test_nearest_resize_repeats_pixels() -> None:
    values = apply(ramp(2, 2), Preprocess("p", resize=4, interpolation="nearest"))

    assert values[0].tolist() == [[0, 0, 1, 1], [0, 0, 1, 1], [10, 10, 11, 11], [10, 10, 11, 11]]


def test_crop_takes_the_centre() -> None:
    values = apply(ramp(6, 8), Preprocess("p", crop=(2, 4)))

    assert values[0].tolist() == [[22, 23, 24, 25], [32, 33, 34, 35]]


def test_crop_of_an_odd_margin_rounds_to_the_even_corner() -> None:
    # Margins 1 and 3: round(0.5) = 0, round(1.5) = 2, as in torchvision's CenterCrop.
    assert apply(ramp(3, 5), Preprocess("p", crop=2))[0].tolist() == [[2, 3], [12, 13]]


def test_crop_larger_than_the_image_is_refused() -> None:
    with pytest.raises(DataError, match="crops 224x224 out of an image of 32x32") as caught:
        apply(np.zeros((32, 32, 3), dtype=np.uint8), replace(BUILT_IN["imagenet"], resize=None))

    assert caught.value.hint is not None
    assert "resize" in caught.value.hint


@pytest.mark.parametrize("key", ["mean", "std"])
def test_mean_and_std_must_be_one_or_as_many_as_channels(key: str) -> None:
    with pytest.raises(DataError, match=f"3 values in `{key}` for an image of 1 channel"):
        apply(ramp(2, 2), Preprocess("p", **{key: (0.5, 0.5, 0.5)}))


def test_zero_std_is_refused() -> None:
    with pytest.raises(DataError, match="`std` of 0"):
        apply(ramp(2, 2), Preprocess("p", std=(0.0,)))


def test_mean_that_is_no_number_is_refused() -> None:
    with pytest.raises(DataError, match="`mean` that is not a finite number"):
        apply(ramp(2, 2), Preprocess("p", mean=(float("nan"),)))


@pytest.mark.parametrize(("key", "size"), [("resize", 0), ("resize", (4, -1)), ("crop", 0)])
def test_sizes_below_one_are_refused(key: str, size: int | tuple[int, int]) -> None:
    with pytest.raises(DataError, match=f"`{key}`"):
        apply(ramp(2, 2), Preprocess("p", **{key: size}))


def test_image_is_left_unchanged() -> None:
    image = colour(10, 20, 30)
    apply(image, BUILT_IN["cifar10"])

    assert (image == (10, 20, 30)).all()


def test_built_in_is_found_by_name() -> None:
    assert resolve_preprocess("cifar10").mean == (0.4914, 0.4822, 0.4465)


def test_toml_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "mobilenet.toml"
    path.write_text('resize = [128, 128]\nchannels = "rgb"\nlayout = "nhwc"\nlabel_offset = 1\n')

    expected = Preprocess("mobilenet", resize=(128, 128), channels="rgb", layout="nhwc", label_offset=1)
    assert resolve_preprocess(str(path)) == expected


def test_toml_with_an_unknown_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("resise = 128\n")

    with pytest.raises(UsageError, match="unknown key `resise`"):
        resolve_preprocess(str(path))


def test_unknown_name_lists_the_built_ins() -> None:
    with pytest.raises(UsageError, match="no preprocessing `imagnet`") as caught:
        resolve_preprocess("imagnet")

    assert caught.value.hint is not None
    assert all(name in caught.value.hint for name in BUILT_IN)


def test_only_layout_and_labels_leave_values_alone() -> None:
    assert keeps_values(BUILT_IN["none"])
    assert keeps_values(Preprocess("mine", layout="nhwc", label_offset=1))
    assert not keeps_values(BUILT_IN["mnist"])
    assert not keeps_values(Preprocess("none", scale=1 / 255))
