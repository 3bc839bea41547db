"""Static quantization of an fp32 ONNX file through onnxruntime's quantizer, with our settings and our calibration data.

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

__all__ = ["quantize"]

_TRANSFORMER_OPERATORS = frozenset({"LayerNormalization", "Softmax"})
# DequantizeLinear has an axis from here on.
_PER_CHANNEL_OPSET = 13
# The IR version that belongs to that operator set.
_OLDEST_IR_VERSION = 7
# onnxruntime's severities; warning is its default.
_ORT_WARNING, _ORT_ERROR = 2, 3
_MATRIX_OPERATORS = ("Conv", "Gemm", "MatMul")


def quantize(
    source: Path,
    out: Path,
    calibration: Callable[[], Iterable[Mapping[str, Any]]],
    options: Mapping[str, Any],
) -> tuple[str, ...]:
    """Write the int8 model of `source` to `out`; sentences on what was done.

    `options` are those of `settings.for_machine` plus `method` ("minmax").
    """
    switch_telemetry_off()
    import onnx
    from onnxruntime import quantization as ort_quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    kinds = {"int8": ort_quantization.QuantType.QInt8, "uint8": ort_quantization.QuantType.QUInt8}
    with tempfile.TemporaryDirectory(prefix="edgebench-int8-") as scratch, _quiet():
        upgraded, prepared = Path(scratch) / "upgraded.onnx", Path(scratch) / "prepared.onnx"
        onnx.save(_upgraded(onnx.load(source)), upgraded)
        # Infers the shapes that per-channel scales need, and folds batch norms that an exporter left (legacy ones do).
        quant_pre_process(str(upgraded), str(prepared), skip_symbolic_shape=True)
        model = onnx.load(prepared)
        _flatten_biases(model)
        operators = {node.op_type for node in model.graph.node}
        transformer = operators >= _TRANSFORMER_OPERATORS
        ort_quantization.quantize_static(
            model,
            str(out),
            _Reader(calibration()),
            quant_format=ort_quantization.QuantFormat.QDQ,
            activation_type=kinds[options["activations"]],
            weight_type=kinds[options["weights"]],
            per_channel=options["per_channel"],
            op_types_to_quantize=list(_MATRIX_OPERATORS) if transformer else None,
            calibrate_method=ort_quantization.CalibrationMethod.MinMax,
        )
    scheme = f"{options['activations']} activations, {options['weights']} weights per channel"
    scope = "convolutions and matrix products only (it has attention)" if transformer else "all operators"
    return (f"{scheme}, {scope}",)


def _upgraded(model: Any) -> Any:
    """The model in an operator set that has scales per channel, and with its weights as constants alone."""
    import onnx.version_converter

    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    if opset < _PER_CHANNEL_OPSET:
        model = onnx.version_converter.convert_version(model, _PER_CHANNEL_OPSET)
    # Before IR version 4 weights had to be inputs too, which a caller might override, so that nothing is folded.
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
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


class _Reader:
    """Hands the feeds to onnxruntime one by one, so that only one is in memory."""

    def __init__(self, feeds: Iterable[Mapping[str, Any]]) -> None:
        self._feeds: Iterator[Mapping[str, Any]] = iter(feeds)

    def get_next(self) -> dict[str, Any] | None:
        feed = next(self._feeds, None)
        return None if feed is None else dict(feed)


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
