"""An ONNX file as data: inputs, outputs, operators, precision. Nothing is run, nothing outside its folder read."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from edgebench.errors import MissingExtra, SourceError
from edgebench.types import TensorSpec

__all__ = ["OnnxDescription", "describe"]

_INTEGER_OPERATORS = frozenset({"QuantizeLinear", "DynamicQuantizeLinear", "ConvInteger", "MatMulInteger"})
_PRECISIONS = {"FLOAT": "fp32", "FLOAT16": "fp16", "BFLOAT16": "bf16", "DOUBLE": "fp64"}
_NARROW_INTEGERS = ("INT8", "UINT8", "INT4", "UINT4")


@dataclass(frozen=True)
class OnnxDescription:
    """What an ONNX file says of itself.

    `inputs` are those that must be fed: initializers that older exporters list as inputs are left out. `opset` is that
    of the standard operators. `operators` counts nodes, those in subgraphs and local functions too. `parameters` counts
    the elements of floating-point initializers, and of integer ones that are a layer's weights. `external` maps each
    file with weights outside the model to its sha256.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    opset: int | None
    ir_version: int
    operators: dict[str, int]
    parameters: int
    precision: str
    producer: str
    external: dict[str, str]


def describe(path: Path) -> OnnxDescription:
    """Read the file, without the weights that lie outside it.

    Raises:
        SourceError: it is not an ONNX model, or weights outside it are missing or not in the model's own folder.
        MissingExtra: onnx is not installed.
    """
    try:
        import onnx
        from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    except ImportError as error:
        raise MissingExtra("onnx", "torch") from error
    try:
        model = onnx.load(str(path), load_external_data=False)
    except (DecodeError, ValueError, OSError) as error:
        raise SourceError(
            f"{path} is not an ONNX model: {error}", hint="copy or download it again, and compare its size"
        ) from error
    if not model.graph.node and not model.graph.output:
        raise SourceError(f"{path} is an ONNX model without a graph", hint="export it again")
    initializers = {tensor.name for tensor in model.graph.initializer}
    initializers |= {tensor.values.name for tensor in model.graph.sparse_initializer}
    operators = Counter(node.op_type for node in _nodes(model))
    return OnnxDescription(
        inputs=tuple(_spec(value) for value in model.graph.input if value.name not in initializers),
        outputs=tuple(_spec(value) for value in model.graph.output),
        opset=next((opset.version for opset in model.opset_import if opset.domain in ("", "ai.onnx")), None),
        ir_version=model.ir_version,
        operators=dict(operators.most_common()),
        parameters=_parameters(model),
        precision=_precision(model, operators),
        producer=f"{model.producer_name} {model.producer_version}".strip(),
        external=_external_files(model, path),
    )


def _nodes(model: Any) -> Iterator[Any]:
    pending = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    while pending:
        node = pending.pop()
        yield node
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                pending.extend(graph.node)


def _graphs(model: Any) -> Iterator[Any]:
    yield model.graph
    for node in _nodes(model):
        for attribute in node.attribute:
            yield from (attribute.g, *attribute.graphs)


def _tensors(model: Any) -> Iterator[Any]:
    """Every tensor of the file, those of constants and subgraphs too."""
    for graph in _graphs(model):
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
    for node in _nodes(model):
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                yield from (sparse.values, sparse.indices)


def _spec(value: Any) -> TensorSpec:
    import onnx

    kind = value.type.WhichOneof("value")
    if kind != "tensor_type":
        return TensorSpec(value.name, (), (kind or "unknown").removesuffix("_type"))
    tensor = value.type.tensor_type
    shape = tuple(
        dimension.dim_value if dimension.WhichOneof("value") == "dim_value" else -1 for dimension in tensor.shape.dim
    )
    try:
        dtype = str(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    except KeyError:
        dtype = "unknown"
    return TensorSpec(value.name, shape, dtype)


def _elements(tensor: Any) -> int:
    product = 1
    for side in tensor.dims:
        product *= side
    return product


def _parameters(model: Any) -> int:
    import onnx

    count = 0
    for graph in _graphs(model):
        for tensor in (*graph.initializer, *(sparse.values for sparse in graph.sparse_initializer)):
            kind = onnx.TensorProto.DataType.Name(tensor.data_type)
            # Scales and zero points have one axis at most; an integer matrix is a quantized layer's weights.
            if kind in _PRECISIONS or (kind in _NARROW_INTEGERS and len(tensor.dims) > 1):
                count += _elements(tensor)
    return count


def _precision(model: Any, operators: Counter[str]) -> str:
    import onnx

    if any(name in _INTEGER_OPERATORS or name.startswith("QLinear") for name in operators):
        return "int8"
    elements: Counter[str] = Counter()
    for tensor in _tensors(model):
        elements[onnx.TensorProto.DataType.Name(tensor.data_type)] += _elements(tensor) if tensor.dims else 0
    floats = {name: count for name, count in elements.items() if name in _PRECISIONS and count}
    if floats:
        return _PRECISIONS[max(floats, key=lambda name: floats[name])]
    types = [onnx.TensorProto.DataType.Name(value.type.tensor_type.elem_type) for value in model.graph.input]
    return next((_PRECISIONS[name] for name in types if name in _PRECISIONS), "fp32")


def _external_files(model: Any, path: Path) -> dict[str, str]:
    import onnx

    folder = path.parent.resolve()
    needed: dict[str, int] = {}
    for tensor in _tensors(model):
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location", "")
        end = _integer(entries.get("offset")) + _integer(entries.get("length"))
        needed[location] = max(needed.get(location, 0), end)
    found = {}
    for location, end in needed.items():
        file = _inside(folder, location, path)
        if not file.is_file():
            raise SourceError(
                f"{path} keeps weights in `{location}`, which is not there",
                hint=f"put it beside the model, in {folder}",
            )
        if file.stat().st_size < end:
            raise SourceError(
                f"{path} keeps weights in `{location}`, which is cut short",
                hint=f"it must have at least {end} bytes: copy it again",
            )
        with file.open("rb") as content:
            found[str(file)] = hashlib.file_digest(content, "sha256").hexdigest()
    return found


def _inside(folder: Path, location: str, model: Path) -> Path:
    """The file of external weights; a location that leaves the model's folder could name any file of this machine."""
    posix, windows = PurePosixPath(location), PureWindowsPath(location)
    leaves = posix.is_absolute() or windows.anchor or ".." in (*posix.parts, *windows.parts)
    file = (folder / location).resolve()
    if not location or leaves or not file.is_relative_to(folder):
        raise SourceError(
            f"{model} keeps weights in `{location}`, outside its own folder",
            hint="an ONNX file may refer to files beside it only: load and save it anew where it was made",
        )
    return file


def _integer(text: str | None) -> int:
    return int(text) if text and text.isdigit() else 0
