"""int8 on an x86-64 CPU with AVX2 and without VNNI, as qemu-user has it: sums of two products have 16 bits there."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgebench.quantize.dynamic import write_dynamic

from .beds.requirements import Unavailable, require_tools

CHANNELS = 16
RUN = """
import sys
import numpy
import onnxruntime

session = onnxruntime.InferenceSession(sys.argv[1])
numpy.save(sys.argv[2], session.run(None, {"x": numpy.load(sys.argv[3])})[0])
"""


def _answer_with_avx2(path: Path, x: NDArray[np.float32]) -> NDArray[np.float32]:
    if platform.machine() not in ("x86_64", "AMD64"):
        raise Unavailable("needs an x86-64 Python with onnxruntime")
    require_tools({"qemu-x86_64": "qemu-user"})
    directory = path.parent
    (directory / "run.py").write_text(RUN)
    np.save(directory / "x.npy", x)
    subprocess.run(
        ["qemu-x86_64", "-cpu", "Haswell", sys.executable, "run.py", path.name, "y.npy", "x.npy"],
        cwd=directory,
        check=True,
        capture_output=True,
        timeout=300,
    )
    found: NDArray[np.float32] = np.load(directory / "y.npy")
    return found


def _convolution(path: Path, weight: int) -> Path:
    """16 channels to 16, 1x1, every weight `weight` in int8, activations in uint8; all scales are 1, the output's 256.
    In QDQ form, as the export writes it."""
    constants = {
        "one": np.array(1, np.float32),
        "zero": np.array(0, np.uint8),
        "wide": np.array(4096, np.float32),
        "w": np.full((CHANNELS, CHANNELS, 1, 1), weight, np.int8),
        "ones": np.ones(CHANNELS, np.float32),
        "zeros": np.zeros(CHANNELS, np.int8),
    }
    graph = helper.make_graph(
        [
            helper.make_node("QuantizeLinear", ["x", "one", "zero"], ["xq"]),
            helper.make_node("DequantizeLinear", ["xq", "one", "zero"], ["xd"]),
            helper.make_node("DequantizeLinear", ["w", "ones", "zeros"], ["wd"], axis=0),
            helper.make_node("Conv", ["xd", "wd"], ["c"]),
            helper.make_node("QuantizeLinear", ["c", "wide", "zero"], ["cq"]),
            helper.make_node("DequantizeLinear", ["cq", "wide", "zero"], ["y"]),
        ],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, CHANNELS, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, CHANNELS, 8, 8])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return path


@pytest.mark.parametrize(
    ("weight", "expected"),
    [
        # 16 products of 255 * 64 are 261,120; a pair's 32,640 fits in 16 bits. 63.75 steps of 4,096 are 64.
        (64, 64 * 4096),
        # 16 of 255 * 127 would be 518,160. Each of the 8 pairs' 64,770 is cut off at 32,767: 262,136, 64 steps too.
        (127, 64 * 4096),
    ],
)
def test_pairs_of_products_saturate_where_weights_use_all_8_bits(tmp_path: Path, weight: int, expected: int) -> None:
    x = np.full((1, CHANNELS, 8, 8), 255, np.float32)

    found = _answer_with_avx2(_convolution(tmp_path / "net.onnx", weight), x)

    assert set(found.ravel().tolist()) == {float(expected)}


@pytest.mark.parametrize(("reduce_range", "expected"), [(True, 16.0), (False, 8.09)])
def test_a_reduced_range_of_weights_keeps_dynamic_int8_right(
    tmp_path: Path, reduce_range: bool, expected: float
) -> None:
    """16 ones times ones. With all bits they are 255 and 127, and each pair is cut off: 16 * 32,767 / 64,770."""
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, CHANNELS])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, CHANNELS])],
        [numpy_helper.from_array(np.ones((CHANNELS, CHANNELS), np.float32), "w")],
    )
    source = tmp_path / "net.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), source)

    write_dynamic(source, tmp_path / "dynamic.onnx", reduce_range=reduce_range)

    found = _answer_with_avx2(tmp_path / "dynamic.onnx", np.ones((1, CHANNELS), np.float32))
    np.testing.assert_allclose(found, expected, rtol=0.01)
