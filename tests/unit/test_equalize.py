"""Equalisation leaves the float function as it is, and makes int8 indifferent to how channels were scaled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from edgebench.quantize.equalize import equalize, groups_of
from edgebench.quantize.placement import find_places
from edgebench.quantize.prepare import prepared
from edgebench.quantize.settings import Settings
from edgebench.quantize.static import Quantizer, answers, output_sqnr_db
from edgebench.quantize.statistics import Kept
from edgebench.quantize.survey import survey
from tests.rescaled import depthwise_network, pattern_images, rescale
from tests.unit.test_quantize_placement import Net, feeds

IMAGES, _ = pattern_images(96, seed=5)


def images(start: int, stop: int) -> list[dict[str, NDArray[np.float32]]]:
    return [{"input": image[None]} for image in IMAGES[start:stop]]


def saved(model: Any, path: Path) -> Path:
    onnx.save(model, path)
    return path


def equalized(source: Path, scratch: Path, inputs: list[Any]) -> tuple[Path, int, float]:
    """The float file after it, how many groups changed and by how much."""
    graph, _ = prepared(source, scratch)
    places = find_places(graph)
    names = [name for name in places.quantized if len(graph.shapes[name]) in (2, 4)]
    _, changed, largest = equalize(graph, places, survey(graph, names, inputs))
    return graph.path, changed, largest


def test_the_float_function_stays(tmp_path: Path) -> None:
    source = saved(rescale(depthwise_network(), seed=3), tmp_path / "net.onnx")
    path, changed, largest = equalized(source, tmp_path, images(0, 32))
    assert changed == 8
    assert largest > 100
    before, after = answers(source, images(32, 96)), answers(path, images(32, 96))
    assert output_sqnr_db(before, after) > 100


@pytest.mark.parametrize("decades", [1.5, 3.0])
def test_int8_does_not_care_how_the_channels_were_scaled(tmp_path: Path, decades: float) -> None:
    network = depthwise_network()
    found = {}
    for name, model in (("plain", network), ("rescaled", rescale(network, seed=3, decades=decades))):
        source = saved(model, tmp_path / f"{name}.onnx")
        for on in (True, False):
            scratch = tmp_path / f"{name}-{on}"
            scratch.mkdir()
            quantizer = Quantizer(source, scratch, lambda: images(0, 32), Settings(method="minmax", equalize=on))
            quantizer.calibrate(Kept(scratch / "statistics.npz", ""))
            quantizer.write(scratch / "int8.onnx")
            expected, answered = answers(source, images(32, 96)), answers(scratch / "int8.onnx", images(32, 96))
            found[name, on] = output_sqnr_db(expected, answered)
    # Without it the rescaled network is noise, with it the two are alike.
    assert found["plain", False] > 25
    assert found["rescaled", False] < 1
    assert found["rescaled", True] == pytest.approx(found["plain", True], abs=1)
    assert found["rescaled", True] > 25


def clipped_net() -> Net:
    """A channel of the clipped tensor is hundred times as small as the others, one is always cut off."""
    net = Net()
    net.conv("conv1", "input")
    for tensor in net.weights:
        values = np.array(numpy_helper.to_array(tensor))
        values[0] *= 0.01
        values[1] = 0 if tensor.name == "conv1.w" else 100
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    bounds = [net.constant("low", np.array(0, np.float32)), net.constant("high", np.array(6, np.float32))]
    net.conv("conv2", net.add("Clip", "clip", ["conv1", *bounds]), group=8)
    return net


def test_a_clipped_channel_only_grows_and_is_cut_off_where_it_was(tmp_path: Path) -> None:
    source = clipped_net().save(tmp_path / "net.onnx", "conv2")
    path, changed, _ = equalized(source, tmp_path, feeds())
    assert changed == 1
    assert output_sqnr_db(answers(source, feeds()), answers(path, feeds())) > 100
    before = survey(prepared(source, _made(tmp_path / "before"))[0], ["clip"], feeds())["clip"]
    after = survey(prepared(path, _made(tmp_path / "after"))[0], ["clip"], feeds())["clip"]
    growth = after.peak / before.peak
    assert growth[0] > 10
    assert growth[1] == 1
    assert (growth >= 1).all()


def test_what_something_else_reads_is_left_alone(tmp_path: Path) -> None:
    net = Net()
    net.conv("conv1", "input")
    net.conv("conv2", net.add("Relu", "relu", ["conv1"]))
    net.add("Tanh", "other", ["relu"])
    graph, _ = prepared(net.save(tmp_path / "net.onnx", "conv2", "other"), tmp_path)
    assert groups_of(graph) == []


def test_weights_that_two_layers_share_are_left_alone(tmp_path: Path) -> None:
    net = Net()
    net.conv("conv1", "input")
    relu = net.add("Relu", "relu", ["conv1"])
    net.add("Conv", "again", [relu, "conv1.w", "conv1.b"], pads=[1, 1, 1, 1])
    graph, _ = prepared(net.save(tmp_path / "net.onnx", "again"), tmp_path)
    assert groups_of(graph) == []


def test_a_gate_weighs_channels_and_does_not_share_their_scale(tmp_path: Path) -> None:
    net = Net()
    net.conv("conv1", "input")
    relu = net.add("Relu", "relu", ["conv1"])
    pooled = net.add("GlobalAveragePool", "pooled", [relu])
    net.add("Sigmoid", "gate", [net.conv("squeeze", pooled)])
    net.conv("conv2", net.add("Mul", "gated", [relu, "gate"]))
    source = net.save(tmp_path / "net.onnx", "conv2")
    graph, _ = prepared(source, _made(tmp_path / "groups"))
    (group,) = groups_of(graph)
    assert group.tensors == {"conv1", "relu", "pooled", "gated"}
    path, _, _ = equalized(source, tmp_path, feeds())
    assert output_sqnr_db(answers(source, feeds()), answers(path, feeds())) > 100


def test_a_convolution_in_groups_is_scaled_by_its_own_channels(tmp_path: Path) -> None:
    net = Net()
    net.conv("conv1", "input")
    for tensor in net.weights:
        values = np.array(numpy_helper.to_array(tensor))
        values *= np.logspace(-2, 2, 8).reshape(-1, *(1,) * (values.ndim - 1))
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float32), tensor.name))
    net.conv("conv2", net.add("Relu", "relu", ["conv1"]), group=2, channels=4)
    source = net.save(tmp_path / "net.onnx", "conv2")
    path, changed, _ = equalized(source, tmp_path, feeds())
    assert changed == 1
    assert output_sqnr_db(answers(source, feeds()), answers(path, feeds())) > 100


def test_a_survey_tells_each_channel_apart(tmp_path: Path) -> None:
    net = Net()
    net.conv("conv", "input")
    graph, _ = prepared(net.save(tmp_path / "net.onnx", "conv"), tmp_path)
    given = feeds(4)
    found = survey(graph, ["input"], given)["input"]
    stacked = np.stack([feed["input"][0] for feed in given])
    assert found.low == pytest.approx(stacked.min(axis=(0, 2, 3)))
    assert found.high == pytest.approx(stacked.max(axis=(0, 2, 3)))
    assert found.mean == pytest.approx(stacked.mean(axis=(0, 2, 3)), abs=1e-6)
    assert found.typical == pytest.approx(np.abs(stacked).max(axis=(2, 3)).mean(axis=0))


def _made(directory: Path) -> Path:
    directory.mkdir()
    return directory
