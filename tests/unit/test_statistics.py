"""The statistics of activations: small graphs and arrays of which every number is known."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgebench.quantize.probes import sampling_stride
from edgebench.quantize.statistics import (
    BINS,
    Accumulator,
    Kept,
    Statistics,
    TensorStatistics,
    collect,
)

onnx = pytest.importorskip("onnx", reason="needs onnx (the extra `torch`)")
pytest.importorskip("onnxruntime", reason="needs onnxruntime (the extra `torch`)")


def _gathered(*inputs: Iterable[float]) -> TensorStatistics:
    accumulator = Accumulator()
    for values in inputs:
        array = np.array(list(values), np.float32)
        accumulator.update(array.min(), array.max(), array)
    return accumulator.result()


def _bins(item: TensorStatistics) -> dict[float, int]:
    """The lower edge of each bin that holds something."""
    return {float((place - BINS) * item.bin_width): int(item.counts[place]) for place in np.flatnonzero(item.counts)}


def test_values_are_counted_in_bins_of_a_power_of_two_around_zero() -> None:
    # The least power of two of which 2048 reach beyond 1023.75 is 0.5.
    item = _gathered([-1023.75, -0.5, 0, 0.25, 0.5, 1023.75])
    assert item.bin_width == 0.5
    # An edge belongs to the bin above it.
    assert _bins(item) == {-1024: 1, -0.5: 1, 0: 2, 0.5: 1, 1023.5: 1}
    # And beyond 1024 it is 1.
    assert _gathered([1024]).bin_width == 1


def test_bins_that_merge_are_those_of_values_that_came_at_once() -> None:
    first, second = np.linspace(-1, 1, 1001), np.linspace(-300, 500, 1001)
    merged, at_once = _gathered(first, second), _gathered([*first, *second])
    assert (merged.bin_width, merged.low, merged.high) == (at_once.bin_width, -300, 500)
    np.testing.assert_array_equal(merged.counts, at_once.counts)


def test_the_order_of_the_inputs_decides_nothing_but_the_moving_average() -> None:
    inputs = [np.random.default_rng(seed).normal(seed, 10.0**seed, 500) for seed in range(4)]
    one, other = _gathered(*inputs), _gathered(*reversed(inputs))
    np.testing.assert_array_equal(one.counts, other.counts)
    assert (one.low, one.high, one.bin_width) == (other.low, other.high, other.bin_width)


def test_the_moving_average_is_the_mean_of_the_first_hundred_and_then_forgets() -> None:
    mean = _gathered([-1, 1], [-3, 5], [-2, 9])
    assert (mean.average_low, mean.average_high) == (pytest.approx(-2), pytest.approx(5))
    # 100 inputs with the maximum 1, then one with 2: 1 + (2 - 1) / 100.
    assert _gathered(*[[0, 1]] * 100, [0, 2]).average_high == pytest.approx(1.01)
    # Then 100 more with 2: 2 - 0.99 * 0.99 ** 100.
    assert _gathered(*[[0, 1]] * 100, *[[0, 2]] * 101).average_high == pytest.approx(2 - 0.99**101)


def test_values_that_are_hardly_any_are_counted() -> None:
    item = _gathered([0, 1e-45, -1e-45])
    assert (item.high, item.counts.sum()) == (np.float32(1e-45), 3)


def test_zeros_alone_have_a_histogram() -> None:
    item = _gathered([0, 0], [0])
    assert (item.low, item.high, item.counts[BINS], item.counts.sum()) == (0, 0, 3, 3)
    # What comes later does not lose them.
    assert _bins(_gathered([0, 0], [2047, 1])) == {0: 2, 1: 1, 2047: 1}


@pytest.mark.parametrize("values", [[0, math.nan], [0, math.inf], [-math.inf, 0]])
def test_values_that_are_not_finite_are_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match="values"):
        _gathered([0, 1], values)


def test_a_number_that_is_none_is_seen_in_the_sample_too() -> None:
    with pytest.raises(ValueError, match="no numbers"):
        Accumulator().update(0, 1, np.array([0, math.nan], np.float32))


def test_nothing_has_no_statistics() -> None:
    with pytest.raises(ValueError, match="no values"):
        Accumulator().result()


@pytest.mark.parametrize("shape", [(1, 96, 112, 112), (1, 197, 768), (1, 1000), (8, 3, 224, 224)])
def test_a_sample_has_at_most_8192_values_of_every_channel_row_and_column(shape: tuple[int, ...]) -> None:
    stride = sampling_stride(shape)
    places = np.unravel_index(np.arange(0, math.prod(shape), stride), shape)
    assert len(places[0]) <= 8192
    for axis, seen in zip(shape, places, strict=True):
        assert len(np.unique(seen)) == axis


def _network(path: Path, side: int = 8) -> Path:
    """x [1, 1, side, side] -> c = 2 x -> r = relu(c) -> k = clip(c, -1, 1); d = c.flat @ ones -> y; weights outside."""
    from onnx import TensorProto, helper, numpy_helper

    weights = {
        "double": np.full((1, 1, 1, 1), 2, np.float32),
        "one": np.array(1, np.float32),
        "minus": np.array(-1, np.float32),
        "ones": np.ones((side * side, 1), np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "double"], ["c"]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Clip", ["c", "minus", "one"], ["k"]),
        helper.make_node("Flatten", ["c"], ["f"]),
        helper.make_node("MatMul", ["f", "ones"], ["y"]),
    ]
    shape = [1, 1, side, side]
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("y", "r", "k")],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    model = onnx.shape_inference.infer_shapes(model)
    onnx.save(model, path, save_as_external_data=True, location="network.weights", size_threshold=128)
    return path


def _feeds(*arrays: NDArray[Any]) -> list[dict[str, NDArray[Any]]]:
    return [{"x": array.astype(np.float32)} for array in arrays]


def test_extremes_and_histograms_are_those_of_the_values_themselves(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    arrays = [generator.normal(0, scale, (1, 1, 8, 8)) for scale in (1, 3, 2)]
    found = collect(_network(tmp_path / "network.onnx"), ["x", "c", "r", "k", "y"], _feeds(*arrays))
    assert found.inputs == 3
    values = {"x": [array.astype(np.float32) for array in arrays]}
    values["c"] = [2 * array for array in values["x"]]
    values["r"] = [np.maximum(array, 0) for array in values["c"]]
    values["k"] = [np.clip(array, -1, 1) for array in values["c"]]
    values["y"] = [array.sum() for array in values["c"]]
    for name, expected in values.items():
        item = found.tensors[name]
        joined = np.array(expected).ravel()
        assert (item.low, item.high) == pytest.approx((joined.min(), joined.max()), rel=1e-5), name
        # 64 values of each input are few enough to be counted all.
        edges = np.arange(-BINS, BINS + 1) * item.bin_width
        if name != "y":
            np.testing.assert_array_equal(item.counts, np.histogram(joined, edges)[0], name)


def test_the_sample_of_a_large_tensor_is_like_the_tensor(tmp_path: Path) -> None:
    array = np.random.default_rng(1).normal(0, 1, (1, 1, 256, 256))
    found = collect(_network(tmp_path / "network.onnx", 256), ["x", "c"], _feeds(array))
    for name in found.tensors:
        item = found.tensors[name]
        assert 4000 < item.counts.sum() <= 8192
        middles = (np.arange(2 * BINS) - BINS + 0.5) * item.bin_width
        spread = math.sqrt((item.counts * middles**2).sum() / item.counts.sum())
        # The standard deviation of 4,000 normal values or more is within 5 % (4 sigma).
        assert spread == pytest.approx(2 if name == "c" else 1, rel=0.05)


def test_the_sample_of_an_image_does_not_favour_its_edges(tmp_path: Path) -> None:
    # A frame of one pixel around 256 x 256 has 1.6 % of them.
    array = np.ones((1, 1, 256, 256))
    array[:, :, 1:-1, 1:-1] = 0.5
    item = collect(_network(tmp_path / "network.onnx", 256), ["c"], _feeds(array)).tensors["c"]
    # 2 x 0.5 and 2 x 1 in bins of 1 / 512.
    inside, frame = item.counts[BINS + 512], item.counts[BINS + 1024]
    assert inside + frame == item.counts.sum() > 4000
    assert frame <= 0.03 * inside


def test_without_histograms_there_are_extremes_alone(tmp_path: Path) -> None:
    found = collect(_network(tmp_path / "network.onnx"), ["c"], _feeds(np.ones((1, 1, 8, 8))), histograms=False)
    assert (found.tensors["c"].high, found.tensors["c"].counts.size) == (2, 0)


def test_nothing_is_left_beside_the_model(tmp_path: Path) -> None:
    path = _network(tmp_path / "network.onnx")
    before = sorted(item.name for item in tmp_path.iterdir())
    collect(path, ["c"], _feeds(np.ones((1, 1, 8, 8))))
    with pytest.raises(ValueError, match="no calibration inputs"):
        collect(path, ["c"], [])
    assert sorted(item.name for item in tmp_path.iterdir()) == before == ["network.onnx", "network.weights"]


def test_an_infinite_value_names_the_tensor(tmp_path: Path) -> None:
    broken = np.ones((1, 1, 8, 8))
    broken[0, 0, 3, 3] = math.inf
    with pytest.raises(ValueError, match=r"the tensor x values from 1\.0 to inf"):
        collect(_network(tmp_path / "network.onnx"), ["x", "c"], _feeds(np.ones((1, 1, 8, 8)), broken))


def test_what_is_no_number_inside_is_seen_at_the_output(tmp_path: Path) -> None:
    # Infinite from the convolution on, and infinity less infinity in the sum of the matrix product.
    array = np.ones((1, 1, 8, 8))
    array[0, 0, 0, :2] = (3e38, -3e38)
    with pytest.raises(ValueError, match="the output y values that are no numbers"):
        collect(_network(tmp_path / "network.onnx"), ["r"], _feeds(array), histograms=False)


def test_statistics_come_back_from_a_file(tmp_path: Path) -> None:
    saved = Statistics({"a/b": _gathered([-1, 2]), "ü": _gathered([0.1, 3], [5])}, 2, "who knows")
    saved.save(tmp_path / "kept.npz")
    loaded = Statistics.load(tmp_path / "kept.npz")
    assert (loaded.inputs, loaded.origin, list(loaded.tensors)) == (2, "who knows", ["a/b", "ü"])
    for name, item in saved.tensors.items():
        other = loaded.tensors[name]
        np.testing.assert_array_equal(item.counts, other.counts)
        for field in ("low", "high", "average_low", "average_high", "bin_width"):
            assert getattr(item, field) == getattr(other, field)


def _cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


@pytest.mark.parametrize(
    "damage", [_cut, lambda content: b"", lambda content: content[:200] + b"?" + content[201:]], ids=str
)
def test_a_damaged_file_is_refused(damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    path = tmp_path / "kept.npz"
    Statistics({"a": _gathered([-1, 2])}, 1).save(path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r"kept\.npz|npz|pickle|header|magic"):
        Statistics.load(path)


def test_another_npz_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "inputs.npz", x=np.zeros(3))
    with pytest.raises(ValueError, match="no statistics"):
        Statistics.load(tmp_path / "inputs.npz")


def test_kept_statistics_run_no_input_again(tmp_path: Path) -> None:
    model = _network(tmp_path / "network.onnx")
    runs: list[str] = []

    def gather(*tensors: str) -> Callable[[], Statistics]:
        def run() -> Statistics:
            runs.append(",".join(tensors))
            return collect(model, tensors, _feeds(np.ones((1, 1, 8, 8))))

        return run

    files = (model, tmp_path / "network.weights")
    kept = Kept(tmp_path / "kept.npz", "these images")
    assert kept.find_or_collect(files, ("c",), gather("c"))[1] is False
    assert kept.find_or_collect(files, ("c",), gather("c"))[1] is True
    # Another tensor, other images, other weights, a damaged file.
    assert kept.find_or_collect(files, ("c", "r"), gather("c", "r"))[1] is False
    assert Kept(kept.path, "others").find_or_collect(files, ("c",), gather("c"))[1] is False
    weights = files[1].read_bytes()
    files[1].write_bytes(weights[::-1])
    assert Kept(kept.path, "others").find_or_collect(files, ("c",), gather("c"))[1] is False
    kept.path.write_bytes(b"")
    assert Kept(kept.path, "others").find_or_collect(files, ("c",), gather("c"))[1] is False
    assert runs == ["c", "c,r", "c", "c", "c"]
