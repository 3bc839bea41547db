"""The images that accuracy control judges by, and what a model is worth on them beside its float parent."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgebench.errors import DataError, StepError, UsageError
from edgebench.evaluation.datasets import Dataset, batches, choose, content_sha256, open_dataset, overlap
from edgebench.evaluation.metrics import accuracy, drop_interval
from edgebench.model_inputs import CalibrationImages
from edgebench.quantize.static import answers, output_sqnr_db
from edgebench.trade_off import Budget, Score
from edgebench.types import Preprocess, TensorSpec

__all__ = ["HeldOut", "check_budget"]

DEFAULT_SAMPLES = 1000
# A point of top-1 is one image of a hundred.
_FEWEST = 100


@dataclass(frozen=True)
class HeldOut:
    """Images; `labelled` where accuracy is judged. `shared` is how many of them calibrated as well."""

    dataset: Dataset
    indices: tuple[int, ...]
    sha256: str
    shared: int
    labelled: bool

    @classmethod
    def open(cls, spec: str | None, samples: int | None, images: CalibrationImages, *, labelled: bool) -> HeldOut:
        """Those of `spec`, or for None what the calibration set's data has beside the calibration images.

        Raises:
            DataError: fewer than a hundred are left, or they have no labels and need some.
        """
        wanted = samples or DEFAULT_SAMPLES
        if spec is None:
            dataset = images.dataset
            calibrating = set(images.indices)
            left = len(dataset) - len(calibrating)
            # As many more as calibrate, which are most often among them. None are cut off after that: indices are
            # sorted, and in data that lies by class the last classes would go.
            chosen = choose(dataset, wanted + len(calibrating))
            indices = [index for index in chosen if index not in calibrating]
            if left < _FEWEST:
                raise DataError(
                    f"{dataset.spec} has {left} images beside the {len(calibrating)} that calibrate, too few to "
                    f"judge by",
                    hint="name labelled images with --data, or calibrate with fewer: --samples",
                )
        else:
            dataset = open_dataset(spec)
            indices = choose(dataset, wanted)
        if labelled and dataset.labels is None:
            raise DataError(
                f"{dataset.spec} has no labels, so points of accuracy cannot be counted",
                hint="name labelled images with --data, or use --min-sqnr DB, which needs none",
            )
        shared = overlap(images.dataset, images.indices, dataset, indices)
        return cls(dataset, tuple(indices), content_sha256(dataset, indices), shared, labelled)

    @property
    def options(self) -> dict[str, Any]:
        """What of it decides a search's result."""
        return {"data": self.dataset.spec, "samples": len(self.indices), "sha256": self.sha256, "shared": self.shared}

    def scorer(self, spec: TensorSpec, preprocess: Preprocess | None) -> _Scorer:
        """What tells the worth of a model with the input `spec`."""
        return _Scorer(self, spec, preprocess)


def check_budget(budget: Budget) -> None:
    """See that something can be within it.

    Raises:
        UsageError: it asks for nothing, or for what cannot be.
    """
    if budget.max_drop is None and budget.min_sqnr_db is None:
        raise UsageError("a budget without a limit", hint="give max_drop (points of top-1) or min_sqnr_db")
    if budget.max_drop is not None and not 0 < budget.max_drop < 100:
        raise UsageError(
            f"a drop of at most {budget.max_drop:g} points is no budget for int8",
            hint="allow more than 0, e.g. --max-drop 0.5; the float artifacts are those that lose nothing",
        )
    if budget.min_sqnr_db is not None and not budget.min_sqnr_db > 0:
        raise UsageError(
            f"an SQNR of {budget.min_sqnr_db:g} dB is noise as loud as the signal", hint="ask for e.g. --min-sqnr 25"
        )
    if budget.evaluations < 1 or budget.seconds <= 0:
        raise UsageError("a search without evaluations or time finds nothing", hint="leave --max-evaluations alone")


class _Scorer:
    def __init__(self, held_out: HeldOut, spec: TensorSpec, preprocess: Preprocess | None) -> None:
        self._held_out = held_out
        self._spec = spec
        self._preprocess = preprocess
        self._expected: tuple[Path, list[NDArray[Any]]] | None = None

    def __call__(self, parent: Path, path: Path) -> Score:
        """The worth of the model at `path`, compared with its float `parent`.

        Raises:
            StepError: it has no class scores, and points of accuracy are to be counted.
            DataError: the images cannot be prepared for it.
        """
        if self._expected is None or self._expected[0] != parent:
            self._expected = parent, self._run(parent)
        expected, found = self._expected[1], self._run(path)
        # The last batch is filled up.
        count = len(self._held_out.indices)
        sqnr_db = _sqnr_db(expected, found)
        scores = [expected[0][:count], found[0][:count]]
        if scores[0].ndim != 2 or scores[0].shape[1] < 2:
            if self._held_out.labelled:
                raise StepError("its first output is no row of class scores, so points of accuracy cannot be counted")
            return Score(count, sqnr_db)
        agreement = float(np.mean(scores[0].argmax(1) == scores[1].argmax(1)))
        if not self._held_out.labelled or self._held_out.dataset.labels is None:
            return Score(count, sqnr_db, agreement)
        offset = self._preprocess.label_offset if self._preprocess is not None else 0
        labels = self._held_out.dataset.labels[list(self._held_out.indices)] + offset
        name, sha256 = self._held_out.dataset.spec, self._held_out.sha256
        before, after = (accuracy(one, labels, name, sha256) for one in scores)
        return Score(count, sqnr_db, agreement, before.top1 - after.top1, drop_interval(before.correct, after.correct))

    def _run(self, path: Path) -> list[NDArray[Any]]:
        """Each output over all images, `[N, ...]`."""
        feeds = (
            {self._spec.name: batch}
            for batch in batches(self._held_out.dataset, self._held_out.indices, self._preprocess, self._spec)
        )
        rows = answers(path, feeds)
        return [np.concatenate([row[index] for row in rows]) for index in range(len(rows[0]))]


def _sqnr_db(expected: list[NDArray[Any]], found: list[NDArray[Any]]) -> float | None:
    ratio = output_sqnr_db([expected], [found])
    return None if math.isinf(ratio) and ratio > 0 else ratio
