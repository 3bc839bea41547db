"""A profile as a Chrome trace: JSON that chrome://tracing and ui.perfetto.dev open.

Format: "Trace Event Format" (Google, 2016): complete events ("ph": "X") with `ts` and `dur` in microseconds. Each
artifact is a process; its inferences, its modules and its operators are threads in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from edgebench.profiling.onnx_modules import INSERTED
from edgebench.profiling.profile import NETWORK, Operator, Profile

__all__ = ["document"]

_INFERENCES, _MODULES, _OPERATORS = 1, 2, 3
_THREADS = {_INFERENCES: "inferences", _MODULES: "modules", _OPERATORS: "operators"}
_LAID_OUT = "began where the one before it ended: the runtime does not tell when"


def document(profiles: Sequence[Profile]) -> dict[str, Any]:
    """The trace of all profiled inferences, one behind the other."""
    events = [event for number, profile in enumerate(profiles, start=1) for event in _events(number, profile)]
    return {"traceEvents": events, "displayTimeUnit": "ms"}


def _events(process: int, profile: Profile) -> Iterator[dict[str, Any]]:
    yield _name("process_name", process, 0, f"{profile.name} ({profile.runtime} {profile.runtime_version or ''})")
    for thread, name in _THREADS.items():
        yield _name("thread_name", process, thread, name)
    began = 0
    for number, whole in enumerate(profile.whole_ns):
        yield _complete(f"inference {number}", process, _INFERENCES, began, whole, {})
        spans = _spans(profile.operators, number)
        for operator, start, told in spans:
            details = {"kind": operator.kind, "module": operator.module, "kernel": operator.kernel}
            details |= {"precision": operator.precision, **({} if told else {"start": _LAID_OUT})}
            yield _complete(operator.name, process, _OPERATORS, began + start, operator.ns[number], details)
        placed = [(item.module, at, at + item.ns[number]) for item, at, _ in spans]
        for module, start, end in _modules([span for span in placed if span[0] not in (None, INSERTED)]):
            yield _complete(module, process, _MODULES, began + start, end - start, {})
        began += whole


def _spans(operators: Sequence[Operator], number: int) -> list[tuple[Operator, int, bool]]:
    """Each operator with its start within the inference, and whether the runtime told it."""
    spans, end = [], 0
    for operator in operators:
        told = bool(operator.started_ns)
        start = operator.started_ns[number] if told else end
        spans.append((operator, start, told))
        end = start + operator.ns[number]
    return spans


def _modules(spans: Sequence[tuple[str | None, int, int]]) -> Iterator[tuple[str, int, int]]:
    """From when to when each module's operators ran without those of another between them."""
    open_spans: list[tuple[str, int]] = []
    last_end = 0
    for module, start, end in [*spans, (None, 0, 0)]:
        path = _path(module)
        kept = 0
        while kept < min(len(path), len(open_spans)) and open_spans[kept][0] == path[kept]:
            kept += 1
        for name, began in open_spans[kept:]:
            yield name, began, last_end
        open_spans[kept:] = [(name, start) for name in path[kept:]]
        last_end = end


def _path(module: str | None) -> list[str]:
    """`layer1.0` -> `layer1`, `layer1.0`."""
    if module is None:
        return []
    parts = module.split(".")
    return [".".join(parts[: count + 1]) or NETWORK for count in range(len(parts))]


def _name(kind: str, process: int, thread: int, name: str) -> dict[str, Any]:
    return {"ph": "M", "name": kind, "pid": process, "tid": thread, "args": {"name": name}}


def _complete(
    name: str, process: int, thread: int, start_ns: int, length_ns: int, details: dict[str, Any]
) -> dict[str, Any]:
    return {
        "ph": "X",
        "name": name,
        "cat": _THREADS[thread],
        "pid": process,
        "tid": thread,
        "ts": start_ns / 1000,
        "dur": length_ns / 1000,
        "args": details,
    }
