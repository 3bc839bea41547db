"""What each channel of a tensor does over some inputs: its least, greatest and mean value.

Equalisation and bias correction need this, and a few dozen inputs show it; ranges for the scales come from all inputs
(`statistics`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgebench.quantize.graph import Graph
from edgebench.quantize.probes import bounded_by_zero

__all__ = ["Channels", "survey"]


@dataclass(frozen=True)
class Channels:
    """`[C]` each, of a tensor's channels (axis 1): extremes over all inputs, the mean over inputs of the largest
    magnitude in each (`typical`, which a single odd input hardly moves), and the mean of the values."""

    low: NDArray[np.float32]
    high: NDArray[np.float32]
    typical: NDArray[np.float32]
    mean: NDArray[np.float32]

    @property
    def peak(self) -> NDArray[np.float32]:
        """`[C]`: the largest magnitude."""
        return np.maximum(-self.low, self.high)

    def divided(self, by: NDArray[np.float32]) -> Channels:
        """Those of the tensor whose channels are divided by `by` `[C]`, all above zero."""
        return Channels(self.low / by, self.high / by, self.typical / by, self.mean / by)

    def joined(self, other: Channels) -> Channels:
        """Those over both, with `typical` and `mean` added up."""
        return Channels(
            np.minimum(self.low, other.low),
            np.maximum(self.high, other.high),
            self.typical + other.typical,
            self.mean + other.mean,
        )


def survey(graph: Graph, tensors: Sequence[str], feeds: Iterable[Mapping[str, Any]]) -> dict[str, Channels]:
    """The channels of each of `tensors`, which are `[N, C]` or `[N, C, H, W]`.

    Raises:
        ValueError: there are no feeds.
    """
    import onnx
    import onnxruntime

    if not tensors:
        return {}
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    looks = _add_looks(model.graph, graph, tensors)
    path = graph.path.with_name("survey.onnx")
    onnx.save(model, path)
    options = onnxruntime.SessionOptions()
    # As in `statistics`: its usual order and plan keep every tensor until the end.
    options.enable_mem_pattern = False
    options.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = list(dict.fromkeys(name for look in looks for name in look if name is not None))
    seen: list[Channels] = []
    count = 0
    for feed in feeds:
        values = dict(zip(names, session.run(names, dict(feed)), strict=True))
        each = [
            _channels(None if low is None else values[low], values[high], values[mean]) for low, high, mean in looks
        ]
        seen = [one.joined(other) for one, other in zip(seen, each, strict=True)] if count else each
        count += 1
    if not count:
        raise ValueError("there are no calibration images")
    share = np.float32(1 / count)
    return {
        tensor: Channels(sums.low, sums.high, sums.typical * share, sums.mean * share)
        for tensor, sums in zip(tensors, seen, strict=True)
    }


def _add_looks(proto: Any, graph: Graph, tensors: Sequence[str]) -> list[tuple[str | None, str, str]]:
    """Make outputs of `proto` what tells the low end (None where it is zero), the high end and the mean of the channels
    of each of `tensors`; their names."""
    from onnx import TensorProto, helper, numpy_helper

    bounded = bounded_by_zero(graph.proto)
    axes = "edgebench.axes"
    proto.initializer.append(numpy_helper.from_array(np.array([2, 3], np.int64), axes))
    added: list[Any] = []
    looks: list[tuple[str | None, str, str]] = []
    for number, tensor in enumerate(tensors):
        low, high, mean = (f"edgebench.{kind}.{number}" for kind in ("low", "high", "mean"))
        if len(graph.shapes[tensor]) == 2:
            added.append(helper.make_node("Identity", [tensor], [high]))
            looks.append((high, high, high))
            continue
        # These read the blocked layout of onnxruntime's convolutions as it is.
        added.append(helper.make_node("GlobalMaxPool", [tensor], [high]))
        added.append(helper.make_node("GlobalAveragePool", [tensor], [mean]))
        if tensor in bounded:
            looks.append((None, high, mean))
            continue
        # The axes became an input with operator set 18.
        inputs, attributes = ([tensor, axes], {}) if graph.opset >= 18 else ([tensor], {"axes": [2, 3]})
        added.append(helper.make_node("ReduceMin", inputs, [low], **attributes))
        looks.append((low, high, mean))
    # onnxruntime starts with the last leaf of the graph and what that needs.
    proto.node.extend(reversed(added))
    del proto.output[:]
    proto.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for node in added for name in node.output
    )
    return looks


def _channels(low: NDArray[Any] | None, high: NDArray[Any], mean: NDArray[Any]) -> Channels:
    """Those of one input, from `[N, C, ...]` each."""
    others = tuple(axis for axis in range(high.ndim) if axis != 1)
    most = high.max(axis=others)
    least = np.zeros_like(most) if low is None else low.min(axis=others)
    return Channels(least, most, np.maximum(-least, most), mean.mean(axis=others))
