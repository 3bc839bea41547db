"""Accuracy of one artifact, and whether two differ on the same images."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from edgebench.errors import DataError
from edgebench.types import Accuracy

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["accuracy", "drop_interval", "mcnemar_exact"]

NO_PREDICTION = -1
_Z_95 = 1.959963984540054


def accuracy(scores: NDArray[Any], labels: NDArray[Any], data: str, sha256: str) -> Accuracy:
    """Top-1, top-5 and macro F1 of class scores.

    Equal scores rank by class index, as argmax does, in top-1 and top-5 alike. A row that holds a NaN is wrong and its
    prediction is -1. Macro F1 (0..1) is the mean over the classes that occur in labels or predictions.

    Args:
        scores: float `[N, K]`; logits or probabilities.
        labels: integer `[N]`, each 0..K-1, with the preprocessing's label offset already added.
        data: the data set's spec, kept in the result.
        sha256: of the samples' content, kept in the result.

    Raises:
        DataError: no samples, other shapes, or a label that has no score.
    """
    if scores.ndim != 2 or labels.shape != scores.shape[:1] or not len(labels):
        raise DataError(
            f"scores {list(scores.shape)} and labels {list(labels.shape)} do not fit: expected [N, K] and [N]",
            hint="accuracy needs a classifier whose first output is one row of class scores per image",
        )
    classes = scores.shape[1]
    if labels.min() < 0 or labels.max() >= classes:
        outside = labels.min() if labels.min() < 0 else labels.max()
        raise DataError(
            f"label {outside} of {data} has no score: the model gives {classes} (0..{classes - 1})",
            hint="is it the right data set? `label_offset` in a preprocessing TOML shifts labels",
        )
    unusable = np.isnan(scores).any(axis=1)
    own = np.take_along_axis(scores, labels[:, np.newaxis], axis=1)
    better = (scores > own) | ((scores == own) & (np.arange(classes) < labels[:, np.newaxis]))
    rank = better.sum(axis=1)
    correct = (rank == 0) & ~unusable
    predictions = np.where(unusable, NO_PREDICTION, scores.argmax(axis=1))
    return Accuracy(
        data=data,
        sha256=sha256,
        samples=len(labels),
        top1=100 * int(correct.sum()) / len(labels),
        top5=100 * int(((rank < 5) & ~unusable).sum()) / len(labels) if classes > 5 else None,
        macro_f1=_macro_f1(labels, predictions, classes),
        correct="".join("1" if hit else "0" for hit in correct),
        predictions=tuple(int(prediction) for prediction in predictions),
    )


def mcnemar_exact(a_correct: str, b_correct: str) -> float:
    """Two-sided p-value of McNemar's exact test: were `a` and `b` right equally often?

    The binomial test with probability 1/2 on the images that just one of them got right (McNemar 1947; exact form:
    Fagerland, Lydersen & Laake 2013, BMC Medical Research Methodology 13:91). 1.0 where there is no such image.

    Raises:
        DataError: strings of different length, which are not of the same images.
    """
    _, only_a, only_b, _ = _paired_table(a_correct, b_correct)
    discordant = only_a + only_b
    term = tail = 1
    for k in range(1, min(only_a, only_b) + 1):
        term = term * (discordant - k + 1) // k
        tail += term
    # Integers throughout: no underflow however many images there are, and one correctly rounded division.
    return min(1.0, 2 * tail / (1 << discordant))


def drop_interval(a_correct: str, b_correct: str) -> tuple[float, float]:
    """95% interval in percentage points of accuracy(a) - accuracy(b), measured on the same images.

    Wilson intervals of both proportions, joined with their correlation: method 10 of Newcombe 1998, "Improved
    confidence intervals for the difference between binomial proportions based on paired data", Statistics in Medicine
    17:2635-2650.
    Unlike the Wald interval it does not shrink to nothing when a and b agree on every image.

    Raises:
        DataError: strings of different length, or empty.
    """
    both, only_a, only_b, neither = _paired_table(a_correct, b_correct)
    n = both + only_a + only_b + neither
    if not n:
        raise DataError("there is no image to compare accuracy on")
    a, b = (both + only_a) / n, (both + only_b) / n
    a_low, a_high = _wilson(both + only_a, n)
    b_low, b_high = _wilson(both + only_b, n)
    phi = _correlation(both, only_a, only_b, neither)
    below = _joined(a - a_low, b_high - b, phi)
    above = _joined(a_high - a, b - b_low, phi)
    difference = (only_a - only_b) / n
    return 100.0 * max(-1.0, difference - below), 100.0 * min(1.0, difference + above)


def _macro_f1(labels: NDArray[Any], predictions: NDArray[Any], classes: int) -> float:
    support = np.bincount(labels, minlength=classes)
    predicted = np.bincount(predictions[predictions != NO_PREDICTION], minlength=classes)
    hits = np.bincount(labels[labels == predictions], minlength=classes)
    occurs = support + predicted > 0
    # F1 = 2 TP / (2 TP + FP + FN), and support + predicted is that denominator.
    return float((2 * hits[occurs] / (support + predicted)[occurs]).mean())


def _paired_table(a_correct: str, b_correct: str) -> tuple[int, int, int, int]:
    """How many images both, only a, only b, and neither got right."""
    if len(a_correct) != len(b_correct):
        raise DataError(
            f"accuracy on {len(a_correct)} and on {len(b_correct)} images cannot be paired",
            hint="evaluate both on the same data with the same number of samples",
        )
    pairs = list(zip(a_correct, b_correct, strict=True))
    return pairs.count(("1", "1")), pairs.count(("1", "0")), pairs.count(("0", "1")), pairs.count(("0", "0"))


def _wilson(successes: int, n: int) -> tuple[float, float]:
    """Wilson 1927, "Probable inference, the law of succession, and statistical inference", JASA 22:209-212."""
    z2 = _Z_95**2
    centre = 2 * successes + z2
    spread = _Z_95 * math.sqrt(z2 + 4 * successes * (n - successes) / n)
    return (centre - spread) / (2 * (n + z2)), (centre + spread) / (2 * (n + z2))


def _correlation(both: int, only_a: int, only_b: int, neither: int) -> float:
    """Newcombe's phi: with a continuity correction where it is positive, 0 where a margin is empty."""
    margins = (both + only_a) * (only_b + neither) * (both + only_b) * (only_a + neither)
    if not margins:
        return 0.0
    covariance = both * neither - only_a * only_b
    if covariance > 0:
        covariance_corrected = max(covariance - (both + only_a + only_b + neither) / 2, 0.0)
    else:
        covariance_corrected = float(covariance)
    return covariance_corrected / math.sqrt(margins)


def _joined(x: float, y: float, phi: float) -> float:
    # Rounding may push x = y, phi = 1 just below zero.
    return math.sqrt(max(0.0, x * x - 2 * phi * x * y + y * y))
