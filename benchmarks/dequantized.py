"""A float32 ONNX network with the weights of a uint8 TFLite file: a trained depthwise network with few channels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

__all__ = ["mobilenet_v1"]

_CONVOLUTIONS = ("CONV_2D", "DEPTHWISE_CONV_2D")


def mobilenet_v1(path: Path) -> onnx.ModelProto:
    """The MobileNetV1 of a TFLite file, `[1, 3, side, side]` in -1..1 to `[1, classes]` scores, without its softmax.

    Its layout is known and not read: each convolution but the last is followed by ReLU6.
    """
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    interpreter = Interpreter(
        model_path=str(path), experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    )
    interpreter.allocate_tensors()
    tensors = {tensor["index"]: tensor for tensor in interpreter.get_tensor_details()}
    operators = [node for node in interpreter._get_ops_details() if node["op_name"] in _CONVOLUTIONS]
    nodes: list[onnx.NodeProto] = []
    weights: list[onnx.TensorProto] = []
    stream = "input"
    for index, operator in enumerate(operators):
        source, kernel, bias = (tensors[number] for number in operator["inputs"])
        result = tensors[operator["outputs"][0]]
        depthwise = operator["op_name"] == "DEPTHWISE_CONV_2D"
        # [1, H, W, C] for a depthwise one, else [O, H, W, I]; ONNX has [C, 1, H, W] and [O, I, H, W].
        array = _real(interpreter, kernel).transpose((3, 0, 1, 2) if depthwise else (0, 3, 1, 2))
        weights.append(numpy_helper.from_array(np.ascontiguousarray(array), f"conv{index}.weight"))
        weights.append(numpy_helper.from_array(_real(interpreter, bias), f"conv{index}.bias"))
        if index == len(operators) - 1:
            nodes.append(helper.make_node("GlobalAveragePool", [stream], ["pooled"], name="pool"))
            stream = "pooled"
        stride = int(source["shape"][1] // result["shape"][1]) if index < len(operators) - 1 else 1
        total = max(0, array.shape[2] - stride)
        # TensorFlow's SAME puts the odd row and column at the end.
        pads = [total // 2, total // 2, total - total // 2, total - total // 2]
        nodes.append(
            helper.make_node(
                "Conv", [stream, f"conv{index}.weight", f"conv{index}.bias"], [f"conv{index}.out"],
                name=f"conv{index}", kernel_shape=array.shape[2:], strides=[stride, stride], pads=pads,
                group=len(array) if depthwise else 1,
            )
        )  # fmt: skip
        stream = f"conv{index}.out"
        if index < len(operators) - 1:
            inputs, stream = [stream, "zero", "six"], f"conv{index}.relu"
            nodes.append(helper.make_node("Clip", inputs, [stream], name=f"relu{index}"))
    nodes.append(helper.make_node("Flatten", [stream], ["output"], name="flatten"))
    weights += [numpy_helper.from_array(np.float32(6 * at), name) for at, name in enumerate(("zero", "six"))]
    side = int(tensors[operators[0]["inputs"][0]]["shape"][1])
    graph = helper.make_graph(
        nodes,
        "mobilenet_v1",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, side, side])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, len(array)])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


def _real(interpreter: Any, tensor: dict[str, Any]) -> NDArray[np.float32]:
    scale, zero = tensor["quantization"]
    values: NDArray[Any] = interpreter.get_tensor(tensor["index"])
    return np.asarray((values.astype(np.float64) - zero) * scale, np.float32)
