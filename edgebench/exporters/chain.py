"""The export chain: each format from its parent, proved equal to it, kept in the cache; one failure stops no other.

source ──> torchscript
   └─────> onnx ──> onnx-sim ──> onnx-int8
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from edgebench._version import __version__
from edgebench.agent.probes import memory
from edgebench.cache import ArtifactCache, key_of
from edgebench.errors import EdgebenchError, EnvironmentFailure, MissingExtra, StepError, UsageError
from edgebench.exporters import onnx, onnx_import, onnx_int8, onnx_sim, torchscript
from edgebench.exporters.parity import Outputs, compare, judge, open_runner, remarks
from edgebench.exporters.steps import Feed, Parent, Step, StepInput, tool_versions
from edgebench.files import file_sha256, link_or_copy
from edgebench.progress import Progress
from edgebench.types import Artifact, TensorSpec

__all__ = ["FORMATS", "ChainRequest", "Tolerance", "run_chain"]

_STEPS = (torchscript.STEP, onnx.STEP, onnx_import.STEP, onnx_sim.STEP, onnx_int8.STEP)
FORMATS = tuple(dict.fromkeys(step.format for step in _STEPS))

# Float steps differ by rounding alone, which a few images show; agreement of classes is a share and wants more of them.
_FLOAT_PARITY_FEEDS = 8
INT8_PARITY_FEEDS = 48


@dataclass(frozen=True)
class Tolerance:
    """What a float step may differ from its parent: `atol + rtol * (the parent's largest absolute output)`."""

    atol: float = 1e-5
    rtol: float = 1e-3


@dataclass(frozen=True)
class ChainRequest:
    """What the chain works on.

    `source_key` identifies the source for the cache; `load_module` gives its module when a step or a parity first needs
    it (never for an ONNX source, which is at `source_path`). `parity_feeds` gives up to INT8_PARITY_FEEDS inputs, real
    ones (`inputs_kind` "calibration") where there are any; `calibration` the calibration inputs, or None.
    """

    name: str
    source_format: Literal["source", "onnx-source"]
    source_precision: str
    source_key: str
    source_path: Path | None
    load_module: Callable[[], Any]
    inputs: tuple[TensorSpec, ...]
    parity_feeds: Callable[[], Sequence[Feed]]
    inputs_kind: Literal["calibration", "random"]
    calibration: Callable[[], Iterable[Feed]] | None
    calibration_key: str
    settings: Mapping[str, Any]
    formats: tuple[str, ...] | None
    tolerance: Tolerance


def run_chain(
    request: ChainRequest,
    directory: Path,
    cache: ArtifactCache,
    progress: Progress,
    on_artifact: Callable[[Artifact, bool], None],
) -> None:
    """Make every wanted artifact in `directory`; `on_artifact(artifact, reused)` is called after each.

    Raises:
        UsageError: an unknown format.
        EnvironmentFailure: the disk is full or not writable; what was made before stands.
    """
    chain = _Chain(request, directory, cache)
    for step in _plan(request.formats, request.source_format):
        progress.start(step.format)
        artifact, reused = chain.make(step)
        on_artifact(artifact, reused)
        progress.done(_summary(artifact, reused))


def _plan(formats: tuple[str, ...] | None, source_format: str) -> list[Step]:
    reachable: list[Step] = []
    for step in _STEPS:
        if any(parent == source_format or parent in {other.format for other in reachable} for parent in step.parents):
            reachable.append(step)
    if formats is None:
        return reachable
    by_format = {step.format: step for step in reachable}
    for name in formats:
        if name not in FORMATS:
            raise UsageError(f"unknown format `{name}`", hint=f"there are: {', '.join(FORMATS)}")
        if name not in by_format:
            raise UsageError(f"an ONNX source cannot become `{name}`", hint=f"it can: {', '.join(by_format)}")
    wanted = set(formats)
    for step in reversed(reachable):
        if step.format in wanted and not wanted.intersection(step.parents) and source_format not in step.parents:
            wanted.add(step.parents[0])
    return [step for step in reachable if step.format in wanted]


class _Chain:
    """What was made so far: the artifacts by format, and their outputs on the parity inputs."""

    def __init__(self, request: ChainRequest, directory: Path, cache: ArtifactCache) -> None:
        self._request = request
        self._directory = directory
        self._cache = cache
        self._made: dict[str, Artifact] = {}
        self._outputs: dict[str, list[Outputs]] = {}

    def make(self, step: Step) -> tuple[Artifact, bool]:
        """The artifact of `step`, and whether it came out of the cache."""
        request = self._request
        precision = request.source_precision if step.precision == "fp32" else step.precision
        blank = Artifact(
            name=step.format,
            format=step.format,
            precision=precision,
            file=None,
            sha256=None,
            bytes=None,
            parent=None,
            step=step.format if step is not onnx_import.STEP else "import",
            status="skipped",
        )
        reason = self._reason_to_skip(step)
        parent = self._parent_of(step)
        if reason is None and parent is None:
            named = next(name for name in step.parents if name in self._made)
            reason = f"its parent {named} {self._made[named].status}"
        if reason is not None or parent is None:
            artifact, reused = replace(blank, reason=reason), False
        else:
            wanted = replace(
                blank,
                status="ok",
                parent=None if parent.format == request.source_format else parent.format,
                options=step.options(request.settings),
                tool_versions=tool_versions(step.tools),
            )
            artifact, reused = self._find_or_make(step, parent, wanted)
        self._made[step.format] = artifact
        return artifact, reused

    def _reason_to_skip(self, step: Step) -> str | None:
        if step.calibrated and self._request.source_precision == "int8":
            return "the source is quantized already"
        if step.calibrated and self._request.calibration is None:
            return "int8 needs real images: pass --calib (for example --calib imagefolder:photos/)"
        try:
            step.require_modules()
        except MissingExtra as error:
            return f"{error}: {error.hint}"
        return None

    def _parent_of(self, step: Step) -> Parent | None:
        request = self._request
        if request.source_format in step.parents:
            return Parent(request.source_format, path=request.source_path)
        for name in step.parents:
            artifact = self._made.get(name)
            if artifact is not None and artifact.status == "ok" and artifact.file is not None:
                return Parent(name, path=self._directory / artifact.file)
        return None

    def _find_or_make(self, step: Step, parent: Parent, wanted: Artifact) -> tuple[Artifact, bool]:
        request = self._request
        key = key_of(
            parent=request.source_key if wanted.parent is None else self._made[wanted.parent].sha256,
            edgebench=__version__,
            step=wanted.step,
            options=wanted.options,
            tools=wanted.tool_versions,
            calibration=request.calibration_key,
            inputs=request.inputs,
            tolerance=request.tolerance,
        )
        file = f"{request.name}{step.suffix}"
        target = self._directory / file
        found = self._cache.find(key)
        if found is not None:
            artifact, cached = found
            link_or_copy(cached, target)
            return replace(artifact, file=file), True
        artifact = self._run(step, parent, replace(wanted, file=file), target)
        if artifact.status == "ok":
            self._cache.add(key, artifact, target)
        return artifact, False

    def _run(self, step: Step, parent: Parent, wanted: Artifact, target: Path) -> Artifact:
        request = self._request
        partial = target.with_name(f".{target.name}.partial")
        try:
            if parent.format == "source":
                parent = replace(parent, module=request.load_module())
            feeds = request.parity_feeds()
            given = StepInput(request.inputs, feeds[0], request.calibration, wanted.options)
            probe = memory.start()
            probe.mark_loaded()
            started = time.perf_counter()
            result = step.run(parent, given, partial)
            seconds = time.perf_counter() - started
            used = probe.stop()
            partial.replace(target)
            artifact = replace(
                wanted,
                sha256=file_sha256(target),
                bytes=target.stat().st_size,
                opset=result.opset,
                seconds=round(seconds, 3),
                peak_rss_bytes=None if used is None else used.peak_bytes,
                notes=result.notes,
            )
            return self._with_parity(artifact, parent, target)
        except StepError as error:
            return _failed(wanted, str(error))
        except EdgebenchError:
            raise
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
                raise EnvironmentFailure(
                    f"{target} cannot be written: {error.strerror}",
                    hint="free some space or choose another directory with -o; what was exported before is kept",
                ) from error
            return _failed(wanted, _headline(error))
        except Exception as error:  # noqa: BLE001 - whatever an exporter raises is this artifact's reason
            return _failed(wanted, _headline(error))
        finally:
            partial.unlink(missing_ok=True)

    def _with_parity(self, artifact: Artifact, parent: Parent, target: Path) -> Artifact:
        request = self._request
        if parent.format == "onnx-source":
            return artifact
        count = INT8_PARITY_FEEDS if artifact.precision == "int8" else _FLOAT_PARITY_FEEDS
        expected = self._outputs_of(parent, count)
        found = self._outputs_of(Parent(artifact.format, path=target), count)
        parity = compare(expected, found, inputs=request.inputs_kind)
        reason = judge(
            parity, precision=artifact.precision or "fp32", atol=request.tolerance.atol, rtol=request.tolerance.rtol
        )
        if reason is None:
            return replace(artifact, parity=parity, notes=(*artifact.notes, *remarks(parity)))
        return replace(
            artifact,
            parity=parity,
            status="failed",
            reason=f"step {artifact.step} broke parity with {artifact.parent or 'the source'}: {reason}",
        )

    def _outputs_of(self, parent: Parent, count: int) -> list[Outputs]:
        feeds = self._request.parity_feeds()[:count]
        known = self._outputs.setdefault(parent.format, [])
        if len(known) < len(feeds):
            run = open_runner(parent.format, module=parent.module, path=parent.path)
            known.extend(run(feed) for feed in feeds[len(known) :])
        return known[: len(feeds)]


def _failed(wanted: Artifact, what: str) -> Artifact:
    return replace(wanted, file=None, status="failed", reason=f"step {wanted.step} failed: {what}")


def _headline(error: Exception) -> str:
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "no message")
    return f"{type(error).__name__}: {first}"


def _summary(artifact: Artifact, reused: bool) -> str:
    if artifact.status != "ok":
        return f"{artifact.status}: {artifact.reason}"
    if reused:
        return "reused from the cache"
    return f"made in {artifact.seconds:.1f} s"
