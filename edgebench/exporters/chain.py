"""The export chain: each format from its parent, proved equal to it, kept in the cache; one failure stops no other.

source ──> torchscript
   ├─────> torch-export ──> executorch, executorch-int8
   ├─────> onnx ──> onnx-sim ──> onnx-int8 ──> ort-int8
   │                   ├─────> onnx-fp16, onnx-w8, onnx-dynamic, ort
   │                   └─────> ncnn, where the source is ONNX
   ├─────> ncnn
   └─────> tflite ──> tflite-int8, tflite-int8-io, tflite-dynamic, tflite-fp16

The costs (MACs, activations) of an ONNX or TFLite file are counted on it. What else is made of the network computes the
same, and has the network's own.
"""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from edgebench._version import __version__
from edgebench.agent.probes import memory
from edgebench.cache import ArtifactCache, key_of
from edgebench.costs import files as file_costs
from edgebench.costs import torch as torch_costs
from edgebench.errors import EdgebenchError, EnvironmentFailure, MissingExtra, StepError, UsageError, first_line
from edgebench.exporters import (
    executorch,
    ncnn,
    onnx,
    onnx_import,
    onnx_int8,
    onnx_lower,
    onnx_sim,
    ort,
    tflite,
    tflite_quantized,
    torch_export,
    torchscript,
)
from edgebench.exporters.parity import Outputs, compare, judge, open_runner, remarks
from edgebench.exporters.steps import Feed, Parent, Step, StepInput, tool_versions
from edgebench.files import copy_whole, file_sha256
from edgebench.progress import Progress
from edgebench.quantize.statistics import Kept
from edgebench.trade_off import Score
from edgebench.types import Artifact, Costs, TensorSpec, Tolerance

__all__ = ["FORMATS", "INT8_PARITY_FEEDS", "ChainRequest", "plan_steps", "run_chain"]

_STEPS = (
    torchscript.STEP,
    torch_export.STEP,
    onnx.STEP,
    onnx_import.STEP,
    onnx_sim.STEP,
    onnx_int8.STEP,
    onnx_lower.FP16,
    onnx_lower.W8,
    onnx_lower.DYNAMIC,
    ort.STEP,
    ort.INT8_STEP,
    tflite.STEP,
    tflite_quantized.FP16,
    tflite_quantized.DYNAMIC,
    tflite_quantized.INT8,
    tflite_quantized.INT8_IO,
    ncnn.STEP,
    executorch.STEP,
    executorch.INT8_STEP,
)
FORMATS = tuple(dict.fromkeys(step.format for step in _STEPS))

_HALVES = ("fp16", "bf16")
_STORAGE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO)
# Raised when a step or its parity would come out otherwise for the same key.
_CHAIN_VERSION = 3
# Float steps differ by rounding alone, which a few images show; agreement of classes is a share and wants more of them.
_FLOAT_PARITY_FEEDS = 8
INT8_PARITY_FEEDS = 48


@dataclass(frozen=True)
class ChainRequest:
    """What the chain works on.

    `source_key` identifies the source for the cache; `load_module` gives its module when a step or a parity first needs
    it (never for an ONNX source, which is at `source_path`). `parity_feeds` gives up to INT8_PARITY_FEEDS inputs, real
    ones (`inputs_kind` "calibration", of `images` different images) where there are any; `calibration` the calibration
    inputs, or None. `score` is that of `StepInput`.
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
    images: int | None
    calibration: Callable[[], Iterable[Feed]] | None
    calibration_key: str
    settings: Mapping[str, Any]
    formats: tuple[str, ...] | None
    tolerance: Tolerance
    score: Callable[[Path, Path], Score] | None = None


def run_chain(
    request: ChainRequest,
    directory: Path,
    cache: ArtifactCache,
    progress: Progress,
    on_artifact: Callable[[Artifact, bool], None],
) -> None:
    """Make every wanted artifact in `directory`; `on_artifact(artifact, reused)` is called after each.

    Raises:
        EnvironmentFailure: the disk is full or not writable; what was made before stands.
    """
    chain = _Chain(request, directory, cache)
    for step in plan_steps(request.formats, request.source_format):
        progress.start(step.format)
        artifact, reused = chain.make(step)
        on_artifact(artifact, reused)
        progress.done(_summary(artifact, reused))


def plan_steps(formats: Sequence[str] | None, source_format: str) -> list[Step]:
    """The steps to the wanted formats (None: the usual ones), with those that lie on the way, parents first.

    Raises:
        UsageError: an unknown format, or one that the source cannot become; or the environment of a tool is none.
    """
    reachable: list[Step] = []
    for step in _STEPS:
        if any(parent == source_format or parent in {other.format for other in reachable} for parent in step.parents):
            reachable.append(step)
    if formats is None:
        return _with_tools([step for step in reachable if step.usual()])
    by_format = {step.format: step for step in reachable}
    for name in formats:
        if name not in FORMATS:
            raise UsageError(f"unknown format `{name}`", hint=f"there are: {', '.join(FORMATS)}")
        if name not in by_format:
            raise UsageError(f"an ONNX source cannot become `{name}`", hint=f"it can: {', '.join(by_format)}")
    wanted = set(formats)
    for step in reversed(reachable):
        if step.format in wanted and not wanted.intersection(step.parents) and source_format not in step.parents:
            wanted.add(next(parent for parent in step.parents if parent in by_format))
    return _with_tools([step for step in reachable if step.format in wanted])


def _with_tools(steps: list[Step]) -> list[Step]:
    """The steps, of which none is to fail halfway because the environment of its tools is not what was said."""
    for step in steps:
        with suppress(MissingExtra):
            step.other_tools()
    return steps


class _Chain:
    """What was made so far: the artifacts by format, and their outputs on the parity inputs."""

    def __init__(self, request: ChainRequest, directory: Path, cache: ArtifactCache) -> None:
        self._request = request
        self._directory = directory
        self._cache = cache
        self._made: dict[str, Artifact] = {}
        self._outputs: dict[str, list[Outputs]] = {}
        self._source_costs: Costs | None = None

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
                calibrated=step.calibrated,
                parent=None if parent.format == request.source_format else parent.format,
                options=step.options(request.settings),
                tool_versions=step.versions(),
            )
            artifact, reused = self._find_or_make(step, parent, wanted)
            kept = self._kept(parent)
            # Also of one that failed: another method may do better on them.
            artifact = replace(artifact, statistics=kept.path.name if step.calibrated and kept.is_current() else None)
        self._made[step.format] = artifact
        return artifact, reused

    def _reason_to_skip(self, step: Step) -> str | None:
        if step.lossy and self._request.source_precision == "int8":
            return (
                "the source is quantized already, and twice would only lose more: give the float32 model that it was "
                "made of; what this one is: edgebench explain"
            )
        if step.lossy and self._request.source_precision in _HALVES:
            return f"the source is {self._request.source_precision}: give the float32 model that it was made of"
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
            chain=_CHAIN_VERSION,
            # What runs and prepares the inputs that parity is measured on.
            parity_tools=tool_versions(("torch", "onnxruntime", "ai-edge-litert", "numpy", "pillow")),
            calibration=request.calibration_key,
            inputs=request.inputs,
            tolerance=request.tolerance,
        )
        file = f"{request.name}{step.suffix}"
        target = self._directory / file
        found = self._cache.find(key)
        if found is not None:
            artifact, cached = found
            copy_whole(cached, target)
            return replace(artifact, file=file), True
        artifact = self._run(step, parent, replace(wanted, file=file), target)
        if artifact.status == "ok":
            self._cache.add(key, artifact, target)
        return artifact, False

    def _run(self, step: Step, parent: Parent, wanted: Artifact, target: Path) -> Artifact:
        request = self._request
        partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
        try:
            if parent.format == "source":
                parent = replace(parent, module=request.load_module())
            feeds = request.parity_feeds()
            given = StepInput(
                request.inputs, feeds[0], request.calibration, wanted.options, self._kept(parent), request.score
            )
            # A network's own prints must not end up in our data.
            with redirect_stdout(sys.stderr):
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
                    peak_rss_bytes=result.peak_rss_bytes or (None if used is None else used.peak_bytes),
                    notes=result.notes,
                    trade_off=result.trade_off,
                )
                artifact = replace(artifact, costs=self._costs_of(parent, feeds[0], target))
                artifact = self._with_parity(artifact, step, parent, target)
                if result.reason is not None:
                    return replace(artifact, status="failed", reason=result.reason)
                return artifact
        except StepError as error:
            return _failed(wanted, target, f"{error}: {error.hint}" if error.hint else str(error))
        except EdgebenchError:
            raise
        except OSError as error:
            # Others are the exporter's own: torch raises one where it looks for source code and finds none.
            if error.errno not in _STORAGE_ERRORS:
                return _failed(wanted, target, f"{type(error).__name__}: {first_line(error)}")
            raise EnvironmentFailure(
                f"{target} cannot be written: {error.strerror or error}",
                hint="free some space or choose another directory with -o; what was exported before is kept",
            ) from error
        except Exception as error:  # noqa: BLE001 - whatever an exporter raises is this artifact's reason
            return _failed(wanted, target, f"{type(error).__name__}: {first_line(error)}")
        finally:
            partial.unlink(missing_ok=True)

    def _kept(self, parent: Parent) -> Kept:
        path = self._directory / f"{self._request.name}.{parent.format}.statistics.npz"
        return Kept(path, self._request.calibration_key)

    def _costs_of(self, parent: Parent, feed: Feed, target: Path) -> Costs | None:
        """What an inference of the file that was just made takes; None where it cannot be counted."""
        # A count is no reason to have no artifact.
        with suppress(Exception):
            if (counted := file_costs.count(target, self._request.inputs)) is not None:
                return counted.totals
            if parent.format != "source":
                return self._made[parent.format].costs
            if self._source_costs is None and parent.module is not None:
                self._source_costs = torch_costs.count(parent.module, list(feed.values())).totals
            return self._source_costs
        return None

    def _with_parity(self, artifact: Artifact, step: Step, parent: Parent, target: Path) -> Artifact:
        request = self._request
        count = INT8_PARITY_FEEDS if step.lossy else _FLOAT_PARITY_FEEDS
        expected = self._outputs_of(parent, count)
        comparison = compare(expected, self._outputs_of(Parent(artifact.format, path=target), count))
        batch = request.inputs[0].shape[0] if request.inputs[0].shape else 1
        samples = min(len(expected) * batch, request.images or len(expected) * batch)
        artifact = replace(artifact, parity=comparison.parity(inputs=request.inputs_kind, samples=samples))
        reason = judge(comparison, lossy=step.lossy, tolerance=request.tolerance)
        if reason is None:
            return replace(artifact, notes=(*artifact.notes, *remarks(comparison)))
        parent_name = artifact.parent or "the source"
        return replace(
            artifact, status="failed", reason=f"step {artifact.step} broke parity with {parent_name}: {reason}"
        )

    def _outputs_of(self, parent: Parent, count: int) -> list[Outputs]:
        feeds = self._request.parity_feeds()[:count]
        known = self._outputs.setdefault(parent.format, [])
        if len(known) < len(feeds):
            run = open_runner(parent.format, module=parent.module, path=parent.path)
            known.extend(run(feed) for feed in feeds[len(known) :])
        return known[: len(feeds)]


def _failed(wanted: Artifact, target: Path, what: str) -> Artifact:
    target.unlink(missing_ok=True)
    return replace(wanted, file=None, status="failed", reason=f"step {wanted.step} failed: {what}")


def _summary(artifact: Artifact, reused: bool) -> str:
    if artifact.status != "ok":
        return f"{artifact.status}: {artifact.reason}"
    if reused:
        return "reused from the cache"
    return f"made in {artifact.seconds:.1f} s"
