"""Formats against runtimes in one table: what a device runs which artifact by, and which of that is fastest."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Column, Table
from rich.text import Text

from edgebench.figures import figures
from edgebench.report.units import MISSING, with_interval
from edgebench.stats import Interval
from edgebench.types import Cell, Run

__all__ = ["runtime_matrices"]

# Two columns are read as easily in the other tables.
_LEAST_RUNTIMES = 3


def runtime_matrices(run: Run) -> list[Table]:
    """A table of p50 in ms for each device, scenario, batch and number of threads, where there are many runtimes.

    The fastest is marked, with every other one whose 95 % interval overlaps its own: which of them is fastest is then
    not known. Emulated devices have none.
    """
    groups: dict[tuple[str, str, int, int], list[Cell]] = {}
    for cell in run.cells:
        if cell.status != "unsupported" and not run.is_emulated(cell):
            groups.setdefault((cell.device, cell.scenario, cell.batch_size, cell.threads), []).append(cell)
    found = {key: cells for key, cells in groups.items() if len({cell.runtime for cell in cells}) >= _LEAST_RUNTIMES}
    return [_table(run, cells, _title(key, several=len(found) > 1)) for key, cells in found.items()]


def _title(key: tuple[str, str, int, int], *, several: bool) -> str:
    device, scenario, batch, threads = key
    where = f", {device}, {scenario}, batch {batch}, {threads} threads" if several else ""
    return f"p50 ms{where}"


def _table(run: Run, cells: Sequence[Cell], title: str) -> Table:
    runtimes = list(dict.fromkeys(cell.runtime for cell in cells))
    by_place = {(cell.artifact.name, cell.runtime): cell for cell in cells}
    known = {place: p50 for place, cell in by_place.items() if (p50 := _p50(run, cell)) is not None}
    best = min(known, key=lambda place: known[place][0], default=None)
    headings = [Column(Text(name), justify="right", overflow="fold") for name in runtimes]
    # As text: brackets in a name are not markup.
    caption = "←: the fastest, and what its interval does not tell from it"
    table = Table(Column(Text(title), overflow="fold"), *headings, box=SIMPLE_HEAD, caption=caption)
    for artifact in dict.fromkeys(cell.artifact.name for cell in cells):
        row = []
        for runtime in runtimes:
            place = (artifact, runtime)
            if place not in known:
                row.append(Text(by_place[place].status if place in by_place else MISSING, style="dim"))
                continue
            as_fast = best is not None and _overlap(known[place], known[best])
            row.append(Text(with_interval(*known[place]) + " ←" * as_fast, style="bold green" if as_fast else ""))
        table.add_row(Text(artifact), *row)
    return table


def _p50(run: Run, cell: Cell) -> tuple[float, Interval | None] | None:
    latency = figures(run, cell).latency
    return None if latency is None else (latency.p50_ms, latency.p50_ci_ms)


def _overlap(one: tuple[float, Interval | None], other: tuple[float, Interval | None]) -> bool:
    low, high = one[1] or (one[0], one[0])
    return low <= (other[1] or (other[0], other[0]))[1] and high >= (other[1] or (other[0], other[0]))[0]
