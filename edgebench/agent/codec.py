"""Dataclasses to JSON values and back, strictly: an unknown or missing key is an error that names its place.

The one codec of edgebench: the agent's messages, bundles, runs and TOML files all pass through it, so that a file from
elsewhere is checked once, at the edge. It lives in the agent because the agent may import nothing else.
"""

from __future__ import annotations

import dataclasses
import typing
from typing import Any, Dict, Type, TypeVar, Union

T = TypeVar("T")


class DecodeError(ValueError):
    """A value that does not fit; the message starts with the path to it, as in `cells[2].runtime`."""


def encode(value: Any) -> Any:
    """A JSON value of dataclasses, tuples, dicts and scalars."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: encode(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): encode(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [encode(item) for item in value]
    return value


def decode(kind: Type[T], value: Any, where: str = "") -> T:
    """The dataclass `kind` from a JSON value. `where` is the file's name for messages.

    Raises:
        DecodeError: an unknown key, a missing one, or a value of another type.
    """
    return typing.cast(T, _decode(kind, value, where))


def _decode(kind: Any, value: Any, where: str) -> Any:
    if kind is Any:
        return value
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    # `X | None` has an origin of its own from Python 3.10 on; it is a Union in all but name.
    if origin is Union or type(kind).__name__ == "UnionType":
        return _decode_union(args, value, where)
    if origin is typing.Literal:
        if value not in args:
            raise DecodeError(f"{where}: {value!r} is not one of {', '.join(map(str, args))}")
        return value
    if origin is tuple:
        return _decode_tuple(args, value, where)
    if origin is dict:
        if not isinstance(value, dict):
            raise DecodeError(f"{where}: expected a table, found {value!r}")
        return {key: _decode(args[1], item, f"{where}.{key}") for key, item in value.items()}
    if dataclasses.is_dataclass(kind):
        return _decode_dataclass(kind, value, where)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise DecodeError(f"{where}: expected {kind.__name__}, found {value!r}")
    return value


def _decode_union(args: Any, value: Any, where: str) -> Any:
    if value is None and type(None) in args:
        return None
    problems = []
    for option in args:
        if option is not type(None):
            try:
                return _decode(option, value, where)
            except DecodeError as error:
                problems.append(str(error))
    raise DecodeError("; ".join(problems))


def _decode_tuple(args: Any, value: Any, where: str) -> Any:
    if not isinstance(value, (list, tuple)):
        raise DecodeError(f"{where}: expected a list, found {value!r}")
    if len(args) == 2 and args[1] is Ellipsis:
        return tuple(_decode(args[0], item, f"{where}[{index}]") for index, item in enumerate(value))
    if len(args) != len(value):
        raise DecodeError(f"{where}: expected {len(args)} values, found {len(value)}")
    return tuple(_decode(arg, item, f"{where}[{index}]") for index, (arg, item) in enumerate(zip(args, value)))


def _decode_dataclass(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise DecodeError(f"{where}: expected a table, found {value!r}")
    hints = typing.get_type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind)}
    unknown = sorted(set(value) - set(fields))
    if unknown:
        raise DecodeError(f"{where}: unknown key `{unknown[0]}` (known: {', '.join(fields)})")
    found: Dict[str, Any] = {}
    for name, field in fields.items():
        if name in value:
            found[name] = _decode(hints[name], value[name], f"{where}.{name}" if where else name)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise DecodeError(f"{where}: `{name}` is missing")
    return kind(**found)
