"""Models and calibration data that int8 cannot be made of, or only in part: said in words, and nothing half-written."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgebench.bundle import load_bundle
from edgebench.cli.main import main
from edgebench.types import Artifact

RNG = np.random.default_rng(0)
# What Python calls it is no reason for a user.
EXCEPTION = re.compile(r"\b\w+(Error|Exception)\b|Traceback")


@dataclass(frozen=True)
class Said:
    """What one export answered; `int8` is None where there is no bundle."""

    code: int
    out: str
    err: str
    int8: Artifact | None
    files: frozenset[str]

    @property
    def all(self) -> str:
        return self.out + self.err


@pytest.fixture
def export(capsys: pytest.CaptureFixture[str]) -> Any:
    """`edgebench export MODEL --calib DATA --formats onnx-int8`."""

    def run(model: str, calib: str, *options: str) -> Said:
        code = main(["export", model, "--calib", calib, "--formats", "onnx-int8", "-o", "made.eb", *options])
        printed = capsys.readouterr()
        made = Path("made.eb")
        files = frozenset(path.name for path in made.iterdir()) if made.is_dir() else frozenset()
        int8 = load_bundle(made).artifacts[-1] if files else None
        return Said(code, printed.out, printed.err, int8, files)

    return run


def tensor(name: str, *shape: int) -> onnx.TensorProto:
    values = RNG.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
    return numpy_helper.from_array(values.astype(np.float32), name)


def save(
    path: str,
    middle: Sequence[onnx.NodeProto],
    weights: Sequence[onnx.TensorProto] = (),
    *,
    sides: tuple[int | str, ...] = (1, 3, 16, 16),
    domain: str | None = None,
) -> None:
    """A classifier of four classes, whose nodes between `convolved` and `middle` are these."""
    nodes = [
        helper.make_node("Conv", ["input", "kernel"], ["convolved"], kernel_shape=[3, 3], pads=[1] * 4),
        *middle,
        helper.make_node("GlobalAveragePool", ["middle"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "head"], ["output"]),
    ]
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, sides)],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [sides[0], 4])],
        [tensor("kernel", 8, 3, 3, 3), tensor("head", 8, 4), *weights],
    )
    opsets = [helper.make_opsetid("", 17), *([] if domain is None else [helper.make_opsetid(domain, 1)])]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)


def value(name: str, kind: int = TensorProto.FLOAT, shape: list[int] | None = None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def inputs(count: int = 24) -> NDArray[np.float32]:
    return np.random.default_rng(1).standard_normal((count, 3, 16, 16)).astype(np.float32)


def calibration(x: NDArray[np.float32]) -> str:
    np.savez("calibration.npz", x=x)
    return "npz:calibration.npz"


def sqnr_db(int8: Path, fp32: str, x: NDArray[np.float32]) -> float:
    import onnxruntime

    sessions = [onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]) for path in (fp32, int8)]
    expected, given = (
        np.concatenate([session.run(None, {"input": image[None]})[0] for image in x]) for session in sessions
    )
    return float(10 * np.log10((expected**2).sum() / ((expected - given) ** 2).sum()))


def with_branch(path: str) -> None:
    convolve = helper.make_node("Conv", ["convolved", "inner"], ["thought"], kernel_shape=[1, 1])
    save(
        path,
        [
            helper.make_node("ReduceMean", ["convolved"], ["mean"], keepdims=0),
            helper.make_node("Greater", ["mean", "nought"], ["bright"]),
            helper.make_node(
                "If",
                ["bright"],
                ["middle"],
                then_branch=helper.make_graph(
                    [convolve], "then", [], [value("thought")], [tensor("inner", 8, 8, 1, 1)]
                ),
                else_branch=helper.make_graph(
                    [helper.make_node("Relu", ["convolved"], ["rectified"])], "else", [], [value("rectified")]
                ),
            ),
        ],
        [numpy_helper.from_array(np.float32(0), "nought")],
    )


def with_loop(path: str) -> None:
    body = helper.make_graph(
        [
            helper.make_node("Conv", ["before", "inner"], ["between"], kernel_shape=[1, 1]),
            helper.make_node("Relu", ["between"], ["after"]),
            helper.make_node("Identity", ["going"], ["goes on"]),
        ],
        "body",
        [value("round", TensorProto.INT64, []), value("going", TensorProto.BOOL, []), value("before")],
        [value("goes on", TensorProto.BOOL, []), value("after")],
        [tensor("inner", 8, 8, 1, 1)],
    )
    save(
        path,
        [helper.make_node("Loop", ["rounds", "yes", "convolved"], ["middle"], body=body)],
        [numpy_helper.from_array(np.int64(3), "rounds"), numpy_helper.from_array(np.bool_(True), "yes")],
    )


@pytest.mark.parametrize("write", [with_branch, with_loop])
def test_control_flow_is_quantized_around_and_answers_as_before(write: Any, export: Any) -> None:
    write("flow.onnx")
    # Bright and dark in turn, so that each branch is taken and none by a hair's breadth.
    x = inputs() + np.tile(np.float32([1, -1]), 12).reshape(-1, 1, 1, 1)

    said = export("flow.onnx", calibration(x))

    assert said.int8 is not None
    assert (said.int8.status, said.code) == ("ok", 0), said.int8.reason
    assert sqnr_db(Path("made.eb") / str(said.int8.file), "flow.onnx", x) > 20


def test_an_operator_that_no_runtime_has_is_named_before_anything_is_written(export: Any) -> None:
    frobnicate = helper.make_node("Frobnicate", ["convolved"], ["middle"], domain="com.example")
    save("custom.onnx", [frobnicate], domain="com.example")

    said = export("custom.onnx", calibration(inputs()))

    assert said.code == 2
    assert "Frobnicate" in said.err
    assert "hint: " in said.err
    # The shape was given by the file, and is not what is wrong.
    assert "--input-shape" not in said.err
    assert not said.files
    assert not EXCEPTION.search(said.all)


def test_an_operator_of_the_runtimes_own_stays_in_float(export: Any) -> None:
    gelu = helper.make_node("Gelu", ["convolved"], ["middle"], domain="com.microsoft")
    save("contrib.onnx", [gelu], domain="com.microsoft")
    x = inputs()

    said = export("contrib.onnx", calibration(x))

    assert said.int8 is not None
    assert (said.int8.status, said.code) == ("ok", 0), said.int8.reason
    assert sqnr_db(Path("made.eb") / str(said.int8.file), "contrib.onnx", x) > 20


def test_a_model_with_nothing_to_quantize_is_told_so(export: Any) -> None:
    graph = helper.make_graph(
        [helper.make_node("Identity", ["input"], ["output"])],
        "graph",
        [value("input", shape=[1, 3, 16, 16])],
        [value("output", shape=[1, 3, 16, 16])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), "empty.onnx")

    said = export("empty.onnx", calibration(inputs()))

    assert said.int8 is not None
    assert said.int8.status in ("failed", "skipped")
    assert said.code == 1
    assert not EXCEPTION.search(said.all)
    assert not any("int8" in name for name in said.files)


@pytest.mark.parametrize("form", ["QDQ", "QOperator"])
def test_a_quantized_model_is_not_quantized_again_and_can_be_measured(form: str, export: Any) -> None:
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc, unused-ignore]
        def __init__(self) -> None:
            self.left = list(inputs(4))

        def get_next(self) -> dict[str, Any] | None:
            return {"input": self.left.pop()[None]} if self.left else None

    save("float.onnx", [helper.make_node("Relu", ["convolved"], ["middle"])])
    quantize_static("float.onnx", "theirs.onnx", Reader(), quant_format=QuantFormat[form])

    said = export("theirs.onnx", calibration(inputs()))

    assert said.int8 is not None
    assert said.int8.status == "skipped"
    assert "quantized already" in (said.int8.reason or "")
    assert "edgebench bench" in said.all
    assert not any("int8" in name for name in said.files)


def test_free_lengths_are_those_of_the_calibration_images(export: Any) -> None:
    save("free.onnx", [helper.make_node("Relu", ["convolved"], ["middle"])], sides=("n", 3, "height", "width"))
    x = inputs()

    said = export("free.onnx", calibration(x))

    assert said.int8 is not None
    assert (said.int8.status, said.code) == ("ok", 0), said.int8.reason
    assert sqnr_db(Path("made.eb") / str(said.int8.file), "free.onnx", x) > 20


def test_weights_above_two_gigabytes_are_quantized_or_refused_in_words(export: Any) -> None:
    # 2.0 GiB of zeros in a sparse file: one byte more than a protobuf may have.
    columns = 2**31 // (16 * 4) + 1
    large = TensorProto(name="large", data_type=TensorProto.FLOAT, dims=[16, columns])
    large.data_location = TensorProto.EXTERNAL
    for key, entry in (("location", "large.bin"), ("offset", "0"), ("length", str(16 * columns * 4))):
        large.external_data.add(key=key, value=entry)
    with Path("large.bin").open("wb") as file:
        file.truncate(16 * columns * 4)
    graph = helper.make_graph(
        [
            helper.make_node("GlobalAveragePool", ["input"], ["pooled"]),
            helper.make_node("Flatten", ["pooled"], ["flat"]),
            helper.make_node("Gemm", ["flat", "narrow"], ["wide"]),
            helper.make_node("MatMul", ["wide", "large"], ["scores"]),
            helper.make_node("ReduceMax", ["scores"], ["output"], axes=[1]),
        ],
        "graph",
        [value("input", shape=[1, 3, 16, 16])],
        [value("output", shape=[1, 1])],
        [tensor("narrow", 3, 16), large],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    Path("large.onnx").write_bytes(model.SerializeToString())

    said = export("large.onnx", calibration(inputs(2)))

    assert not EXCEPTION.search(said.all)
    if said.code != 0:
        assert "2 GB" in said.all
    assert not any(name.startswith(".") for name in said.files)


@pytest.mark.parametrize(("what", "wrong"), [("nan", np.nan), ("infinite", np.inf)])
def test_calibration_that_is_not_finite_is_refused_in_words(what: str, wrong: float, export: Any) -> None:
    save("plain.onnx", [helper.make_node("Relu", ["convolved"], ["middle"])])
    x = inputs()
    x[5, 0, 3, 3] = wrong

    said = export("plain.onnx", calibration(x))

    assert said.code != 0
    assert "calibration" in said.all
    assert "finite" in said.all
    assert not EXCEPTION.search(said.all)
    assert not any("int8" in name for name in said.files)


def test_calibration_of_another_shape_is_refused_before_anything_is_written(export: Any) -> None:
    save("plain.onnx", [helper.make_node("Relu", ["convolved"], ["middle"])])

    said = export("plain.onnx", calibration(inputs()[:, :2]))

    assert said.code == 2
    assert "[1, 2, 16, 16]" in said.err
    assert "hint: " in said.err
    assert not said.files


def test_black_calibration_images_are_warned_of(export: Any) -> None:
    save("plain.onnx", [helper.make_node("Relu", ["convolved"], ["middle"])])

    said = export("plain.onnx", calibration(np.zeros_like(inputs())))

    # Made or not, nobody may take it for calibrated.
    assert re.search(r"of one value throughout", said.all)
    assert not EXCEPTION.search(said.all)


def test_one_calibration_image_is_warned_of(export: Any) -> None:
    save("plain.onnx", [helper.make_node("Relu", ["convolved"], ["middle"])])

    said = export("plain.onnx", calibration(inputs(1)))

    assert re.search(r"only 1|too few|--samples", said.all)
    assert not EXCEPTION.search(said.all)
