"""What the activations of a network take on over the calibration inputs, gathered while these stream by.

Of every tensor that is looked at two things are kept, whatever the number of inputs: its extremes, which are exact and
computed inside the graph, and a histogram of a sample of its values (about 8,000 of each input, of all its channels),
which is updated in place. The methods that choose a range (`ranges.py`) work on these, so that the inputs are run once
for all of them.
"""

from __future__ import annotations

import contextlib
import io
import math
import secrets
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgebench.errors import StepError
from edgebench.files import file_sha256, write_atomically
from edgebench.quantize.probes import Probe, add_probes

__all__ = ["BINS", "Accumulator", "Kept", "Statistics", "TensorStatistics", "collect"]

# On each side of zero.
BINS = 2048
# The inverse of a lesser one is no float32.
_LEAST_WIDTH = 2.0**-120
_SCHEMA = 1
# onnxruntime's severity.
_ORT_ERROR = 3
# The weight of the newest input in a moving average, as in PyTorch's MovingAverageMinMaxObserver; before 1 / it inputs
# it is their mean, so that the first one does not weigh more than the others.
_NEWEST = 0.01


@dataclass(frozen=True)
class TensorStatistics:
    """What is kept of one tensor.

    `low` and `high` are exact over all inputs, save that the low end of what a Relu or a Clip gives may be its bound;
    `average_low` and `average_high` are moving averages of each input's extremes. `counts` [2 * BINS] counts sampled
    values in bins of `bin_width` around zero, the first one from `-BINS * bin_width` on; it is empty where no histogram
    was asked for.
    """

    low: float
    high: float
    average_low: float
    average_high: float
    bin_width: float
    counts: NDArray[np.int64]


class Accumulator:
    """The statistics of one tensor, updated in place."""

    def __init__(self) -> None:
        self._low, self._high = math.inf, -math.inf
        self._average_low = self._average_high = 0.0
        self._inputs = 0
        self._bin_width = 0.0
        self._counts = np.zeros(0, np.int64)

    def update(self, low: float, high: float, sample: NDArray[np.float32] | None = None) -> None:
        """Take in one input: the extremes of the tensor, and a sample of its values, all of them finite.

        Raises:
            ValueError: one of them is not.
        """
        low, high = float(low), float(high)
        if not (math.isfinite(low) and math.isfinite(high)):
            raise ValueError(f"values from {low} to {high}")
        self._low, self._high = min(self._low, low), max(self._high, high)
        self._inputs += 1
        share = max(_NEWEST, 1 / self._inputs)
        self._average_low += share * (low - self._average_low)
        self._average_high += share * (high - self._average_high)
        if sample is not None:
            if not self._counts.size:
                self._counts = np.zeros(2 * BINS, np.int64)
            self._widen(max(-low, high))
            self._count(sample)

    def _widen(self, magnitude: float) -> None:
        """Have bins up to `magnitude`. Their width is a power of two: two of them merge into one of the next width
        without any value changing its bin, so that the histogram does not depend on the inputs' order."""
        if magnitude <= 0 or magnitude < BINS * self._bin_width:
            return
        # The least one of which BINS reach beyond it.
        width = max(_LEAST_WIDTH, math.ldexp(1.0, math.frexp(magnitude / BINS)[1]))
        # Until now there were zeros alone, which are where they belong.
        self._bin_width = self._bin_width or width
        while self._bin_width < width:
            self._bin_width *= 2
            merged = self._counts.reshape(-1, 2).sum(axis=1)
            self._counts[:] = 0
            self._counts[BINS // 2 : BINS // 2 + BINS] = merged

    def _count(self, sample: NDArray[np.float32]) -> None:
        # Exact, as the width is a power of two.
        places = np.floor(sample.ravel() * np.float32(1 / (self._bin_width or 1)))
        if np.isnan(places).any():
            raise ValueError("values that are no numbers")
        self._counts += np.bincount(places.astype(np.intp) + BINS, minlength=2 * BINS)

    def result(self) -> TensorStatistics:
        """What was gathered.

        Raises:
            ValueError: nothing was.
        """
        if not self._inputs:
            raise ValueError("no values")
        return TensorStatistics(
            self._low, self._high, self._average_low, self._average_high, self._bin_width, self._counts
        )


@dataclass(frozen=True)
class Statistics:
    """The statistics of several tensors over `inputs` calibration inputs.

    `origin` identifies what they were taken on, the model and the inputs.
    """

    tensors: Mapping[str, TensorStatistics]
    inputs: int
    origin: str = ""

    def save(self, path: Path) -> None:
        """Write a compressed `.npz`, whole or not at all."""
        tensors = list(self.tensors.values())
        fields = [(item.low, item.high, item.average_low, item.average_high, item.bin_width) for item in tensors]
        written = io.BytesIO()
        np.savez_compressed(
            written,
            allow_pickle=False,
            schema=np.array(_SCHEMA),
            inputs=np.array(self.inputs),
            origin=np.array(self.origin),
            names=np.array(list(self.tensors), np.str_),
            fields=np.array(fields, np.float64).reshape(-1, 5),
            counts=np.array([item.counts for item in tensors], np.int64).reshape(len(tensors), -1),
        )
        write_atomically(path, written.getvalue())

    @classmethod
    def load(cls, path: Path) -> Statistics:
        """What `save` wrote.

        Raises:
            OSError: the file cannot be read.
            ValueError: it is damaged, holds something else, or is of another schema.
        """
        try:
            # From memory: numpy leaves a damaged file open.
            with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in stored.files}
        except (EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise ValueError(f"{path} is damaged: {error}") from error
        wanted = {"schema", "inputs", "origin", "names", "fields", "counts"}
        if arrays.keys() != wanted or arrays["schema"] != _SCHEMA:
            raise ValueError(f"{path} holds no statistics of schema {_SCHEMA}")
        names, fields, counts = arrays["names"], arrays["fields"], arrays["counts"]
        if fields.shape != (len(names), 5) or counts.shape not in ((len(names), 0), (len(names), 2 * BINS)):
            raise ValueError(f"{path} holds statistics of other shapes")
        tensors = {
            str(name): TensorStatistics(low, high, average_low, average_high, bin_width, bins)
            for name, (low, high, average_low, average_high, bin_width), bins in zip(
                names, fields.tolist(), counts, strict=True
            )
        }
        return cls(tensors, int(arrays["inputs"]), str(arrays["origin"]))


@dataclass(frozen=True)
class Kept:
    """Statistics that are in a file, so that another method is chosen without running an input again.

    `inputs` identifies the calibration inputs, as they are fed.
    """

    path: Path
    inputs: str

    def find_or_collect(
        self, model: Sequence[Path], tensors: Sequence[str], collect: Callable[[], Statistics]
    ) -> tuple[Statistics, bool]:
        """The statistics of `tensors` of the model that those files are, and whether they were there; else they are
        collected and kept.

        Raises:
            StepError: a tensor takes on values that are not finite.
        """
        origin = " ".join((self.inputs, *(file_sha256(path) for path in model if path.exists())))
        # What cannot be read is collected anew.
        with contextlib.suppress(OSError, ValueError):
            statistics = Statistics.load(self.path)
            if statistics.origin == origin and statistics.tensors.keys() >= set(tensors):
                return statistics, True
        try:
            statistics = replace(collect(), origin=origin)
        except ValueError as error:
            raise StepError(
                str(error), hint="the images are finite, so the network overflows on them: is --preprocess its own?"
            ) from error
        statistics.save(self.path)
        return statistics, False

    def is_current(self) -> bool:
        """Whether the file holds statistics over these inputs."""
        try:
            return Statistics.load(self.path).origin.startswith(self.inputs)
        except (OSError, ValueError):
            return False

    def sentence(self, statistics: Statistics, method: str, *, reused: bool) -> str:
        """What was done, for people."""
        if reused:
            return f"ranges by {method}, from the statistics in {self.path.name}, which were not collected again"
        return f"ranges by {method} over {statistics.inputs} inputs; their statistics are in {self.path.name}"


def collect(
    model: Path, tensors: Sequence[str], feeds: Iterable[Mapping[str, NDArray[Any]]], *, histograms: bool = True
) -> Statistics:
    """The statistics of `tensors` of the ONNX file `model`, whose shapes must be inferred, over all `feeds`.

    A graph that also computes them is written beside `model` for as long as the session takes to load, because it finds
    the weights that lie there as external data.

    Raises:
        ValueError: there are no feeds, or a tensor took a value that is not finite.
    """
    import onnx
    import onnxruntime

    # Without the weights, so that they are in memory once: in the session.
    augmented = onnx.load(model, load_external_data=False)
    floats = onnx.TensorProto.FLOAT
    results = [output.name for output in augmented.graph.output if output.type.tensor_type.elem_type == floats]
    probes = add_probes(augmented.graph, tensors, histograms=histograms)
    path = model.with_name(f".{model.name}.{secrets.token_hex(4)}.onnx")
    try:
        onnx.save(augmented, path)
        del augmented
        options = onnxruntime.SessionOptions()
        # Its usual order and its plan look at all tensors in the end, and keep them in memory until then.
        options.enable_mem_pattern = False
        options.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED
        # That a node which it made superfluous goes.
        options.log_severity_level = _ORT_ERROR
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    finally:
        path.unlink(missing_ok=True)
    outputs = list(dict.fromkeys((*results, *(name for probe in probes for name in probe.outputs))))
    accumulators = [Accumulator() for _ in probes]
    inputs = 0
    for feed in feeds:
        values = dict(zip(outputs, session.run(outputs, dict(feed)), strict=True))
        # Where onnxruntime looks for a maximum it passes over what is no number; to the results that spreads.
        if broken := [name for name in results if np.isnan(values[name]).any()]:
            raise ValueError(f"the calibration inputs give the output {broken[0]} values that are no numbers")
        _take_in(values, probes, accumulators)
        del values
        inputs += 1
    if not inputs:
        raise ValueError("there are no calibration inputs")
    return Statistics({probe.tensor: item.result() for probe, item in zip(probes, accumulators, strict=True)}, inputs)


def _take_in(
    values: Mapping[str, NDArray[np.float32]], probes: Sequence[Probe], accumulators: Sequence[Accumulator]
) -> None:
    """Update the accumulators with what one run gave."""
    for probe, accumulator in zip(probes, accumulators, strict=True):
        low = 0.0 if probe.low is None else values[probe.low].min()
        sample = None if probe.sample is None else values[probe.sample]
        try:
            accumulator.update(low, values[probe.high].max(), sample)
        except ValueError as error:
            raise ValueError(f"the calibration inputs give the tensor {probe.tensor} {error}") from error
