"""A comparison for programs: JSON, JUnit's XML, and what github-action-benchmark reads."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any
from xml.etree import ElementTree

from edgebench.comparison import METRICS, Change, Comparison
from edgebench.figures import figures
from edgebench.gate import Decision
from edgebench.report.comparison import verdict_words

__all__ = ["document", "github_benchmark", "junit"]


def document(comparison: Comparison, decisions: Sequence[Decision], margin: float) -> dict[str, Any]:
    """The JSON value of a comparison: every metric of every pair, and what became of the gates."""
    bound = max(margin, comparison.noise_floor or 0.0)
    return {
        "before": comparison.before.id,
        "after": comparison.after.id,
        "paired": comparison.paired,
        "noise_floor": comparison.noise_floor,
        "margin": margin,
        "differs": list(comparison.differs),
        "failed": list(comparison.failed),
        "missing": list(comparison.missing),
        "pairs": [
            {
                "name": pair.name,
                "runtime": pair.after.runtime,
                "threads": pair.after.threads,
                "verdict": pair.verdict(bound),
                "changes": {name: _change(change) for name, change in pair.changes.items()},
            }
            for pair in comparison.pairs
        ],
        "gates": [
            {"gate": item.gate.text, "pair": item.pair.name, "outcome": item.outcome, "reason": item.reason}
            for item in decisions
        ],
    }


def _change(change: Change) -> dict[str, Any]:
    # JSON has no infinity: a bound that lies beyond all samples is null.
    ci = None if change.ci is None else [None if math.isinf(bound) else bound for bound in change.ci]
    return {
        "unit": METRICS[change.metric],
        "before": change.before,
        "after": change.after,
        "worse": change.worse,
        "ci": ci,
        "reason": change.reason,
    }


def junit(comparison: Comparison, decisions: Sequence[Decision], margin: float) -> str:
    """One test case per gate and pair, or per pair where there are no gates; undecided is an error, not a failure."""
    suite = ElementTree.Element("testsuite", name="edgebench compare")
    counts = {"tests": 0, "failures": 0, "errors": 0}
    for decision in decisions:
        case = ElementTree.SubElement(suite, "testcase", classname=decision.pair.name, name=decision.gate.text)
        counts["tests"] += 1
        if decision.outcome != "held":
            kind = "failure" if decision.outcome == "failed" else "error"
            counts[f"{kind}s"] += 1
            ElementTree.SubElement(case, kind, message=decision.reason, type=decision.outcome)
    for pair in comparison.pairs if not decisions else ():
        case = ElementTree.SubElement(suite, "testcase", classname=pair.name, name="p50")
        counts["tests"] += 1
        words = verdict_words(pair, max(margin, comparison.noise_floor or 0.0))
        ElementTree.SubElement(case, "system-out").text = words
    for text in (*comparison.failed, *comparison.missing):
        case = ElementTree.SubElement(suite, "testcase", classname=text.partition(":")[0], name="measured")
        counts["tests"] += 1
        counts["errors"] += 1
        ElementTree.SubElement(case, "error", message=text, type="missing")
    for name, count in counts.items():
        suite.set(name, str(count))
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def github_benchmark(comparison: Comparison) -> list[dict[str, Any]]:
    """B's figures as entries of `customSmallerIsBetter`; what is better when larger is left out."""
    entries = []
    for pair in comparison.pairs:
        for name, change in pair.changes.items():
            if change.after is None or name == "accuracy":
                continue
            entry: dict[str, Any] = {"name": f"{pair.name} {name}", "unit": METRICS[name], "value": change.after}
            latency = figures(comparison.after, pair.after).latency
            if name == "p50" and latency is not None and latency.p50_ci_ms is not None:
                entry["range"] = f"± {(latency.p50_ci_ms[1] - latency.p50_ci_ms[0]) / 2:.3g}"
            if change.worse is not None:
                entry["extra"] = f"{100 * change.worse:+.2f} % against run {comparison.before.id}"
            entries.append(entry)
    return entries
