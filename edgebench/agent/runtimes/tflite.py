"""TFLite on the CPU by its interpreter, of ai-edge-litert or of tflite-runtime, with the XNNPACK delegate that is its
default.

The clock sees what a caller waits for: the copy of the input into the interpreter, `invoke`, and the copy of the
outputs. A quantized input is quantized outside of it, by the scale and zero point that the file gives, as a camera's
pixels would be; quantized outputs are made floats again after it (spec: `real = scale * (value - zero_point)`,
tensorflow.org/lite/performance/quantization_spec).
"""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from importlib import import_module, metadata
from typing import Any, Dict, Iterator, List, Sequence, Tuple

from ..wire import TensorSpec
from . import Unsupported
from .onnxruntime import prepare

__all__ = ["FORMATS", "INSTALL", "load_library", "open_session", "prepare"]

FORMATS = ("tflite", "tflite-fp16", "tflite-dynamic", "tflite-int8", "tflite-int8-io")
INSTALL = "pip install ai-edge-litert (where there is no wheel of it: pip install tflite-runtime 'numpy<2')"
# The living one first.
_PACKAGES = ("ai_edge_litert", "tflite_runtime")


def load_library() -> str:
    """Import the interpreter; its version and package."""
    package = _package()
    version = metadata.version(package.replace("_", "-"))
    if package == "tflite_runtime":
        import numpy

        # It declares numpy 1.23 or newer, imports with numpy 2, and fails at its first interpreter.
        if int(numpy.__version__.partition(".")[0]) >= 2:
            raise Unsupported("tflite-runtime %s does not work with numpy 2: pip install 'numpy<2'" % version)
    return "%s (%s)" % (version, package.replace("_", "-"))


def open_session(path: str, threads: int) -> TfliteSession:
    """An interpreter of the file with `threads` threads and XNNPACK."""
    return TfliteSession(open_interpreter(path, threads))


def open_interpreter(path: str, threads: int, *, delegates: bool = True) -> Any:
    """An `Interpreter` with its tensors allocated."""
    module = import_module(_package() + ".interpreter")
    options = {}
    if not delegates:
        options["experimental_op_resolver_type"] = module.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    with _without_chatter():
        interpreter = module.Interpreter(model_path=path, num_threads=threads, **options)
        interpreter.allocate_tensors()
    return interpreter


@contextmanager
def _without_chatter() -> Iterator[None]:
    """It tells on stderr that it made its delegate; what goes wrong it raises."""
    sys.stderr.flush()
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)


def _package() -> str:
    for package in _PACKAGES:
        try:
            import_module(package + ".interpreter")
        except ImportError:
            continue
        return package
    raise Unsupported("TFLite is not installed: %s" % INSTALL)


class TfliteSession:
    """An interpreter that is fed arrays by the name of its inputs, or in their order where the names are others."""

    one_at_a_time = "TFLite's interpreter"

    def __init__(self, interpreter: Any) -> None:
        self._interpreter = interpreter
        self._inputs: List[Dict[str, Any]] = interpreter.get_input_details()
        self._outputs: List[Dict[str, Any]] = interpreter.get_output_details()
        self._indices = [detail["index"] for detail in self._outputs]
        # The only trace that a delegate leaves in Python.
        parts = sum(node["op_name"] == "DELEGATE" for node in interpreter._get_ops_details())
        self.provider = "CPU, XNNPACK in %d part%s" % (parts, "" if parts == 1 else "s") if parts else "CPU, built-in"

    def adapt(self, prepared: Dict[str, Any]) -> List[Tuple[int, Any]]:
        """The arrays with the interpreter's indices, quantized where its inputs are."""
        names = [detail["name"] for detail in self._inputs]
        given = [prepared[name] for name in names] if set(names) == set(prepared) else list(prepared.values())
        if len(given) != len(names):
            raise ValueError("the model has %d inputs, %d were given" % (len(names), len(given)))
        shapes = [tuple(detail["shape"]) for detail in self._inputs]
        if shapes != [array.shape for array in given]:
            for detail, array in zip(self._inputs, given):
                self._interpreter.resize_tensor_input(detail["index"], array.shape)
            self._interpreter.allocate_tensors()
            self._inputs = self._interpreter.get_input_details()
        return [(detail["index"], _quantized(array, detail)) for detail, array in zip(self._inputs, given)]

    def run(self, adapted: List[Tuple[int, Any]]) -> List[Any]:
        """One inference."""
        interpreter = self._interpreter
        for index, array in adapted:
            interpreter.set_tensor(index, array)
        interpreter.invoke()
        return [interpreter.get_tensor(index) for index in self._indices]

    def named_outputs(self, outputs: Sequence[Any]) -> List[Tuple[TensorSpec, bytes]]:
        """The outputs of one run as bytes, quantized ones as float32."""
        arrays = [_dequantized(array, detail) for array, detail in zip(outputs, self._outputs)]
        return [
            (TensorSpec(detail["name"], tuple(array.shape), str(array.dtype)), array.tobytes())
            for array, detail in zip(arrays, self._outputs)
        ]

    def close(self) -> None:
        """Release the interpreter."""
        self._interpreter = None


def _quantized(array: Any, detail: Dict[str, Any]) -> Any:
    import numpy

    scale, zero_point = detail["quantization"]
    if not scale or array.dtype.kind != "f":
        return numpy.ascontiguousarray(array, dtype=detail["dtype"])
    limits = numpy.iinfo(detail["dtype"])
    return numpy.clip(numpy.rint(array / scale) + zero_point, limits.min, limits.max).astype(detail["dtype"])


def _dequantized(array: Any, detail: Dict[str, Any]) -> Any:
    import numpy

    scale, zero_point = detail["quantization"]
    if not scale or array.dtype.kind == "f":
        return array
    return ((array.astype(numpy.float32) - zero_point) * scale).astype(numpy.float32)
