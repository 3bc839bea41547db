"""Dynamic int8: weights in int8 per channel, activations quantized anew at each inference, for networks of products.

onnxruntime's quantizer rewrites the graph. By itself it fails on what dynamo exports: it makes MatMul of Gemm, with the
weights transposed, and then has shapes inferred, of which the file still lists those of the weights as they were.

Convolutions stay float: as ConvInteger they take longer than in float32 (onnxruntime 1.31, x86-64 with VNNI, one
thread: resnet18 1.03, mobilenet_v2 2.11, efficientnet_b0 2.45 of the time), and matrix products a third (vit_b_16
0.33).
"""

from __future__ import annotations

import logging
from pathlib import Path

from edgebench.agent.environment import switch_telemetry_off
from edgebench.errors import StepError
from edgebench.quantize.weights import float_constants, split_dense

__all__ = ["write_dynamic"]


def write_dynamic(source: Path, out: Path, *, reduce_range: bool) -> tuple[str, ...]:
    """Write `source` with its matrix products in int8 to `out`; sentences on what was done.

    `reduce_range` leaves a bit of the weights unused, for CPUs whose sums of two products are 16 bits wide.

    Raises:
        StepError: there is no matrix product with constant weights.
    """
    switch_telemetry_off()
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx.load(source)
    split_dense(model.graph)
    constants = float_constants(model.graph)
    products = sum(node.op_type == "MatMul" and node.input[1] in constants for node in model.graph.node)
    if not products:
        raise StepError("it has no matrix product with constant weights", hint="onnx-w8 stores convolutions in int8")
    weights = {tensor.name for tensor in model.graph.initializer}
    computed = [value for value in model.graph.value_info if value.name not in weights]
    del model.graph.value_info[:]
    model.graph.value_info.extend(computed)
    previous = logging.root.manager.disable
    # It advises what was done already.
    logging.disable(logging.WARNING)
    try:
        quantize_dynamic(
            model,
            out,
            op_types_to_quantize=["MatMul"],
            per_channel=True,
            reduce_range=reduce_range,
            weight_type=QuantType.QInt8,
        )
    finally:
        logging.disable(previous)
    floats = sum(node.op_type == "Conv" for node in model.graph.node)
    said = f"int8 weights per channel in {products} matrix products, whose inputs are quantized at each inference"
    return (said + (f"; {floats} convolutions stay float32" if floats else ""),)
