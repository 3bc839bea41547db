"""What a model is fed while it is exported and measured: chosen images prepared as it takes them, or random numbers."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgebench.config import find_calibration_set
from edgebench.errors import DataError
from edgebench.evaluation.datasets import Dataset, batches, choose, content_sha256, open_dataset
from edgebench.evaluation.preprocess import apply
from edgebench.exporters.chain import INT8_PARITY_FEEDS
from edgebench.types import CalibrationSet, Preprocess, TensorSpec

__all__ = ["DEFAULT_SAMPLES", "CalibrationImages", "ModelInputs", "random_feed"]

DEFAULT_SAMPLES = 128
_RANDOM_FEEDS = 4

Feed = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class CalibrationImages:
    """The images that were chosen to calibrate with; `preprocess` is what their set names, if it is one."""

    dataset: Dataset
    indices: tuple[int, ...]
    sha256: str
    seed: int
    preprocess: str | None

    @classmethod
    def open(cls, spec: str, samples: int | None, seed: int) -> CalibrationImages:
        """Open `spec` (a data set, or a set of `calib/`) and choose from it, the same images for the same seed.

        Raises:
            DataError: no such data, no images in it, or other images than the set was made of.
        """
        chosen = find_calibration_set(spec) or CalibrationSet(spec, spec, DEFAULT_SAMPLES, seed=seed)
        dataset = open_dataset(spec)
        indices = tuple(choose(dataset, samples or chosen.samples, chosen.seed))
        sha256 = content_sha256(dataset, indices)
        if samples is None and chosen.sha256 is not None and chosen.sha256 != sha256:
            raise DataError(
                f"calibration set `{chosen.name}` was made of other images than {chosen.data} holds now",
                hint=f"restore the images, or set sha256 in calib/{chosen.name}.toml to {sha256}",
            )
        return cls(dataset, indices, sha256, chosen.seed, chosen.preprocess)

    def sample_shape(self, preprocess: Preprocess | None) -> tuple[int, ...]:
        """The shape of one prepared image, with a batch axis of 1."""
        sample: NDArray[Any] = self.dataset.load(self.indices[0])
        if not self.dataset.ready and preprocess is not None:
            sample = apply(sample, preprocess)
        return (1, *sample.shape)


class ModelInputs:
    """Feeds for a model of `inputs`: from `images`, or random where there are none; `random_samples` of these also
    calibrate."""

    def __init__(
        self,
        inputs: tuple[TensorSpec, ...],
        preprocess: Preprocess | None,
        images: CalibrationImages | None,
        seed: int,
        random_samples: int = 0,
    ) -> None:
        self._inputs = inputs
        self._random_samples = random_samples
        self._preprocess = preprocess
        self._images = images
        self._seed = seed
        # Data sets lie sorted by class; in random order any first few are a fair choice.
        self._order = [] if images is None else random.Random(seed).sample(images.indices, len(images.indices))

    @property
    def kind(self) -> Literal["calibration", "random"]:
        """Where they come from."""
        return "random" if self._images is None else "calibration"

    def first(self, count: int) -> list[Feed]:
        """The first `count` of them."""
        if self._images is None:
            return [random_feed(self._inputs, seed=self._seed, index=index) for index in range(count)]
        return list(self._prepared(self._images, self._order[: count * self._batch]))

    @cached_property
    def parity(self) -> Sequence[Feed]:
        """The inputs that parities are measured on, in memory because each artifact is given the same ones.

        Raises:
            DataError: one of the images, also of those that only calibrate, cannot be read or prepared, or holds what
                is no number; or not one of them shows anything.
        """
        if self._images is None:
            return self.first(min(self._random_samples, INT8_PARITY_FEEDS) or _RANDOM_FEEDS)
        _check(self._images.dataset, self._order)
        return self.first(INT8_PARITY_FEEDS)

    def calibration(self) -> Iterator[Feed]:
        """All calibration inputs; those that parity does not keep are prepared when they are asked for.

        Raises:
            DataError: an image cannot be prepared.
        """
        if self._images is None:
            yield from self._random()
            return
        yield from self.parity
        yield from self._prepared(self._images, self._order[INT8_PARITY_FEEDS * self._batch :])

    def random_sha256(self) -> str:
        """Over the content of the random inputs that calibrate."""
        digest = hashlib.sha256()
        for feed in self._random():
            for array in feed.values():
                digest.update(array.tobytes())
        return digest.hexdigest()

    def _random(self) -> Iterator[Feed]:
        for index in range(self._random_samples):
            yield random_feed(self._inputs, seed=self._seed, index=index)

    @property
    def _batch(self) -> int:
        return self._inputs[0].shape[0]

    def _prepared(self, images: CalibrationImages, indices: Sequence[int]) -> Iterator[Feed]:
        if len(self._inputs) != 1:
            raise DataError(
                f"images feed one input; the model has {len(self._inputs)}",
                hint="leave --calib out: parity is then measured on random inputs and int8 is skipped",
            )
        spec = self._inputs[0]
        for batch in batches(images.dataset, indices, self._preprocess, spec):
            yield {spec.name: batch}


def _check(dataset: Dataset, indices: Sequence[int]) -> None:
    """Read the images.

    Raises:
        DataError: one cannot be read or holds what is no number, or every one of them is of a single value.
    """
    anything = False
    for index in indices:
        sample = dataset.load(index)
        if not np.isfinite(sample).all():
            raise DataError(
                f"sample {index} of {dataset.spec} holds values that are no finite numbers",
                hint="leave it out, or mend what wrote it",
            )
        anything = anything or bool((sample != sample.flat[0]).any())
    if not anything:
        raise DataError(
            f"there is nothing on the {len(indices)} images of {dataset.spec}: each is of one value throughout",
            hint="give real ones with --calib; ranges that were found on these would fit nothing else",
        )


def random_feed(inputs: Sequence[TensorSpec], *, seed: int, index: int) -> dict[str, NDArray[Any]]:
    """One tensor per input: standard normal for floats, 0 or 1 for integers; the same for one `seed` and `index`."""
    generator = np.random.default_rng((seed, index))
    return {spec.name: _random_tensor(generator, spec) for spec in inputs}


def _random_tensor(generator: np.random.Generator, spec: TensorSpec) -> NDArray[Any]:
    if spec.dtype.startswith("float"):
        return generator.standard_normal(spec.shape).astype(spec.dtype)
    return generator.integers(0, 2, spec.shape).astype(spec.dtype)
