"""The nodes of an ONNX file, read without onnx, which a device does not have; weights are passed over.

The file is a protobuf message (protobuf.dev/programming-guides/encoding); the numbers of the fields are those of
onnx.proto3 (github.com/onnx/onnx).
"""

from __future__ import annotations

import mmap
import os
from dataclasses import dataclass
from typing import Dict, Iterator, List, Tuple, Union

_MODEL_GRAPH, _GRAPH_NODE = 7, 1
_INPUT, _OUTPUT, _NAME, _OPERATOR, _DOMAIN, _METADATA = 1, 2, 3, 4, 7, 9
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

Field = Tuple[int, Union[int, memoryview]]


@dataclass(frozen=True)
class OnnxNode:
    """A node of the main graph; `domain` is "" for ONNX's own operators."""

    name: str
    operator: str
    domain: str
    inputs: Tuple[str, ...]
    outputs: Tuple[str, ...]
    metadata: Tuple[Tuple[str, str], ...]


def read_nodes(path: str) -> List[OnnxNode]:
    """The nodes in the file's order, which is topological.

    Raises:
        ValueError: it is no protobuf message.
    """
    if not os.path.getsize(path):
        raise ValueError("%s is empty" % path)
    with open(path, "rb") as file:
        return list(_nodes(memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))))


def _nodes(model: memoryview) -> Iterator[OnnxNode]:
    for number, graph in _fields(model):
        if number != _MODEL_GRAPH or isinstance(graph, int):
            continue
        for inner, node in _fields(graph):
            if inner == _GRAPH_NODE and not isinstance(node, int):
                yield _node(node)


def _node(message: memoryview) -> OnnxNode:
    texts: Dict[int, List[str]] = {_INPUT: [], _OUTPUT: [], _NAME: [], _OPERATOR: [], _DOMAIN: []}
    metadata = []
    for number, value in _fields(message):
        if isinstance(value, int):
            continue
        if number in texts:
            texts[number].append(_text(value))
        elif number == _METADATA:
            entry = {key: _text(item) for key, item in _fields(value) if not isinstance(item, int)}
            metadata.append((entry.get(1, ""), entry.get(2, "")))
    return OnnxNode(
        name="".join(texts[_NAME]),
        operator="".join(texts[_OPERATOR]),
        domain="".join(texts[_DOMAIN]),
        inputs=tuple(texts[_INPUT]),
        outputs=tuple(texts[_OUTPUT]),
        metadata=tuple(metadata),
    )


def _text(value: memoryview) -> str:
    return bytes(value).decode("utf-8", "replace")


def _fields(message: memoryview) -> Iterator[Field]:
    """The fields of a message by their numbers: integers, or the bytes of texts and inner messages."""
    position, end = 0, len(message)
    while position < end:
        key, position = _varint(message, position)
        number, wire_type = key >> 3, key & 7
        if wire_type == _VARINT:
            value, position = _varint(message, position)
            yield number, value
            continue
        if wire_type == _BYTES:
            length, position = _varint(message, position)
        elif wire_type in (_FIXED64, _FIXED32):
            length = 8 if wire_type == _FIXED64 else 4
        else:
            raise ValueError("not a protobuf message: wire type %d" % wire_type)
        if position + length > end:
            raise ValueError("not a protobuf message: it ends within a field")
        yield number, message[position : position + length]
        position += length


def _varint(message: memoryview, position: int) -> Tuple[int, int]:
    value = shift = 0
    while position < len(message) and shift < 70:
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
    raise ValueError("not a protobuf message: a number has no end")
