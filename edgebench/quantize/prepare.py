"""A float ONNX file made ready for quantization: folded, shapes inferred, weights in a file of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgebench.errors import StepError
from edgebench.quantize.graph import Graph, subgraphs
from edgebench.quantize.rewrite import rewritten

__all__ = ["prepared"]

# DequantizeLinear has an axis from here on.
_PER_CHANNEL_OPSET = 13
# The IR version that belongs to that operator set.
_OLDEST_IR_VERSION = 7
# Smaller ones stay within the graph, where shape inference reads them.
_LEAST_EXTERNAL_BYTES = 1024


def prepared(source: Path, directory: Path) -> tuple[Graph, tuple[str, ...]]:
    """The model at `source` in `directory`, optimised as far as it stays portable: onnxruntime's basic level, which
    folds batch norms and constants, and rewritten where int8 has no kernel; sentences on the latter.

    Raises:
        StepError: it cannot be quantized.
    """
    import onnx

    path = directory / "prepared.onnx"
    structure = onnx.load(source, load_external_data=False)
    _refuse(structure)
    if not _is_new(structure):
        # Only small files are as old as that: their weights fit in memory.
        upgraded = directory / "upgraded.onnx"
        onnx.save(_upgraded(onnx.load(source)), upgraded)
        source = upgraded
    _optimize(source, path)
    graph = Graph(path)
    used = {node.domain for node in graph.nodes}
    for entry in [entry for entry in graph.model.opset_import if entry.domain not in used | {"", "ai.onnx"}]:
        graph.model.opset_import.remove(entry)
    _take_in_weights(graph)
    _infer_shapes(graph.model)
    notes = rewritten(graph.model)
    if notes:
        _infer_shapes(graph.model)
    graph.save()
    return Graph(path), notes


def _take_in_weights(graph: Graph) -> None:
    """Load what branches and loops have outside: they are copied as they are."""
    from onnx.external_data_helper import load_external_data_for_tensor, uses_external_data

    waiting = [inner for node in graph.nodes for inner in subgraphs(node)]
    while waiting:
        inner = waiting.pop()
        for tensor in inner.initializer:
            if uses_external_data(tensor):
                load_external_data_for_tensor(tensor, str(graph.path.parent))
                del tensor.external_data[:]
                tensor.ClearField("data_location")
        waiting += [deeper for node in inner.node for deeper in subgraphs(node)]


def _infer_shapes(model: Any) -> None:
    import onnx

    del model.graph.value_info[:]
    # The graph is small without its weights; the known sizes are what it is asked for.
    model.CopyFrom(onnx.shape_inference.infer_shapes(model, data_prop=True))


def _refuse(model: Any) -> None:
    kinds = {node.op_type for node in model.graph.node}
    if kinds & {"QuantizeLinear", "DequantizeLinear"} or any(
        kind.startswith(("QLinear", "DynamicQuantize")) or kind in ("ConvInteger", "MatMulInteger") for kind in kinds
    ):
        raise StepError("it is quantized already")


def _is_new(model: Any) -> bool:
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    weights = {tensor.name for tensor in model.graph.initializer}
    return opset >= _PER_CHANNEL_OPSET and not any(value.name in weights for value in model.graph.input)


def _upgraded(model: Any) -> Any:
    """The model in an operator set with scales per channel, and with its weights as constants alone."""
    import onnx.version_converter

    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    # Before IR version 4 weights had to be inputs too, which a caller might override, so that nothing is folded.
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    if opset < _PER_CHANNEL_OPSET:
        model = onnx.version_converter.convert_version(model, _PER_CHANNEL_OPSET)
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    model.ir_version = max(model.ir_version, _OLDEST_IR_VERSION)
    return model


def _optimize(source: Path, out: Path) -> None:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(out)
    options.log_severity_level = 3
    options.enable_cpu_mem_arena = False
    for key, value in (
        ("session.optimized_model_external_initializers_file_name", out.with_suffix(".weights").name),
        ("session.optimized_model_external_initializers_min_size_in_bytes", str(_LEAST_EXTERNAL_BYTES)),
        # The session is only to write, so its kernels need no weights in their own layout.
        ("session.disable_prepacking", "1"),
    ):
        options.add_session_config_entry(key, value)
    onnxruntime.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])
