"""Writing the quantized model: QuantizeLinear and DequantizeLinear around what computes in int8.

The form is QDQ: each int8 node stays the float node that it was, between conversions that a runtime folds into an
integer kernel (ONNX "QuantizeLinear", onnxruntime's quantization guide, "ONNX quantization representation format").
A weight is stored as integers with its scales, a bias as int32 in the scale of what it is added to.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgebench.quantize.graph import Graph, attribute, captured
from edgebench.quantize.placement import MATRIX_PRODUCTS, Placement, key_of
from edgebench.quantize.scales import Scale, activation_scale, bias_integers, least_weight_scale, weight_integers

__all__ = ["Scheme", "quantized_model"]

# 16-bit integers are in the standard operators from here on; of the others only GroupNormalization changed since the
# set before.
_WIDE_OPSET, _WIDE_IR_VERSION = 21, 10
_WIDE = ("uint16", "int16")
_CONTRIBUTED = "com.microsoft"


@dataclass(frozen=True)
class Scheme:
    """The numbers of an int8 model. `activations` and `weights` are dtypes; `weight_bits` are those in use of 8, and
    `symmetric` activations have no zero point. `wide`: nodes (by `key_of`) whose activations have 16 bits."""

    activations: str = "uint8"
    weights: str = "int8"
    per_channel: bool = True
    weight_bits: int = 8
    symmetric: bool = False
    wide: frozenset[str] = frozenset()


def quantized_model(
    graph: Graph,
    placement: Placement,
    ranges: Mapping[str, tuple[np.float32, np.float32]],
    scheme: Scheme,
    means: Mapping[str, NDArray[np.float32]] | None = None,
) -> Any:
    """The `ModelProto` that computes what `graph` does, in int8 where `placement` says so.

    ranges: least and greatest value of each of `placement.quantized`.
    means: the mean `[C]` of each channel of what products read. Where it is known, what the rounding of the weights
        adds to a result on average is taken off its bias (Nagel et al., 2019, section 4.2).
    """
    return _Writer(graph, placement, ranges, scheme, means or {}).model()


def _weight_axis(node: Any, rank: int) -> int | None:
    """Which axis of a product's weights counts its results' channels; None where they have no such axis."""
    if node.op_type == "Conv":
        return 0
    if node.op_type == "Gemm":
        return 0 if attribute(node, "transB", 0) else 1
    return 1 if rank == 2 else None


@dataclass
class _Writer:
    graph: Graph
    placement: Placement
    ranges: Mapping[str, tuple[np.float32, np.float32]]
    scheme: Scheme
    means: Mapping[str, NDArray[np.float32]]
    nodes: list[Any] = field(default_factory=list)
    initializers: dict[str, Any] = field(default_factory=dict)
    scales: dict[tuple[str, str], Scale] = field(default_factory=dict)
    # What a tensor is called in float, where its own name is that of the dequantized one.
    floats: dict[str, str] = field(default_factory=dict)
    pairs: dict[tuple[str, str], str] = field(default_factory=dict)

    def model(self) -> Any:
        import onnx

        for node in self.graph.nodes:
            key = key_of(node)
            if key in self.placement.absorbed:
                continue
            if key in self.placement.int8:
                self._write_int8(node)
            else:
                self._write_float(node)
        model = onnx.ModelProto()
        model.CopyFrom(self.graph.model)
        del model.graph.node[:], model.graph.value_info[:], model.graph.initializer[:]
        model.graph.node.extend(self.nodes)
        read = {name for node in self.nodes for name in (*node.input, *captured(node))}
        for tensor in self.graph.proto.initializer:
            if tensor.name in read:
                values = np.array(self.graph.weight(tensor.name))
                model.graph.initializer.append(onnx.numpy_helper.from_array(values, tensor.name))
        model.graph.initializer.extend(self.initializers.values())
        if any(node.domain == _CONTRIBUTED for node in self.nodes):
            model.opset_import.append(onnx.helper.make_opsetid(_CONTRIBUTED, 1))
        if any(dtype in _WIDE for _, dtype in self.pairs) and self._may_be_newer:
            next(entry for entry in model.opset_import if entry.domain in ("", "ai.onnx")).version = _WIDE_OPSET
            model.ir_version = max(model.ir_version, _WIDE_IR_VERSION)
        return model

    @property
    def _may_be_newer(self) -> bool:
        """Whether the graph means the same in the operator set that has 16-bit integers."""
        return self.graph.opset == _WIDE_OPSET - 1 and "GroupNormalization" not in {
            node.op_type for node in self.graph.nodes
        }

    def _domain(self, dtype: str) -> str:
        """Where the conversions to `dtype` are from."""
        return _CONTRIBUTED if dtype in _WIDE and self.graph.opset < _WIDE_OPSET and not self._may_be_newer else ""

    def _write_float(self, node: Any) -> None:
        copy = _copy(node)
        for place, name in enumerate(node.input):
            copy.input[place] = self._read_by_float(name)
        self.nodes.append(copy)

    def _read_by_float(self, name: str) -> str:
        """What is computed in int8 is read as such; it is that exact only, and its float form need not be there."""
        if self._source_is_int8(name) and self.placement.scale_of(name) is not None:
            return self._dequantized(name, self.scheme.activations)
        return self.floats.get(name, name)

    def _source_is_int8(self, name: str) -> bool:
        name = self.placement.absorbed.get(name, name)
        producer = self.graph.producers.get(name)
        return producer is not None and key_of(producer) in self.placement.int8

    def _write_int8(self, node: Any) -> None:
        copy = _copy(node)
        dtype = "uint16" if key_of(node) in self.scheme.wide else self.scheme.activations
        for place, name in enumerate(node.input):
            if name in self.graph.shapes:
                copy.input[place] = self._dequantized(name, dtype)
        if node.op_type in MATRIX_PRODUCTS:
            self._write_constants(node, copy, dtype)
        else:
            for place, name in enumerate(node.input):
                if self.graph.is_float(name):
                    copy.input[place] = self._constant(name, dtype)
        for place, name in enumerate(node.output):
            result = self._result_of(name)
            if self.placement.scale_of(result) is not None and result in self.graph.outputs:
                # The name belongs to what the caller gets, which is the dequantized one.
                self.floats[result] = f"{result}/float"
            copy.output[place] = self.floats.get(result, result)
        self.nodes.append(copy)
        for name in node.output:
            result = self._result_of(name)
            if result in self.floats:
                self._dequantized(result, self.scheme.activations)

    def _result_of(self, name: str) -> str:
        """The tensor that `name` stands for: after the activation that needs no node."""
        return next((result for result, source in self.placement.absorbed.items() if source == name), name)

    def _scale(self, name: str, dtype: str) -> Scale:
        owner = self.placement.scale_of(name)
        assert owner is not None
        if (owner, dtype) not in self.scales:
            low, high = self.ranges[owner]
            self.scales[owner, dtype] = activation_scale(
                float(low), float(high), dtype, symmetric=self.scheme.symmetric
            )
        return self.scales[owner, dtype]

    def _dequantized(self, name: str, dtype: str) -> str:
        """The name of `name` after quantizing and dequantizing, for which nodes are written when first asked."""
        if (name, dtype) in self.pairs:
            return self.pairs[name, dtype]
        scale = self._scale(name, dtype)
        wide = dtype in _WIDE
        stem = f"{name}/{dtype}" if wide else name
        ends_here = name in self.floats and not wide
        result = name if ends_here else f"{stem}/dequantized"
        constants = self._scale_constants(stem, scale)
        domain = self._domain(dtype)
        self._add("QuantizeLinear", [self.floats.get(name, name), *constants], f"{stem}/quantized", domain)
        self._add("DequantizeLinear", [f"{stem}/quantized", *constants], result, domain)
        self.pairs[name, dtype] = result
        return result

    def _scale_constants(self, stem: str, scale: Scale) -> list[str]:
        return [
            self._initializer(f"{stem}/scale", np.array(scale.scale, np.float32)),
            self._initializer(f"{stem}/zero_point", np.array(scale.zero_point, scale.dtype)),
        ]

    def _constant(self, name: str, dtype: str) -> str:
        """A constant operand of a light node: quantized as activations are, with a range of its own."""
        if (name, dtype) not in self.pairs:
            values = np.asarray(self.graph.weight(name))
            low, high = min(float(values.min(initial=0)), 0.0), max(float(values.max(initial=0)), 0.0)
            scale = activation_scale(low, high, dtype, symmetric=self.scheme.symmetric)
            limits = np.iinfo(dtype)
            integers = np.clip(np.rint(values / scale.scale) + scale.zero_point, limits.min, limits.max).astype(dtype)
            stored = self._initializer(f"{name}/{dtype}", integers)
            constants = self._scale_constants(stored, scale)
            self._add("DequantizeLinear", [stored, *constants], f"{stored}/dequantized", self._domain(dtype))
            self.pairs[name, dtype] = f"{stored}/dequantized"
        return self.pairs[name, dtype]

    def _write_constants(self, node: Any, copy: Any, dtype: str) -> None:
        data, weights, *bias = node.input
        if not self.graph.is_float(weights):
            return
        values = np.asarray(self.graph.weight(weights))
        axis = _weight_axis(node, values.ndim)
        count = values.shape[axis] if axis is not None else 1
        added = None if node.op_type == "MatMul" else self._bias(bias[0] if bias else "", count)
        data_scale = self._scale(data, dtype).scale
        per_channel = self.scheme.per_channel and axis is not None
        least = None
        if added is not None:
            least = least_weight_scale(added, data_scale)
            least = least if per_channel else least.max()
        integers, scales, zero_point = weight_integers(
            values,
            axis if per_channel else None,
            self.scheme.weights,
            bits=self.scheme.weight_bits,
            least_scale=least,
        )
        stem = f"{key_of(node)}/weights"
        constants = [
            self._initializer(f"{stem}/integers", integers),
            self._initializer(f"{stem}/scale", scales),
            self._initializer(f"{stem}/zero_point", np.full(scales.shape, zero_point, self.scheme.weights)),
        ]
        self._add("DequantizeLinear", constants, f"{stem}/dequantized", axis=axis if per_channel else None)
        copy.input[1] = f"{stem}/dequantized"
        shaped = scales if not per_channel else _along(scales, axis, values.ndim)
        correction = self._correction(node, (integers.astype(np.float32) - zero_point) * shaped - values)
        if correction is not None:
            added = correction if added is None else added + correction
        if added is None:
            return
        stem = f"{key_of(node)}/bias"
        product = np.asarray(data_scale * scales, np.float32)
        constants = [
            self._initializer(f"{stem}/integers", bias_integers(added, product)),
            self._initializer(f"{stem}/scale", product),
            self._initializer(f"{stem}/zero_point", np.zeros(product.shape, np.int32)),
        ]
        self._add("DequantizeLinear", constants, f"{stem}/dequantized", axis=0 if per_channel else None)
        del copy.input[2:]
        copy.input.append(f"{stem}/dequantized")

    def _bias(self, name: str, count: int) -> NDArray[np.float32] | None:
        """`[N]`; None where there is none."""
        if not name:
            return None
        # Gemm's may be [1, N], or a single number.
        return np.broadcast_to(np.asarray(self.graph.weight(name)).reshape(-1), (count,)).astype(np.float32)

    def _correction(self, node: Any, error: NDArray[np.float32]) -> NDArray[np.float32] | None:
        """`[N]`: what `error` in the weights takes off the results on average. The zeros around an image are not
        counted."""
        means = self.means.get(node.input[0])
        if means is None or node.op_type == "MatMul":
            return None
        if node.op_type == "Gemm":
            return -(error @ means if attribute(node, "transB", 0) else means @ error)
        groups = int(attribute(node, "group", 1))
        own = np.arange(len(error)) * groups // len(error)
        read = means.reshape(groups, -1)[own]
        missing = (error.reshape(len(error), error.shape[1], -1).sum(axis=2) * read).sum(axis=1)
        return np.asarray(-missing, np.float32)

    def _initializer(self, name: str, values: NDArray[Any]) -> str:
        from onnx import numpy_helper

        if name not in self.initializers:
            self.initializers[name] = numpy_helper.from_array(np.ascontiguousarray(values).reshape(values.shape), name)
        return name

    def _add(self, kind: str, inputs: list[str], result: str, domain: str = "", axis: int | None = None) -> None:
        from onnx import helper

        node = helper.make_node(kind, inputs, [result], name=f"{result}/{kind}", domain=domain)
        if axis is not None:
            node.attribute.append(helper.make_attribute("axis", axis))
        self.nodes.append(node)


def _along(values: NDArray[np.float32], axis: int | None, rank: int) -> NDArray[np.float32]:
    return values.reshape([-1 if index == axis else 1 for index in range(rank)])


def _copy(node: Any) -> Any:
    copied = type(node)()
    copied.CopyFrom(node)
    return copied
