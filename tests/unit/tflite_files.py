"""Small TFLite files, made by the schema alone: no converter, and every number in them is known.

A module that uses them begins with `pytest.importorskip("ai_edge_litert", ...)`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["dense", "floats", "int8_dense", "model", "operator", "subtraction", "tensor"]

_DTYPES = {"float32": "FLOAT32", "float16": "FLOAT16", "int8": "INT8", "uint8": "UINT8", "int32": "INT32"}

WEIGHTS = np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]], np.float32)
BIAS = np.array([1, 0, 0], np.float32)


def tensor(
    name: str,
    shape: Sequence[int],
    dtype: str = "float32",
    *,
    data: NDArray[Any] | None = None,
    scale: float | Sequence[float] = (),
    zero_point: int | Sequence[int] = 0,
    signature: Sequence[int] | None = None,
) -> tuple[Any, bytes | None]:
    """A tensor, and the bytes of a constant."""
    from ai_edge_litert import schema_py_generated as schema

    made = schema.TensorT()
    made.name, made.shape, made.type = name, list(shape), getattr(schema.TensorType, _DTYPES[dtype])
    made.shapeSignature = None if signature is None else list(signature)
    scales = [scale] if isinstance(scale, float) else list(scale)
    if scales:
        made.quantization = schema.QuantizationParametersT()
        made.quantization.scale = scales
        points = [zero_point] * len(scales) if isinstance(zero_point, int) else zero_point
        made.quantization.zeroPoint = list(points)
    return made, None if data is None else data.tobytes()


def operator(kind: str, inputs: Sequence[int], outputs: Sequence[int], *, version: int = 1) -> tuple[str, int, Any]:
    """An operator over tensors by number, -1 for one that is left out; a kind that the schema does not know is a custom
    one."""
    from ai_edge_litert import schema_py_generated as schema

    made = schema.OperatorT()
    made.inputs, made.outputs = list(inputs), list(outputs)
    options = {"FULLY_CONNECTED": "FullyConnectedOptions", "SUB": "SubOptions"}.get(kind)
    if options is not None:
        made.builtinOptionsType = getattr(schema.BuiltinOptions, options)
        made.builtinOptions = getattr(schema, f"{options}T")()
    return kind, version, made


def model(
    path: Path,
    tensors: Sequence[tuple[Any, bytes | None]],
    operators: Sequence[tuple[str, int, Any]],
    *,
    inputs: Sequence[int],
    outputs: Sequence[int],
) -> Path:
    """Write a file of one subgraph."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    graph = schema.SubGraphT()
    graph.tensors, graph.operators = [], []
    graph.inputs, graph.outputs = list(inputs), list(outputs)
    made = schema.ModelT()
    # ai-edge-quantizer fails where the list of signatures is missing, not where it is empty.
    made.version, made.subgraphs, made.signatureDefs = 3, [graph], []
    # The first buffer is empty, and stands for none.
    made.buffers, made.operatorCodes = [schema.BufferT()], []
    for item, data in tensors:
        if data is not None:
            item.buffer = len(made.buffers)
            made.buffers.append(schema.BufferT())
            made.buffers[-1].data = list(data)
        graph.tensors.append(item)
    for kind, version, item in operators:
        code = schema.OperatorCodeT()
        code.builtinCode = getattr(schema.BuiltinOperator, kind, schema.BuiltinOperator.CUSTOM)
        if code.builtinCode == schema.BuiltinOperator.CUSTOM:
            code.customCode = kind
        code.deprecatedBuiltinCode, code.version = min(code.builtinCode, 127), version
        item.opcodeIndex = len(made.operatorCodes)
        made.operatorCodes.append(code)
        graph.operators.append(item)
    builder = flatbuffers.Builder()
    builder.Finish(made.Pack(builder), b"TFL3")
    path.write_bytes(builder.Output())
    return path


def dense(path: Path, *, free_batch: bool = False) -> Path:
    """float32 `x` [1, 4] to `y` [1, 3] = x0 + 1, x1, x3."""
    rows = {"signature": [-1, 4]} if free_batch else {}
    return model(
        path,
        [
            tensor("x", (1, 4), **rows),
            tensor("weights", (3, 4), data=WEIGHTS),
            tensor("bias", (3,), data=BIAS),
            tensor("y", (1, 3), **({"signature": [-1, 3]} if free_batch else {})),
        ],
        [operator("FULLY_CONNECTED", (0, 1, 2), (3,))],
        inputs=(0,),
        outputs=(3,),
    )


def int8_dense(path: Path) -> Path:
    """The same with int8 `x` = 0.5 * (q + 1) and `y` = 0.5 * (q - 10)."""
    # Weights of 0.25 * 4 = 1; a bias has the product of both scales: 0.125 * 8 = 1.
    return model(
        path,
        [
            tensor("x", (1, 4), "int8", scale=0.5, zero_point=-1),
            tensor("weights", (3, 4), "int8", data=(4 * WEIGHTS).astype(np.int8), scale=0.25),
            tensor("bias", (3,), "int32", data=(8 * BIAS).astype(np.int32), scale=0.125),
            tensor("y", (1, 3), "int8", scale=0.5, zero_point=10),
        ],
        [operator("FULLY_CONNECTED", (0, 1, 2), (3,), version=4)],
        inputs=(0,),
        outputs=(3,),
    )


def subtraction(path: Path) -> Path:
    """float32 `left` - `right`, [1, 2] each."""
    return model(
        path,
        [tensor("left", (1, 2)), tensor("right", (1, 2)), tensor("difference", (1, 2))],
        [operator("SUB", (0, 1), (2,))],
        inputs=(0, 1),
        outputs=(2,),
    )


def floats(session: Any, outputs: Sequence[Any]) -> list[NDArray[Any]]:
    """What the agent hands over of one run's outputs."""
    return [np.frombuffer(data, spec.dtype).reshape(spec.shape) for spec, data in session.named_outputs(outputs)]
