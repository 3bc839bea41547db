"""The network that the benchmarks measure: equal convolutions one after the other, so that its work is in its length.

Eighteen of them do 18/17 of the work of seventeen. With one thread of a server's CPU 6 of them on a map of 64 x 64 take
about 4 ms, 17 on one of 20 x 20 somewhat more than 1 ms.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgebench.agent.wire import WIRE_VERSION, Job, TensorSpec
from edgebench.measure.jobs import JobRunner

CHANNELS = 32


def input_spec(side: int) -> TensorSpec:
    """The network's input: `[1, 32, side, side]`."""
    return TensorSpec("input", (1, CHANNELS, side, side), "float32")


def write_network(path: Path, *, layers: int, side: int) -> Path:
    """Write `layers` 3 x 3 convolutions of 32 channels, each with its ReLU, on a map of `side` x `side`."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    generator = np.random.default_rng(0)
    # He's initialisation keeps the activations' size through all layers: numbers that fade to subnormal are slow.
    scale = np.sqrt(2 / (9 * CHANNELS))
    nodes, weights, last = [], [], "input"
    for layer in range(layers):
        values = generator.normal(0, scale, (CHANNELS, CHANNELS, 3, 3)).astype(np.float32)
        weights.append(numpy_helper.from_array(values, f"weight{layer}"))
        nodes.append(helper.make_node("Conv", [last, f"weight{layer}"], [f"conv{layer}"], pads=[1, 1, 1, 1]))
        last = f"relu{layer}"
        nodes.append(helper.make_node("Relu", [f"conv{layer}"], [last]))
    shape = input_spec(side).shape
    graph = helper.make_graph(
        nodes,
        "conv_chain",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(last, TensorProto.FLOAT, shape)],
        weights,
    )
    # A version that every onnxruntime of the last years reads.
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)
    return path


def onnx_job(runner: JobRunner, path: Path, *, side: int) -> Job:
    """A job that measures the network at `path` with one thread on random inputs."""
    return Job(
        version=WIRE_VERSION,
        kind="measure",
        artifact=str(path),
        runtime="onnxruntime",
        threads=1,
        feeds=runner.feeds_for((input_spec(side),), []),
    )
