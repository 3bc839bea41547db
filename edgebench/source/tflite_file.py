"""A TFLite file as data: inputs, outputs, operators with their tensors, precision. Nothing is run.

It is read by the schema of the format that ai-edge-litert carries (tensorflow/lite/schema/schema.fbs).
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from edgebench.errors import MissingExtra, SourceError
from edgebench.types import TensorSpec

__all__ = ["TfliteDescription", "TfliteOperator", "TfliteTensor", "describe", "is_tflite"]

# Bytes 4 to 7 of the file.
_IDENTIFIER = b"TFL3"
_DTYPES = {"FLOAT32": "float32", "FLOAT16": "float16", "FLOAT64": "float64", "BOOL": "bool"}
_WEIGHTED = frozenset({"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV", "BATCH_MATMUL", "CONV_3D"})


@dataclass(frozen=True)
class TfliteTensor:
    """A tensor of the graph. `shape` has -1 for a free dimension; `dtype` is as numpy spells it, or the schema's name
    in small letters (`int4`). `scales` and `zero_points` are of its quantization, one for all or one per channel;
    empty for none. A `constant` lies in the file with `bytes` bytes (0 for others)."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    constant: bool
    bytes: int
    scales: tuple[float, ...]
    zero_points: tuple[int, ...]

    @property
    def spec(self) -> TensorSpec:
        """Its name, shape and dtype."""
        return TensorSpec(self.name, self.shape, self.dtype)


@dataclass(frozen=True)
class TfliteOperator:
    """A node: its `kind` as the schema names it (`CONV_2D`), or a custom operator's own name. An input that is left out
    is None."""

    kind: str
    inputs: tuple[TfliteTensor | None, ...]
    outputs: tuple[TfliteTensor, ...]


@dataclass(frozen=True)
class TfliteDescription:
    """The first subgraph of a file, which is the model; `subgraphs` counts those that control flow calls as well.
    `parameters` counts the elements of its floating-point and quantized constants, of which each counts once."""

    inputs: tuple[TfliteTensor, ...]
    outputs: tuple[TfliteTensor, ...]
    operators: tuple[TfliteOperator, ...]
    subgraphs: int
    parameters: int

    @property
    def kinds(self) -> dict[str, int]:
        """How many operators there are of each kind, most first."""
        return dict(Counter(operator.kind for operator in self.operators).most_common())

    @property
    def precision(self) -> str:
        """`int8` where most operators with weights compute in integers, `int8-dynamic` where their weights alone are,
        `fp16` where constants are float16, else `fp32`."""
        weighted = [operator for operator in self.operators if operator.kind in _WEIGHTED]
        integer = [item for item in weighted if any(other and "int" in other.dtype for other in item.inputs[:1])]
        narrow = [item for item in weighted if any(other and other.dtype == "int8" for other in item.inputs)]
        if len(integer) * 2 > len(weighted):
            return "int8"
        if len(narrow) * 2 > len(weighted):
            return "int8-dynamic"
        constants = [tensor for operator in self.operators for tensor in operator.inputs if tensor and tensor.constant]
        return "fp16" if any(tensor.dtype == "float16" for tensor in constants) else "fp32"


def is_tflite(path: Path) -> bool:
    """Whether the file begins as one."""
    with path.open("rb") as file:
        return file.read(8)[4:] == _IDENTIFIER


def describe(path: Path) -> TfliteDescription:
    """Read the file.

    Raises:
        SourceError: it is not a TFLite model, or damaged.
        MissingExtra: ai-edge-litert is not installed.
    """
    try:
        from ai_edge_litert import schema_py_generated as schema
    except ImportError as error:
        raise MissingExtra("ai_edge_litert", "tflite") from error
    if not is_tflite(path):
        raise SourceError(f"{path} is not a TFLite model", hint="such a file has `TFL3` as its bytes 4 to 7")
    try:
        return _describe(schema.Model.GetRootAs(path.read_bytes(), 0))
    # What a damaged offset leads to.
    except Exception as error:
        raise SourceError(f"{path} is a TFLite model, damaged or cut short", hint="copy or convert it again") from error


def _describe(model: Any) -> TfliteDescription:
    graph = model.Subgraphs(0)
    tensors = [_tensor(model, graph.Tensors(index)) for index in range(graph.TensorsLength())]
    operators = []
    for index in range(graph.OperatorsLength()):
        node = graph.Operators(index)
        inputs = [node.Inputs(position) for position in range(node.InputsLength())]
        operators.append(
            TfliteOperator(
                _kind(model.OperatorCodes(node.OpcodeIndex())),
                tuple(tensors[number] if number >= 0 else None for number in inputs),
                tuple(tensors[node.Outputs(position)] for position in range(node.OutputsLength())),
            )
        )
    return TfliteDescription(
        inputs=tuple(tensors[graph.Inputs(position)] for position in range(graph.InputsLength())),
        outputs=tuple(tensors[graph.Outputs(position)] for position in range(graph.OutputsLength())),
        operators=tuple(operators),
        subgraphs=model.SubgraphsLength(),
        parameters=sum(
            math.prod(tensor.shape)
            for tensor in tensors
            if tensor.constant and -1 not in tensor.shape and (tensor.dtype.startswith("float") or tensor.scales)
        ),
    )


def _tensor(model: Any, tensor: Any) -> TfliteTensor:
    signature = tensor.ShapeSignatureLength()
    read = tensor.ShapeSignature if signature else tensor.Shape
    buffer = model.Buffers(tensor.Buffer())
    # A large buffer lies behind the flatbuffer itself.
    size = int(buffer.DataLength() or buffer.Size() or 0)
    quantization = tensor.Quantization()
    scales = quantization.ScaleLength() if quantization else 0
    points = quantization.ZeroPointLength() if quantization else 0
    return TfliteTensor(
        name=(tensor.Name() or b"").decode("utf-8", "replace"),
        shape=_shape([int(read(index)) for index in range(signature or tensor.ShapeLength())]),
        dtype=_dtype(tensor.Type()),
        constant=size > 0,
        bytes=size,
        scales=tuple(float(quantization.Scale(index)) for index in range(scales)),
        zero_points=tuple(int(quantization.ZeroPoint(index)) for index in range(points)),
    )


def _shape(lengths: list[int]) -> tuple[int, ...]:
    if any(length < -1 for length in lengths):
        raise ValueError(f"a tensor has the shape {lengths}")
    return tuple(lengths)


def _dtype(code: int) -> str:
    name = _names("TensorType")[code]
    return _DTYPES.get(name, name.lower())


def _kind(code: Any) -> str:
    # Codes above 127 did not fit into the byte of the first schema.
    number = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
    name = _names("BuiltinOperator")[number]
    return code.CustomCode().decode("utf-8", "replace") if name == "CUSTOM" and code.CustomCode() else name


@cache
def _names(enumeration: str) -> dict[int, str]:
    from ai_edge_litert import schema_py_generated as schema

    members = vars(getattr(schema, enumeration))
    return {value: name for name, value in members.items() if isinstance(value, int) and not name.startswith("_")}
