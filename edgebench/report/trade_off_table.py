"""What accuracy control tried, as a table: how much is in int8, what it loses, what it saves."""

from __future__ import annotations

import math

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from edgebench.report.units import MISSING, percent
from edgebench.trade_off import Score, TradeOff, Trial

__all__ = ["render"]


def render(name: str, trade_off: TradeOff) -> Table:
    """The trials for the artifact `name`, from the most in int8 to the least; the one that was taken is marked. Of
    those with equally much in int8 it shows the most faithful."""
    counts = {trial.score.samples for trial in trade_off.trials}
    table = Table(
        box=SIMPLE_HEAD,
        title=f"{name}: {_budget(trade_off)}, judged on {max(counts)} images of {trade_off.data}",
        title_justify="left",
        title_style="bold",
        caption="latency: the median of a few turns beside the float model, one thread; `edgebench bench` measures it",
        caption_justify="left",
    )
    for heading in ("in int8", "drop in points [95 %]", "SQNR dB", "top-1 agrees", "latency × float", ""):
        table.add_column(heading, justify="right" if heading else "left")
    taken = trade_off.trials[trade_off.chosen]
    best: dict[int, Trial] = {}
    for trial in sorted(trade_off.trials, key=lambda item: (item is taken, item.met, item.score.sqnr_db or math.inf)):
        best[trial.int8_products] = trial
    for _, trial in sorted(best.items(), reverse=True):
        table.add_row(*_row(trial), _mark(trial, taken), style="bold" if trial is taken else "")
    return table


def _budget(trade_off: TradeOff) -> str:
    budget = trade_off.budget
    limits = []
    if budget.max_drop is not None:
        limits.append(f"a drop of at most {budget.max_drop:g} points")
    if budget.min_sqnr_db is not None:
        limits.append(f"at least {budget.min_sqnr_db:g} dB")
    return " and ".join(limits)


def _row(trial: Trial) -> tuple[str, ...]:
    score = trial.score
    return (
        f"{trial.int8_products} of {trial.products}",
        _drop(score),
        "identical" if score.sqnr_db is None else f"{score.sqnr_db:.1f}",
        percent(score.agreement),
        MISSING if trial.latency_ratio is None else f"{trial.latency_ratio:.2f}",
    )


def _drop(score: Score) -> str:
    if score.drop_points is None:
        return MISSING
    interval = "" if score.drop_ci is None else f" [{score.drop_ci[0]:+.2f}, {score.drop_ci[1]:+.2f}]"
    return f"{score.drop_points:+.2f}{interval}"


def _mark(trial: Trial, taken: Trial) -> Text:
    words = "within the budget" if trial.met else ""
    return Text(f"{words}, taken" if trial is taken and words else "taken, the best" if trial is taken else words)
