"""Numbers for people: units, and no more digits than the number's own interval supports."""

from __future__ import annotations

import math

__all__ = ["MISSING", "digits_for", "megabytes", "milliseconds", "percent", "plain"]

MISSING = "—"


def plain(value: float | None, digits: int) -> str:
    """Fixed digits, or the sign for "not measured"."""
    return MISSING if value is None else f"{value:.{digits}f}"


def megabytes(count: int | None) -> str:
    """Bytes as MB (10^6), three digits where it is small."""
    if count is None:
        return MISSING
    value = count / 1e6
    return f"{value:.3f}" if abs(value) < 0.1 else f"{value:.1f}"


def percent(share: float | None, digits: int = 1) -> str:
    """A share of 0..1 as a percentage."""
    return MISSING if share is None else f"{100 * share:.{digits}f} %"


def milliseconds(value: float | None) -> str:
    """Three significant digits."""
    if value is None:
        return MISSING
    return f"{value:.{max(0, 2 - math.floor(math.log10(value)))}f}" if value > 0 else "0"


def digits_for(half_width: float) -> int:
    """Digits after the point with which an interval of that half-width still shows two of its own."""
    if half_width <= 0:
        return 3
    return min(4, max(0, 1 - math.floor(math.log10(half_width))))
