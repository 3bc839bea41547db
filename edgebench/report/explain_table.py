"""An explanation as tables and sentences."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from edgebench.explaining import executed
from edgebench.explaining.explanation import Explanation, Finding
from edgebench.explaining.findings import find
from edgebench.explaining.layers import Layer
from edgebench.explaining.values import sqnr_of
from edgebench.profiling.findings import doubts
from edgebench.profiling.profile import Operator, Profile, totals
from edgebench.report.profile_table import empty_table, head, totals_table
from edgebench.report.units import MISSING, milliseconds, percent

__all__ = ["render"]

_MS = 1e6
_BECAUSE = {
    executed.NO_KERNEL: "no int8 kernel",
    executed.ABSORBED: "no int8 kernel of its own",
    executed.WIDE: "16 bits",
    executed.SIGNED: "signed activations",
    executed.FLOAT_INPUT: "what it reads is not quantized",
    executed.FLOAT_OUTPUT: "its result is not quantized",
    executed.SHARED: "its result is wanted in float too",
    executed.BOUNDARY: "inputs and outputs are float",
    executed.REQUANTIZED: "quantized twice in a row",
    executed.UNKNOWN: "not known",
}


def render(explained: Explanation, top: int) -> RenderableType:
    """What it is, what runs of it, the `top` layers by time and by noise, and what to do."""
    profiles = [explained.profile, *([explained.parent_profile] if explained.parent_profile is not None else [])]
    parts: list[RenderableType] = [_facts(explained), head(profiles)]
    if explained.unfused:
        parts.append(_conversions(explained))
    if explained.layers:
        parts.append(_by_time(explained.layers, top))
        if explained.inputs:
            parts.append(_by_noise(explained.layers, top))
    else:
        # The float model first: a ratio below 1 is a gain.
        ordered = profiles[::-1]
        parts.append(totals_table("kind", ordered, [totals(profile, _kind) for profile in ordered], top))
    return Group(*parts, *_method(explained, profiles), *_findings(find(explained)))


def _kind(operator: Operator) -> str:
    return operator.kind


def _facts(explained: Explanation) -> Table:
    found = Table(box=None, show_header=False, pad_edge=False)
    found.add_column(style="bold", no_wrap=True)
    found.add_column(overflow="fold")
    for label, text in (
        ("file", explained.path),
        ("form", explained.scheme.form),
        ("activations", explained.scheme.activations_in_words),
        ("weights", explained.scheme.weights_in_words),
        ("calibration", explained.calibration or "not known"),
        ("float model", explained.parent or "not known"),
        ("device", f"{explained.profile.device}, {explained.cpu.text}"),
    ):
        found.add_row(Text(label), Text(text))
    return found


def _conversions(explained: Explanation) -> Table:
    found = empty_table(["not joined into int8", "because"], ["n", "ms", "conversions", "ms", "share"])
    whole = explained.profile.operators_ns or 1
    for group in explained.unfused:
        found.add_row(
            group.kind or MISSING,
            _BECAUSE[group.reason],
            str(len(group.names)) if group.names else MISSING,
            _ms(group.ns) if group.names else MISSING,
            str(group.conversions),
            _ms(group.conversion_ns),
            percent((group.ns + group.conversion_ns) / whole),
        )
    return found


def _by_noise(layers: Sequence[Layer], top: int) -> Table:
    """Those that add most noise."""
    found = empty_table(
        ["layers by added noise", "module", "kind"], ["SQNR dB", "lost dB", "weights dB", "clipped", "levels"]
    )
    for layer in sorted(layers, key=lambda item: -item.added_noise)[:top]:
        found.add_row(*_labels(layer), *_values(layer))
    return found


def _by_time(layers: Sequence[Layer], top: int) -> Table:
    """Those that take most time, with their conversions."""
    timed = [layer for layer in layers if layer.ns is not None]
    found = empty_table(["layers by time", "module", "kind"], ["ms", "converting", "in float", "ratio"])
    for layer in sorted(timed, key=lambda item: -_spent(item))[:top]:
        ratio = f"{_spent(layer) / layer.float_ns:.2f}" if layer.float_ns else MISSING
        figures = (_ms(layer.ns), _ms(layer.conversion_ns or None), _ms(layer.float_ns), ratio)
        found.add_row(*_labels(layer), *figures)
    return found


def _spent(layer: Layer) -> float:
    return (layer.ns or 0.0) + layer.conversion_ns


def _labels(layer: Layer) -> tuple[Text, Text, str]:
    return Text(layer.name), Text(MISSING if layer.module is None else layer.module), layer.kind


def _values(layer: Layer) -> list[str]:
    result = layer.result
    return [
        _db(layer.sqnr_db),
        _db(layer.lost_db),
        _db(sqnr_of(layer.weight_noise)),
        MISSING if result is None else percent(result.clipped, 2),
        MISSING if result is None else percent(result.used, 0),
    ]


def _method(explained: Explanation, profiles: Sequence[Profile]) -> list[Text]:
    own = explained.profile
    lines = [
        Text(
            f"{own.runtime} {own.runtime_version or ''} on {own.device}, threads: {own.threads}; fed with "
            f"{own.fed_with}; {len(own.whole_ns)} inferences with {own.method}, {len(own.unprofiled_ns)} without"
        )
    ]
    for profile in profiles:
        # Which module an operator is of is no question here.
        told = [text for text in doubts(profile) if "module" not in text]
        lines.extend(Text(f"{profile.name}: {text}", style="yellow") for text in told)
    if explained.inputs:
        lines.append(
            Text(f"values: {explained.fed_with}, {explained.inputs} of them; SQNR of the answers {_answers(explained)}")
        )
    return lines


def _answers(explained: Explanation) -> str:
    parts = (
        ("by the file's own arithmetic", explained.sqnr_db),
        ("by the device's kernels", explained.device_sqnr_db),
    )
    return ", ".join(f"{_db(value)} dB {how}" for how, value in parts if value is not None) or "not known"


def _findings(findings: Sequence[Finding]) -> list[Text]:
    lines = []
    for number, finding in enumerate(findings, 1):
        lines.append(Text(f"{number}. {finding.text}", style="bold"))
        if finding.remedy is not None:
            lines.append(Text(f"   -> {finding.remedy}"))
    return lines


def _db(value: float | None) -> str:
    if value is None:
        return MISSING
    return "exact" if math.isinf(value) else f"{value:.1f}"


def _ms(nanoseconds: float | None) -> str:
    if nanoseconds is None:
        return MISSING
    # Profilers tell microseconds.
    return milliseconds(nanoseconds / _MS) if nanoseconds >= _MS else f"{nanoseconds / _MS:.3f}"
