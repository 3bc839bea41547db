"""What becomes of latency over minutes: a chip that heats up slows down, and the ranking of minute 1 may not last."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from edgebench.agent.wire import Window
from edgebench.types import Run

__all__ = ["Curve", "curve_of", "flipped"]

# Slower than at first by so much, and to the end, is throttling and not noise.
_THROTTLED = 1.1
# The first and the last part of the curve that are compared.
_SHARE = 0.25
# Two artifacts closer than this have no ranking to flip.
_TIE = 1.05


@dataclass(frozen=True)
class Curve:
    """`first_ms` and `last_ms`: median p50 of the first and of the last quarter; `throttled_after_s`: from when on p50
    stayed 10 % or more above the first quarter's, None if it did not. `p50_ms`: of each window."""

    first_ms: float
    last_ms: float
    throttled_after_s: float | None
    p50_ms: tuple[float, ...]


def curve_of(windows: Sequence[Window]) -> Curve | None:
    """The curve of a sustained run; None for fewer than four windows."""
    if len(windows) < 4:
        return None
    part = max(1, int(len(windows) * _SHARE))
    p50 = [window.p50_ns / 1e6 for window in windows]
    first, last = statistics.median(p50[:part]), statistics.median(p50[-part:])
    slow = [value >= _THROTTLED * first for value in p50]
    # The last window that was not slow; what comes after it is.
    kept = max((index for index, is_slow in enumerate(slow) if not is_slow), default=-1)
    after = windows[kept + 1].started_ns / 1e9 if kept + 1 < len(windows) else None
    return Curve(first, last, after, tuple(p50))


def flipped(run: Run) -> list[str]:
    """Sentences on pairs of artifacts of which one was clearly faster at first, and the other at the end."""
    measured = [cell for cell in run.cells if not run.is_emulated(cell)]
    curves = [(cell, found) for cell in measured if (found := curve_of(cell.sustained)) is not None]
    sentences = []
    for index, (one, before) in enumerate(curves):
        for other, after in curves[index + 1 :]:
            same = (one.device, one.threads, one.batch_size, one.scenario)
            if same != (other.device, other.threads, other.batch_size, other.scenario):
                continue
            at_first, at_last = after.first_ms / before.first_ms, after.last_ms / before.last_ms
            fast, slow = (one, other) if at_first > 1 else (other, one)
            if (
                max(at_first, 1 / at_first) > _TIE
                and max(at_last, 1 / at_last) > _TIE
                and (at_first > 1) != (at_last > 1)
            ):
                sentences.append(
                    f"the ranking flips: {fast.artifact.name} is faster at first, {slow.artifact.name} in the long run"
                )
    return sentences
