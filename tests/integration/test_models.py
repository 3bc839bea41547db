"""The networks of models/: shapes and keys, both exporters, training for real and the checkpoint that comes of it."""

from __future__ import annotations

import importlib.util
import os
import pickle
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs torch")

from edgebench.errors import DataError, EdgebenchError, EnvironmentFailure  # noqa: E402
from edgebench.progress import Silent  # noqa: E402
from edgebench.training import Recipe, TrainingResult, save_checkpoint, train  # noqa: E402

ROOT = Path(__file__).parents[2]
FILES = ("resnet18_cifar", "vgg16_cifar", "vit_cifar", "quaternion_cnn")
FACTORIES = (
    ("resnet18_cifar", "resnet18"),
    ("resnet18_cifar", "resnet18_relu6"),
    ("vgg16_cifar", "vgg16"),
    ("vit_cifar", "vit"),
    ("quaternion_cnn", "quaternion_cnn"),
)


def load(name: str) -> Any:
    """models/NAME.py as a module of its own, the way the command line reads it."""
    spec = importlib.util.spec_from_file_location(f"models_{name}", ROOT / "models" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module: ModuleType = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def build(file: str, factory: str, seed: int = 0, **options: Any) -> Any:
    torch.manual_seed(seed)
    return getattr(load(file), factory)(**options)


class Tiny(torch.nn.Module):
    """A network that learns something in seconds."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Conv2d(3, 16, 3, stride=2, padding=1, bias=False),
            torch.nn.BatchNorm2d(16),
            torch.nn.ReLU(),
            torch.nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False),
            torch.nn.BatchNorm2d(32),
            torch.nn.ReLU(),
            torch.nn.AdaptiveAvgPool2d(4),
            torch.nn.Flatten(),
            torch.nn.Linear(512, 10),
        )

    def forward(self, x: Any) -> Any:
        return self.layers(x)


def tiny(seed: int = 0) -> Tiny:
    torch.manual_seed(seed)
    return Tiny()


@dataclass
class Heard(Silent):
    """Progress that counts what it is told."""

    total: int = 0
    advanced: int = 0

    def start(self, label: str, total: int | None = None) -> None:
        self.total += total or 0

    def advance(self, count: int = 1) -> None:
        self.advanced += count


RECIPE = Recipe("digits", epochs=2, batch_size=32, learning_rate=0.05, warm_up=0.2, weight_decay=5e-4, shift=2)


@pytest.fixture(scope="module")
def cifar10(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """scikit-learn's digits as 32x32 colour images in the files, and with the keys, of cifar-10-python.tar.gz."""
    digits = pytest.importorskip("sklearn.datasets", reason="needs scikit-learn").load_digits()
    gray = np.rint(digits.images * (255 / 16)).astype(np.uint8).repeat(4, axis=1).repeat(4, axis=2)
    # Red as it is, green at half, blue inverted: channels in a wrong order would show.
    rows = np.stack([gray, gray // 2, 255 - gray], axis=1).reshape(len(gray), 3072)
    folder = tmp_path_factory.mktemp("cifar10") / "cifar-10-batches-py"
    folder.mkdir()
    for index, name in enumerate([*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]):
        chosen = slice(100 * index, 100 * (index + 1))
        content = {
            b"batch_label": name.encode(),
            b"labels": [int(label) for label in digits.target[chosen]],
            b"data": rows[chosen],
            b"filenames": [b"%d.png" % number for number in range(100)],
        }
        # Protocol 2, as Python 2 wrote the original.
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
    return folder.parent


@pytest.mark.parametrize("file", FILES)
def test_file_names_its_factories_input_and_preprocessing(file: str) -> None:
    module = load(file)

    assert [(file, name) for name in module.FACTORIES] == [pair for pair in FACTORIES if pair[0] == file]
    assert module.INPUT_SHAPE == (1, 3, 32, 32)
    assert module.PREPROCESS == "cifar10"


@pytest.mark.parametrize(("file", "factory"), FACTORIES)
@pytest.mark.parametrize("num_classes", [10, 7])
def test_forward_gives_one_logit_per_class(file: str, factory: str, num_classes: int) -> None:
    model = build(file, factory, num_classes=num_classes).eval()

    with torch.inference_mode():
        logits = model(torch.randn(2, 3, 32, 32))

    assert logits.shape == (2, num_classes)


@pytest.mark.parametrize("factory", ["resnet18", "resnet18_relu6"])
def test_resnet18_has_the_published_number_of_parameters(factory: str) -> None:
    # Convolutions 1,728 + 4*36,864 + (73,728 + 3*147,456 + 8,192) + (294,912 + 3*589,824 + 32,768)
    # + (1,179,648 + 3*2,359,296 + 131,072) = 11,159,232; two parameters for each of 4,800 normalised channels = 9,600;
    # the last layer 5,120 + 10.
    assert sum(parameter.numel() for parameter in build("resnet18_cifar", factory).parameters()) == 11_173_962


@pytest.mark.parametrize("factory", ["resnet18", "resnet18_relu6"])
def test_resnet18_has_the_keys_of_checkpoints_in_the_wild(factory: str) -> None:
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    expected = {"conv1.weight", "linear.weight", "linear.bias", *(f"bn1.{key}" for key in norm)}
    for block in (f"layer{stage}.{index}" for stage in (1, 2, 3, 4) for index in (0, 1)):
        expected |= {f"{block}.conv1.weight", f"{block}.conv2.weight"}
        expected |= {f"{block}.{layer}.{key}" for layer in ("bn1", "bn2") for key in norm}
    for stage in (2, 3, 4):
        expected |= {f"layer{stage}.0.shortcut.0.weight", *(f"layer{stage}.0.shortcut.1.{key}" for key in norm)}

    assert set(build("resnet18_cifar", factory).state_dict()) == expected


@pytest.mark.parametrize(
    ("factory", "present", "absent"),
    [("resnet18", torch.nn.ReLU, torch.nn.ReLU6), ("resnet18_relu6", torch.nn.ReLU6, torch.nn.ReLU)],
)
def test_resnet18_has_one_kind_of_activation(factory: str, present: type, absent: type) -> None:
    modules = list(build("resnet18_cifar", factory).modules())

    # One behind the stem and two in each of eight blocks.
    assert sum(isinstance(module, present) for module in modules) == 17
    assert not any(isinstance(module, absent) for module in modules)


def test_relu6_bounds_what_the_blocks_pass_on() -> None:
    model = build("resnet18_cifar", "resnet18_relu6").eval()

    with torch.inference_mode():
        passed_on = model.layer1(1000 * torch.rand(1, 64, 32, 32))

    assert passed_on.max() == 6


def test_slimmed_vgg16_has_the_given_widths() -> None:
    widths = (8, 16, 24, 32, 40, 48, 56, 64, 72, 80, 88, 96, 104)

    model = build("vgg16_cifar", "vgg16", widths=widths).eval()

    convolutions = [module for module in model.modules() if isinstance(module, torch.nn.Conv2d)]
    assert tuple(module.out_channels for module in convolutions) == widths
    assert model(torch.randn(1, 3, 32, 32)).shape == (1, 10)


def test_vgg16_with_a_wrong_number_of_widths_is_refused() -> None:
    with pytest.raises(ValueError, match="13 convolutions, and 2 widths"):
        build("vgg16_cifar", "vgg16", widths=(8, 16))


def test_vit_whose_heads_lost_dimensions_still_runs() -> None:
    model = build("vit_cifar", "vit").eval()
    for block in model.blocks:
        # Three heads of 16 dimensions are left of three of 64.
        for name in ("query", "key", "value"):
            setattr(block.attention, name, torch.nn.Linear(192, 48))
        block.attention.out = torch.nn.Linear(48, 192)

    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 10)


def test_quaternion_convolution_multiplies_as_hamilton_wrote() -> None:
    convolution = load("quaternion_cnn").QuaternionConv2d(4, 4)
    weight, pixel = (2.0, -1.0, 3.0, 0.5), (1.0, 4.0, -2.0, 3.0)
    with torch.no_grad():
        for part, value in zip((convolution.r, convolution.i, convolution.j, convolution.k), weight, strict=True):
            part.zero_()
            part[0, 0, 1, 1] = value

    product = convolution(torch.tensor(pixel).reshape(1, 4, 1, 1)).flatten().tolist()

    # (2 - i + 3j + 0.5k)(1 + 4i - 2j + 3k), multiplied out with ij = k, jk = i, ki = j and i² = j² = k² = -1:
    # real 2 + 4 + 6 - 1.5; i 8 - 1 + 9 + 1; j -4 + 3 + 3 + 2; k 6 + 0.5 + 2 - 12.
    assert product == pytest.approx([10.5, 17.0, 4.0, -3.5])


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(("file", "factory"), FACTORIES[1:])
def test_both_exporters_keep_the_outputs(
    file: str, factory: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "1")
    pytest.importorskip("onnxscript", reason="needs onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs onnxruntime")
    model = build(file, factory).eval()
    x = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        expected = model(x)

    traced = torch.jit.trace(model, torch.randn(2, 3, 32, 32))
    torch.onnx.export(
        model, (x,), tmp_path / "model.onnx", dynamo=True, external_data=False, opset_version=20, verbose=False
    )

    tolerance = 1e-4 * expected.abs().max().item()
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    (by_onnx,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    assert (traced(x) - expected).abs().max() <= tolerance
    assert np.abs(by_onnx - expected.numpy()).max() <= tolerance


def test_training_on_the_files_of_cifar10_makes_the_loss_fall(cifar10: Path) -> None:
    recipe = replace(RECIPE, preprocess="cifar10", epochs=4)

    result = train(tiny(), recipe, f"cifar10:{cifar10}", threads=1)

    assert len(result.losses) == 4
    assert result.losses[-1] < 0.6 * result.losses[0]
    assert result.test_samples == 100
    assert result.test_top1 > 50
    assert result.seconds > 0


def test_training_learns_what_generalises_to_the_test_split() -> None:
    pytest.importorskip("sklearn", reason="needs scikit-learn")
    result = train(tiny(), replace(RECIPE, epochs=3), "digits", threads=1)

    # Of 1,797 samples those with index 4, 9, ..., 1,794. A guess would be right in 10 %.
    assert result.test_samples == 359
    assert result.test_top1 > 85


def test_same_seed_gives_the_same_weights(cifar10: Path) -> None:
    recipe = replace(RECIPE, preprocess="cifar10", epochs=1, flip=True, precise_norm=120)

    def trained(seed: int) -> dict[str, Any]:
        model = tiny(seed)
        train(model, recipe, f"cifar10:{cifar10}", seed=seed, threads=1)
        return dict(model.state_dict())

    first, again, other = trained(1), trained(1), trained(2)

    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["layers.0.weight"], other["layers.0.weight"])


def test_training_leaves_torch_as_it_was(cifar10: Path) -> None:
    model = tiny()
    before, state = torch.get_num_threads(), torch.get_rng_state()

    train(model, replace(RECIPE, preprocess="cifar10", epochs=1), f"cifar10:{cifar10}", threads=1)

    assert torch.get_num_threads() == before
    assert torch.equal(torch.get_rng_state(), state)
    assert not model.training
    assert model.layers[0].weight.is_contiguous()


def test_precise_norm_is_the_mean_over_training_images(cifar10: Path) -> None:
    class Norm(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = torch.nn.BatchNorm2d(3)
            self.linear = torch.nn.Linear(3, 10)

        def forward(self, x: Any) -> Any:
            return self.linear(self.norm(x).mean((2, 3)))

    model = Norm()
    recipe = Recipe("none", epochs=1, batch_size=50, learning_rate=1e-6, precise_norm=500)

    train(model, recipe, f"cifar10:{cifar10}", threads=1)

    rows = [
        pickle.loads((cifar10 / "cifar-10-batches-py" / f"data_batch_{n}").read_bytes())[b"data"] for n in range(1, 6)
    ]
    means = np.concatenate(rows).reshape(500, 3, 1024).mean(axis=(0, 2))
    # Four batches of 120 and one of 20 count alike, as torch averages: the mean is that of all images but for a little.
    assert model.norm.running_mean.numpy() == pytest.approx(means, rel=0.05)
    assert model.norm.momentum == 0.1


def test_progress_hears_of_every_step(cifar10: Path) -> None:
    heard = Heard()

    train(tiny(), replace(RECIPE, preprocess="cifar10"), f"cifar10:{cifar10}", threads=1, progress=heard)

    # Two epochs of 15 full batches of 32 out of 500 images, and one batch of 100 in the test.
    assert heard.total == heard.advanced == 31


def test_diverged_training_is_an_error_that_names_the_learning_rate(cifar10: Path) -> None:
    recipe = Recipe("cifar10", epochs=1, batch_size=32, learning_rate=1e30)

    with pytest.raises(EdgebenchError, match="diverged in epoch 1 of 1") as caught:
        train(tiny(), recipe, f"cifar10:{cifar10}", threads=1)

    assert "1e+30" in str(caught.value.hint)


def test_missing_data_is_reported_before_training() -> None:
    with pytest.raises(DataError, match="no-such-directory"):
        train(tiny(), RECIPE, "cifar10:no-such-directory")


RESULT = TrainingResult(RECIPE, "digits", 3, "cpu", (1.5, 0.5), 91.25, 359, 12.0)


def test_checkpoint_is_read_without_running_code(tmp_path: Path) -> None:
    model = tiny().to(memory_format=torch.channels_last)

    save_checkpoint(tmp_path / "new" / "tiny.pt", model, RESULT, architecture="tiny.py:Tiny")

    checkpoint = torch.load(tmp_path / "new" / "tiny.pt", weights_only=True)
    other = tiny(seed=1)
    other.load_state_dict(checkpoint["state_dict"])
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in other.state_dict().items())
    assert checkpoint["architecture"] == "tiny.py:Tiny"
    assert checkpoint["preprocess"] == "digits"
    assert checkpoint["test_top1"] == 91.25
    assert checkpoint["losses"] == [1.5, 0.5]
    assert Recipe(**checkpoint["recipe"]) == RECIPE
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["tiny.pt"]


def test_checkpoint_that_cannot_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "taken.pt").mkdir()

    with pytest.raises(EnvironmentFailure, match=r"taken\.pt cannot be written"):
        save_checkpoint(tmp_path / "taken.pt", tiny(), RESULT, architecture="tiny.py:Tiny")

    assert [path.name for path in tmp_path.iterdir()] == ["taken.pt"]


def run_script(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "models" / "resnet18_cifar.py"), *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_script_trains_resnet18_and_writes_its_checkpoint(cifar10: Path, tmp_path: Path) -> None:
    small = tmp_path / "data"
    small.mkdir()
    for path in (cifar10 / "cifar-10-batches-py").iterdir():
        content = pickle.loads(path.read_bytes())
        content = {**content, b"data": content[b"data"][:5], b"labels": content[b"labels"][:5]}
        (small / path.name).write_bytes(pickle.dumps(content, protocol=2))

    finished = run_script(
        *("--data", f"cifar10:{small}", "--factory", "resnet18_relu6", "--epochs", "1", "-o", "trained.pt"),
        cwd=tmp_path,
    )

    assert finished.returncode == 0, finished.stderr
    checkpoint = torch.load(tmp_path / "trained.pt", weights_only=True)
    assert checkpoint["architecture"] == "models/resnet18_cifar.py:resnet18_relu6"
    assert checkpoint["recipe"]["epochs"] == 1
    model = build("resnet18_cifar", "resnet18_relu6", seed=1)
    model.load_state_dict(checkpoint["state_dict"])


def test_script_reports_missing_data_with_a_hint_and_code_2(tmp_path: Path) -> None:
    finished = run_script("--data", "cifar10:nowhere", cwd=tmp_path)

    assert finished.returncode == 2
    assert "error: nowhere is not a directory" in finished.stderr
    assert "hint: " in finished.stderr
    assert "Traceback" not in finished.stderr


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--data", "mnist:there"), "no recipe for the data `mnist`"),
        (("--data", "digits", "--epochs", "0"), "--epochs is 0"),
        (("--data", "digits", "-o", "no/such/folder.pt"), "no/such/folder.pt cannot be written"),
    ],
)
def test_script_refuses_before_it_trains(
    arguments: tuple[str, ...], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        load("resnet18_cifar").main(arguments)

    assert caught.value.code == 2
    assert complaint in capsys.readouterr().err


def test_digits_recipe_of_resnet18_is_for_its_data() -> None:
    recipes: dict[str, Recipe] = load("resnet18_cifar").RECIPES

    assert set(recipes) == {"cifar10", "digits"}
    assert {kind: recipe.preprocess for kind, recipe in recipes.items()} == {"cifar10": "cifar10", "digits": "digits"}
