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

__all__ = ["Channels", "survey"]

_KINDS = ("ReduceMin", "ReduceMax", "ReduceMean")


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
    """The channels of each of `tensors`, which are `[N, C]` or `[N, C, ...]`.

    Raises:
        ValueError: there are no feeds.
    """
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper

    if not tensors:
        return {}
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    del model.graph.output[:]
    names = []
    for number, tensor in enumerate(tensors):
        axes = [axis for axis in range(len(graph.shapes[tensor])) if axis != 1]
        for kind in _KINDS:
            name = f"edgebench.{kind}.{number}"
            # The axes became an input with operator set 18.
            if graph.opset >= 18:
                model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(axes, np.int64), f"{name}.axes"))
                node = helper.make_node(kind, [tensor, f"{name}.axes"], [name], keepdims=0)
            else:
                node = helper.make_node(kind, [tensor], [name], keepdims=0, axes=axes)
            model.graph.node.append(node)
            model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
            names.append(name)
    path = graph.path.with_name("survey.onnx")
    onnx.save(model, path)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    seen: list[Any] = []
    count = 0
    for feed in feeds:
        values = session.run(names, dict(feed))
        each = [
            Channels(low, high, np.maximum(-low, high), mean)
            for low, high, mean in zip(values[0::3], values[1::3], values[2::3], strict=True)
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
