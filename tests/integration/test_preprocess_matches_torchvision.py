"""What `apply` gives is what torchvision's transforms give: the numbers a model was trained with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgebench.evaluation.datasets import open_dataset
from edgebench.evaluation.preprocess import BUILT_IN, apply
from edgebench.types import Interpolation, Preprocess

transforms: Any = pytest.importorskip("torchvision.transforms", reason="needs torchvision")
Image: Any = pytest.importorskip("PIL.Image")

SHARED = Path(__file__).parents[3] / "shared" / "data"
# Both compute in float32 and differ in the order of operations: pixel / 255 there, pixel * (1 / 255) here.
TOLERANCE = 2e-6


def picture(height: int, width: int) -> np.ndarray:
    """A smooth image with noise on it, [H, W, 3]."""
    rows, columns = np.mgrid[:height, :width]
    smooth = np.stack([rows * 255 / height, columns * 255 / width, (rows + columns) * 255 / (height + width)], axis=2)
    noise = np.random.default_rng(7).integers(-40, 40, smooth.shape)
    return np.clip(smooth + noise, 0, 255).astype(np.uint8)


def theirs(image: np.ndarray, steps: list[Any]) -> np.ndarray:
    composed = transforms.Compose([*steps, transforms.ToTensor()])
    array: np.ndarray = composed(Image.fromarray(image)).numpy()
    return array


def normalised(image: np.ndarray, preprocess: Preprocess, steps: list[Any]) -> np.ndarray:
    mean, std = np.asarray(preprocess.mean, np.float32), np.asarray(preprocess.std, np.float32)
    return (theirs(image, steps) - mean[:, None, None]) / std[:, None, None]


@pytest.mark.parametrize("size", [(299, 299), (375, 500), (501, 334), (224, 1000), (256, 256), (64, 80)])
def test_imagenet_preprocessing_is_torchvisions(size: tuple[int, int]) -> None:
    image = picture(*size)
    steps = [transforms.Resize(256), transforms.CenterCrop(224)]

    expected = normalised(image, BUILT_IN["imagenet"], steps)
    np.testing.assert_allclose(apply(image, BUILT_IN["imagenet"]), expected, rtol=0, atol=TOLERANCE)


def test_imagenet_preprocessing_is_that_of_torchvisions_own_weights() -> None:
    models = pytest.importorskip("torchvision.models", reason="needs torchvision")
    image = picture(375, 500)

    expected = models.ResNet18_Weights.IMAGENET1K_V1.transforms()(Image.fromarray(image)).numpy()
    np.testing.assert_allclose(apply(image, BUILT_IN["imagenet"]), expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic"])
@pytest.mark.parametrize("resize", [33, 150, (40, 97)])
def test_every_interpolation_is_torchvisions(interpolation: Interpolation, resize: int | tuple[int, int]) -> None:
    image = picture(97, 61)
    step = transforms.Resize(resize, interpolation=transforms.InterpolationMode(interpolation))

    values = apply(image, Preprocess("p", resize=resize, interpolation=interpolation, scale=1 / 255))
    np.testing.assert_allclose(values, theirs(image, [step]), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("size", [(10, 10), (11, 11), (11, 14), (13, 9)])
@pytest.mark.parametrize("crop", [7, 8, (5, 8), (9, 9)])
def test_centre_crop_is_torchvisions(size: tuple[int, int], crop: int | tuple[int, int]) -> None:
    image = picture(*size)

    values = apply(image, Preprocess("p", crop=crop, scale=1 / 255))
    np.testing.assert_allclose(values, theirs(image, [transforms.CenterCrop(crop)]), rtol=0, atol=TOLERANCE)


def test_gray_is_torchvisions_grayscale() -> None:
    image = picture(28, 28)

    expected = normalised(image, BUILT_IN["mnist"], [transforms.Grayscale()])
    np.testing.assert_allclose(apply(image, BUILT_IN["mnist"]), expected, rtol=0, atol=TOLERANCE)


def test_real_photographs_decode_and_prepare_as_torchvision_does() -> None:
    spec = SHARED / "imagenet" / "nips2017_A.csv"
    if not spec.is_file():
        pytest.skip(f"needs {spec}")
    dataset = open_dataset(f"csv:{spec}:eval")
    loader = pytest.importorskip("torchvision.datasets.folder", reason="needs torchvision").default_loader
    files = sorted((spec.parent / "nips2017_A").glob("*.jpg"))
    by_content = {path.read_bytes(): path for path in files}

    for index in range(0, len(dataset), 60):
        loaded = np.asarray(loader(str(by_content[dataset.content(index)])))
        steps = [transforms.Resize(256), transforms.CenterCrop(224)]
        expected = normalised(loaded, BUILT_IN["imagenet"], steps)
        values = apply(dataset.load(index), BUILT_IN["imagenet"])
        np.testing.assert_allclose(values, expected, rtol=0, atol=TOLERANCE)


def test_imagefolder_has_torchvisions_order_and_labels(tmp_path: Path) -> None:
    datasets = pytest.importorskip("torchvision.datasets", reason="needs torchvision")
    for number, name in enumerate(["b/2.png", "b/10.PNG", "a/z/1.png", "a/y.png", "a/b.png", "C/0.png"]):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((2, 2, 3), number, np.uint8)).save(tmp_path / name)

    ours, folder = open_dataset(f"imagefolder:{tmp_path}"), datasets.ImageFolder(tmp_path)

    assert ours.labels is not None
    assert ours.labels.tolist() == folder.targets
    assert [int(ours.load(i)[0, 0, 0]) for i in range(len(ours))] == [np.asarray(x)[0, 0, 0] for x, _ in folder]
