"""The timing loop: first inference, warm-up, then each warm inference by itself on a monotonic clock."""

from __future__ import annotations

import gc
import time
from typing import Any, Callable, List, Sequence, Tuple


def measure(
    run: Callable[[Any], Any],
    feeds: Sequence[Any],
    *,
    warmup: int,
    iterations: int,
    min_iterations: int,
    max_time_s: float,
) -> Tuple[int, Tuple[int, ...]]:
    """Nanoseconds of the first inference, and of each of up to `iterations` warm ones.

    The feeds are used in turn. Warm-up and measurement each stop early after `max_time_s`, the measurement not before
    `min_iterations`. The garbage collector rests meanwhile, as a pause of it is the harness's and not the runtime's.
    """
    clock = time.perf_counter_ns
    limit_ns = int(max_time_s * 1e9)
    count = len(feeds)
    started = clock()
    run(feeds[0])
    first_ns = clock() - started
    warmed = clock() + limit_ns
    for index in range(warmup):
        run(feeds[index % count])
        if clock() > warmed:
            break
    samples: List[int] = []
    gc.collect()
    gc.disable()
    try:
        deadline = clock() + limit_ns
        while len(samples) < iterations:
            feed = feeds[len(samples) % count]
            started = clock()
            run(feed)
            ended = clock()
            samples.append(ended - started)
            if ended > deadline and len(samples) >= min_iterations:
                break
    finally:
        gc.enable()
    return first_ns, tuple(samples)
