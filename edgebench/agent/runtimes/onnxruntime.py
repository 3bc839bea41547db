"""ONNX Runtime on the CPU, as its users run it: all graph optimisations, its own thread pool."""

from __future__ import annotations

from typing import Any, Dict, List, Sequence, Tuple

from ..feeds import Feed
from ..wire import TensorSpec
from . import Unsupported

ONNX_FORMATS = ("onnx", "onnx-sim", "onnx-int8", "onnx-fp16", "onnx-w8", "onnx-dynamic")
FORMATS = (*ONNX_FORMATS, "ort", "ort-int8")
INSTALL = "pip install onnxruntime"
PROVIDER = "CPUExecutionProvider"

# Bytes 4 to 7 of a file in onnxruntime's own format.
ORT_IDENTIFIER = b"ORTM"


def load_library() -> str:
    """Import onnxruntime; its version."""
    try:
        import onnxruntime
    except ImportError as error:
        raise Unsupported("onnxruntime is not installed: %s" % INSTALL) from error
    return str(onnxruntime.__version__)


def prepare(feed: Feed) -> Dict[str, Any]:
    """Numpy arrays of the feed, as copies."""
    import numpy

    return {
        name: numpy.frombuffer(tensor.data, dtype=tensor.spec.dtype).reshape(tensor.spec.shape).copy()
        for name, tensor in feed.items()
    }


def open_session(path: str, threads: int) -> OrtSession:
    """An inference session of the CPU provider with `threads` intra-op threads."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, options_for(path, threads), providers=[PROVIDER])
    return OrtSession(session)


def options_for(path: str, threads: int) -> Any:
    """`session_options` for the file at `path`, of whichever of the two formats."""
    options = session_options(threads)
    with open(path, "rb") as file:
        # onnxruntime goes by the name, and pushed files have none.
        if file.read(8)[4:] == ORT_IDENTIFIER:
            options.add_session_config_entry("session.load_model_format", "ORT")
    return options


def session_options(threads: int) -> Any:
    """`onnxruntime.SessionOptions` with what is the same for all providers."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return options


class OrtSession:
    """An `onnxruntime.InferenceSession` that is fed numpy arrays by name; `provider` says what runs it."""

    def __init__(self, session: Any, provider: str = PROVIDER) -> None:
        self.provider = provider
        self._session = session
        self._names = [output.name for output in session.get_outputs()]

    def run(self, prepared: Dict[str, Any]) -> Any:
        """One inference."""
        return self._session.run(None, prepared)

    def named_outputs(self, outputs: Sequence[Any]) -> List[Tuple[TensorSpec, bytes]]:
        """The outputs of one run as bytes."""
        return [
            (TensorSpec(name, tuple(array.shape), str(array.dtype)), array.tobytes())
            for name, array in zip(self._names, outputs)
        ]

    def close(self) -> None:
        """Release the session."""
        self._session = None
