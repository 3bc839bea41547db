"""Intel's OpenVINO on the CPU: one stream, hinted at latency, and float32 where the model says float32.

Without the precision hint it computes in bfloat16 on CPUs with AMX, and says so only where it is asked.
"""

from __future__ import annotations

import re
import sys
from typing import Any, Dict, List, Tuple

from ..feeds import Feed
from ..wire import TensorSpec
from . import Unsupported
from .onnxruntime import ONNX_FORMATS as FORMATS

__all__ = ["FORMATS", "INSTALL", "load_library", "open_session", "prepare"]

INSTALL = "pip install openvino"

_DEVICE = "CPU"
# Layers of the compiled model that a network's time goes into.
_COMPUTE = re.compile(r"Conv|FullyConnected|MatMul|Attention|LSTM|GRU|RNN")
_INT8 = ("i8", "u8")


def load_library() -> str:
    """Import OpenVINO without its telemetry; its version."""
    # Importing openvino starts telemetry, which leaves an id in the home directory and heeds no variable; where its
    # package is missing openvino goes on without.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        import openvino
    except ImportError as error:
        raise Unsupported("openvino is not installed: %s" % INSTALL) from error
    return str(openvino.__version__).partition("-")[0]


def prepare(feed: Feed) -> Dict[str, Any]:
    """Tensors of the feed, as copies."""
    import numpy
    import openvino

    return {
        name: openvino.Tensor(numpy.frombuffer(tensor.data, dtype=tensor.spec.dtype).reshape(tensor.spec.shape))
        for name, tensor in feed.items()
    }


def open_session(path: str, threads: int) -> OpenVinoSession:
    """The model at `path`, compiled for the CPU with `threads` threads."""
    import openvino

    settings = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
    }
    return OpenVinoSession(openvino.Core().compile_model(path, _DEVICE, settings))


class OpenVinoSession:
    """A compiled model with one request, which is fed tensors by name and answers with arrays of its caller's own."""

    one_at_a_time = "OpenVINO's request"

    def __init__(self, compiled: Any) -> None:
        self.provider = describe(compiled)
        self._compiled = compiled
        self._request = compiled.create_infer_request()

    def run(self, prepared: Dict[str, Any]) -> Any:
        """One inference."""
        return self._request.infer(prepared)

    def named_outputs(self, outputs: Any) -> List[Tuple[TensorSpec, bytes]]:
        """The outputs of one run as bytes."""
        named = []
        for port, array in outputs.items():
            name = port.any_name if port.names else "output%d" % port.index
            named.append((TensorSpec(name, tuple(array.shape), str(array.dtype)), array.tobytes()))
        return named

    def close(self) -> None:
        """Release the request and the model."""
        self._request = self._compiled = None


def describe(compiled: Any) -> str:
    """What the compiled model says it runs on and in: "CPU, f32 hint, int8 in 21 of 21 compute layers"."""
    facts = [
        " ".join(compiled.get_property("EXECUTION_DEVICES")),
        "%s hint" % compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name(),
    ]
    layers = [node.get_rt_info() for node in compiled.get_runtime_model().get_ordered_ops()]
    precisions = [
        layer["runtimePrecision"].astype(str) for layer in layers if _COMPUTE.search(layer["layerType"].astype(str))
    ]
    quantised = sum(precision in _INT8 for precision in precisions)
    if quantised:
        facts.append("int8 in %d of %d compute layers" % (quantised, len(precisions)))
    return ", ".join(facts)
