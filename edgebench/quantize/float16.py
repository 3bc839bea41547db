"""float16 weights and activations in an ONNX file, with float32 inputs and outputs, by onnxruntime's converter."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgebench.agent.environment import switch_telemetry_off
from edgebench.errors import StepError
from edgebench.quantize.graph import Graph
from edgebench.quantize.statistics import collect

__all__ = ["write_float16"]

_LARGEST = float(np.finfo(np.float16).max)
# Their constants are bounds and fillings, which mean the same at the end of the range.
_BOUNDED = frozenset({"Clip", "Max", "Min", "Pad", "Where"})


def write_float16(source: Path, out: Path, feeds: Iterable[Mapping[str, Any]]) -> None:
    """Write the float16 model of the float32 `source` to `out`. Operators that take float32 alone keep it.

    `feeds` are inputs to find the largest activations with: a CPU without float16 arithmetic computes in float32, and
    would not show that they overflow elsewhere.

    Raises:
        StepError: a weight, or an activation on one of `feeds`, is beyond float16's range.
    """
    switch_telemetry_off()
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    model = onnx.shape_inference.infer_shapes(onnx.load(source))
    for what, value in (*_large_weights(model), *_large_activations(model, feeds)):
        raise StepError(f"{what} reaches {value:.3g}, and float16 ends at {_LARGEST:.0f}")
    converted = OnnxModel(convert_float_to_float16(model, keep_io_types=True))
    _drop_repeated(converted.model.graph)
    # The converter appends its conversions.
    converted.topological_sort()
    onnx.checker.check_model(converted.model)
    onnx.save(converted.model, out)


def _large_weights(model: Any) -> Iterator[tuple[str, float]]:
    """What float16 cannot hold, and its largest absolute value."""
    from onnx import numpy_helper

    bounds = {name for node in model.graph.node if node.op_type in _BOUNDED for name in node.input}
    for tensor in model.graph.initializer:
        if tensor.data_type == tensor.FLOAT and tensor.name not in bounds:
            largest = float(np.abs(numpy_helper.to_array(tensor)).max(initial=0))
            if largest > _LARGEST:
                yield f"the weight {tensor.name}", largest


def _large_activations(model: Any, feeds: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, float]]:
    import onnx

    with tempfile.TemporaryDirectory(prefix="edgebench-fp16-") as scratch:
        path = Path(scratch) / "model.onnx"
        onnx.save(model, path)
        found = collect(path, list(Graph(path).shapes), feeds, histograms=False)
    for name, item in found.tensors.items():
        if max(-item.low, item.high) > _LARGEST:
            yield f"the activation {name}", max(-item.low, item.high)


def _drop_repeated(graph: Any) -> None:
    """Leave one of the conversions of a tensor: the converter makes one for each operator that reads it."""
    made: set[str] = set()
    kept = []
    for node in graph.node:
        if node.op_type != "Cast" or node.output[0] not in made:
            kept.append(node)
        made.update(node.output)
    del graph.node[:]
    graph.node.extend(kept)
