"""LiteRT's C library with its profiler, which its Python package carries and does not wrap.

Of ai-edge-litert 2.3: functions and `ProfiledEventData` are those of litert/c (github.com/google-ai-edge/LiteRT). An
event has 104 bytes there, of which the last one that was written is looked at: a library with another layout is refused
and not misread.
"""

from __future__ import annotations

import ctypes
import os
import struct
from importlib import metadata, util
from typing import Any, List, NamedTuple, Sequence

from ..runtimes import Unsupported

_KNOWN = "2.3."
_CPU = 1
# Names of TOML documents that the library reads its options from.
_RUNTIME_OPTIONS, _CPU_OPTIONS = b"runtime_options_string", b"xnnpack"
_LOCK_TO_WRITE = 1

_EVENT_BYTES = 104
# tag, type, start and length in µs; two memory readings of 24 bytes; two numbers, and the source.
_EVENT = struct.Struct("<QiiQQ48xQQii")
assert _EVENT.size == _EVENT_BYTES
_EVENT_TYPES = {1 << bit for bit in range(9)}
_UNWRITTEN = b"\xa5"

_TYPE_ROOM = 1024

WHOLE = 1
BUILT_IN = 2
DELEGATED = 8


class ProfilerEvent(NamedTuple):
    """One event. `kind` is WHOLE, BUILT_IN (then `number` is the node of the graph number `graph`), DELEGATED (`number`
    counts within the delegate) or another; a delegated one has no start."""

    tag: str
    kind: int
    started_us: int
    length_us: int
    number: int
    graph: int


class CompiledModel:
    """A .tflite file, compiled for the CPU with XNNPACK and the profiler.

    Raises:
        Unsupported: it is another package, or another version of it.
        RuntimeError: the library refused.
    """

    def __init__(self, path: str, threads: int) -> None:
        self._library = _open_library()
        self._libc = ctypes.CDLL(None)
        self._libc.strdup.restype = ctypes.c_void_p
        self._environment = self._made("LiteRtCreateEnvironment", 0, None)
        model = self._made("LiteRtCreateModelFromFile", self._environment, path.encode())
        options = self._made("LiteRtCreateOptions")
        self._call("LiteRtSetOptionsHardwareAccelerators", options, _CPU)
        self._add_options(options, _RUNTIME_OPTIONS, b"enable_profiling = true\n")
        self._add_options(options, _CPU_OPTIONS, b"num_threads = %d\n" % threads)
        self._model = self._made("LiteRtCreateCompiledModel", self._environment, model, options)
        signature = self._made("LiteRtGetModelSignature", model, ctypes.c_size_t(0))
        self._inputs = self._buffers(signature, "Input")
        self._outputs = self._buffers(signature, "Output")
        self._profiler = self._made("LiteRtCompiledModelGetProfiler", self._model)
        self._call("LiteRtStartProfiler", self._profiler)

    def run(self, tensors: Sequence[bytes]) -> None:
        """One inference on the inputs' bytes, in the signature's order."""
        for buffer, data in zip(self._inputs, tensors):
            address = ctypes.c_void_p()
            self._call("LiteRtLockTensorBuffer", ctypes.c_void_p(buffer), ctypes.byref(address), _LOCK_TO_WRITE)
            ctypes.memmove(address, data, len(data))
            self._call("LiteRtUnlockTensorBuffer", ctypes.c_void_p(buffer))
        self._call(
            "LiteRtRunCompiledModel",
            self._model,
            ctypes.c_size_t(0),
            ctypes.c_size_t(len(self._inputs)),
            self._inputs,
            ctypes.c_size_t(len(self._outputs)),
            self._outputs,
        )

    def input_bytes(self) -> List[int]:
        """How long each input is."""
        return [self._length(buffer) for buffer in self._inputs]

    def events(self) -> List[ProfilerEvent]:
        """All that were seen so far, in the order in which they began."""
        count = ctypes.c_int()
        self._call("LiteRtGetNumProfilerEvents", self._profiler, ctypes.byref(count))
        room = 2 * _EVENT_BYTES * count.value
        buffer = ctypes.create_string_buffer(_UNWRITTEN * room, room)
        self._call("LiteRtGetProfilerEvents", self._profiler, count, buffer)
        return read_events(buffer.raw, count.value)

    def _buffers(self, signature: ctypes.c_void_p, side: str) -> Any:
        count = ctypes.c_size_t()
        self._call("LiteRtGetNumSignature%ss" % side, signature, ctypes.byref(count))
        made = []
        for number in range(count.value):
            place = ctypes.c_size_t(number)
            tensor = self._made("LiteRtGetSignature%sTensorByIndex" % side, signature, place)
            kind = ctypes.create_string_buffer(_TYPE_ROOM)
            self._call("LiteRtGetRankedTensorType", tensor, kind)
            needs = self._made(
                "LiteRtGetCompiledModel%sBufferRequirements" % side, self._model, ctypes.c_size_t(0), place
            )
            made.append(
                self._made("LiteRtCreateManagedTensorBufferFromRequirements", self._environment, kind, needs).value
            )
        return (ctypes.c_void_p * len(made))(*made)

    def _length(self, buffer: int) -> int:
        size = ctypes.c_size_t()
        self._call("LiteRtGetTensorBufferPackedSize", ctypes.c_void_p(buffer), ctypes.byref(size))
        return size.value

    def _add_options(self, options: ctypes.c_void_p, name: bytes, text: bytes) -> None:
        # The library frees the text.
        copy, free = ctypes.c_void_p(self._libc.strdup(text)), ctypes.cast(self._libc.free, ctypes.c_void_p)
        self._call("LiteRtAddOpaqueOptions", options, self._made("LiteRtCreateOpaqueOptions", name, copy, free))

    def _made(self, function: str, *arguments: Any) -> ctypes.c_void_p:
        made = ctypes.c_void_p()
        self._call(function, *arguments, ctypes.byref(made))
        return made

    def _call(self, function: str, *arguments: Any) -> None:
        status = getattr(self._library, function)(*arguments)
        if status != 0:
            raise RuntimeError("%s of LiteRT's C library answered %d" % (function, status))


def _open_library() -> Any:
    found = util.find_spec("ai_edge_litert")
    if found is None or found.origin is None:
        raise Unsupported(
            "tflite-runtime has no profiler that Python reaches: pip install 'ai-edge-litert==2.3.*' beside it"
        )
    version = metadata.version("ai-edge-litert")
    path = os.path.join(os.path.dirname(found.origin), "libLiteRt.so")
    if not version.startswith(_KNOWN) or not os.path.exists(path):
        words = "edgebench knows the profiler of ai-edge-litert %s* only, here is %s: pip install 'ai-edge-litert==%s*'"
        raise Unsupported(words % (_KNOWN, version, _KNOWN))
    return ctypes.CDLL(path)


def read_events(raw: bytes, count: int) -> List[ProfilerEvent]:
    """The events that the library wrote to the front of `raw`, which was filled with 0xa5 and has twice the room.

    Raises:
        Unsupported: they have another layout.
    """
    written = len(raw.rstrip(_UNWRITTEN))
    # Padding at the very end may stay unwritten.
    fields = [_EVENT.unpack_from(raw, _EVENT_BYTES * number) for number in range(count)]
    if not _EVENT_BYTES * count - 8 < written <= _EVENT_BYTES * count or {item[1] for item in fields} - _EVENT_TYPES:
        raise Unsupported("this LiteRT's profiler has events of another layout than ai-edge-litert %s*" % _KNOWN)
    return [
        ProfilerEvent(ctypes.string_at(tag).decode("utf-8", "replace"), kind, start, length, number, graph)
        for tag, kind, _, start, length, number, graph, _, _ in fields
    ]
