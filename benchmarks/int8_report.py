"""The comparison of one network as Markdown: a row for each tool, and our figures against the best peer's in words.

    python -m benchmarks.int8_report OUT/*.json

prints what an earlier run of int8_peers kept.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgebench import stats
from edgebench.evaluation.metrics import mcnemar_exact
from edgebench.report.units import MISSING, with_interval

__all__ = ["markdown", "summary"]

Result = Mapping[str, Any]
# The latency of ours may be so much above the fastest peer's.
_ALLOWED_LATENCY = 1.02
_SIGNIFICANT = 0.05
# In percent; below it a network is broken.
_LEAST_AGREEMENT = 50.0


def markdown(name: str, results: Mapping[str, Result], baseline: str, ours: str) -> str:
    """The table of `results`, by tool, and the verdict."""
    measured = {tool: result for tool, result in results.items() if "failed" not in result}
    base = measured[baseline]
    top1 = "top-1" if base["correct"] is None else f"top-1 % of {len(base['correct'])}"
    lines = [
        f"\n### {name}\n",
        f"| tool | {top1} | p against {baseline} | agreement % | SQNR dB | × {baseline} latency | s | peak MB |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    lines += [_row(tool, result, base, baseline) for tool, result in results.items()]
    lines += ["", *_verdict(measured, baseline, ours)]
    lines += [f"- {tool}: {note}" for tool in (ours,) for note in results[tool].get("notes", ())]
    return "\n".join(lines)


def _row(tool: str, result: Result, base: Result, baseline: str) -> str:
    if "failed" in result:
        return f"| {tool} | {result['failed'].replace('|', '/')[:200]} |"
    p = MISSING
    if tool != baseline and result["correct"] is not None:
        p = f"{mcnemar_exact(base['correct'], result['correct']):.2g}"
    ratio = _ratio(base, result)
    return " | ".join(
        [
            f"| {tool}",
            _number(_top1(result), 2),
            p,
            _number(_percent(result), 1),
            "equal" if result["sqnr_db"] is None else f"{result['sqnr_db']:.1f}",
            "1" if tool == baseline else with_interval(ratio.ratio, ratio.ci),
            f"{result['seconds']:.1f}",
            f"{result['peak_bytes'] / 1e6:.0f} |",
        ]
    )


@dataclass(frozen=True)
class _Column:
    """A figure that tools are compared by: higher is better, or where `least`, lower. Within `margin` two are even."""

    label: str
    value: Callable[[Result], float | None]
    digits: int
    unit: str
    least: bool = False
    margin: float = 0.0


def _columns(base: Result) -> list[_Column]:
    return [
        _Column("top-1", _top1, 2, " %"),
        _Column("agreement", _percent, 1, " %"),
        _Column("SQNR", lambda result: result["sqnr_db"], 1, " dB", margin=0.5),
        _Column("latency", lambda result: _ratio(base, result).ratio, 3, "", least=True),
        _Column("time", lambda result: result["seconds"], 1, " s", least=True),
        _Column("peak", lambda result: result["peak_bytes"] / 1e6, 0, " MB", least=True),
    ]


@dataclass(frozen=True)
class _Match:
    """Ours against the best peer in one column; `winner` in words."""

    column: _Column
    mine: float
    theirs: float
    best: str
    winner: str
    doubt: str


def _matches(measured: Mapping[str, Result], baseline: str, ours: str) -> list[_Match]:
    own = measured[ours]
    peers = {tool: result for tool, result in measured.items() if tool not in (baseline, ours)}
    found = []
    for column in _columns(measured[baseline]):
        sign = -1 if column.least else 1
        figures = {
            tool: figure
            for tool, result in peers.items()
            if (figure := column.value(result)) is not None and not (column.least and _broken(result))
        }
        mine = column.value(own)
        if mine is None or not figures:
            continue
        best = max(figures, key=lambda tool: sign * figures[tool])
        behind = round(sign * (figures[best] - mine), column.digits)
        is_ours, decided, doubt = behind <= 0, behind > column.margin, ""
        marks = {"top-1": "correct", "agreement": "agrees"}.get(column.label)
        if marks is not None and len(peers[best][marks]) == len(own[marks]):
            p = mcnemar_exact(peers[best][marks], own[marks])
            doubt, decided = f", p = {p:.2g}", p < _SIGNIFICANT
        elif column.label == "latency":
            ratio = _ratio(peers[best], own)
            doubt = f", {with_interval(ratio.ratio, ratio.ci)} times its"
            is_ours = ratio.ratio <= _ALLOWED_LATENCY
            decided = ratio.ci is not None and ratio.ci[0] > _ALLOWED_LATENCY
        winner = "ours" if is_ours else f"**{best} wins**" if decided else f"{best} is ahead, within chance"
        found.append(_Match(column, mine, figures[best], best, winner, doubt))
    return found


def _verdict(measured: Mapping[str, Result], baseline: str, ours: str) -> list[str]:
    if ours not in measured:
        return [f"**{ours} made nothing: every peer wins.**"]
    return [
        f"- {match.column.label}: {match.winner}: {match.mine:.{match.column.digits}f} against "
        f"{match.theirs:.{match.column.digits}f}{match.column.unit} of {match.best}{match.doubt}"
        for match in _matches(measured, baseline, ours)
    ]


def summary(runs: Mapping[str, Mapping[str, Result]], baseline: str, ours: str) -> str:
    """One row for each network: ours, the best peer's and which that is, in each column; where it wins it is bold."""
    lines: list[str] = []
    for name, results in runs.items():
        measured = {tool: result for tool, result in results.items() if "failed" not in result}
        if ours not in measured:
            lines.append(f"| {name} | {results[ours]['failed']} |")
            continue
        cells = {match.column.label: match for match in _matches(measured, baseline, ours)}
        row = []
        for column in _columns(measured[baseline]):
            match = cells.get(column.label)
            figures = MISSING if match is None else f"{match.mine:.{column.digits}f} / {match.theirs:.{column.digits}f}"
            peer = "" if match is None or match.winner == "ours" else f" {match.best}"
            row.append(figures + (f" **{peer.strip()}**" if match is not None and "wins" in match.winner else peer))
        lines.append(f"| {name} | {' | '.join(row)} |")
    labels = "top-1 % | agreement % | SQNR dB | × latency | s | peak MB"
    return "\n".join([f"| ours / best peer | {labels} |", "| --- |" + " --- |" * 6, *lines])


def _broken(result: Result) -> bool:
    """A fast wrong model is no result, and nothing to be measured against."""
    share = _percent(result)
    return share is not None and share < _LEAST_AGREEMENT


def _top1(result: Result) -> float | None:
    return None if result["correct"] is None else 100 * result["correct"].count("1") / len(result["correct"])


def _percent(result: Result) -> float | None:
    return 100 * result["agrees"].count("1") / len(result["agrees"]) if result["agrees"] else None


def _ratio(before: Result, after: Result) -> stats.Ratio:
    ratio = stats.paired_ratio(list(zip(before["times_s"], after["times_s"], strict=True)))
    assert ratio is not None
    return ratio


def _number(value: float | None, digits: int) -> str:
    return MISSING if value is None else f"{value:.{digits}f}"


if __name__ == "__main__":
    runs = {Path(path).stem: json.loads(Path(path).read_text()) for path in sys.argv[1:]}
    print(summary(runs, "fp32", "edgebench"))
    for name, results in runs.items():
        print(markdown(name, results, "fp32", "edgebench"))
