"""The comparison of one network as Markdown: a row for each tool, and our figures against the best peer's in words.

    python -m benchmarks.int8_report OUT/*.json

prints what an earlier run of int8_peers kept.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from edgebench import stats
from edgebench.evaluation.metrics import mcnemar_exact
from edgebench.report.units import MISSING, with_interval

__all__ = ["markdown"]

Result = Mapping[str, Any]
# The latency of ours may be so much above the fastest peer's.
_ALLOWED_LATENCY = 1.02
_SIGNIFICANT = 0.05


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
            "1" if tool == baseline or ratio is None else with_interval(ratio.ratio, ratio.ci),
            f"{result['seconds']:.1f}",
            f"{result['peak_bytes'] / 1e6:.0f} |",
        ]
    )


def _verdict(measured: Mapping[str, Result], baseline: str, ours: str) -> list[str]:
    if ours not in measured:
        return [f"**{ours} made nothing: every peer wins.**"]
    peers = {tool: result for tool, result in measured.items() if tool not in (baseline, ours)}
    if not peers:
        return ["No peer to compare with."]
    own = measured[ours]
    columns: list[tuple[str, Callable[[Result], float | None], int, str]] = [
        ("top-1", _top1, 2, " %"),
        ("agreement", _percent, 1, " %"),
        ("SQNR", lambda result: result["sqnr_db"], 1, " dB"),
        ("latency", lambda result: -_median_ratio(measured[baseline], result), 3, ""),
        ("time", lambda result: -result["seconds"], 1, " s"),
        ("peak", lambda result: -result["peak_bytes"] / 1e6, 0, " MB"),
    ]
    lines = []
    for label, value, digits, unit in columns:
        figures = {tool: figure for tool, result in peers.items() if (figure := value(result)) is not None}
        mine = value(own)
        if mine is None or not figures:
            continue
        best = max(figures, key=lambda tool: figures[tool])
        words = f"{abs(mine):.{digits}f} against {abs(figures[best]):.{digits}f}{unit} of {best}"
        # Ties in what is printed are ours, and a difference within chance is nobody's.
        ours_is_best = round(mine, digits) >= round(figures[best], digits)
        decided = True
        if label == "top-1":
            p = mcnemar_exact(peers[best]["correct"], own["correct"])
            words += f", p = {p:.2g}"
            decided = p < _SIGNIFICANT
        if label == "latency" and (ratio := _ratio(peers[best], own)) is not None:
            words += f", {with_interval(ratio.ratio, ratio.ci)} times its"
            ours_is_best = ratio.ratio <= _ALLOWED_LATENCY
            decided = ratio.ci is not None and ratio.ci[0] > _ALLOWED_LATENCY
        winner = "ours" if ours_is_best else f"**{best} wins**" if decided else f"{best} is ahead, within chance"
        lines.append(f"- {label}: {winner}: {words}")
    return lines


def _top1(result: Result) -> float | None:
    correct = result["correct"]
    return None if correct is None else 100 * correct.count("1") / len(correct)


def _percent(result: Result) -> float | None:
    return None if result["agreement"] is None else 100 * result["agreement"]


def _ratio(before: Result, after: Result) -> stats.Ratio | None:
    return stats.paired_ratio(list(zip(before["times_s"], after["times_s"], strict=True)))


def _median_ratio(base: Result, result: Result) -> float:
    ratio = _ratio(base, result)
    assert ratio is not None
    return ratio.ratio


def _number(value: float | None, digits: int) -> str:
    return MISSING if value is None else f"{value:.{digits}f}"


if __name__ == "__main__":
    for path in sys.argv[1:]:
        print(markdown(Path(path).stem, json.loads(Path(path).read_text()), "fp32", "edgebench"))
