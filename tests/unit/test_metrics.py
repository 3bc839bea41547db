"""Accuracy and paired tests agree with scikit-learn, scipy and published examples."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edgebench.errors import DataError
from edgebench.evaluation.metrics import accuracy, drop_interval, mcnemar_exact
from edgebench.types import Accuracy

pairs = st.lists(st.sampled_from(["11", "10", "01", "00"]), max_size=60)


def measured(scores: list[list[float]], labels: list[int]) -> Accuracy:
    return accuracy(np.asarray(scores, dtype=np.float32), np.asarray(labels, dtype=np.int64), "some:data", "abc")


def paired(both: int, only_a: int, only_b: int, neither: int) -> tuple[str, str]:
    """Correctness of a and b that gives the 2x2 table [[both, only a], [only b, neither]]."""
    return (
        "1" * both + "1" * only_a + "0" * only_b + "0" * neither,
        "1" * both + "0" * only_a + "1" * only_b + "0" * neither,
    )


def sides(images: list[str]) -> tuple[str, str]:
    """Correctness of a and of b, from one string "10" per image."""
    return "".join(image[0] for image in images), "".join(image[1] for image in images)


def test_top1_is_the_share_of_correct_predictions_in_percent() -> None:
    result = measured([[3, 1, 0], [0, 2, 1], [0, 1, 5], [9, 0, 0]], [0, 1, 1, 0])

    assert result.top1 == 75.0
    assert result.correct == "1101"
    assert result.predictions == (0, 1, 2, 0)
    assert (result.samples, result.data, result.sha256) == (4, "some:data", "abc")


def test_top5_is_not_measured_below_six_classes() -> None:
    assert measured([[1, 2, 3, 4, 5]], [4]).top5 is None
    assert measured([[1, 2, 3, 4, 5, 6]], [1]).top5 == 100.0


def test_sixth_best_is_not_in_the_top5() -> None:
    assert measured([[1, 2, 3, 4, 5, 6]], [0]).top5 == 0.0


def test_equal_scores_rank_by_class_like_argmax() -> None:
    # All equal: argmax is 0, and classes 0..4 are the five best.
    assert measured([[7.0] * 6] * 6, [0, 1, 2, 3, 4, 5]).correct == "100000"
    assert measured([[7.0] * 6] * 6, [0, 1, 2, 3, 4, 5]).top5 == pytest.approx(500 / 6)


def test_rows_with_nan_are_wrong_and_predict_nothing() -> None:
    nan = float("nan")
    result = measured([[nan, 0, 0, 0, 0, 0], [1, nan, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0]], [0, 0, 0])

    assert result.correct == "001"
    assert result.predictions == (-1, -1, 0)
    assert result.top5 == pytest.approx(100 / 3)


def test_macro_f1_skips_classes_that_never_occur() -> None:
    # Class 0: precision 1/2, recall 1, F1 2/3; class 1: precision 1, recall 1/2, F1 2/3; class 2 occurs nowhere.
    assert measured([[9, 0, 0], [9, 0, 0], [0, 9, 0]], [0, 1, 1]).macro_f1 == pytest.approx(2 / 3)


@settings(deadline=None)
@given(st.data())
def test_accuracy_agrees_with_scikit_learn(data: st.DataObject) -> None:
    metrics = pytest.importorskip("sklearn.metrics", reason="needs scikit-learn")
    count, classes = data.draw(st.integers(1, 30)), data.draw(st.integers(6, 9))
    # Distinct scores in each row, so that scikit-learn's own rule for ties does not matter.
    scores = np.asarray([data.draw(st.permutations(range(classes))) for _ in range(count)], dtype=np.float32)
    labels = data.draw(arrays(np.int64, count, elements=st.integers(0, classes - 1)))

    result = accuracy(scores, labels, "", "")

    predictions = scores.argmax(axis=1)
    top5 = metrics.top_k_accuracy_score(labels, scores, k=5, labels=np.arange(classes))
    assert result.top1 == pytest.approx(100 * metrics.accuracy_score(labels, predictions))
    assert result.top5 == pytest.approx(100 * top5)
    assert result.macro_f1 == pytest.approx(metrics.f1_score(labels, predictions, average="macro"))


def test_label_without_a_score_is_refused_with_the_class_count() -> None:
    with pytest.raises(DataError, match=r"label 3 of some:data has no score: the model gives 3") as caught:
        measured([[1, 2, 3]], [3])

    assert caught.value.hint is not None
    assert "label_offset" in caught.value.hint


@pytest.mark.parametrize(("scores", "labels"), [((2, 3), 1), ((2, 3, 1), 2), ((2,), 2), ((0, 3), 0)])
def test_scores_and_labels_of_other_shapes_are_refused(scores: tuple[int, ...], labels: int) -> None:
    with pytest.raises(DataError, match="do not fit"):
        accuracy(np.zeros(scores), np.zeros(labels, dtype=np.int64), "", "")


@settings(deadline=None)
@given(pairs)
def test_mcnemar_is_the_binomial_test_on_discordant_pairs(images: list[str]) -> None:
    stats = pytest.importorskip("scipy.stats", reason="needs scipy")
    only_a, only_b = images.count("10"), images.count("01")

    expected = stats.binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
    assert mcnemar_exact(*sides(images)) == pytest.approx(expected)


def test_mcnemar_without_discordant_pairs_is_one() -> None:
    assert mcnemar_exact("1100", "1100") == 1.0
    assert mcnemar_exact("", "") == 1.0


def test_mcnemar_of_many_images_neither_overflows_nor_underflows_early() -> None:
    stats = pytest.importorskip("scipy.stats", reason="needs scipy")

    assert mcnemar_exact(*paired(0, 2000, 3000, 0)) == pytest.approx(stats.binomtest(2000, 5000).pvalue, rel=1e-9)


def test_drop_interval_of_the_published_example() -> None:
    # Cavo et al. 2012, in Fagerland, Lydersen & Laake 2017, "Statistical Analysis of Contingency Tables", chapter 8,
    # and their R package contingencytables: Newcombe square-and-add, -0.0621 (95% CI -0.1186 to -0.0046).
    assert drop_interval(*paired(59, 6, 16, 80)) == pytest.approx((-11.86, -0.46), abs=0.005)


def test_drop_interval_when_the_two_agree_on_every_image_is_not_a_point() -> None:
    low, high = drop_interval("1" * 90 + "0" * 10, "1" * 90 + "0" * 10)

    assert low < 0 < high
    assert low == pytest.approx(-high)


def test_drop_interval_of_all_correct_is_the_wilson_bound() -> None:
    # Wilson's lower bound for n of n is n / (n + z^2); both ends come from it alone when phi is 0: z^2 / (n + z^2).
    bound = 100 * 3.841459 / (50 + 3.841459)

    assert drop_interval("1" * 50, "1" * 50) == pytest.approx((-bound, bound), rel=1e-6)


@settings(deadline=None)
@given(pairs.filter(bool))
def test_drop_interval_holds_the_difference_and_turns_with_its_arguments(images: list[str]) -> None:
    a, b = sides(images)
    low, high = drop_interval(a, b)

    assert -100 <= low <= 100 * (a.count("1") - b.count("1")) / len(a) + 1e-9
    assert low <= high <= 100
    assert drop_interval(b, a) == pytest.approx((-high, -low))


@pytest.mark.parametrize("compare", [mcnemar_exact, drop_interval])
def test_correctness_of_different_images_cannot_be_paired(compare: object) -> None:
    with pytest.raises(DataError, match="3 and on 2 images"):
        compare("101", "10")


def test_drop_interval_of_nothing_is_refused() -> None:
    with pytest.raises(DataError, match="no image"):
        drop_interval("", "")
