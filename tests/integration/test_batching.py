"""Artifacts of one input at a time, for more of them at once: which are given a file, and that it is the same network.

The answers that a file must give are the artifact's own, one by one, to other inputs than it was proved with.
"""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

import edgebench
from edgebench.measure.batching import Rebatched, rebatched
from edgebench.types import TensorSpec
from tests.integration.conftest import ROOT

FLOAT = ["torchscript", "onnx", "onnx-sim"]
EVERY = [*FLOAT, "onnx-int8"]

ODD_NETS = """
import torch
from torch import nn

INPUT_SHAPE = (1, 3, 16, 16)


class Net(nn.Module):
    def __init__(self, answer):
        super().__init__()
        torch.manual_seed(0)
        self.convolution = nn.Conv2d(3, 8, 3, padding=1)
        self.attention = nn.MultiheadAttention(8, 2)
        self.recurrent = nn.LSTM(8, 6, batch_first=True)
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.head = nn.Linear(8, 4)
        self.answer = answer

    def forward(self, x):
        return self.answer(self, torch.relu(self.convolution(x)))


def pooled(net, x):
    return net.head(x.mean((2, 3)))


def transposed():
    return Net(lambda net, x: pooled(net, x).T)


def first_of_the_batch():
    return Net(lambda net, x: pooled(net, x)[0])


def softmax_across_the_batch():
    return Net(lambda net, x: pooled(net, x).softmax(0) + pooled(net, x))


def normalized_across_the_batch():
    return Net(lambda net, x: nn.functional.normalize(pooled(net, x) + 2, dim=0) + 0.01 * pooled(net, x))


def attention_across_the_batch():
    def answer(net, x):
        tokens = x.flatten(2).transpose(1, 2)
        return net.head((tokens + net.attention(tokens, tokens, tokens)[0]).mean(1))

    return Net(answer)


def batch_as_channels():
    def answer(net, x):
        weights = torch.sigmoid(x.mean((2, 3))).reshape(-1, 1, 1, 1).expand(-1, -1, 3, 3)
        return nn.functional.conv2d(x.reshape(1, -1, 16, 16), weights, groups=8).reshape(-1, 8, 14, 14).mean((2, 3))

    return Net(answer)


def total():
    return Net(lambda net, x: (pooled(net, x), pooled(net, x).sum()))


def constant():
    return Net(lambda net, x: pooled(net, x).argmax(1) * 0)


def attention_with_a_class_token():
    def answer(net, x):
        tokens = torch.cat([net.token.expand(x.shape[0], -1, -1), x.flatten(2).transpose(1, 2)], 1).transpose(0, 1)
        return net.head((tokens + net.attention(tokens, tokens, tokens)[0])[0])

    return Net(answer)


def recurrent():
    return Net(lambda net, x: net.recurrent(x.flatten(2).transpose(1, 2))[0][:, -1])


def resized():
    return Net(lambda net, x: nn.functional.interpolate(x, size=(20, 24), mode="bilinear").mean(1))


def strided():
    return Net(lambda net, x: net.head(nn.functional.adaptive_avg_pool2d(channels_last(x), 1).flatten(1)))


def channels_last(x):
    return nn.functional.layer_norm(x.permute(0, 2, 3, 1), (8,)).permute(0, 3, 1, 2)


def expanded():
    return Net(lambda net, x: net.head(x.mean((2, 3)).unsqueeze(1).expand(x.shape[0], 5, 8)))
"""


@pytest.fixture
def odd_nets(tmp_path: Path) -> Path:
    """`odd_nets.py`: factories of networks of 3x16x16 values that do something particular with their batch."""
    path = tmp_path / "odd_nets.py"
    path.write_text(ODD_NETS)
    return path


def _rebatch(exported: edgebench.Exported, format: str, batch: int, directory: Path) -> Rebatched:
    artifact = next(item for item in exported.bundle.artifacts if item.format == format)
    assert artifact.status == "ok", artifact.reason
    assert artifact.file is not None
    directory.mkdir(exist_ok=True)
    return rebatched(exported.path / artifact.file, format, exported.bundle.inputs, batch, directory)


def _run(path: Path, inputs: NDArray[np.float32]) -> NDArray[Any]:
    """The first output, by the library itself."""
    if path.suffix == ".pt":
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # torch 2.15 calls TorchScript deprecated on every load
            module = torch.jit.load(str(path))
            answer: NDArray[Any] = module(torch.from_numpy(inputs.copy())).numpy()
        return answer
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found: NDArray[Any] = session.run(None, {session.get_inputs()[0].name: inputs})[0]
    return found


def _check_proved(exported: edgebench.Exported, format: str, batch: int, directory: Path) -> Path:
    """The file for the batch, which answers inputs of ours as the artifact does one by one."""
    result = _rebatch(exported, format, batch, directory)
    assert result.reason is None
    assert result.path is not None
    shape = exported.bundle.inputs[0].shape[1:]
    assert [spec.shape for spec in result.inputs] == [(batch, *shape)]
    artifact = next(item for item in exported.bundle.artifacts if item.format == format)
    assert artifact.file is not None
    inputs = np.random.default_rng(7).standard_normal((batch, *shape)).astype(np.float32)
    alone = np.concatenate([_run(exported.path / artifact.file, inputs[index : index + 1]) for index in range(batch)])
    np.testing.assert_allclose(_run(result.path, inputs), alone, rtol=1e-3, atol=1e-4 * np.abs(alone).max())
    return result.path


def test_a_convolutional_network_in_every_format(tiny_net: str, photos: str, tmp_path: Path) -> None:
    exported = edgebench.export(tiny_net, calib=photos, preprocess="cifar10")
    for format in EVERY:
        for batch in (3, 4, 8):
            path = _check_proved(exported, format, batch, tmp_path / "scratch")
            assert (path.parent == exported.path) == (format == "torchscript")


@pytest.mark.parametrize(
    ("model", "side"),
    [
        ("torchvision:mobilenet_v3_small", 64),
        (f"{ROOT}/models/vit_cifar.py:vit", 32),
        ("class_tokens.py:vit", 64),
    ],
)
def test_a_real_network_in_every_format(photos: str, tmp_path: Path, model: str, side: int) -> None:
    # torchvision's own, in small: a class token, tokens ahead of the batch, heads in one axis with it.
    (tmp_path / "class_tokens.py").write_text(
        "import torch\nfrom torchvision.models import VisionTransformer\n"
        "def vit():\n"
        "    net = VisionTransformer(64, 16, 2, 4, 32, 64, num_classes=10)\n"
        "    torch.nn.init.normal_(net.heads.head.weight)\n"
        "    return net\n"
    )
    (tmp_path / "small.toml").write_text(f"resize = [{side}, {side}]\nscale = 0.0039\nmean = [0.4]\nstd = [0.2]\n")
    exported = edgebench.export(
        model, "net.eb", calib=photos, samples=8, preprocess="small.toml", input_shape=(1, 3, side, side)
    )
    for format in EVERY:
        _check_proved(exported, format, 4, tmp_path / "scratch")


@pytest.mark.parametrize(
    ("net", "opset"),
    [
        # Below 18 the legacy exporter writes shapes that the network computes itself.
        ("attention_with_a_class_token", 14),
        ("attention_with_a_class_token", 20),
        ("recurrent", 20),
        ("resized", 20),
        ("strided", 20),
    ],
)
def test_constants_that_fix_the_batch_are_mended(odd_nets: Path, tmp_path: Path, net: str, opset: int) -> None:
    exported = edgebench.export(f"{odd_nets}:{net}", "net.eb", opset=opset, formats=FLOAT)
    for format in FLOAT:
        _check_proved(exported, format, 4, tmp_path / "scratch")


@pytest.mark.parametrize("net", ["attention_with_a_class_token", "expanded"])
def test_a_file_of_a_larger_batch_becomes_one_of_any(odd_nets: Path, tmp_path: Path, net: str) -> None:
    exported = edgebench.export(f"{odd_nets}:{net}", "net.eb", input_shape=(2, 3, 16, 16), formats=["onnx"])
    own = exported.path / "net.onnx"
    for batch in (1, 3, 4):
        result = _rebatch(exported, "onnx", batch, tmp_path / "scratch")
        assert result.path is not None, result.reason
        inputs = np.random.default_rng(7).standard_normal((2 * batch, 3, 16, 16)).astype(np.float32)
        expected = np.concatenate([_run(own, inputs[start : start + 2]) for start in range(0, 2 * batch, 2)])
        found = np.concatenate([_run(result.path, inputs[start : start + batch]) for start in (0, batch)])
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)


def test_its_own_batch_is_the_file_itself(tiny_net: str, tmp_path: Path) -> None:
    exported = edgebench.export(tiny_net, formats=["onnx"])
    result = _rebatch(exported, "onnx", 1, tmp_path / "scratch")
    assert result == Rebatched(exported.path / "tiny.onnx", exported.bundle.inputs, None)


def test_a_file_whose_batch_is_free_serves_every_batch(tmp_path: Path) -> None:
    path = tmp_path / "free.onnx"
    _save(path, [helper.make_node("Relu", ["x"], ["y"])], ["n", 3], ["n", 3])
    assert rebatched(path, "onnx", (TensorSpec("x", (1, 3), "float32"),), 4, tmp_path).path == path


def test_copies_of_two_files_of_one_name_are_kept_apart(tiny_net: str, tmp_path: Path) -> None:
    one = edgebench.export(tiny_net, formats=["onnx"])
    other = edgebench.export(tiny_net, "elsewhere/tiny.eb", formats=["onnx"])
    paths = {_rebatch(exported, "onnx", 4, tmp_path / "scratch").path for exported in (one, other)}
    assert len(paths) == 2


def _save(path: Path, nodes: list[Any], shape: list[Any], answer: list[Any], *constants: Any) -> None:
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, answer)],
        list(constants),
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), str(path))


@pytest.mark.parametrize(
    ("net", "why"),
    [
        ("transposed", "output 0 is [4, 1] for a batch of 1, not one answer for each input"),
        ("first_of_the_batch", "output 0 is [4] for a batch of 1, not one answer for each input"),
        ("total", "output 1 is [] for a batch of 1, not one answer for each input"),
        ("softmax_across_the_batch", "inputs are answered otherwise at once than one by one"),
        ("normalized_across_the_batch", "inputs are answered otherwise at once than one by one"),
        ("constant", "it answers different inputs so much alike that nothing shows whether it mixes them"),
    ],
)
def test_what_cannot_be_proved_is_a_reason_with_its_remedy(odd_nets: Path, tmp_path: Path, net: str, why: str) -> None:
    exported = edgebench.export(f"{odd_nets}:{net}", "odd.eb", formats=["torchscript", "onnx"])
    for format in ("torchscript", "onnx"):
        result = _rebatch(exported, format, 4, tmp_path / "scratch")
        assert result.path is None
        assert result.reason is not None
        assert result.reason.startswith(why)
        remedy = "; export it for that batch: edgebench export MODEL --input-shape 4,3,16,16 -o odd-b4.eb"
        assert result.reason.endswith(remedy)
    assert not list((tmp_path / "scratch").rglob("*.onnx"))


@pytest.mark.parametrize("net", ["attention_across_the_batch", "batch_as_channels"])
def test_a_network_that_mixes_its_batch_has_no_file(odd_nets: Path, tmp_path: Path, net: str) -> None:
    exported = edgebench.export(f"{odd_nets}:{net}", "odd.eb", formats=FLOAT)
    for format in FLOAT:
        result = _rebatch(exported, format, 4, tmp_path / "scratch")
        assert result.path is None
        assert result.reason is not None
    assert not list((tmp_path / "scratch").rglob("*.onnx"))


def test_shapes_that_go_together_are_not_enough(tmp_path: Path) -> None:
    # At one input [1, 1] is the input's own square, at four a sum over all of them; no length anywhere shows it.
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[1, 0]),
        helper.make_node("MatMul", ["t", "x"], ["square"]),
        helper.make_node("ReduceSum", ["square"], ["sum"], keepdims=1),
        helper.make_node("Add", ["x", "sum"], ["y"]),
    ]
    _save(tmp_path / "mixing.onnx", nodes, [1, 3], [1, 3])
    result = rebatched(tmp_path / "mixing.onnx", "onnx", (TensorSpec("x", (1, 3), "float32"),), 4, tmp_path)
    assert result.path is None
    assert result.reason is not None
    assert "otherwise at once than one by one" in result.reason


def test_a_mixture_far_below_the_tolerance_is_not_let_through(tmp_path: Path) -> None:
    # Answers of a thousand that differ by a thousandth: all four could be the first one's and stay within 1e-3 * 1000.
    nodes = [
        helper.make_node("Mul", ["x", "little"], ["small"]),
        helper.make_node("ReduceMean", ["small", "batch_axis"], ["mean"], keepdims=1),
        helper.make_node("Sub", ["small", "mean"], ["rest"]),
        helper.make_node("Add", ["small", "rest"], ["both"]),
        helper.make_node("Add", ["both", "much"], ["y"]),
    ]
    constants = [
        numpy_helper.from_array(np.array([[1e-3]], np.float32), "little"),
        numpy_helper.from_array(np.array([[1e3]], np.float32), "much"),
        numpy_helper.from_array(np.array([0], np.int64), "batch_axis"),
    ]
    _save(tmp_path / "faint.onnx", nodes, [1, 3], [1, 3], *constants)
    result = rebatched(tmp_path / "faint.onnx", "onnx", (TensorSpec("x", (1, 3), "float32"),), 4, tmp_path)
    assert result.path is None
    assert result.reason is not None
    assert "so much alike" in result.reason


@pytest.mark.parametrize(
    ("inputs", "format", "why"),
    [
        ([(1, 3), (2, 3)], "onnx", "its inputs have no batch in common"),
        ([()], "onnx", "its inputs have no batch in common"),
        ([(1, 3)], "tflite", "the batch of the format `tflite` cannot be changed"),
        ([(1, 3)], "onnx", "it does not load: "),
    ],
)
def test_what_no_file_can_be_made_of_is_a_reason(
    tmp_path: Path, inputs: list[tuple[int, ...]], format: str, why: str
) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"not a model")
    specs = tuple(TensorSpec(f"x{index}", shape, "float32") for index, shape in enumerate(inputs))
    result = rebatched(path, format, specs, 4, tmp_path)
    assert result.path is None
    assert result.reason is not None
    assert result.reason.startswith(why)


def test_without_onnx_the_extra_is_named_and_a_free_batch_still_works(tiny_net: str, tmp_path: Path) -> None:
    exported = edgebench.export(tiny_net, formats=["torchscript", "onnx"])
    _save(tmp_path / "free.onnx", [helper.make_node("Relu", ["x"], ["y"])], ["n", 3, 16, 16], ["n", 3, 16, 16])
    code = (
        "import sys; sys.modules.update(dict.fromkeys(('onnx', 'torch')))\n"
        "from pathlib import Path\n"
        "from edgebench.measure.batching import rebatched\n"
        "from edgebench.types import TensorSpec\n"
        "for name, format, tensor in (line.split() for line in sys.argv[1:]):\n"
        "    spec = TensorSpec(tensor, (1, 3, 16, 16), 'float32')\n"
        "    print(rebatched(Path(name), format, (spec,), 4, Path('.')).reason)\n"
    )
    name = exported.bundle.inputs[0].name
    arguments = [
        f"{exported.path}/tiny.onnx onnx {name}",
        f"{exported.path}/tiny.torchscript.pt torchscript {name}",
        "free.onnx onnx x",
    ]
    ended = subprocess.run(
        [sys.executable, "-c", code, *arguments], env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert ended.stdout.splitlines() == [
        "onnx is not installed, which a batch of 4 needs: pip install 'edgebench[torch]'",
        "torch is not installed, which a batch of 4 needs: pip install 'edgebench[torch]'",
        "None",
    ], ended.stderr
