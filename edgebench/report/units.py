"""Numbers for people: units, and no more digits than the number's own interval supports."""

from __future__ import annotations

import math

__all__ = ["MISSING", "megabytes", "milliseconds", "percent", "plain", "with_interval"]

MISSING = "—"
# The intervals are taken on logarithms; beyond this share of the value the difference shows.
_WIDE = 0.2


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


def with_interval(value: float, interval: tuple[float, float] | None) -> str:
    """`12.31 ± 0.12`, with two digits of the interval; `12.3 [8.1, 19]` where it is too wide to be symmetric."""
    if interval is None:
        return milliseconds(value)
    low, high = interval
    half = (high - low) / 2
    if half > _WIDE * value:
        return f"{_two_digits(value)} [{_two_digits(low)}, {_two_digits(high)}]"
    digits = min(4, max(0, 1 - math.floor(math.log10(half)))) if half > 0 else 3
    return f"{value:.{digits}f} ± {half:.{digits}f}"


def _two_digits(value: float) -> str:
    """Two significant digits, never in powers of ten."""
    rounded = float(f"{value:.2g}")
    return f"{rounded:.0f}" if rounded >= 10 else f"{rounded:g}"
