"""A comparison for people: as a table for a terminal, and as Markdown for the summary of a CI."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Column, Table
from rich.text import Text

from edgebench.comparison import METRICS, Change, Comparison, Pair
from edgebench.figures import figures
from edgebench.gate import Decision
from edgebench.report.calibration import calibrated_on_nothing
from edgebench.report.units import MISSING, milliseconds, with_interval
from edgebench.types import Cell, Run

__all__ = ["markdown", "render", "verdict_words"]

_STYLES = {"faster": "green", "same": "green", "slower": "red", "not known": "yellow"}
_OUTCOMES = {"held": ("✓", "green"), "failed": ("✗", "red"), "undecided": ("?", "yellow")}
_HEADINGS = ("artifact", "A p50 ms", "B p50 ms", "B / A", "verdict")


def render(comparison: Comparison, decisions: Sequence[Decision], margin: float) -> RenderableType:
    """The comparison with the `decisions` on its gates; `margin` is a share."""
    speeds = Table(*(Column(name, justify="left" if name in _HEADINGS[::4] else "right") for name in _HEADINGS))
    others = Table(
        *(Column(name) for name in ("artifact", "metric")), *(Column(name, justify="right") for name in _COLUMNS)
    )
    for table in (speeds, others):
        table.box = SIMPLE_HEAD
    for pair in comparison.pairs:
        *figures_of, words = _speed(pair, comparison, margin)
        speeds.add_row(*figures_of, Text(words, style=_STYLES[pair.verdict(_bound(comparison, margin))]))
        for row in _others(pair):
            others.add_row(*row)
    lines: list[RenderableType] = [Text(_title(comparison), style="bold"), speeds]
    if others.row_count:
        lines.append(others)
    for decision in decisions:
        sign, style = _OUTCOMES[decision.outcome]
        lines.append(Text(f"{sign} {_gate(decision)}", style=style))
    lines.append(Text("\n".join(_notes(comparison)), style="dim"))
    lines.extend(Text(doubt, style="yellow") for doubt in _doubts(comparison))
    return Group(*lines)


def markdown(comparison: Comparison, decisions: Sequence[Decision], margin: float) -> str:
    """The same as Markdown."""
    blocks = [f"### {_title(comparison)}"]
    blocks.append(_markdown_table(_HEADINGS, [_speed(pair, comparison, margin) for pair in comparison.pairs]))
    others = [row for pair in comparison.pairs for row in _others(pair)]
    if others:
        blocks.append(_markdown_table(("artifact", "metric", *_COLUMNS), others))
    if decisions:
        signs = {"held": "✅", "failed": "❌", "undecided": "❔"}
        blocks.append("\n".join(f"- {signs[decision.outcome]} {_gate(decision)}" for decision in decisions))
    blocks.append("\n".join(f"- {line}" for line in [*_notes(comparison), *_doubts(comparison)]))
    return "\n\n".join(blocks) + "\n"


def verdict_words(pair: Pair, margin: float) -> str:
    """`slower`, `same within 0.8 %`, ..."""
    word = pair.verdict(margin)
    ci = pair.changes["p50"].ci
    if word != "same" or ci is None:
        return word
    return f"same within {100 * max(abs(ci[0]), abs(ci[1])):.1f} %"


def _bound(comparison: Comparison, margin: float) -> float:
    return max(margin, comparison.noise_floor or 0.0)


def _title(comparison: Comparison) -> str:
    if comparison.paired:
        return f"A against B, measured in alternation (run {comparison.before.id})"
    return f"A = run {comparison.before.id} against B = run {comparison.after.id}"


def _speed(pair: Pair, comparison: Comparison, margin: float) -> tuple[str, ...]:
    change = pair.changes["p50"]
    ratio = MISSING
    if change.worse is not None:
        ratio = with_interval(1 + change.worse, None if change.ci is None else (1 + change.ci[0], 1 + change.ci[1]))
    return (
        pair.name,
        _p50(comparison.before, pair.before),
        _p50(comparison.after, pair.after),
        ratio,
        verdict_words(pair, _bound(comparison, margin)),
    )


def _p50(run: Run, cell: Cell) -> str:
    latency = figures(run, cell).latency
    return MISSING if latency is None else with_interval(latency.p50_ms, latency.p50_ci_ms)


_COLUMNS = ("A", "B", "worse by [95 %]")


def _others(pair: Pair) -> list[tuple[str, ...]]:
    """The metrics that are known on both sides, but for p50 and those that are derived from nothing else."""
    return [
        (pair.name, f"{name} {METRICS[name]}", milliseconds(change.before), milliseconds(change.after), _worse(change))
        for name, change in pair.changes.items()
        if name != "p50" and change.worse is not None
    ]


def _worse(change: Change) -> str:
    unit, scale = ("points", 1) if change.metric == "accuracy" else ("%", 100)
    assert change.worse is not None
    text = f"{scale * change.worse:+.2f} {unit}"
    if change.ci is None or change.ci[0] == change.ci[1]:
        return text
    low, high = (MISSING if math.isinf(bound) else f"{scale * bound:+.2f}" for bound in change.ci)
    return f"{scale * change.worse:+.2f} [{low}, {high}] {unit}"


def _gate(decision: Decision) -> str:
    return f"{decision.gate.text}: {decision.pair.name}: {decision.outcome}: {decision.reason}"


def _notes(comparison: Comparison) -> list[str]:
    lines = ["B / A: ratio of p50 with its 95 % interval"]
    if comparison.paired:
        rounds = max((len(pair.after.measurements) for pair in comparison.pairs), default=0)
        lines[0] += f", from turns that ran one directly after the other in {rounds} rounds of fresh processes"
        if comparison.noise_floor is not None:
            lines.append(f"noise floor: A against A may differ by up to {100 * comparison.noise_floor:.1f} %")
    else:
        lines.append(
            f"A was measured at {comparison.before.started_at}, B at {comparison.after.started_at}: what the machine "
            "did between is in no interval; to measure both in alternation give the artifacts: "
            "edgebench compare A.eb B.eb"
        )
        if comparison.noise_floor is not None:
            lines.append(
                f"artifacts that did not change moved by up to {100 * comparison.noise_floor:.1f} %, and the intervals "
                "of the others are wider by that"
            )
    lines.extend(
        calibrated_on_nothing(cell.artifact for run in (comparison.before, comparison.after) for cell in run.cells)
    )
    lines.extend(f"differs: {text}" for text in comparison.differs)
    lines.extend(f"not compared: {text}" for text in (*comparison.failed, *comparison.missing))
    return lines


def _doubts(comparison: Comparison) -> list[str]:
    found = []
    for pair in comparison.pairs:
        for side, run, cell in (("A", comparison.before, pair.before), ("B", comparison.after, pair.after)):
            verdict = figures(run, cell).verdict
            if verdict.word not in (None, "stable"):
                found.append(
                    f"{side}, {pair.name}: {verdict.word}: {'; '.join(verdict.evidence)}. Next: {verdict.remedy}"
                )
    return found


def _markdown_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
