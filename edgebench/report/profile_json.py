"""Profiles as a JSON document: every operator with its raw times, from which the sums beside it are made."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from edgebench.profiling.findings import doubts, float_in_int8
from edgebench.profiling.profile import Profile, best_depth, totals, views

__all__ = ["document"]

_SCHEMA = 1


def document(profiles: Sequence[Profile], depth: int | None) -> dict[str, Any]:
    """`profiles[]` in the order in which they were given."""
    cut = depth or best_depth(profiles)
    return {"schema": _SCHEMA, "profiles": [_one(profile, cut) for profile in profiles]}


def _one(profile: Profile, depth: int) -> dict[str, Any]:
    return {
        "artifact": {"name": profile.name, "format": profile.format, "precision": profile.precision},
        "device": profile.device,
        "runtime": profile.runtime,
        "runtime_version": profile.runtime_version,
        "threads": profile.threads,
        "inputs": profile.fed_with,
        "method": profile.method,
        "p50_ms": statistics.median(profile.unprofiled_ns) / 1e6 if profile.unprofiled_ns else None,
        "profiled_p50_ms": statistics.median(profile.whole_ns) / 1e6,
        "profiler_ratio": profile.overhead,
        "in_operators": profile.accounted,
        "shares": {
            work: profile.share(lambda operator, work=work: operator.work == work)  # type: ignore[misc]
            for work in ("int8", "float", "conversion", "layout", "other")
        },
        **{
            f"{view}s": [
                {"name": total.name, "operators": total.count, "p50_ms": total.p50_ns / 1e6, "share": total.share}
                for total in totals(profile, key)
            ]
            for view, key in views(depth).items()
        },
        "operators": [
            {
                "name": operator.name,
                "kind": operator.kind,
                "kernel": operator.kernel,
                "precision": operator.precision,
                "work": operator.work,
                "module": operator.module,
                "module_guessed": operator.guessed,
                "ns": list(operator.ns),
                "started_ns": list(operator.started_ns),
            }
            for operator in profile.operators
        ],
        "whole_ns": list(profile.whole_ns),
        "unprofiled_ns": list(profile.unprofiled_ns),
        "findings": [*doubts(profile), *filter(None, [float_in_int8(profile)])],
    }
