"""The operators of calls into PyTorch, by `torch.profiler`.

PyTorch's operators call each other: `aten::conv2d` ends in `aten::mkldnn_convolution`. The outermost one is the
operator, and its time that of all within; the one that spent most of it is named as its kernel.
"""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from typing import Any, Callable, ContextManager, Iterator, List, Optional, Sequence, Tuple

from ..operator_times import OperatorTime, OperatorTimes
from . import take_turns

# What surrounds the operators of a module: written by whoever puts it around a module's call.
MODULE = "edgebench module "
_INFERENCE = "edgebench inference"


def profile_calls(
    call: Callable[[Any], Any],
    feeds: Sequence[Any],
    runs: int,
    marks: Callable[[], ContextManager[None]] = nullcontext,
) -> OperatorTimes:
    """The operators of `call(feed)`. Within `marks()` modules leave events called MODULE and their name."""
    import torch

    def marked(feed: Any) -> Any:
        with torch.profiler.record_function(_INFERENCE):
            return call(feed)

    profiler = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU])

    @contextmanager
    def profiling() -> Iterator[None]:
        with marks(), profiler:
            yield

    unprofiled_ns, whole_ns = take_turns(call, marked, feeds, runs, profiling())
    return OperatorTimes(
        method="torch.profiler",
        operators=tuple(operators_of(profiler.events(), runs)),
        whole_ns=tuple(whole_ns),
        unprofiled_ns=tuple(unprofiled_ns),
    )


def operators_of(events: Sequence[Any], runs: int) -> List[OperatorTime]:
    """The operators of the last `runs` inferences in the profiler's events.

    Raises:
        ValueError: the inferences executed different operators.
    """
    calls = sorted((event for event in events if event.name == _INFERENCE), key=lambda item: item.time_range.start)
    inferences = [(call.time_range.start, list(_outermost(call, None))) for call in calls[-runs:]]
    if len({tuple((event.name, module) for event, module in found) for _, found in inferences}) != 1:
        raise ValueError("the profiled inferences executed different operators")
    starts = [start for start, _ in inferences]
    operators = []
    for number, same in enumerate(zip(*(found for _, found in inferences))):
        event, module = same[0]
        times = [one.time_range for one, _ in same]
        operators.append(
            OperatorTime(
                name="%s %d" % (event.name, number),
                operator=event.name,
                ns=tuple(_ns(time.end - time.start) for time in times),
                started_ns=tuple(_ns(time.start - start) for time, start in zip(times, starts)),
                kernel=max(_within(event), key=lambda item: item.self_cpu_time_total).name,
                precision="int8" if event.name.startswith("quantized::") else None,
                module=module,
            )
        )
    return operators


def _ns(microseconds: float) -> int:
    return round(microseconds * 1000)


def _outermost(event: Any, module: Optional[str]) -> Iterator[Tuple[Any, Optional[str]]]:
    for child in sorted(event.cpu_children, key=lambda item: item.time_range.start):
        if child.name.startswith(MODULE):
            yield from _outermost(child, child.name[len(MODULE) :])
        elif "::" in child.name:
            yield child, module
        else:
            # Such as `forward`, which is no operator.
            yield from _outermost(child, module)


def _within(event: Any) -> Iterator[Any]:
    yield event
    for child in event.cpu_children:
        yield from _within(child)
