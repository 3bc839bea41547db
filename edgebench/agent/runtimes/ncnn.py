"""ncnn on the CPU, in float32.

Its own defaults store weights and activations in float16 where the CPU can, and compute in it on ARM: another
precision than the artifact's. All of that is off, and Vulkan with it.

An artifact is one file: ncnn's weights as they are in a `.bin`, which ncnn reads from the front and as far as it needs,
and behind them a zip of `model.param` (the network) and `tensors.json` (its outputs' shapes with the batch, which ncnn
does not know). `python -m zipfile -e FILE DIRECTORY` takes those out; the file itself serves as the `.bin`.
"""

from __future__ import annotations

import json
import zipfile
from typing import Any, Dict, List, Sequence, Tuple

from ..feeds import Feed
from ..wire import TensorSpec
from . import Unsupported

FORMATS = ("ncnn",)
INSTALL = "pip install ncnn"
PARAM = "model.param"
TENSORS = "tensors.json"

_FLOAT32_ONLY = (
    "use_fp16_packed",
    "use_fp16_storage",
    "use_fp16_arithmetic",
    "use_bf16_packed",
    "use_bf16_storage",
    "use_vulkan_compute",
)


def load_library() -> str:
    """Import ncnn; its version."""
    try:
        import ncnn
    except ImportError as error:
        raise Unsupported("ncnn is not installed: %s" % INSTALL) from error
    return str(ncnn.__version__)


def prepare(feed: Feed) -> List[Any]:
    """Matrices of the feed without its batch, as copies, in its order.

    Raises:
        Unsupported: more than one sample in a batch, or another type than float32.
    """
    for tensor in feed.values():
        if not takes(tensor.spec):
            raise Unsupported("%s: export it with a batch of 1" % refusal(tensor.spec))
    import ncnn
    import numpy

    return [
        ncnn.Mat(numpy.frombuffer(tensor.data, dtype=numpy.float32).reshape(tensor.spec.shape[1:])).clone()
        for tensor in feed.values()
    ]


def takes(spec: TensorSpec) -> bool:
    """Whether ncnn can be fed it: a matrix has one to four dimensions, and none for a batch."""
    return spec.dtype == "float32" and 2 <= len(spec.shape) <= 5 and spec.shape[0] == 1


def refusal(spec: TensorSpec) -> str:
    """Why ncnn cannot."""
    return "ncnn takes one sample of float32 at a time, and `%s` is %s %s" % (spec.name, spec.dtype, list(spec.shape))


def open_session(path: str, threads: int) -> NcnnSession:
    """The network at `path`, ready to run with `threads` threads.

    Raises:
        ValueError: ncnn does not take it; it prints why on stderr.
    """
    import ncnn

    net = ncnn.Net()
    net.opt.num_threads = threads
    for option in _FLOAT32_ONLY:
        if hasattr(net.opt, option):
            setattr(net.opt, option, False)
    with zipfile.ZipFile(path) as archive:
        param = archive.read(PARAM).decode()
        shapes = json.loads(archive.read(TENSORS))["outputs"]
    if net.load_param_mem(param) != 0 or net.load_model(path) != 0:
        raise ValueError("ncnn cannot load %s" % path)
    return NcnnSession(net, shapes)


class NcnnSession:
    """An `ncnn.Net`, fed in the order of its inputs; an extractor, which keeps what it computed, is for one run."""

    provider = "CPU, fp32 storage and arithmetic"

    def __init__(self, net: Any, shapes: Dict[str, Sequence[int]]) -> None:
        self._net = net
        self._shapes = shapes

    def run(self, prepared: List[Any]) -> List[Any]:
        """One inference.

        Raises:
            RuntimeError: ncnn gives none of an output.
        """
        extractor = self._net.create_extractor()
        for index, matrix in enumerate(prepared):
            extractor.input("in%d" % index, matrix)
        outputs = []
        for name in self._shapes:
            code, matrix = extractor.extract(name)
            if code != 0:
                raise RuntimeError("ncnn gives no output %s (code %d)" % (name, code))
            outputs.append(matrix)
        return outputs

    def named_outputs(self, outputs: Sequence[Any]) -> List[Tuple[TensorSpec, bytes]]:
        """The outputs of one run as bytes, in their shapes with the batch."""
        import numpy

        named = []
        for (name, shape), matrix in zip(self._shapes.items(), outputs):
            array = numpy.array(matrix).reshape(shape)
            named.append((TensorSpec(name, tuple(array.shape), str(array.dtype)), array.tobytes()))
        return named

    def close(self) -> None:
        """Release the network."""
        self._net.clear()
