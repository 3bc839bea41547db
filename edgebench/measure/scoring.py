"""Accuracy through the runtime that was measured: labelled images in, class scores back, in portions that fit any
disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgebench.agent.wire import WIRE_VERSION, Job, Measurement
from edgebench.disagreement import Disagreement, WorstInput
from edgebench.errors import DataError
from edgebench.evaluation.datasets import Dataset, batches, choose, content_sha256, open_dataset, pixels
from edgebench.evaluation.metrics import accuracy
from edgebench.evaluation.preprocess import resolve_preprocess
from edgebench.measure.jobs import JobRunner, read_output, write_feeds, write_frames
from edgebench.measure.subjects import Subject
from edgebench.progress import Progress
from edgebench.types import Accuracy, Preprocess, TensorSpec

__all__ = ["EvaluationData", "score_cells", "scores_here"]

# A portion of ImageNet-sized inputs takes 300 MB of disk.
_PORTION = 512
_PREDICT_TIMEOUT_S = 3600.0
_WORST = 10


@dataclass(frozen=True)
class EvaluationData:
    """Labelled images, checked against what is to be scored with them."""

    dataset: Dataset
    labels: NDArray[np.int64]
    indices: tuple[int, ...]
    sha256: str

    @classmethod
    def open(cls, spec: str, samples: int | None, subjects: Sequence[Subject]) -> EvaluationData:
        """Open `spec` and see that it has labels, and that each subject gives class scores for all of them.

        Raises:
            DataError: it has not, or they do not; or one batch of it cannot be prepared.
        """
        dataset = open_dataset(spec)
        labels = dataset.labels
        if labels is None:
            raise DataError(
                f"{spec} has no labels, so accuracy cannot be measured",
                hint="sort images into one folder per class, use csv:FILE with a `label` column, or leave --data out",
            )
        indices = tuple(choose(dataset, samples))
        evaluation = cls(dataset, labels, indices, content_sha256(dataset, indices))
        for subject in subjects:
            if subject.reason is None:
                evaluation._check(subject)
        return evaluation

    def first(self, subject: Subject, count: int) -> list[dict[str, NDArray[Any]]]:
        """Feeds of the first `count` batches."""
        spec = subject.inputs[0]
        chosen = self.indices[: count * spec.shape[0]]
        return [{spec.name: batch} for batch in batches(self.dataset, chosen, subject.preprocess, spec)]

    def frames(self, count: int) -> list[NDArray[np.uint8]]:
        """The first `count` images as pixels, `[H, W, C]`."""
        return [np.asarray(self.dataset.load(index), dtype=np.uint8) for index in self.indices[:count]]

    def prepared_as(self, subject: Subject) -> Preprocess | None:
        """How this data's images are prepared for `subject`; None where they are ready.

        Raises:
            DataError: its bundle takes inputs as ready and these are images, or nothing says how.
        """
        if subject.preprocess is not None or self.dataset.ready:
            return subject.preprocess
        if subject.from_bundle or self.dataset.default_preprocess is None:
            raise DataError(
                f"nothing says how {subject.ref.name} wants the images of {self.dataset.spec} prepared",
                hint="give --preprocess: imagenet, cifar10, none, ... or a TOML file",
            )
        return resolve_preprocess(self.dataset.default_preprocess)

    def _check(self, subject: Subject) -> None:
        if len(subject.inputs) != 1 or not subject.outputs or len(subject.outputs[0].shape) != 2:
            shape = list(subject.outputs[0].shape) if subject.outputs else "nothing"
            raise DataError(
                f"{subject.ref.name} answers {shape}, not one row of class scores per image",
                hint="leave --data out: accuracy is measured for classifiers",
            )
        classes = subject.outputs[0].shape[1]
        offset = _label_offset(subject.preprocess)
        chosen = self.labels[list(self.indices)]
        low, high = int(chosen.min()) + offset, int(chosen.max()) + offset
        if low < 0 or (classes > 0 and high >= classes):
            raise DataError(
                f"{self.dataset.spec} has labels from {low} to {high}, {subject.ref.name} knows the classes "
                f"0..{classes - 1}",
                hint="check that data and model belong together; `label_offset` in a --preprocess TOML shifts labels",
            )
        self.first(replace(subject, preprocess=self.prepared_as(subject)), 1)


def _label_offset(preprocess: Preprocess | None) -> int:
    return 0 if preprocess is None else preprocess.label_offset


def score_cells(
    runner: JobRunner,
    evaluation: EvaluationData,
    jobs: Sequence[tuple[Subject, str, int]],
    progress: Progress,
    here: Mapping[tuple[str, str], NDArray[Any]],
) -> list[Accuracy | Measurement]:
    """The accuracy of each (subject, runtime, threads) in their order, or the measurement that was not ok. `here` has
    this machine's scores, by the subject's name and the runtime, for a device to be compared with."""
    return [
        found
        if isinstance(found, Measurement)
        else _accuracy(evaluation, subject, found, here.get(_key(subject, name)))
        for (subject, name, _), found in zip(jobs, predictions(runner, evaluation, jobs, progress), strict=True)
    ]


def _key(subject: Subject, runtime: str) -> tuple[str, str]:
    return (subject.ref.name, runtime)


def scores_here(
    runner: JobRunner, evaluation: EvaluationData, jobs: Sequence[tuple[Subject, str, int]], progress: Progress
) -> dict[tuple[str, str], NDArray[Any]]:
    """This machine's scores, by the subject's name and the runtime, of those that it can run."""
    found = predictions(runner, evaluation, jobs, progress)
    return {
        _key(subject, runtime): scores
        for (subject, runtime, _), scores in zip(jobs, found, strict=True)
        if not isinstance(scores, Measurement)
    }


def predictions(
    runner: JobRunner, evaluation: EvaluationData, jobs: Sequence[tuple[Subject, str, int]], progress: Progress
) -> list[NDArray[Any] | Measurement]:
    """The scores `[N, classes]` of each (subject, runtime, threads) in their order, or the measurement that was not
    ok."""
    scores: list[list[NDArray[Any]]] = [[] for _ in jobs]
    failures: dict[int, Measurement] = {}
    progress.start("accuracy", total=len(evaluation.indices) * len(jobs))
    for start in range(0, len(evaluation.indices), _PORTION):
        portion = evaluation.indices[start : start + _PORTION]
        prepared: dict[tuple[Preprocess | None, TensorSpec], Job] = {}
        for number, (subject, runtime, threads) in enumerate(jobs):
            key = (subject.preprocess, subject.inputs[0])
            if key not in prepared:
                prepared[key] = _prepare(runner, evaluation, portion, subject)
            if number not in failures:
                result = _predict(runner, subject, runtime, threads, prepared[key])
                if isinstance(result, Measurement):
                    failures[number] = result
                else:
                    scores[number].append(result[: len(portion)])
            progress.advance(len(portion))
        for job in prepared.values():
            for file in (*job.feeds, *job.frames):
                Path(file.path).unlink(missing_ok=True)
    progress.done(f"{len(evaluation.indices)} images of {evaluation.dataset.spec}")
    return [failures[number] if number in failures else np.concatenate(scores[number]) for number in range(len(jobs))]


def _accuracy(
    evaluation: EvaluationData, subject: Subject, scores: NDArray[Any], here: NDArray[Any] | None
) -> Accuracy:
    offset = _label_offset(subject.preprocess)
    labels = evaluation.labels[list(evaluation.indices)] + offset
    found = accuracy(scores, labels, evaluation.dataset.spec, evaluation.sha256)
    name = None if evaluation.dataset.ready or subject.preprocess is None else subject.preprocess.name
    disagreement = None if here is None else _disagreement(evaluation.indices, here, scores)
    return replace(found, label_offset=offset, preprocess=name, disagreement=disagreement)


def _disagreement(indices: Sequence[int], here: NDArray[Any], there: NDArray[Any]) -> Disagreement:
    classes = [scores.argmax(axis=1) for scores in (here, there)]
    finite = np.isfinite(here).all(axis=1) & np.isfinite(there).all(axis=1)
    errors = np.zeros(len(here))
    errors[finite] = np.abs(here[finite].astype(np.float64) - there[finite]).max(axis=1)
    differ = (classes[0] != classes[1]) | ~finite
    order = np.lexsort((-errors, ~differ))[:_WORST]
    return Disagreement(
        int(differ.sum()),
        float(errors.max()),
        tuple(
            WorstInput(indices[row], float(errors[row]), int(classes[0][row]), int(classes[1][row]))
            for row in order.tolist()
            if errors[row] > 0 or differ[row]
        ),
    )


def _prepare(runner: JobRunner, evaluation: EvaluationData, portion: Sequence[int], subject: Subject) -> Job:
    """A job that lacks its artifact: pixels where the data set holds images, ready inputs elsewhere."""
    spec, directory = subject.inputs[0], runner.scratch_directory("portion")
    job = Job(version=WIRE_VERSION, kind="predict", artifact="", runtime="", threads=1, feeds=())
    images = pixels(evaluation.dataset, portion, subject.preprocess, spec) if runner.takes_frames else None
    if images is not None:
        frames = (write_frames(directory / "frames.raw", images),)
        return replace(job, frames=frames, preprocess=subject.preprocess, input=spec)
    feeds = [{spec.name: batch} for batch in batches(evaluation.dataset, portion, subject.preprocess, spec)]
    return replace(job, feeds=write_feeds(directory, subject.inputs, feeds))


def _predict(
    runner: JobRunner, subject: Subject, runtime: str, threads: int, prepared: Job
) -> NDArray[Any] | Measurement:
    job = replace(prepared, artifact=str(subject.path.resolve()), runtime=runtime, threads=threads)
    result = runner.job(job, timeout_s=_PREDICT_TIMEOUT_S)
    if result.status != "ok":
        return result
    rows = read_output(result.outputs[0])
    for file in result.outputs:
        Path(file.path).unlink(missing_ok=True)
    return rows.reshape(-1, rows.shape[-1])
