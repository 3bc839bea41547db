"""Static quantization of an fp32 ONNX file: our settings and our calibration, onnxruntime's rewriting of the graph.

Which operators are quantized follows from the graph: on a network with Softmax and LayerNormalization only the matrix
products and convolutions are, because the ranges of attention lose more than they gain (a digits ViT agreed with fp32
in 98.4 % of images instead of 83.5 %, at 3.05 instead of 3.49 times the speed of fp32 for vit_b_16); on a
convolutional network all of them, because each float operator in between costs a pair of conversions (resnet18 2.59
instead of 2.27 times fp32).
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgebench.agent.environment import switch_telemetry_off
from edgebench.quantize.ranges import ranges
from edgebench.quantize.statistics import Kept, collect

__all__ = ["quantize"]

_TRANSFORMER_OPERATORS = frozenset({"LayerNormalization", "Softmax"})
# DequantizeLinear has an axis from here on.
_PER_CHANNEL_OPSET = 13
# The IR version that belongs to that operator set.
_OLDEST_IR_VERSION = 7
# onnxruntime's severities; warning is its default.
_ORT_WARNING, _ORT_ERROR = 2, 3
_MATRIX_OPERATORS = frozenset({"Conv", "Gemm", "MatMul"})
_FLOAT = 1  # onnx.TensorProto.FLOAT


def quantize(
    source: Path,
    out: Path,
    calibration: Callable[[], Iterable[Mapping[str, Any]]],
    options: Mapping[str, Any],
    kept: Kept,
) -> tuple[str, ...]:
    """Write the int8 model of `source` to `out`; sentences on what was done.

    `options` are those of `settings.for_machine`, the method and its percentile. `calibration` gives the calibration
    inputs, which are not asked for where `kept` has the statistics of the same model over the same ones.
    """
    switch_telemetry_off()
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantType
    from onnxruntime.quantization.calibrate import TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
    from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

    kinds = {"int8": QuantType.QInt8, "uint8": QuantType.QUInt8}
    with _quiet(), tempfile.TemporaryDirectory(prefix="edgebench-int8-") as scratch:
        prepared = _prepared(source, Path(scratch))
        model = onnx.load(prepared, load_external_data=False)
        transformer = {node.op_type for node in model.graph.node} >= _TRANSFORMER_OPERATORS
        operators = _MATRIX_OPERATORS if transformer else frozenset(QLinearOpsRegistry) | frozenset(QDQRegistry)
        tensors = _activations(model, operators)
        statistics, reused = kept.find_or_collect(
            (prepared, prepared.with_suffix(".weights")), tensors, lambda: collect(prepared, tensors, calibration())
        )
        chosen = ranges(statistics, options["method"], symmetric=False, percentile=options["percentile"])
        quantizer = QDQQuantizer(
            onnx.load(prepared),
            per_channel=options["per_channel"],
            reduce_range=False,
            weight_qType=kinds[options["weights"]],
            activation_qType=kinds[options["activations"]],
            tensors_range=TensorsData(CalibrationMethod.MinMax, chosen),
            nodes_to_quantize=[],
            nodes_to_exclude=[],
            op_types_to_quantize=sorted(operators),
            extra_options={},
        )
        quantizer.quantize_model()
        quantizer.model.save_model_to_file(str(out), False)
    scheme = f"{options['activations']} activations, {options['weights']} weights per channel"
    scope = "convolutions and matrix products only (it has attention)" if transformer else "all operators"
    return (f"{scheme}, {scope}", kept.sentence(statistics, options["method"], reused=reused))


def _activations(model: Any, operators: frozenset[str]) -> tuple[str, ...]:
    """The float tensors at inputs and outputs of those `operators`, weights left out."""
    graph = model.graph
    weights = {tensor.name for tensor in graph.initializer}
    floats = {
        value.name
        for value in (*graph.input, *graph.value_info, *graph.output)
        if value.type.tensor_type.elem_type == _FLOAT and value.name not in weights
    }
    seen = (name for node in graph.node if node.op_type in operators for name in (*node.input, *node.output))
    return tuple(dict.fromkeys(name for name in seen if name in floats))


def _prepared(source: Path, scratch: Path) -> Path:
    """The model as the quantizer wants it, in `scratch`: new enough, shapes inferred, batch norms folded that an
    exporter left, weights in a file beside it."""
    import onnx
    from onnxruntime.quantization.shape_inference import quant_pre_process

    upgraded, processed, prepared = (scratch / f"{name}.onnx" for name in ("upgraded", "processed", "prepared"))
    changed = _upgraded(onnx.load(source))
    if changed is not None:
        onnx.save(changed, upgraded)
    quant_pre_process(str(source if changed is None else upgraded), str(processed), skip_symbolic_shape=True)
    model = onnx.load(processed)
    _flatten_biases(model)
    onnx.save(model, prepared, save_as_external_data=True, location="prepared.weights", size_threshold=1024)
    return prepared


def _upgraded(model: Any) -> Any | None:
    """The model in an operator set with scales per channel, and with its weights as constants alone; None where it is
    so already."""
    import onnx.version_converter

    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    # Before IR version 4 weights had to be inputs too, which a caller might override, so that nothing is folded.
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    if opset >= _PER_CHANNEL_OPSET and len(inputs) == len(model.graph.input):
        return None
    if opset < _PER_CHANNEL_OPSET:
        model = onnx.version_converter.convert_version(model, _PER_CHANNEL_OPSET)
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    model.ir_version = max(model.ir_version, _OLDEST_IR_VERSION)
    return model


def _flatten_biases(model: Any) -> None:
    """Make Gemm's biases of `[1, N]` the `[N]` that they are broadcast as: onnxruntime 1.31's quantizer fails on the
    former per channel, and its own optimizer makes them when it fuses MatMul and Add."""
    biases = {node.input[2] for node in model.graph.node if node.op_type == "Gemm" and len(node.input) > 2}
    for tensor in model.graph.initializer:
        if tensor.name in biases and len(tensor.dims) == 2 and tensor.dims[0] == 1:
            del tensor.dims[0]


@contextmanager
def _quiet() -> Iterator[None]:
    """The quantizer logs advice for what was done already, and the runtime each weight that it does not need."""
    import onnxruntime

    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    onnxruntime.set_default_logger_severity(_ORT_ERROR)
    try:
        yield
    finally:
        onnxruntime.set_default_logger_severity(_ORT_WARNING)
        logging.disable(previous)
