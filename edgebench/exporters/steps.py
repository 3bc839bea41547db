"""What an export step is: what it starts from, what it needs, what its options are, and the function that runs it."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from edgebench.errors import MissingExtra
from edgebench.quantize.statistics import Kept
from edgebench.trade_off import Score, TradeOff
from edgebench.types import TensorSpec

__all__ = ["Feed", "Parent", "Step", "StepInput", "StepResult", "tool_versions"]

Feed = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Parent:
    """What a step starts from: the source's module, or an artifact's file. `format` is "source" for a module."""

    format: str
    module: Any | None = None
    path: Path | None = None


@dataclass(frozen=True)
class StepInput:
    """What a step may use beside its parent.

    `example` is one feed of real inputs where there are any. `calibration` gives the calibration feeds, prepared anew
    at each call so that memory does not grow with their number; it is None without a calibration set. `kept` is where
    the statistics of the parent over them are, or go. `score` tells what a file is worth beside its parent (the first
    one) on held-out images, where there is a budget of accuracy.
    """

    inputs: tuple[TensorSpec, ...]
    example: Feed
    calibration: Callable[[], Iterable[Feed]] | None
    options: Mapping[str, Any]
    kept: Kept
    score: Callable[[Path, Path], Score] | None = None


@dataclass(frozen=True)
class StepResult:
    """What a step reports beside its file: the opset it really wrote, sentences for people, and the peak memory of a
    process that did it in place of this one. `reason`: why the file is not what was asked for; `trade_off`: what was
    tried for a budget."""

    notes: tuple[str, ...] = ()
    opset: int | None = None
    peak_rss_bytes: int | None = None
    reason: str | None = None
    trade_off: TradeOff | None = None


@dataclass(frozen=True)
class Step:
    """An export format. `parents` are the formats it can start from, the preferred one first.

    `modules` are imported by `run` and come with `extra`; `tools` are the distributions whose version can change the
    file, and `other_tools` gives the versions of those in another environment. `options` gives what decides the result,
    from the chain's settings; it is part of the cache's key. One that is not `usual` is made only when it is asked for.
    A `lossy` step is judged by whether it still answers the same, not by how little it differs; a `calibrated` one
    needs images.
    """

    format: str
    precision: str
    suffix: str
    parents: tuple[str, ...]
    modules: tuple[str, ...]
    tools: tuple[str, ...]
    options: Callable[[Mapping[str, Any]], dict[str, Any]]
    run: Callable[[Parent, StepInput, Path], StepResult]
    extra: str = "torch"
    lossy: bool = False
    calibrated: bool = False
    usual: Callable[[], bool] = lambda: True
    other_tools: Callable[[], dict[str, str]] = dict

    def versions(self) -> dict[str, str]:
        """The versions of all its tools; one that is not installed is left out."""
        return {**tool_versions(self.tools), **self.other_tools()}

    def require_modules(self) -> None:
        """Raises MissingExtra where one of `modules`, or of the tools elsewhere, is not installed; imports nothing."""
        for module in self.modules:
            if importlib.util.find_spec(module) is None:
                raise MissingExtra(module, self.extra)
        self.other_tools()


def tool_versions(distributions: Iterable[str]) -> dict[str, str]:
    """The installed versions of `distributions`; one that is not installed is left out."""
    found = {}
    for name in distributions:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
