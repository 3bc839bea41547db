"""The values of every layer of an int8 ONNX file and of the float one that it was made of, on the same inputs.

Both are executed here, one input at a time, as the files say it: without the runtime's optimisations, so that every
tensor is there under its name. What the device's kernels do otherwise is seen in its answers alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgebench.agent.environment import switch_telemetry_off
from edgebench.errors import EdgebenchError, first_line
from edgebench.explaining.layers import Counterpart, counterparts
from edgebench.explaining.scheme import QuantizedFile
from edgebench.explaining.values import Observed, Observer

__all__ = ["float_weights", "observe"]

# Of a protobuf message.
_LARGEST_MODEL = 2**31 - 1

Feed = Mapping[str, NDArray[Any]]


def observe(
    quantized: tuple[Path, QuantizedFile],
    floats: tuple[Path, QuantizedFile] | None,
    feeds: Sequence[Feed],
    threads: int,
) -> dict[str, Observed]:
    """By tensor of the quantized file what was seen of it over `feeds`; with the float one also how far they differ.

    Raises:
        EdgebenchError: onnxruntime does not load one of them as the files say it.
    """
    path, file = quantized
    others: dict[str, Counterpart] = {} if floats is None else counterparts(file, floats[1])
    reals = {
        tensor: file.writers[tensor].inputs[0]
        for tensor in file.activations
        if tensor in file.writers and file.writers[tensor].operator == "QuantizeLinear"
    }
    wanted = dict.fromkeys([*file.activations, *others, *reals.values()])
    observers = {tensor: Observer(file.activations.get(tensor)) for tensor in [*file.activations, *others]}
    ours = _session(path, [tensor for tensor in wanted if tensor not in file.inputs], threads)
    theirs = None
    if floats is not None:
        named = dict.fromkeys(other.tensor for other in others.values())
        theirs = _session(floats[0], [tensor for tensor in named if tensor not in floats[1].inputs], threads)
    for feed in feeds:
        found = {**feed, **_run(ours, feed)}
        expected = {} if theirs is None or floats is None else _expected(theirs, floats[1], feed)
        for tensor, observer in observers.items():
            value = found.get(tensor)
            if value is None or not np.issubdtype(value.dtype, np.number):
                continue
            if tensor not in file.activations and not np.issubdtype(value.dtype, np.floating):
                continue
            other = others.get(tensor)
            wished = None if other is None else expected.get(other.tensor)
            before = found.get(reals.get(tensor, ""))
            if other is not None and other.absorbed is not None and before is not None:
                before = np.maximum(before, 0) if other.absorbed == "Relu" else None
            # That the float model has values there is a reason to count them.
            one_sided = _begins_at_zero(tensor, file) and (wished is None or float(wished.min(initial=0)) >= 0)
            observer.see(value, expected=wished, before=before, one_sided=one_sided)
    return {tensor: observer.found() for tensor, observer in observers.items()}


def float_weights(path: Path) -> dict[str, NDArray[Any]]:
    """The float constants of a file by name."""
    import onnx
    from onnx import numpy_helper

    model = onnx.load(str(path))
    return {
        tensor.name: numpy_helper.to_array(tensor, str(path.parent))
        for tensor in model.graph.initializer
        if tensor.data_type == onnx.TensorProto.FLOAT
    }


def _begins_at_zero(tensor: str, file: QuantizedFile) -> bool:
    how = file.activations.get(tensor)
    return how is not None and how.scale.size == 1 and how.range[0] == 0


def _expected(session: Any, parent: QuantizedFile, feed: Feed) -> dict[str, NDArray[Any]]:
    """The float model's values; two models of one network may call its input otherwise."""
    given = dict(zip(parent.inputs, feed.values(), strict=True))
    return {**given, **_run(session, given)}


def _run(session: Any, feed: Feed) -> dict[str, NDArray[Any]]:
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(feed)), strict=True))


def _session(path: Path, tensors: Sequence[str], threads: int) -> Any:
    """A session that gives `tensors` as well."""
    switch_telemetry_off()
    import onnx
    import onnxruntime

    model = onnx.load(str(path))
    if model.ByteSize() > _LARGEST_MODEL:
        raise EdgebenchError(f"{path} is larger than the 2 GB that a model in memory may have")
    there = {output.name for output in model.graph.output}
    written = {name for node in model.graph.node for name in node.output}
    # Without a type: the runtime infers it.
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in tensors if name in written - there)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's have no base of their own
        raise EdgebenchError(f"{path} does not load without optimisations: {first_line(error)}") from error
