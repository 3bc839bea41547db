"""A profile, or two side by side, as tables and sentences."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Column, Table
from rich.text import Text

from edgebench.profiling.findings import comparison, doubts, float_in_int8
from edgebench.profiling.profile import Profile, Total, best_depth, module_at, totals, views
from edgebench.report.units import MISSING, milliseconds, percent

__all__ = ["empty_table", "head", "render", "totals_table"]

_MS = 1e6


def render(profiles: Sequence[Profile], by: Sequence[str], top: int, depth: int | None) -> RenderableType:
    """A table for each view of `by`, the `top` slowest operators, and what to make of it; two profiles stand beside
    each other. `depth` cuts the names of modules, which are all shown; None takes what gives an overview."""
    cut = depth or best_depth(profiles)
    parts: list[RenderableType] = [head(profiles)]
    known = any(profile.knows_modules for profile in profiles)
    for view in by if known else [view for view in by if view != "module"]:
        found = [totals(profile, views(cut)[view]) for profile in profiles]
        parts.append(totals_table(view, profiles, found, None if view == "module" else top))
    parts.extend(_slowest(profile, top) for profile in profiles)
    return Group(*parts, *_words(profiles, cut))


def head(profiles: Sequence[Profile]) -> Table:
    """A row for each profile: how long an inference takes, and what on."""
    headings = ["ms", "ms profiled", "in operators", "operators", "int8", "float", "converting"]
    table = empty_table(["artifact"], headings)
    for profile in profiles:
        told = any(operator.work in ("int8", "float") for operator in profile.operators)
        table.add_row(
            Text(profile.name, style="bold"),
            _ms(statistics.median(profile.unprofiled_ns)) if profile.unprofiled_ns else MISSING,
            _ms(statistics.median(profile.whole_ns)),
            percent(profile.accounted, 0),
            str(len(profile.operators)),
            *(percent(_spent(profile, work), 0) if told else MISSING for work in ("int8", "float", "conversion")),
        )
    return table


def _spent(profile: Profile, work: str) -> float:
    return profile.share(lambda operator: operator.work == work)


def totals_table(view: str, profiles: Sequence[Profile], found: Sequence[Sequence[Total]], most: int | None) -> Table:
    """The slowest first, by the profile in which they are slower."""
    several = len(profiles) > 1
    headings = [
        heading
        for profile in profiles
        for heading in ((f"{profile.name} ms", "share", "n") if several else ("p50 ms", "share", "operators"))
    ]
    table = empty_table([view], [*headings, *["ratio"] * several])
    by_name = [{total.name: total for total in side} for side in found]
    slowest: dict[str, float] = {}
    for total in (total for side in found for total in side):
        slowest[total.name] = max(total.p50_ns, slowest.get(total.name, 0))
    names = sorted(slowest, key=lambda name: -slowest[name])
    for name in names[:most]:
        sides = [side.get(name) for side in by_name]
        table.add_row(Text(name), *(cell for side in sides for cell in _cells(side)), *_ratio(sides))
    rest = set(names[most:]) if most is not None else set()
    if rest:
        shares = [sum(total.share for total in side if total.name in rest) for side in found]
        table.add_row(f"{len(rest)} more", *(cell for share in shares for cell in (MISSING, percent(share), MISSING)))
    return table


def _cells(total: Total | None) -> tuple[str, str, str]:
    return (MISSING,) * 3 if total is None else (_ms(total.p50_ns), percent(total.share), str(total.count))


def _ratio(sides: Sequence[Total | None]) -> list[str]:
    """The cell that two sides have more than one."""
    if len(sides) == 1:
        return []
    before, after = sides
    if before is None or after is None or not before.p50_ns:
        return [MISSING]
    return [f"{after.p50_ns / before.p50_ns:.2f}"]


def _slowest(profile: Profile, top: int) -> Table:
    table = empty_table([f"slowest of {profile.name}", "kind", "module", "precision", "kernel"], ["p50 ms", "share"])
    whole = profile.operators_ns or 1
    for operator in sorted(profile.operators, key=lambda item: -item.p50_ns)[:top]:
        table.add_row(
            Text(operator.name),
            operator.kind,
            Text(module_at(operator, 99)),
            operator.precision or MISSING,
            Text(operator.kernel or MISSING),
            _ms(operator.p50_ns),
            percent(operator.p50_ns / whole),
        )
    return table


def _words(profiles: Sequence[Profile], cut: int) -> list[Text]:
    lines = []
    for profile in profiles:
        named = f"{profile.name}: " if len(profiles) > 1 else ""
        lines.append(
            Text(
                f"{named}{profile.runtime} {profile.runtime_version or ''} on {profile.device}, threads: "
                f"{profile.threads}; fed with {profile.fed_with}; {len(profile.whole_ns)} inferences with "
                f"{profile.method}, {len(profile.unprofiled_ns)} without"
            )
        )
        lines.extend(Text(f"{named}{text}", style="yellow") for text in doubts(profile))
    advice = [text for profile in profiles if (text := float_in_int8(profile)) is not None]
    if len(profiles) > 1:
        advice.append(comparison(profiles[0], profiles[1], cut))
    return [*lines, *(Text(text, style="bold") for text in advice)]


def empty_table(labels: Sequence[str], headings: Sequence[str]) -> Table:
    """Columns of words, then columns of figures."""
    columns = [Column(heading, overflow="fold") for heading in labels]
    columns += [Column(heading, justify="right", no_wrap=True) for heading in headings]
    return Table(*columns, box=SIMPLE_HEAD)


def _ms(nanoseconds: float) -> str:
    # Profilers tell microseconds.
    return milliseconds(nanoseconds / _MS) if nanoseconds >= _MS else f"{nanoseconds / _MS:.3f}"
