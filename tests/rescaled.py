"""Networks whose float function stays while per-tensor int8 collapses, and a small depthwise one made without torch.

Channels of a network that is positively homogeneous (ReLU, pooling, sums) can be scaled where they are made and scaled
back where they are read. Training and folded batch norms leave real depthwise networks so (Nagel et al., "Data-free
quantization through weight equalization and bias correction", 2019, figure 2); random factors do it on purpose.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

__all__ = ["depthwise_network", "pattern_images", "rescale"]

CLASSES, SIDE = 4, 16
_HOMOGENEOUS = frozenset(
    {"Add", "AveragePool", "Flatten", "GlobalAveragePool", "LeakyRelu", "MaxPool", "ReduceMean", "Relu", "Reshape"}
)
# Broadcasting and reshaping may lay channels anew.
_CHANNELS_MAY_MOVE = frozenset({"Add", "Flatten", "ReduceMean", "Reshape"})
_NOISE = 0.9
_RIDGE = 0.1


def rescale(model: onnx.ModelProto, seed: int, *, decades: float = 1.5) -> onnx.ModelProto:
    """The same float function with each channel of each inner tensor scaled by its own 10^U(-decades, decades).

    Channels stay tied where an operator ties them: both operands and the result of a residual sum have one set of
    factors. Inputs and outputs of the model, and of operators that are not homogeneous (Clip, Sigmoid), keep theirs.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    factors = _Factors(onnx.shape_inference.infer_shapes(result).graph, np.random.default_rng(seed), decades)
    weights = {tensor.name: tensor for tensor in result.graph.initializer}
    for node in result.graph.node:
        arrays = [numpy_helper.to_array(weights[name]) if name in weights else None for name in node.input]
        for name, array in zip(node.input, _scaled(node, arrays, factors), strict=True):
            if array is not None:
                weights[name].CopyFrom(numpy_helper.from_array(array.astype(np.float32), name))
    return result


def depthwise_network(seed: int = 0, blocks: int = 3) -> onnx.ModelProto:
    """A classifier of `pattern_images`, `[1, 3, 16, 16]` to `[1, 4]`: inverted residuals with ReLU.

    Its convolutions are random, with the scale and bias that batch norms would have left; its last layer is fitted by
    ridge regression. More than nine of ten new images are right.
    """
    model = _features(seed, blocks)
    graph = model.graph
    x, labels = pattern_images(400, seed=1)
    weights = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Conv":
            values = _values(model, node.output[0], x[:64])
            deviation = values.std(axis=(0, 2, 3))
            for name, shift in ((node.input[1], 0.0), (node.input[2], values.mean(axis=(0, 2, 3)))):
                array = numpy_helper.to_array(weights[name])
                scaled = (array - shift) / deviation.reshape(-1, *[1] * (array.ndim - 1))
                weights[name].CopyFrom(numpy_helper.from_array(scaled.astype(np.float32), name))
    pooled = _values(model, "pooled", x).reshape(len(x), -1)
    design = np.hstack([pooled, np.ones((len(pooled), 1))])
    solved = np.linalg.solve(design.T @ design + _RIDGE * np.eye(design.shape[1]), design.T @ np.eye(CLASSES)[labels])
    _add(graph, "head.weight", solved[:-1])
    _add(graph, "head.bias", solved[-1])
    graph.node.append(helper.make_node("Flatten", ["pooled"], ["flat"], name="flatten"))
    graph.node.append(helper.make_node("Gemm", ["flat", "head.weight", "head.bias"], ["output"], name="head"))
    graph.output[0].CopyFrom(helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, CLASSES]))
    onnx.checker.check_model(model, full_check=True)
    return model


def _values(model: onnx.ModelProto, tensor: str, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """What one tensor of the model becomes for each of the images."""
    import onnxruntime

    looked_at = onnx.ModelProto()
    looked_at.CopyFrom(model)
    looked_at.graph.output[0].CopyFrom(helper.make_tensor_value_info(tensor, TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(looked_at.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {"input": image[None]})[0] for image in images])


def pattern_images(count: int, *, seed: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Stripes in four directions, of random colour, width and place under noise: `[N, 3, 16, 16]` and their class."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, CLASSES, count)
    rows, columns = np.mgrid[0:SIDE, 0:SIDE]
    along = np.stack([rows, columns, rows + columns, rows - columns])[labels]
    period, phase = generator.uniform(4, 7, (2, count, 1, 1))
    stripes = np.sin(2 * np.pi * along / period + phase)[:, None] * generator.uniform(0.5, 1, (count, 3, 1, 1))
    return (stripes + _NOISE * generator.standard_normal(stripes.shape)).astype(np.float32), labels


class _Factors:
    """One vector of factors for each set of tensors whose channels are tied; ones where nothing may change."""

    def __init__(self, graph: onnx.GraphProto, generator: np.random.Generator, decades: float) -> None:
        self._generator = generator
        self._decades = decades
        self._weights = {tensor.name for tensor in graph.initializer}
        self._channels = {value.name: _channels(value) for value in (*graph.input, *graph.value_info, *graph.output)}
        self._parent: dict[str, str] = {}
        self._readers = Counter(name for node in graph.node for name in node.input)
        # The empty name is what all tensors that keep their scale are tied to.
        for value in (*graph.input, *graph.output):
            self._tie(value.name, "")
        for node in graph.node:
            self._read(node)
        self._drawn: dict[str, NDArray[np.float64]] = {}

    def of(self, tensor: str, channels: int) -> NDArray[np.float64]:
        """The factors of the channels of `tensor`."""
        root = self._root(tensor)
        if root == self._root(""):
            return np.ones(channels)
        if root not in self._drawn:
            self._drawn[root] = 10 ** self._generator.uniform(-self._decades, self._decades, channels)
        return self._drawn[root]

    def _read(self, node: onnx.NodeProto) -> None:
        tensors = [name for name in (*node.input, *node.output) if name and name not in self._weights]
        given = [name for name in node.input if name in self._weights]
        owned = all(self._readers[name] == 1 for name in given)
        if node.op_type in _SCALED and owned and len(given) >= _SCALED[node.op_type]:
            return
        added = node.op_type == "Add" and bool(given)
        moved = node.op_type in _CHANNELS_MAY_MOVE and not self._alike(tensors)
        if node.op_type not in _HOMOGENEOUS or added or moved:
            tensors.append("")
        for tensor in tensors[1:]:
            self._tie(tensors[0], tensor)

    def _alike(self, tensors: list[str]) -> bool:
        """Whether all have the same known number of channels."""
        channels = {self._channels.get(name) for name in tensors}
        return len(channels) == 1 and None not in channels

    def _tie(self, one: str, other: str) -> None:
        self._parent[self._root(one)] = self._root(other)

    def _root(self, tensor: str) -> str:
        while tensor in self._parent and self._parent[tensor] != tensor:
            tensor = self._parent[tensor]
        return tensor


# How many of its inputs must be weights for an operator to take other factors in than it gives out.
_SCALED = {"Conv": 1, "Gemm": 1, "BatchNormalization": 4}


def _scaled(node: onnx.NodeProto, arrays: list[Any], factors: _Factors) -> list[Any]:
    """The weights of `node` for its input's and its output's factors; None for what is no weight."""
    weights = [array for array in arrays if array is not None]
    if node.op_type not in _SCALED or len(weights) < _SCALED[node.op_type]:
        return [None] * len(arrays)
    if node.op_type == "BatchNormalization":
        _, scale, bias, mean, variance = arrays
        taken, given = factors.of(node.input[0], len(scale)), factors.of(node.output[0], len(scale))
        return [None, scale * given / taken, bias * given, mean * taken, variance]
    attributes = {item.name: helper.get_attribute_value(item) for item in node.attribute}
    weight, bias = arrays[1], arrays[2] if len(arrays) > 2 else None
    flipped = node.op_type == "Gemm" and not attributes.get("transB", 0)
    matrix = _matrix(weight.T if flipped else weight, attributes.get("group", 1), factors, node)
    scaled = [None, matrix.T if flipped else matrix]
    if len(arrays) > 2:
        scaled.append(None if bias is None else bias * factors.of(node.output[0], len(matrix)))
    return scaled


def _matrix(weight: NDArray[Any], group: int, factors: _Factors, node: onnx.NodeProto) -> NDArray[Any]:
    """`[outputs, inputs of a group, ...]` with outputs multiplied and inputs divided."""
    outputs, inputs = weight.shape[:2]
    given = factors.of(node.output[0], outputs)
    taken = factors.of(node.input[0], inputs * group).reshape(group, inputs)
    by_output = given[:, None] / np.repeat(taken, outputs // group, axis=0)
    scaled: NDArray[Any] = weight * by_output.reshape(outputs, inputs, *([1] * (weight.ndim - 2)))
    return scaled


def _channels(value: onnx.ValueInfoProto) -> int | None:
    dims = value.type.tensor_type.shape.dim
    return dims[1].dim_value if len(dims) > 1 and dims[1].dim_value else None


def _features(seed: int, blocks: int) -> onnx.ModelProto:
    """Everything before the last layer: `input` to `pooled`, `[1, 64, 1, 1]`."""
    generator = np.random.default_rng(seed)
    graph = helper.make_graph(
        [],
        "depthwise",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("pooled", TensorProto.FLOAT, [1, 64, 1, 1])],
    )

    def convolve(source: str, name: str, shape: tuple[int, ...], relu: bool, **attributes: Any) -> str:
        spread = np.sqrt(2 / np.prod(shape[1:]))
        _add(graph, f"{name}.weight", spread * generator.standard_normal(shape))
        _add(graph, f"{name}.bias", 0.1 * generator.standard_normal(shape[0]))
        inputs = [source, f"{name}.weight", f"{name}.bias"]
        side = shape[-1]
        attributes |= {"kernel_shape": [side, side], "pads": [side // 2] * 4}
        graph.node.append(helper.make_node("Conv", inputs, [f"{name}.conv"], name=name, **attributes))
        if not relu:
            return f"{name}.conv"
        graph.node.append(helper.make_node("Relu", [f"{name}.conv"], [f"{name}.out"], name=f"{name}.relu"))
        return f"{name}.out"

    stream = convolve("input", "stem", (16, 3, 3, 3), True)
    for index in range(blocks):
        wide = convolve(stream, f"block{index}.expand", (32, 16, 1, 1), True)
        wide = convolve(wide, f"block{index}.depthwise", (32, 1, 3, 3), True, group=32)
        narrow = convolve(wide, f"block{index}.project", (16, 32, 1, 1), False)
        graph.node.append(helper.make_node("Add", [stream, narrow], [f"block{index}.sum"], name=f"block{index}.add"))
        stream = f"block{index}.sum"
    last = convolve(stream, "last", (64, 16, 1, 1), True)
    graph.node.append(helper.make_node("GlobalAveragePool", [last], ["pooled"], name="pool"))
    # IR 8 and opset 17: what every onnxruntime that is supported reads.
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _add(graph: onnx.GraphProto, name: str, array: NDArray[Any]) -> None:
    graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(array, np.float32), name))
