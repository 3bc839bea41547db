"""Static quantization of a float ONNX file, from the file to the int8 file that answers most like it.

    prepare ──> survey channels ──> equalise ──> collect statistics ──> for each method: ranges, write, compare

Which ranges are best depends on the network, so with the method "auto" each is tried on the calibration images and the
one with the highest SQNR of the outputs is taken, if it is clearly better than the extremes. That costs a few
inferences and no second calibration.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgebench.agent.environment import switch_telemetry_off
from edgebench.errors import StepError
from edgebench.quantize.equalize import equalize
from edgebench.quantize.placement import Placement, find_places, nodes_called, with_light_sources
from edgebench.quantize.prepare import prepared
from edgebench.quantize.qdq import Scheme, quantized_model
from edgebench.quantize.ranges import ranges
from edgebench.quantize.rewrite import without_scalings
from edgebench.quantize.settings import RANGE_METHODS, Settings
from edgebench.quantize.statistics import Kept, Statistics, collect
from edgebench.quantize.survey import survey

__all__ = ["Quantizer", "answers", "output_sqnr_db"]

Feeds = Callable[[], Iterable[Mapping[str, Any]]]
Answers = Sequence[Sequence[NDArray[Any]]]

# What a channel does is seen in a few images.
_SURVEYED_FEEDS = 32
_COMPARED_FEEDS = 96
# What a method cuts off in these images is what they taught it; others have more of it. On 128 images of CIFAR-10 the
# 99.99th percentile looked 1.0 dB better than the extremes for a trained resnet20, and was 1.5 dB worse on the others.
_CLIPPING_GAIN_DB = 1.0
# What stands for answers without any difference in a mean.
_EQUAL_DB = 200.0
_LARGEST_FILE_BYTES = 2**31 - 2**20


class Quantizer:
    """One float model, made ready; `write` makes int8 files of it.

    Raises:
        StepError: it cannot be quantized, or has nothing that int8 could do.
    """

    def __init__(self, source: Path, scratch: Path, feeds: Feeds, settings: Settings) -> None:
        switch_telemetry_off()
        self.source = source
        self.scratch = scratch
        self._feeds = feeds
        self.settings = settings
        self.graph, rewrites = prepared(source, scratch)
        self.notes = list(rewrites)
        self._kept = nodes_called(self.graph, settings.floats)
        self._wide = nodes_called(self.graph, settings.wide)
        self.placement = find_places(self.graph, kept=self._kept, symmetric=settings.symmetric)
        if not self.placement.int8:
            raise StepError("it has no convolution and no matrix product that can be int8")
        self._means = self._equalized()
        self.statistics: Statistics | None = None
        self._method = settings.method

    @property
    def scheme(self) -> Scheme:
        """The numbers of what is written."""
        settings = self.settings
        return Scheme(
            activations=settings.activations,
            weights=settings.weights,
            per_channel=settings.per_channel,
            weight_bits=settings.weight_bits,
            symmetric=settings.symmetric,
            wide=self._wide,
        )

    @property
    def description(self) -> tuple[str, ...]:
        """Sentences on what kind of int8 it is."""
        settings = self.settings
        granularity = "channel" if settings.per_channel else "tensor"
        bits = "" if settings.weight_bits == 8 else f" of {settings.weight_bits} bits"
        symmetric = "symmetric " if settings.symmetric else ""
        scheme = f"{symmetric}{settings.activations} activations, {settings.weights} weights{bits} per {granularity}"
        scope = "products with weights only (it has attention)"
        said = [f"{scheme}, {scope if self.placement.transformer else 'all operators'}"]
        if settings.floats:
            said.append(f"{', '.join(settings.floats)} in float, with what feeds them")
        if settings.wide:
            said.append(f"16-bit activations for {', '.join(settings.wide)}")
        return tuple(said)

    def calibrate(self, kept: Kept) -> None:
        """Stream the calibration inputs by, unless what they give is `kept`; choose the method."""
        # Where more is left in float, a tensor that shares a scale may get its own.
        names = list(dict.fromkeys([*self.placement.quantized, *self.placement.shared]))
        files = (self.graph.path, self.graph.weights_path)
        self.statistics, reused = kept.find_or_collect(
            files, names, lambda: collect(self.graph.path, names, self._feeds())
        )
        if self._method == "auto":
            self._choose()
        self.notes.append(kept.sentence(self.statistics, self._method, reused=reused))

    def write(
        self,
        out: Path,
        *,
        kept: frozenset[str] = frozenset(),
        wide: frozenset[str] = frozenset(),
        method: str | None = None,
        placement: Placement | None = None,
        correct_bias: bool | None = None,
    ) -> Placement:
        """Write the int8 model with the nodes `kept` in float and `wide` in 16 bits beside those of the settings."""
        import onnx

        assert self.statistics is not None, "calibrate first"
        places = placement or find_places(self.graph, kept=self._kept | kept, symmetric=self.settings.symmetric)
        scheme = replace(self.scheme, wide=with_light_sources(self.graph, self.scheme.wide | wide))
        found = ranges(
            self.statistics,
            method or self._method,
            symmetric=scheme.symmetric,
            percentile=self.settings.percentile,
        )
        corrected = self.settings.correct_bias if correct_bias is None else correct_bias
        model = quantized_model(self.graph, places, found, scheme, self._means if corrected else None)
        # What a branch reads is not seen there.
        if not self.graph.captured:
            without_scalings(model)
        if model.ByteSize() > _LARGEST_FILE_BYTES:
            raise StepError("its int8 form is larger than 2 GB, which one file cannot hold")
        onnx.save(model, out)
        if self.settings.form == "QOperator":
            _to_operators(out)
        return places

    def _equalized(self) -> dict[str, NDArray[np.float32]]:
        """Equalise; the mean of each channel that a product reads."""
        settings, graph = self.settings, self.graph
        wanted = [*self.placement.quantized, *self.placement.shared] if settings.equalize else []
        if settings.correct_bias:
            wanted += [node.input[0] for node in graph.nodes if node.op_type in ("Conv", "Gemm")]
        names = [name for name in dict.fromkeys(wanted) if len(graph.shapes.get(name, ())) in (2, 4)]
        channels = survey(graph, names, islice(self._feeds(), _SURVEYED_FEEDS))
        if settings.equalize and settings.per_channel:
            channels, changed, largest = equalize(graph, self.placement, channels)
            if changed:
                self.notes.append(
                    f"equalised the channels of {changed} groups of tensors, which differed by a factor of up to "
                    f"{largest:.3g}"
                )
        return {name: channel.mean for name, channel in channels.items()}

    def _choose(self) -> None:
        assert self.statistics is not None
        # Others than equalisation was made for, where there are others.
        first = max(0, min(_SURVEYED_FEEDS, self.statistics.inputs - _COMPARED_FEEDS))

        def ask(model: Path) -> list[list[NDArray[Any]]]:
            return answers(model, islice(self._feeds(), first, first + _COMPARED_FEEDS))

        expected = ask(self.source)
        path = self.scratch / "candidate.onnx"
        tried = {}
        for method in RANGE_METHODS:
            self.write(path, method=method)
            tried[method] = _faithfulness_db(expected, ask(path))
        best = max(tried, key=lambda method: tried[method])
        self._method = best if tried[best] >= tried["minmax"] + _CLIPPING_GAIN_DB else "minmax"
        told = ", ".join(f"{method} {sqnr_db:.1f}" for method, sqnr_db in tried.items())
        self.notes.append(f"SQNR in dB over {len(expected)} calibration images: {told}")
        if self.settings.correct_bias:
            self.write(path, correct_bias=False)
            without, with_it = _faithfulness_db(expected, ask(path)), tried[self._method]
            if without > with_it:
                self.settings = replace(self.settings, correct_bias=False)
                self.notes.append(f"biases are not corrected: {without:.1f} dB without, {with_it:.1f} dB with it")


def output_sqnr_db(expected: Answers, found: Answers) -> float:
    """The least SQNR of the float outputs, over all inputs; infinite where they are equal.

    Each has one entry per input: its outputs, in order.
    """
    return min(_ratios_db(expected, found), default=math.inf)


def _ratios_db(expected: Answers, found: Answers) -> list[float]:
    """The SQNR of each float output."""
    ratios = []
    for index, output in enumerate(expected[0]):
        if not np.issubdtype(output.dtype, np.floating):
            continue
        pairs = [(one[index].astype(np.float64), other[index]) for one, other in zip(expected, found, strict=True)]
        noise = sum(float(np.sum((one - other) ** 2)) for one, other in pairs)
        signal = sum(float(np.sum(one**2)) for one, _ in pairs)
        if noise > 0:
            ratios.append(10 * math.log10(signal / noise) if signal > 0 else -math.inf)
        else:
            ratios.append(math.inf)
    return ratios


def _faithfulness_db(expected: Answers, found: Answers) -> float:
    """The mean over the outputs: what is best for the worst of them may ruin the others (a detector's scores for its
    boxes)."""
    ratios = [min(ratio, _EQUAL_DB) for ratio in _ratios_db(expected, found)]
    return sum(ratios) / len(ratios) if ratios else _EQUAL_DB


def answers(path: Path, feeds: Iterable[Mapping[str, Any]]) -> list[list[NDArray[Any]]]:
    """What the model at `path` answers to each of `feeds`: its outputs, in order."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return [session.run(None, dict(feed)) for feed in feeds]


def _to_operators(path: Path) -> None:
    """Put onnxruntime's integer operators in place of Q, DQ and what is between them."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(path)
    onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
