"""The timing loop: the first inference, warm-up until it gets no faster, then each warm inference by itself.

The clock is `perf_counter_ns`: monotonic, so a wall clock that is set meanwhile changes nothing.
"""

from __future__ import annotations

import statistics
import time
from array import array
from typing import Any, Callable, Dict, List, Sequence, Tuple

from .wire import WarmUp

# Warm-up looks at this many runs at a time, and is over once a window's median is no longer this much below the
# best one before it.
_WINDOW = 5
_STILL_FASTER = 0.98
# A turn begins with untimed runs, one at least: another process had the caches meanwhile. A model of 20 microseconds
# was 10 % slower in its first runs, one of 2 milliseconds in none.
_LEAD_IN_S = 0.002
# Short runs are timed for so long at a time, up to this many.
_LEAST_TURN_S = 0.005
_MOST_SHORT_RUNS = 200


class Loop:
    """Calls `run` with the feeds in turn."""

    def __init__(self, run: Callable[[Any], Any], feeds: Sequence[Any]) -> None:
        self._run = run
        self._feeds = feeds
        self._next = 0

    def first(self) -> int:
        """Nanoseconds of the first inference."""
        return self.timed(1, 0.0)[0]

    def warm_up(self, least: int, limit_s: float, longest_s: float) -> WarmUp:
        """Run until a window of runs is no faster than the best one before it, for `limit_s` at most; and `least` runs
        (0 for no warm-up at all), for `longest_s` at most. Unsteady is what was seen to get faster to the end."""
        begun = time.perf_counter_ns()
        best, runs, steady = float("inf"), 0, True
        while least > 0:
            samples = self.timed(_WINDOW, limit_s)
            runs += len(samples)
            median = statistics.median(samples)
            steady = median >= _STILL_FASTER * best or best == float("inf")
            settled = steady and runs >= 2 * _WINDOW
            spent_s = (time.perf_counter_ns() - begun) / 1e9
            if (runs >= least and (settled or spent_s > limit_s)) or spent_s > longest_s:
                break
            best = min(best, median)
        return WarmUp(runs, steady)

    def lead_in(self, limit_s: float) -> int:
        """The untimed runs that begin a turn; their number."""
        return len(self.timed(1, limit_s, least_s=_LEAD_IN_S))

    def turn(self, runs: int, limit_s: float) -> Tuple[int, ...]:
        """Nanoseconds of `runs` runs, of more where they are short, of fewer (one at least) beyond `limit_s`."""
        return self.timed(runs, limit_s, least_s=_LEAST_TURN_S)

    def window(self, seconds: float) -> Dict[str, int]:
        """Run for `seconds` without a pause: their real length, the number of runs, and their p50 and p90 in ns."""
        started = time.perf_counter_ns()
        samples = array("q")
        while time.perf_counter_ns() - started < seconds * 1e9:
            samples.extend(self.timed(_WINDOW, seconds))
        ordered = sorted(samples)
        return {
            "wall_ns": time.perf_counter_ns() - started,
            "runs": len(ordered),
            "p50_ns": ordered[len(ordered) // 2],
            "p90_ns": ordered[len(ordered) * 9 // 10],
        }

    def timed(self, runs: int, limit_s: float, *, least_s: float = 0.0) -> Tuple[int, ...]:
        """Nanoseconds of each run, until there are `runs` and they took `least_s`, or until they took `limit_s`."""
        clock, run, feeds = time.perf_counter_ns, self._run, self._feeds
        samples: List[int] = []
        begun = clock()
        enough, deadline = begun + int(least_s * 1e9), begun + int(limit_s * 1e9)
        for index in range(self._next, self._next + max(runs, _MOST_SHORT_RUNS)):
            feed = feeds[index % len(feeds)]
            started = clock()
            run(feed)
            ended = clock()
            samples.append(ended - started)
            if ended > deadline or (ended >= enough and len(samples) >= runs):
                break
        self._next += len(samples)
        return tuple(samples)
