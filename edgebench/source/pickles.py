"""What a pickle would import and build, read off its opcodes: nothing in it is ever executed.

A pickle is a program for a small stack machine. `read` follows that machine with stand-ins: a call becomes a note that
it would be made (`Made`). Refusing a file rests on torch's own restricted unpickler; this module says beforehand what
the file is, and in words what would be called.
"""

from __future__ import annotations

import _compat_pickle
import pickletools
from dataclasses import dataclass
from typing import BinaryIO

__all__ = ["ADMITTED", "DamagedPickle", "Made", "Pickled", "Table", "is_tensor", "read"]

_SCALARS = (
    "BFloat16",
    "Bool",
    "Byte",
    "Char",
    "ComplexDouble",
    "ComplexFloat",
    "Double",
    "Float",
    "Half",
    "Int",
    "Long",
)
_QUANTIZED = ("QInt8", "QInt32", "QUInt8", "QUInt4x2", "QUInt2x4")
_TENSOR_MAKERS = frozenset(
    {
        "torch.Tensor",
        "torch.nn.parameter.Parameter",
        "torch._tensor._rebuild_from_type_v2",
        "torch._utils._rebuild_device_tensor_from_cpu_tensor",
        "torch._utils._rebuild_device_tensor_from_numpy",
        "torch._utils._rebuild_meta_tensor_no_storage",
        "torch._utils._rebuild_parameter",
        "torch._utils._rebuild_parameter_with_state",
        "torch._utils._rebuild_qtensor",
        "torch._utils._rebuild_sparse_tensor",
        "torch._utils._rebuild_tensor",
        "torch._utils._rebuild_tensor_v2",
        "torch._utils._rebuild_tensor_v3",
        "torch._utils._rebuild_wrapper_subclass",
    }
)

# Beyond what torch's weights_only unpickler admits: classes that hold data and do nothing. `load` admits the same.
ADMITTED = (
    "argparse.Namespace",
    "numpy._core.multiarray.scalar",
    "numpy.core.multiarray.scalar",
    "numpy.dtype",
    *(
        f"numpy.dtypes.{name}DType"
        for name in ("Bool", "Bytes", "Complex64", "Complex128", "Float16", "Float32", "Float64", "Str")
    ),
    *(f"numpy.dtypes.{sign}Int{bits}DType" for sign in ("", "U") for bits in (8, 16, 32, 64)),
)

# torch/_weights_only_unpickler.py, _get_allowed_globals, as of torch 2.15.
_PLAIN = frozenset(
    {
        "_codecs.encode",
        "builtins.bytearray",
        "builtins.complex",
        "builtins.set",
        "collections.Counter",
        "collections.OrderedDict",
        "torch.Size",
        "torch.device",
        "torch.serialization._get_layout",
        "torch.storage.TypedStorage",
        "torch.storage.UntypedStorage",
        *_TENSOR_MAKERS,
        *(f"torch.{where}{name}Storage" for where in ("", "cuda.") for name in (*_SCALARS, "Short")),
        *(f"torch.{name}Storage" for name in _QUANTIZED),
        *(
            f"torch.{name}"
            for name in (
                *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
                *("float16", "float32", "float64", "bfloat16", "bool", "complex32", "complex64", "complex128"),
                *("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz"),
                *("qint8", "qint32", "quint8", "quint4x2", "quint2x4"),
                *("per_tensor_affine", "per_tensor_symmetric", "per_channel_affine", "per_channel_symmetric"),
                "per_channel_affine_float_qparams",
            )
        ),
        *ADMITTED,
    }
)


class DamagedPickle(ValueError):
    """Not a pickle, or one that is cut short or inconsistent."""


@dataclass(frozen=True)
class Made:
    """An object that the pickle would make by calling `name`."""

    name: str


class Table(list[tuple[object, object]]):
    """A dict or an OrderedDict that the pickle would make: its pairs."""


@dataclass(frozen=True)
class Pickled:
    """What the pickle would give back, and every global that it names, in order."""

    top: object
    names: tuple[str, ...]

    @property
    def callables(self) -> tuple[str, ...]:
        """The names that are not plain tensors and containers."""
        return tuple(name for name in self.names if name not in _PLAIN)


@dataclass(frozen=True)
class _Global:
    name: str


_MARK = object()


def is_tensor(value: object) -> bool:
    """Whether `value`, of a `Pickled`, would be a tensor."""
    return isinstance(value, Made) and value.name in _TENSOR_MAKERS


def read(stream: BinaryIO) -> Pickled:
    """Follow one pickle to its end; the stream is left right behind it, where another may follow.

    Raises:
        DamagedPickle: the opcodes end early, or do not make sense.
    """
    machine = _Machine()
    try:
        for opcode, argument, _ in pickletools.genops(stream):
            machine.step(opcode.name, argument)
        return Pickled(machine.stack.pop(), tuple(machine.names))
    except (ValueError, KeyError, IndexError, OverflowError, MemoryError) as error:
        raise DamagedPickle(str(error)) from error


class _Machine:
    """The pickle machine with stand-ins. Opcodes as in pickletools, whose documentation is their definition."""

    def __init__(self) -> None:
        self.stack: list[object] = []
        self.names: dict[str, None] = {}
        self._memo: dict[int, object] = {}

    def step(self, opcode: str, argument: object) -> None:
        """Execute one opcode."""
        stack = self.stack
        match opcode:
            case "PROTO" | "FRAME" | "STOP" | "READONLY_BUFFER":
                pass
            case "MARK":
                stack.append(_MARK)
            case "POP":
                stack.pop()
            case "POP_MARK" | "ADDITEMS":
                self._pop_to_mark()
            case "DUP":
                stack.append(stack[-1])
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(self._memo[_integer(argument)])
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                self._memo[_integer(argument)] = stack[-1]
            case "MEMOIZE":
                self._memo[len(self._memo)] = stack[-1]
            case "EMPTY_DICT":
                stack.append(Table())
            case "DICT":
                stack.append(Table(_pairs(self._pop_to_mark())))
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                self._extend(Table, [(key, value)])
            case "SETITEMS":
                self._extend(Table, _pairs(self._pop_to_mark()))
            case "EMPTY_LIST":
                stack.append([])
            case "LIST":
                stack.append(self._pop_to_mark())
            case "APPEND":
                item = stack.pop()
                self._extend(list, [item])
            case "APPENDS":
                self._extend(list, self._pop_to_mark())
            case "EMPTY_TUPLE":
                stack.append(())
            case "TUPLE":
                stack.append(tuple(self._pop_to_mark()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = int(opcode[-1])
                if len(stack) < count:
                    raise IndexError("stack underflow")
                stack[-count:] = [tuple(stack[-count:])]
            case "FROZENSET":
                self._pop_to_mark()
                stack.append(None)
            case "GLOBAL":
                module, _, name = str(argument).partition(" ")
                stack.append(self._name(module, name))
            case "STACK_GLOBAL":
                name_value, module_value = stack.pop(), stack.pop()
                stack.append(self._name(module_value, name_value))
            case "INST":
                self._pop_to_mark()
                module, _, name = str(argument).partition(" ")
                stack.append(Made(self._name(module, name).name))
            case "OBJ":
                made = self._pop_to_mark()
                self._call(made[0], tuple(made[1:]))
            case "REDUCE" | "NEWOBJ":
                arguments, function = stack.pop(), stack.pop()
                self._call(function, arguments)
            case "NEWOBJ_EX":
                _, arguments, function = stack.pop(), stack.pop(), stack.pop()
                self._call(function, arguments)
            case "BUILD":
                stack.pop()
                stack[-1]
            case "BINPERSID":
                stack[-1] = None
            case "EXT1" | "EXT2" | "EXT4":
                stack.append(self._name("copyreg", f"extension_{argument}"))
            case _:
                # Every opcode left pushes one constant.
                stack.append(argument)

    def _pop_to_mark(self) -> list[object]:
        items: list[object] = []
        while (item := self.stack.pop()) is not _MARK:
            items.append(item)
        return items[::-1]

    def _extend(
        self, kind: type[list[object]] | type[Table], items: list[object] | list[tuple[object, object]]
    ) -> None:
        target = self.stack[-1]
        # A Table is a list of pairs, which APPEND may not touch.
        if isinstance(target, list) and isinstance(target, Table) == (kind is Table):
            target.extend(items)

    def _name(self, module: object, name: object) -> _Global:
        # A name that was itself computed cannot be known without executing the pickle.
        parts = [part if isinstance(part, str) else "?" for part in (module, name)]
        pair = (parts[0], parts[1])
        if pair in _compat_pickle.NAME_MAPPING:
            pair = _compat_pickle.NAME_MAPPING[pair]
        elif pair[0] in _compat_pickle.IMPORT_MAPPING:
            pair = (_compat_pickle.IMPORT_MAPPING[pair[0]], pair[1])
        full = ".".join(pair)
        self.names[full] = None
        return _Global(full)

    def _call(self, function: object, arguments: object) -> None:
        name = function.name if isinstance(function, _Global) else "?"
        if name != "collections.OrderedDict":
            self.stack.append(Made(name))
            return
        # Python 2 pickled an OrderedDict's items as the argument of its constructor.
        items = arguments[0] if isinstance(arguments, tuple) and arguments else []
        pairs = [tuple(item) for item in items if isinstance(item, (list, tuple))] if isinstance(items, list) else []
        self.stack.append(Table((pair[0], pair[1]) for pair in pairs if len(pair) == 2))


def _integer(argument: object) -> int:
    if not isinstance(argument, int):
        raise ValueError(f"a memo index was expected, found {argument!r}")
    return argument


def _pairs(items: list[object]) -> list[tuple[object, object]]:
    return list(zip(items[::2], items[1::2], strict=True))
