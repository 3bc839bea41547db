"""The networks that int8 is tried on are the same in float and not the same to an int8 scale."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

onnx = pytest.importorskip("onnx", reason="needs onnx")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from tests.rescaled import depthwise_network, pattern_images, rescale  # noqa: E402


def outputs(model: Any, images: NDArray[np.float32]) -> NDArray[np.float32]:
    import onnxruntime

    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {"input": image[None]})[0] for image in images])


def test_rescaling_keeps_the_float_function_and_changes_every_convolution() -> None:
    model = depthwise_network()
    images, labels = pattern_images(50, seed=2)
    expected = outputs(model, images)
    assert (expected.argmax(axis=1) == labels).mean() > 0.8

    rescaled = rescale(model, seed=3)

    assert abs(outputs(rescaled, images) - expected).max() <= 1e-4 * abs(expected).max()
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for tensor in rescaled.graph.initializer:
        if tensor.name.endswith("weight"):
            spread = np.log10(numpy_helper.to_array(tensor) / weights[tensor.name])
            assert spread.std() > 0.5


def test_rescaling_leaves_what_is_not_homogeneous_alone() -> None:
    rng = np.random.default_rng(0)
    weight = numpy_helper.from_array(rng.standard_normal((3, 3, 1, 1)).astype(np.float32), "weight")
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["input", "weight"], ["convolved"]),
            helper.make_node("Sigmoid", ["convolved"], ["output"]),
        ],
        "graph",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, 4, 4])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, 3, 4, 4])],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)

    assert rescale(model, seed=0) == model
