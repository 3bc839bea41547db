"""TFLite at lower precision: our calibration, ai-edge-quantizer's rewriting of the file.

Which operators are quantized follows from the graph, as it does for ONNX. In a transformer only the matrix products
with weights and the convolutions are: attention's ranges lose too much (vit_b_16: 6.6 dB with all operators, 25 dB so).
Elsewhere all are, save those for which XNNPACK has no int8 kernel: each of these stops it, hands the tensor to a
built-in kernel and back (mobilenet_v3_small, one thread: 2.9 times the time of float32 with int8 HARD_SWISH, 0.8 with
a float one, at the same accuracy).
"""

from __future__ import annotations

import io
import logging
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np

from edgebench.quantize.probes import sampling_stride
from edgebench.quantize.ranges import ranges
from edgebench.quantize.statistics import Accumulator, Kept, Statistics

__all__ = ["collect", "quantize", "write_dynamic", "write_fp16"]

# Attention, and what a LayerNorm is made of.
_TRANSFORMER_OPERATORS = frozenset({"SOFTMAX", "RSQRT"})
_MATRIX_OPERATORS = frozenset({"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"})
_WITHOUT_KERNEL = frozenset({"HARD_SWISH"})
_HYBRID_DENSE_VERSION = 12


def quantize(
    source: Path,
    out: Path,
    calibration: Callable[[], Iterable[Mapping[str, Any]]],
    options: Mapping[str, Any],
    kept: Kept,
    *,
    integer_io: bool,
) -> tuple[str, ...]:
    """Write the int8 model of the float32 `source` to `out`, with integer inputs and outputs or float ones; sentences
    on what was done.

    `options` are the method and its percentile. `calibration` gives the calibration inputs, which are not asked for
    where `kept` has the statistics of the same model over the same ones.
    """
    interpreter = _open(source)
    # Delegation adds a node of its own.
    nodes = interpreter._get_ops_details()
    kinds = {str(node["op_name"]) for node in nodes} - {"DELEGATE"}
    transformer = kinds >= _TRANSFORMER_OPERATORS
    floats = kinds - _MATRIX_OPERATORS if transformer else kinds & _WITHOUT_KERNEL
    products = _products_of_activations(interpreter, nodes) if transformer else []
    statistics, reused = kept.find_or_collect((source,), (), lambda: _collect(interpreter, calibration()))
    chosen = ranges(statistics, options["method"], symmetric=False, percentile=options["percentile"])
    _write_static(source, out, chosen, floats, products, integer_io=integer_io)
    scope = "all operators"
    if transformer:
        scope = "convolutions and matrix products with weights only (it has attention)"
    elif floats:
        scope = f"all operators but {', '.join(sorted(floats))}, for which XNNPACK has no int8 kernel"
    return (
        f"int8 activations, int8 weights per channel, {scope}",
        kept.sentence(statistics, options["method"], reused=reused),
    )


def _products_of_activations(interpreter: Any, nodes: Sequence[Mapping[str, Any]]) -> list[str]:
    """The results of dense layers without weights: a single head's query times key is converted to one."""
    computed = {int(index) for node in nodes for index in node["outputs"]}
    names = {detail["index"]: str(detail["name"]) for detail in interpreter.get_tensor_details()}
    return [
        names[int(node["outputs"][0])]
        for node in nodes
        if node["op_name"] == "FULLY_CONNECTED" and int(node["inputs"][1]) in computed
    ]


def collect(source: Path, feeds: Iterable[Mapping[str, Any]]) -> Statistics:
    """The statistics of each float tensor that is computed, and of the inputs, over all `feeds`.

    ai-edge-quantizer's own calibrator takes a moving average of each image's extremes, so that its ranges depend on the
    images' order and cut off what the first of them had.

    Infinities, as a padding before a maximum has them, are left out: the end of the range stands for them.

    Raises:
        ValueError: there are no inputs, or a tensor took no finite value, or one that is no number.
    """
    return _collect(_open(source), feeds)


def _open(source: Path) -> Any:
    """An interpreter that keeps the values of all tensors, also of those that XNNPACK computes."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    with warnings.catch_warnings():
        # That keeping all tensors costs memory; it is one image's.
        warnings.simplefilter("ignore", UserWarning)
        interpreter = Interpreter(
            model_path=str(source),
            experimental_op_resolver_type=OpResolverType.BUILTIN,
            experimental_preserve_all_tensors=True,
        )
    interpreter.allocate_tensors()
    return interpreter


def _collect(interpreter: Any, feeds: Iterable[Mapping[str, Any]]) -> Statistics:
    inputs = [detail["index"] for detail in interpreter.get_input_details()]
    computed = {int(index) for node in interpreter._get_ops_details() for index in node["outputs"]}
    floats = {
        detail["index"]: str(detail["name"])
        for detail in interpreter.get_tensor_details()
        if detail["dtype"] == np.float32 and (detail["index"] in computed or detail["index"] in inputs)
    }
    accumulators = {index: Accumulator() for index in floats}
    fed = 0
    for feed in feeds:
        for index, array in zip(inputs, feed.values(), strict=True):
            interpreter.set_tensor(index, array)
        interpreter.invoke()
        fed += 1
        for index, accumulator in accumulators.items():
            values = interpreter.get_tensor(index)
            # These two pass on what is no number.
            low = values.min(initial=np.inf, where=values != -np.inf)
            high = values.max(initial=-np.inf, where=values != np.inf)
            sample = values.ravel()[:: sampling_stride(values.shape)]
            try:
                accumulator.update(low, high, sample[~np.isinf(sample)])
            except ValueError as error:
                raise ValueError(f"the calibration inputs give the tensor {floats[index]} {error}") from error
    if not fed:
        raise ValueError("there are no calibration inputs")
    return Statistics({floats[index]: item.result() for index, item in accumulators.items()}, fed)


def _write_static(
    source: Path,
    out: Path,
    ranges: Mapping[str, tuple[np.float32, np.float32]],
    floats: Iterable[str],
    float_results: Iterable[str],
    *,
    integer_io: bool,
) -> None:
    from ai_edge_quantizer import qtyping, recipe_manager
    from ai_edge_quantizer.algorithm_manager import AlgorithmName

    recipe = recipe_manager.RecipeManager()
    recipe.add_static_config(
        regex=".*",
        operation_name=qtyping.TFLOperationName.ALL_SUPPORTED,
        activation_num_bits=8,
        weight_num_bits=8,
    )
    left = [*floats, *(() if integer_io else ("INPUT", "OUTPUT"))]
    # Kinds that it does not know stay float by themselves.
    known = {name.value: name for name in qtyping.TFLOperationName}
    for kind in left:
        if kind in known:
            recipe.add_quantization_config(
                regex=".*", operation_name=known[kind], algorithm_key=AlgorithmName.NO_QUANTIZE
            )
    for name in float_results:
        recipe.add_quantization_config(
            regex=f"^{re.escape(name)};$",
            operation_name=qtyping.TFLOperationName.FULLY_CONNECTED,
            algorithm_key=AlgorithmName.NO_QUANTIZE,
        )
    statistics = {name: {"min": np.array([low]), "max": np.array([high])} for name, (low, high) in ranges.items()}
    _write(source, out, recipe, statistics)


def write_dynamic(source: Path, out: Path) -> None:
    """int8 weights per channel; activations are quantized anew at each inference."""
    from ai_edge_quantizer import qtyping, recipe_manager

    recipe = recipe_manager.RecipeManager()
    recipe.add_dynamic_config(regex=".*", operation_name=qtyping.TFLOperationName.ALL_SUPPORTED, num_bits=8)
    _write(source, out, recipe, None)
    _say_what_it_needs(out)


def _say_what_it_needs(path: Path) -> None:
    """Give dense layers the version that float activations with weights per channel have (TensorFlow's
    lite/tools/versioning/op_version.cc): ai-edge-quantizer 0.10 leaves an older one, and tflite-runtime 2.14 then runs
    them, with wrong results and without a word."""
    from ai_edge_litert.schema_py_generated import BuiltinOperator
    from ai_edge_quantizer.utils import tfl_flatbuffer_utils as flatbuffer

    model = flatbuffer.read_model(str(path))
    for code in model.operatorCodes:
        if code.builtinCode == BuiltinOperator.FULLY_CONNECTED:
            code.version = max(code.version, _HYBRID_DENSE_VERSION)
    flatbuffer.write_model(model, str(path))


def write_fp16(source: Path, out: Path) -> None:
    """float16 weights."""
    from ai_edge_quantizer import qtyping, recipe_manager
    from ai_edge_quantizer.algorithm_manager import AlgorithmName

    recipe = recipe_manager.RecipeManager()
    recipe.add_quantization_config(
        regex=".*",
        operation_name=qtyping.TFLOperationName.ALL_SUPPORTED,
        op_config=qtyping.OpQuantizationConfig(
            weight_tensor_config=qtyping.TensorQuantizationConfig(num_bits=16, dtype=qtyping.TensorDataType.FLOAT),
            compute_precision=qtyping.ComputePrecision.FLOAT,
            explicit_dequantize=True,
        ),
        algorithm_key=AlgorithmName.FLOAT_CASTING,
    )
    _write(source, out, recipe, None)


def _write(source: Path, out: Path, recipe: Any, statistics: Mapping[str, Any] | None) -> None:
    from ai_edge_quantizer.quantizer import Quantizer

    with _quiet():
        quantizer = Quantizer(str(source), recipe.get_quantization_recipe())
        result = quantizer.quantize(statistics, enable_progress_bar=False, enable_progress_report=False)
    out.write_bytes(result.quantized_model)


@contextmanager
def _quiet() -> Iterator[None]:
    """It draws bars that were switched off, and numpy warns of the infinity that is clipped."""
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with redirect_stderr(io.StringIO()), redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)
