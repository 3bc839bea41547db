"""A bundle as a table: what was made of what, how equal it is, what it cost, and what to type next."""

from __future__ import annotations

from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from edgebench.report import trade_off_table
from edgebench.report.calibration import MEANINGLESS
from edgebench.report.units import MISSING, megabytes, percent
from edgebench.types import RANDOM, Artifact, Bundle

__all__ = ["render"]


def render(bundle: Bundle, path: Path, reused: frozenset[str]) -> RenderableType:
    """The table of `bundle` at `path`; `reused` names the artifacts that came out of the cache."""
    table = Table(box=SIMPLE_HEAD)
    for heading in ("artifact", "from", "MB", "max error", "rel. error", "SQNR dB", "top-1 agrees", "made in"):
        table.add_column(heading, justify="left" if heading in ("artifact", "from") else "right", overflow="fold")
    for artifact in bundle.artifacts:
        table.add_row(*_row(artifact, artifact.name in reused))
    lines: list[RenderableType] = [Text(f"{bundle.name}: {_source(bundle)}", style="bold"), table, _facts(bundle)]
    lines.extend(_note(artifact) for artifact in bundle.artifacts if artifact.reason or artifact.notes)
    lines.extend(
        trade_off_table.render(artifact.name, artifact.trade_off)
        for artifact in bundle.artifacts
        if artifact.trade_off is not None
    )
    if any(artifact.status == "ok" for artifact in bundle.artifacts):
        lines.append(Text(f"next: edgebench bench {path}", style="bold"))
    return Group(*lines)


def _row(artifact: Artifact, reused: bool) -> tuple[RenderableType, ...]:
    style = {"ok": "green", "failed": "red", "skipped": "yellow"}[artifact.status]
    parity = artifact.parity
    cost = MISSING if artifact.seconds is None else f"{artifact.seconds:.1f} s"
    name = Text(artifact.name, style=style)
    if artifact.status != "ok":
        name.append(f" {artifact.status}")
    if parity is None:
        figures = (MISSING,) * 4
    else:
        identical = parity.max_abs_error == 0
        figures = (
            "0" if identical else f"{parity.max_abs_error:.1e}",
            "0" if identical else f"{parity.relative_error:.1e}",
            "identical" if parity.sqnr_db is None else f"{parity.sqnr_db:.1f}",
            percent(parity.top1_agreement),
        )
    made = artifact.parent or ("source" if artifact.file else MISSING)
    return (name, made, megabytes(artifact.bytes), *figures, "reused" if reused else cost)


def _source(bundle: Bundle) -> str:
    source = bundle.source
    known = [source.kind, source.architecture or "architecture of its own"]
    if source.parameters is not None:
        known.append(f"{source.parameters:,} parameters")
    known.append(", ".join(f"{spec.name} {list(spec.shape)}" for spec in bundle.inputs))
    return ", ".join(known)


def _facts(bundle: Bundle) -> Text:
    calibration = bundle.calibration
    parities = [artifact.parity for artifact in bundle.artifacts if artifact.parity is not None]
    counts = sorted({parity.samples for parity in parities})
    over = "/".join(map(str, counts))
    lines = [f"weights: {bundle.source.weights}", *bundle.source.notes]
    lines.append(f"preprocessing: {bundle.preprocess.name if bundle.preprocess else 'none, inputs are taken as ready'}")
    if calibration is None:
        lines.append(f"parity over {over} RANDOM inputs: pass --calib to prove it on real images" if counts else "")
    elif calibration.data == RANDOM:
        int8 = ", ".join(artifact.name for artifact in bundle.artifacts if artifact.calibrated) or "nothing"
        lines.append(
            f"calibration: {calibration.samples} RANDOM inputs, {calibration.method}; parity over {over} of them. "
            f"{int8}: {MEANINGLESS}"
        )
    else:
        lines.append(
            f"calibration: {calibration.samples} images of {calibration.data}, {calibration.method}; "
            f"parity over {over} of them"
        )
    return Text("\n".join(line for line in lines if line), style="dim")


def _note(artifact: Artifact) -> Text:
    text = Text(f"{artifact.name}: ", style="bold")
    if artifact.reason:
        text.append(artifact.reason, style="red" if artifact.status == "failed" else "yellow")
        text.append("; " if artifact.notes else "")
    text.append("; ".join(artifact.notes), style="not bold dim")
    return text
