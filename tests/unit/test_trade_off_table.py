"""The trade-off as it is read: one row for each share of int8, the taken one marked."""

from __future__ import annotations

from io import StringIO

from rich.console import Console

from edgebench.report.trade_off_table import render
from edgebench.trade_off import Budget, Score, TradeOff, Trial


def trial(int8_products: int, sqnr_db: float | None, *, met: bool, drop: float | None = None) -> Trial:
    interval = None if drop is None else (drop - 1, drop + 1)
    return Trial(("conv",), int8_products, 10, Score(500, sqnr_db, 0.992, drop, interval), 0.5, met)


def text(trade_off: TradeOff) -> str:
    console = Console(file=StringIO(), width=160)
    console.print(render("onnx-int8", trade_off))
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def rows(trade_off: TradeOff) -> list[str]:
    return [" ".join(line.split()) for line in text(trade_off).splitlines() if " of 10" in line]


def test_the_most_faithful_of_equal_shares_is_shown_and_the_taken_one_marked() -> None:
    trials = (
        trial(10, 20.0, met=False),
        trial(7, 29.0, met=False),
        trial(7, 30.5, met=True),
        trial(4, 33.0, met=True),
    )
    shown = TradeOff(Budget(min_sqnr_db=30), "npz:val.npz", trials, chosen=2, seconds=9.0)
    assert rows(shown) == [
        "10 of 10 — 20.0 99.2 % 0.50",
        "7 of 10 — 30.5 99.2 % 0.50 within the budget, taken",
        "4 of 10 — 33.0 99.2 % 0.50 within the budget",
    ]
    assert "onnx-int8: at least 30 dB, judged on 500 images of npz:val.npz" in text(shown)


def test_points_have_their_interval_and_what_is_best_of_none_says_so() -> None:
    shown = TradeOff(Budget(max_drop=0.5), "digits:test", (trial(9, 25.0, met=False, drop=2.25),), 0, 9.0)
    assert rows(shown) == ["9 of 10 +2.25 [+1.25, +3.25] 25.0 99.2 % 0.50 taken, the best"]
    assert "a drop of at most 0.5 points" in text(shown)


def test_answers_that_are_the_same_have_no_ratio() -> None:
    shown = TradeOff(Budget(min_sqnr_db=30), "digits:test", (trial(9, None, met=True),), 0, 9.0)
    assert "identical" in rows(shown)[0]
