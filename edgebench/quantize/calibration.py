"""The range of every activation over the calibration inputs, taken while they stream by.

The model itself computes minimum and maximum of each tensor that may get a scale; two numbers per tensor are all that
is kept, so memory does not grow with the number of inputs. Unlike in onnxruntime's own calibrator the augmented model
is optimised: the tensors that are looked at feed its outputs, so they survive.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

__all__ = ["activations_of", "minmax_ranges"]

_FLOAT = 1  # onnx.TensorProto.FLOAT


def activations_of(model: Any, operators: frozenset[str]) -> tuple[str, ...]:
    """The float tensors at inputs and outputs of those `operators`, weights left out. Shapes must be inferred."""
    graph = model.graph
    weights = {tensor.name for tensor in graph.initializer}
    floats = {
        value.name
        for value in (*graph.input, *graph.value_info, *graph.output)
        if value.type.tensor_type.elem_type == _FLOAT and value.name not in weights
    }
    seen = (name for node in graph.node if node.op_type in operators for name in (*node.input, *node.output))
    return tuple(dict.fromkeys(name for name in seen if name in floats))


def minmax_ranges(
    model: Any, tensors: Sequence[str], feeds: Iterable[Mapping[str, Any]]
) -> dict[str, tuple[np.float32, np.float32]]:
    """Least and greatest value of each of `tensors` over all `feeds`.

    Raises:
        ValueError: there are no feeds, or a tensor took a value that is not finite.
    """
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper

    augmented = onnx.ModelProto()
    augmented.CopyFrom(model)
    names = [f"edgebench.{kind}.{index}" for index in range(len(tensors)) for kind in ("ReduceMin", "ReduceMax")]
    for name, tensor in zip(names, (tensor for tensor in tensors for _ in range(2)), strict=True):
        augmented.graph.node.append(helper.make_node(name.split(".")[1], [tensor], [name], keepdims=0))
        augmented.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, []))
    session = onnxruntime.InferenceSession(augmented.SerializeToString(), providers=["CPUExecutionProvider"])
    low = np.full(len(tensors), np.inf, np.float32)
    high = np.full(len(tensors), -np.inf, np.float32)
    for feed in feeds:
        values = np.asarray(session.run(names, dict(feed)), np.float32)
        low, high = np.minimum(low, values[0::2]), np.maximum(high, values[1::2])
    for tensor, least, greatest in zip(tensors, low, high, strict=True):
        if not (np.isfinite(least) and np.isfinite(greatest)):
            raise ValueError(f"the calibration images give {tensor} the range {least}..{greatest}")
    return dict(zip(tensors, zip(low, high, strict=True), strict=True))
