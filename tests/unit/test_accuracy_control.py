"""The search for the smallest set out of int8: on a network whose int8 collapses, and what it says when it cannot."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from edgebench.errors import UsageError
from edgebench.held_out import check_budget
from edgebench.quantize.control import keep_within
from edgebench.quantize.sensitivity import sensitivities
from edgebench.quantize.settings import Settings
from edgebench.quantize.static import Quantizer, answers, output_sqnr_db
from edgebench.quantize.statistics import Kept
from edgebench.trade_off import Budget, Score
from tests.rescaled import depthwise_network, pattern_images, rescale

IMAGES, LABELS = pattern_images(232, seed=5)
CALIBRATION = [{"input": image[None]} for image in IMAGES[:32]]
HELD_OUT = [{"input": image[None]} for image in IMAGES[32:]]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("network") / "net.onnx"
    onnx.save(rescale(depthwise_network(blocks=2), seed=3, decades=0.5), path)
    return path


@pytest.fixture
def quantizer(source: Path, tmp_path: Path) -> Quantizer:
    # Without equalisation this one loses much.
    made = Quantizer(source, tmp_path, lambda: CALIBRATION, Settings(method="minmax", equalize=False))
    made.calibrate(Kept(tmp_path / "statistics.npz", ""))
    return made


def scorer(source: Path) -> Callable[[Path], Score]:
    expected = answers(source, HELD_OUT)
    right = np.array([row[0].argmax() for row in expected]) == LABELS[32:]

    def score(path: Path) -> Score:
        found = answers(path, HELD_OUT)
        correct = np.array([row[0].argmax() for row in found]) == LABELS[32:]
        drop = 100 * float(right.mean() - correct.mean())
        return Score(len(HELD_OUT), output_sqnr_db(expected, found), None, drop)

    return score


def test_a_product_that_loses_more_is_more_sensitive(quantizer: Quantizer) -> None:
    found = sensitivities(quantizer, CALIBRATION[:4], deadline=float("inf"))
    products = [node.output[0] for node in quantizer.graph.nodes if node.op_type in ("Conv", "Gemm")]
    assert sorted(found) == sorted(products)
    assert list(found.values()) == sorted(found.values())
    # Each alone loses less than all of them together.
    quantizer.write(quantizer.scratch / "all.onnx")
    both = [answers(path, CALIBRATION[:4]) for path in (quantizer.source, quantizer.scratch / "all.onnx")]
    assert min(found.values()) > output_sqnr_db(*both)


def test_the_budget_is_met_with_as_few_products_in_float_as_were_found(
    quantizer: Quantizer, source: Path, tmp_path: Path
) -> None:
    score = scorer(source)
    budget = Budget(min_sqnr_db=25, evaluations=40)
    trade_off = keep_within(quantizer, budget, score, lambda: CALIBRATION, tmp_path / "out.onnx", data="these")
    taken = trade_off.trials[trade_off.chosen]
    assert trade_off.met
    assert trade_off.stopped is None
    assert not trade_off.trials[0].met
    assert trade_off.trials[0].kept == ()
    assert 0 < taken.int8_products < taken.products
    # The file that lies there is the one that was judged.
    assert score(tmp_path / "out.onnx").sqnr_db == pytest.approx(taken.score.sqnr_db)
    # Nothing that met the budget had more in int8.
    assert taken.int8_products == max(trial.int8_products for trial in trade_off.trials if trial.met)
    assert all(
        trial.met == (float(trial.score.sqnr_db or 0) >= 25) for trial in trade_off.trials if trial.int8_products
    )


def test_points_of_accuracy_are_a_budget_as_well(quantizer: Quantizer, source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    trade_off = keep_within(
        quantizer, Budget(max_drop=1.0, evaluations=40), scorer(source), lambda: CALIBRATION, out, data="these"
    )
    assert trade_off.met
    assert float(trade_off.trials[trade_off.chosen].score.drop_points or 0) <= 1.0


def test_what_meets_the_budget_at_once_is_not_searched(source: Path, tmp_path: Path) -> None:
    quantizer = Quantizer(source, tmp_path, lambda: CALIBRATION, Settings(method="minmax"))
    quantizer.calibrate(Kept(tmp_path / "statistics.npz", ""))
    trade_off = keep_within(
        quantizer, Budget(min_sqnr_db=15), scorer(source), lambda: CALIBRATION, tmp_path / "out.onnx", data="these"
    )
    assert [trial.kept for trial in trade_off.trials] == [()]
    assert trade_off.met


def test_a_budget_that_nothing_meets_leaves_the_best_and_says_so(
    quantizer: Quantizer, source: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.onnx"
    trade_off = keep_within(quantizer, Budget(min_sqnr_db=500), scorer(source), lambda: CALIBRATION, out, data="these")
    assert not trade_off.met
    assert trade_off.stopped is None
    ratios = [trial.score.sqnr_db or 0.0 for trial in trade_off.trials if trial.int8_products]
    assert trade_off.trials[trade_off.chosen].score.sqnr_db == max(ratios)
    assert out.is_file()


def test_a_search_ends_with_its_evaluations(quantizer: Quantizer, source: Path, tmp_path: Path) -> None:
    budget = Budget(min_sqnr_db=25, evaluations=1)
    out = tmp_path / "out.onnx"
    trade_off = keep_within(quantizer, budget, scorer(source), lambda: CALIBRATION, out, data="these")
    assert len(trade_off.trials) == 1
    assert trade_off.stopped == "all 1 evaluations were used"
    assert out.is_file()


def test_a_search_ends_with_its_time(quantizer: Quantizer, source: Path, tmp_path: Path) -> None:
    budget = Budget(min_sqnr_db=25, seconds=1e-6)
    out = tmp_path / "out.onnx"
    trade_off = keep_within(quantizer, budget, scorer(source), lambda: CALIBRATION, out, data="these")
    assert len(trade_off.trials) == 1
    assert "were used up" in str(trade_off.stopped)


@pytest.mark.parametrize(
    ("budget", "words"),
    [
        (Budget(), "without a limit"),
        (Budget(max_drop=0), "0 points is no budget"),
        (Budget(max_drop=-1), "-1 points is no budget"),
        (Budget(min_sqnr_db=0), "0 dB is noise"),
        (Budget(max_drop=1, evaluations=0), "without evaluations"),
    ],
    ids=str,
)
def test_a_budget_that_nothing_can_be_within_is_refused(budget: Budget, words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        check_budget(budget)
    assert caught.value.hint
