"""The trained networks that quantizers are compared on, each with its calibration inputs and labelled test data.

    python -m benchmarks.int8_networks [--work DIRECTORY] [--shared DATA] [NAME ...]

makes `DIRECTORY/NAME/` with `fp32.onnx`, `calibration.npz` (`x`) and `test.npz` (`x`, and `y` where there are labels).
Networks on digits are trained here, the others read from DATA, where it exists.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import edgebench
from benchmarks.dequantized import mobilenet_v1
from edgebench.evaluation.datasets import batches, choose, open_dataset
from edgebench.evaluation.preprocess import resolve_preprocess
from edgebench.training import Recipe, save_checkpoint, train
from edgebench.types import Preprocess, TensorSpec
from tests.rescaled import rescale

__all__ = ["NETWORKS", "SHARED", "WORK", "Prepared", "prepare"]

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared" / "data"
WORK = Path("int8-peers")
SEED = 0
# Calibration inputs, where the data has as many.
SAMPLES = 128
OPSET = 17
_PIXELS = Preprocess("pixels", channels="rgb", scale=1 / 255, mean=(0.5,), std=(0.5,))
# Digits in the middle quarter of the range leave room for what is brighter and darker.
_GRAY, _CONTRAST = 127.5, 32.0
_DIGITS = replace(_PIXELS, std=(_CONTRAST / 255,))
_FACES = Preprocess("faces", resize=(240, 320), channels="rgb", scale=1 / 128, mean=(127 / 128,), std=(1.0,))
_IMAGENET_COLOURS = replace(_PIXELS, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
_MOBILENET = Preprocess("mobilenet", resize=146, crop=128, channels="rgb", scale=1 / 128, mean=(1.0,), std=(1.0,))
_FACTORIES = """
from torch import nn
from torchvision.models import MobileNetV2, VisionTransformer

def vit():
    return VisionTransformer(
        image_size=32, patch_size=4, num_layers=4, num_heads=3, hidden_dim=96, mlp_dim=192, num_classes=10
    )

def mobilenet_v2():
    return MobileNetV2(num_classes=10, width_mult=0.5)

def mobilenet_v2_relu():
    # Built by the same constructor and then changed, so that the two have one definition.
    network = MobileNetV2(num_classes=10, width_mult=0.5)
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.ReLU6):
                setattr(module, name, nn.ReLU())
    return network

def _convolution(i, o, stride, groups=1, side=3):
    return nn.Sequential(
        nn.Conv2d(i, o, side, stride, side // 2, groups=groups, bias=False), nn.BatchNorm2d(o), nn.LeakyReLU(0.1)
    )

def mobilenet_v1_leaky():
    plan = [(16, 1), (32, 2), (32, 1), (64, 2), (64, 1), (128, 2), (128, 1), (128, 1), (128, 1)]
    layers, width = [_convolution(3, 8, 2)], 8
    for out, stride in plan:
        layers += [_convolution(width, width, stride, groups=width), _convolution(width, out, 1, side=1)]
        width = out
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))
"""


@dataclass(frozen=True)
class Prepared:
    """Where the files of one network are."""

    directory: Path

    @property
    def model(self) -> Path:
        return self.directory / "fp32.onnx"

    @property
    def calibration(self) -> Path:
        return self.directory / "calibration.npz"

    @property
    def test(self) -> Path:
        return self.directory / "test.npz"


@dataclass(frozen=True)
class Digits:
    """A network to train on scikit-learn's digits, which are 8x8, resized to `side`.

    Clean digits are nearly all recognised by anything, and say little. `noise` is added to each of the 64 pixels, also
    of those to learn from: a network that never saw it would gain or lose by chance from an error of quantization. It
    is the standard deviation, where digits are in -1..1. `impulses` is the share of the 64 pixels that a defect makes
    far brighter or darker, so that activations have long tails. `rescaled` gives each channel a factor of its own.
    """

    factory: str
    side: int
    epochs: int
    learning_rate: float
    noise: float
    impulses: float = 0.0
    rescaled: bool = False

    def make(self, out: Path, shared: Path) -> None:
        data = _noisy_digits(out.parent / f"digits-{self.noise}-{self.impulses}", self.noise, self.impulses)
        network = _trained(self, data, out.parent)
        shape = (3, self.side, self.side)
        preprocess = replace(_DIGITS, resize=shape[1:])
        x, _ = _samples(f"{data}:train", preprocess, shape, SAMPLES)
        _save(out / "calibration.npz", x, None)
        _save(out / "test.npz", *_samples(f"{data}:test", preprocess, shape, None))
        _export(network, out, arch=_factory(self.factory, out), shape=(1, *shape))
        if self.rescaled:
            import onnx

            onnx.save(rescale(onnx.load(out / "fp32.onnx"), SEED), out / "fp32.onnx")


def _noisy_digits(directory: Path, noise: float, impulses: float) -> str:
    """The DATA of digits with those defects, written in MNIST's format; each test image stands there twice."""
    if not directory.is_dir():
        directory.mkdir(parents=True)
        generator = np.random.default_rng(SEED)
        for split, prefix, copies in (("train", "train", 1), ("test", "t10k", 2)):
            digits = open_dataset(f"digits:{split}")
            assert digits.labels is not None
            levels = np.stack([digits.load(index)[..., 0] for index in range(len(digits))] * copies)
            clean = levels.astype(np.float64) / 127.5 - 1
            pixels = _GRAY + _CONTRAST * (clean + noise * generator.standard_normal(clean.shape))
            struck = generator.random(clean.shape) < impulses
            pixels = np.where(struck, 255 * generator.integers(0, 2, clean.shape), pixels)
            images = np.rint(pixels).clip(0, 255).astype(np.uint8)
            for kind, array in (("images-idx3", images), ("labels-idx1", np.tile(digits.labels, copies))):
                head = bytes((0, 0, 8, array.ndim)) + np.array(array.shape, ">u4").tobytes()
                (directory / f"{prefix}-{kind}-ubyte").write_bytes(head + array.astype(np.uint8).tobytes())
    return f"mnist:{directory}"


@dataclass(frozen=True)
class Real:
    """A trained network of the shared data; `file` and `factory` as `edgebench export` takes them."""

    file: str
    factory: str | None
    preprocess: Preprocess
    shape: tuple[int, ...]
    calibration: str
    test: str
    labelled: bool = True

    def make(self, out: Path, shared: Path) -> None:
        for spec, file in ((self.calibration, "calibration"), (self.test, "test")):
            limit = SAMPLES if file == "calibration" else None
            x, y = _samples(spec.format(shared=shared), self.preprocess, self.shape, limit)
            _save(out / f"{file}.npz", x, y if self.labelled and file == "test" else None)
        arch = None if self.factory is None else f"{shared}/archs.py:{self.factory}"
        _export(shared / "models" / self.file, out, arch=arch, shape=(1, *self.shape))


@dataclass(frozen=True)
class Mnist:
    """The MNIST network that takes 0..255, on the 2,500 test images: the first 500 calibrate, the others test."""

    def make(self, out: Path, shared: Path) -> None:
        dataset = open_dataset(f"mnist:{shared}/mnist:test")
        spec = TensorSpec("input", (1, 1, 28, 28), "float32")
        raw = Preprocess("raw", channels="gray")
        for file, indices in (("calibration", range(500)), ("test", range(500, len(dataset)))):
            chosen = list(indices)[: SAMPLES if file == "calibration" else None]
            x = np.concatenate(list(batches(dataset, chosen, raw, spec)))
            labels = None if dataset.labels is None or file == "calibration" else dataset.labels[chosen]
            _save(out / f"{file}.npz", x, labels)
        _export(shared / "models" / "ort_mnist.onnx", out, arch=None, shape=(1, 1, 28, 28))


@dataclass(frozen=True)
class Dequantized:
    """MobileNetV1 0.25 at 128 pixels with the weights of its uint8 file as floats; class 0 is the background."""

    def make(self, out: Path, shared: Path) -> None:
        import onnx

        for split, file in (("calib", "calibration"), ("eval", "test")):
            x, y = _samples(f"csv:{shared}/imagenet/nips2017_A.csv:{split}", _MOBILENET, (3, 128, 128), None)
            assert y is not None
            _save(out / f"{file}.npz", x, None if file == "calibration" else y + 1)
        onnx.save(mobilenet_v1(shared / "models" / "mobilenet_v1_0.25_128_quant.tflite"), out / "source.onnx")
        _export(out / "source.onnx", out, arch=None, shape=(1, 3, 128, 128))


_CIFAR = ("npz:{shared}/cifar10/cifar10_calib_500A.npz", "npz:{shared}/cifar10/cifar10_test_2000A.npz")
_PHOTOS = ("csv:{shared}/imagenet/nips2017_A.csv:calib", "csv:{shared}/imagenet/nips2017_A.csv:eval")
_LEAKY = Digits("mobilenet_v1_leaky", 64, 12, 0.05, 0.5, impulses=0.02)
_MOBILE = Digits("mobilenet_v2_relu", 64, 8, 0.05, 0.6)
NETWORKS: dict[str, Any] = {
    "resnet18": Digits("resnet18", 32, 1, 0.01, 0.6),
    "resnet18_relu6": Digits("resnet18_relu6", 32, 1, 0.01, 0.6),
    "mobilenet_v2": replace(_MOBILE, factory="mobilenet_v2"),
    "vit": Digits("vit", 32, 25, 0.05, 0.4),
    "resnet20": Real("resnet20-12fca82f.th", "resnet20", _IMAGENET_COLOURS, (3, 32, 32), *_CIFAR),
    "resnet32": Real("resnet32-d509ac18.th", "resnet32", _IMAGENET_COLOURS, (3, 32, 32), *_CIFAR),
    "nxp_cifar_net": Real("nxp_cifar_net.pth", "NxpCifarNet", _PIXELS, (3, 32, 32), *_CIFAR),
    "squeezenet1_1": Real(
        "squeezenet1_1_imagenet.pth", "squeezenet1_1_imagenet", resolve_preprocess("imagenet"), (3, 224, 224), *_PHOTOS
    ),
    "mnist": Mnist(),
    "mobilenet_v1_0.25": Dequantized(),
    "faces": Real("version-RFB-320.onnx", None, _FACES, (3, 240, 320), *_PHOTOS, labelled=False),
    "faces_raw": Real(
        "version-RFB-320_without_postprocessing.onnx", None, _FACES, (3, 240, 320), *_PHOTOS, labelled=False
    ),
    "mobilenet_v2_relu": _MOBILE,
    "mobilenet_v2_rescaled": replace(_MOBILE, rescaled=True),
    "mobilenet_v1_leaky": _LEAKY,
    "mobilenet_v1_rescaled": replace(_LEAKY, rescaled=True),
}


def prepare(name: str, work: Path, shared: Path) -> Prepared:
    """The files of the network, made where they are not there yet.

    Raises:
        FileNotFoundError: it is one of the shared data, and that is not there.
    """
    directory = work / name
    kind = NETWORKS[name]
    if not isinstance(kind, Digits) and not shared.is_dir():
        raise FileNotFoundError(f"needs the trained networks of {shared}")
    if not directory.is_dir():
        temporary = work / f".{name}"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        kind.make(temporary, shared)
        temporary.rename(directory)
    return Prepared(directory)


def _samples(
    spec: str, preprocess: Preprocess, shape: tuple[int, ...], limit: int | None
) -> tuple[NDArray[np.float32], NDArray[np.int64] | None]:
    """Prepared inputs `[N, ...]` and their labels; `limit` of them, chosen as `export` would."""
    dataset = open_dataset(spec)
    indices = choose(dataset, limit, SEED)
    x = np.concatenate(list(batches(dataset, indices, preprocess, TensorSpec("input", (1, *shape), "float32"))))
    return x, None if dataset.labels is None else dataset.labels[indices]


def _save(path: Path, x: NDArray[np.float32], y: NDArray[np.int64] | None) -> None:
    if y is None:
        np.savez(path, x=x)
    else:
        np.savez(path, x=x, y=y)


def _factory(name: str, directory: Path) -> str:
    if name.startswith("resnet18"):
        return f"{ROOT / 'models' / 'resnet18_cifar.py'}:{name}"
    (directory / "factories.py").write_text(_FACTORIES)
    return f"{directory / 'factories.py'}:{name}"


def _trained(network: Digits, data: str, work: Path) -> Path:
    """The checkpoint, trained where there is none yet."""
    import torch

    path = work / f"{network.factory}-{network.side}-{network.epochs}-{network.noise}-{network.impulses}.pt"
    if path.is_file():
        return path
    with tempfile.TemporaryDirectory() as directory:
        file, _, function = _factory(network.factory, Path(directory)).rpartition(":")
        factories: dict[str, Any] = {"__name__": "factories"}
        exec(Path(file).read_text(), factories)
        torch.manual_seed(SEED)
        model = factories[function]()
        toml = Path(directory) / "digits.toml"
        size = f"resize = [{network.side}, {network.side}]"
        toml.write_text(f'{size}\nchannels = "rgb"\nscale = {1 / 255!r}\nmean = [0.5]\nstd = {list(_DIGITS.std)}\n')
        recipe = Recipe(
            str(toml), network.epochs, 16 if network.factory.startswith("resnet18") else 32, network.learning_rate,
            warm_up=0.2, weight_decay=5e-4, shift=network.side // 16, precise_norm=480,
        )  # fmt: skip
        result = train(model, recipe, data, seed=SEED, threads=1)
        print(f"{network.factory}: {result.test_top1:.1f} % of noisy digits, {result.seconds:.0f} s", file=sys.stderr)
        save_checkpoint(path, model, result, architecture=function)
    return path


def _export(source: Path, out: Path, *, arch: str | None, shape: tuple[int, ...]) -> None:
    """edgebench's own float32 ONNX of it, simplified, and in an operator set that scales per channel exist in."""
    import onnx
    import onnx.version_converter

    with tempfile.TemporaryDirectory() as directory:
        made = edgebench.export(
            source, Path(directory) / "made.eb", formats=("onnx", "onnx-sim"), arch=arch,
            calib=f"npz:{out / 'calibration.npz'}", samples=16, preprocess="none", input_shape=shape,
        )  # fmt: skip
        artifact = made.bundle.artifacts[-1]
        if artifact.status != "ok" or artifact.file is None:
            raise SystemExit(f"{source}: {artifact.name}: {artifact.status}: {artifact.reason}")
        model = onnx.load(made.path / artifact.file)
    if next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")) < OPSET:
        weights = {tensor.name for tensor in model.graph.initializer}
        inputs = [value for value in model.graph.input if value.name not in weights]
        del model.graph.input[:]
        model.graph.input.extend(inputs)
        model.ir_version = max(model.ir_version, 8)
        model = onnx.version_converter.convert_version(model, OPSET)
    onnx.save(model, out / "fp32.onnx")


def main() -> int:
    """Make the networks that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", metavar="NAME", nargs="*", default=list(NETWORKS), help=", ".join(NETWORKS))
    parser.add_argument("--work", type=Path, default=WORK, help="where they are kept (default: %(default)s)")
    parser.add_argument("--shared", type=Path, default=SHARED, help="trained networks (default: %(default)s)")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(NETWORKS):
        parser.error(f"{', '.join(sorted(unknown))}: there are {', '.join(NETWORKS)}")
    for name in arguments.names:
        try:
            print(prepare(name, arguments.work.resolve(), arguments.shared.resolve()).directory)
        except FileNotFoundError as error:
            print(f"{name}: {error}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
