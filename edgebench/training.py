"""Training an image classifier from a recipe, and the checkpoint that comes of it.

Data sets here are of CIFAR's size: every image is prepared once and held in memory as float32 (614 MB for CIFAR-10),
and batches are cut out and augmented as whole tensors. That needs no worker processes, which a two-core laptop could
not feed, and on a GPU the data stays on the GPU.

torch is imported by the functions that need it, so that a recipe can be read without it.
"""

from __future__ import annotations

import io
import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from edgebench.errors import DataError, EdgebenchError, EnvironmentFailure, MissingExtra
from edgebench.evaluation.datasets import open_dataset
from edgebench.evaluation.preprocess import apply, resolve_preprocess
from edgebench.progress import Progress, Silent
from edgebench.types import Preprocess

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from torch import nn

__all__ = ["Recipe", "TrainingResult", "save_checkpoint", "train"]

Device = Literal["cpu", "cuda"]

_TEST_BATCH = 120
"""Images at once where nothing is learnt."""


@dataclass(frozen=True)
class Recipe:
    """How one architecture is trained on one kind of data: SGD with Nesterov momentum on the cross-entropy.

    `learning_rate` is the highest. It is reached in a straight line over the first `warm_up` (0..1) of all steps and
    falls to zero along half a cosine over the others (Loshchilov and Hutter, "SGDR", 2017). `weight_decay` acts on
    every parameter. `label_smoothing` is that of Szegedy et al. ("Rethinking the Inception Architecture", 2016).
    `shift` is the most pixels by which an image is moved in each direction (a random crop of it, padded with black);
    `flip` mirrors half of the images. `precise_norm` is the number of training images over which the statistics of
    batch normalisation are taken anew at the end; 0 leaves the running averages (Wu and Johnson, "Rethinking 'Batch' in
    BatchNorm", 2021, section 3: "precise BN"). `preprocess` names a built-in, which also sets the resolution.
    """

    preprocess: str
    epochs: int
    batch_size: int
    learning_rate: float
    warm_up: float = 0.0
    momentum: float = 0.9
    weight_decay: float = 0.0
    label_smoothing: float = 0.0
    shift: int = 0
    flip: bool = False
    precise_norm: int = 0


@dataclass(frozen=True)
class TrainingResult:
    """What came of it. `losses` holds the mean training loss of every epoch, `test_top1` is in percent of
    `test_samples`.

    `seconds` is wall-clock time: data, training and test, without importing torch.
    """

    recipe: Recipe
    data: str
    seed: int
    device: Device
    losses: tuple[float, ...]
    test_top1: float
    test_samples: int
    seconds: float


@dataclass(frozen=True)
class _Images:
    """Prepared images: float32 `[N, C, H, W]`, int64 `[N]`, and what a black pixel became, float32 `[1, C, 1, 1]`."""

    x: torch.Tensor
    y: torch.Tensor
    black: torch.Tensor


def train(
    model: nn.Module,
    recipe: Recipe,
    data: str,
    *,
    seed: int = 0,
    threads: int | None = None,
    progress: Progress | None = None,
) -> TrainingResult:
    """Trains `model` in place on `data:train`, tests it on `data:test`, and leaves it on the CPU in evaluation mode.

    `seed` decides the order of the images, their augmentation and dropout. The initial weights are the caller's:
    `torch.manual_seed(seed)` before the factory makes them follow from the seed too, and then the same seed and number
    of threads give the same weights on a CPU. torch's own random state and thread count are as before afterwards.

    Args:
        data: a DATA argument without its split: `digits`, `cifar10:DIR`.
        threads: of torch on the CPU; None leaves them as they are.

    Raises:
        DataError: no such data, without labels, or images that the recipe cannot make equally large.
        MissingExtra: torch is not installed.
        EdgebenchError: the loss is no longer finite.
    """
    try:
        import torch
    except ImportError as error:
        raise MissingExtra("torch", "torch") from error

    progress = progress or Silent()
    started = time.perf_counter()
    device: Device = "cuda" if torch.cuda.is_available() else "cpu"
    with _torch_state(seed, threads, device):
        preprocess = resolve_preprocess(recipe.preprocess)
        progress.start(f"preparing {data}")
        training, test = (_prepare(f"{data}:{split}", preprocess, device) for split in ("train", "test"))
        # channels_last is what oneDNN and cuDNN compute in: 5 to 15 % faster at 32x32 on a CPU.
        model.to(device).to(memory_format=torch.channels_last)
        losses = _fit(model, recipe, training, progress)
        top1 = _top1(model, test, progress)
        model.to("cpu").to(memory_format=torch.contiguous_format)
    seconds = time.perf_counter() - started
    epochs = "1 epoch" if recipe.epochs == 1 else f"{recipe.epochs} epochs"
    progress.done(f"{top1:.1f} % of {len(test.y)} test images right after {epochs}, {seconds:.0f} s")
    return TrainingResult(recipe, data, seed, device, losses, top1, len(test.y), seconds)


def save_checkpoint(path: Path, model: nn.Module, result: TrainingResult, *, architecture: str) -> None:
    """Writes a file that `torch.load(path, weights_only=True)` reads, all of it or nothing.

    It holds a dictionary of plain types: `state_dict`, `architecture`, `preprocess` (a built-in's name), `data`,
    `recipe`, `seed`, `losses`, `test_top1` (percent), `test_samples`.

    Args:
        architecture: where the model comes from, as `--arch` takes it: `models/resnet18_cifar.py:resnet18`.

    Raises:
        EnvironmentFailure: the file cannot be written.
    """
    import torch

    checkpoint = {
        "state_dict": {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()},
        "architecture": architecture,
        "preprocess": result.recipe.preprocess,
        "data": result.data,
        "recipe": asdict(result.recipe),
        "seed": result.seed,
        "losses": list(result.losses),
        "test_top1": result.test_top1,
        "test_samples": result.test_samples,
    }
    content = io.BytesIO()
    torch.save(checkpoint, content)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_bytes(content.getbuffer())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise EnvironmentFailure(
            f"{path} cannot be written: {error.strerror or error}", hint="choose another file with -o"
        ) from error


@contextmanager
def _torch_state(seed: int, threads: int | None, device: Device) -> Iterator[None]:
    """Random state and thread count of torch for training; as they were afterwards."""
    import torch

    threads_before = torch.get_num_threads()
    # The present GPU only: to look after the state of several is a warning.
    with torch.random.fork_rng(devices=[torch.cuda.current_device()] if device == "cuda" else []):
        torch.manual_seed(seed)
        try:
            if threads is not None:
                torch.set_num_threads(threads)
            yield
        finally:
            torch.set_num_threads(threads_before)


def _prepare(spec: str, preprocess: Preprocess, device: Device) -> _Images:
    import torch

    dataset = open_dataset(spec)
    if dataset.labels is None:
        raise DataError(f"{spec} has no labels, and there is nothing to learn from it", hint="choose other data")
    first: NDArray[Any] = dataset.load(0)
    black = apply(np.zeros_like(first), preprocess)
    x = np.empty((len(dataset), *black.shape), np.float32)
    for index in range(len(dataset)):
        image: NDArray[Any] = dataset.load(index)
        prepared = apply(image, preprocess)
        if prepared.shape != black.shape:
            raise DataError(
                f"images of {spec} differ in size after the preprocessing `{preprocess.name}`",
                hint="choose a recipe whose preprocessing resizes or crops to one size",
            )
        x[index] = prepared
    return _Images(
        torch.from_numpy(x).to(device, memory_format=torch.channels_last),
        torch.from_numpy(dataset.labels + preprocess.label_offset).to(device),
        torch.from_numpy(black[None, :, :1, :1]).to(device),
    )


def _fit(model: nn.Module, recipe: Recipe, images: _Images, progress: Progress) -> tuple[float, ...]:
    """Mean loss of every epoch."""
    import torch
    import torch.nn.functional as F

    count = len(images.y)
    size = min(recipe.batch_size, count)
    # What is left over when an epoch's batches are full waits for the next epoch's shuffle.
    per_epoch = count // size
    rate = recipe.learning_rate
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=rate,
        momentum=recipe.momentum,
        nesterov=recipe.momentum > 0,
        weight_decay=recipe.weight_decay,
        fused=True,
    )
    progress.start(f"training on {count} images", recipe.epochs * per_epoch)
    losses = []
    model.train()
    for epoch in range(recipe.epochs):
        order = torch.randperm(count, device=images.y.device)
        # Summed where it is computed: to read every step's loss would make a GPU wait for it.
        total = torch.zeros((), device=images.y.device)
        for step in range(per_epoch):
            for group in optimizer.param_groups:
                group["lr"] = rate * _rate_factor(epoch * per_epoch + step, recipe.epochs * per_epoch, recipe.warm_up)
            chosen = order[step * size : (step + 1) * size]
            x = _augment(images.x[chosen], images.black, recipe)
            loss = F.cross_entropy(model(x), images.y[chosen], label_smoothing=recipe.label_smoothing)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.detach()
            progress.advance()
        losses.append(total.item() / per_epoch)
        if not math.isfinite(losses[-1]):
            raise EdgebenchError(
                f"training diverged in epoch {epoch + 1} of {recipe.epochs}: the loss is {losses[-1]}",
                hint=f"lower the recipe's learning rate, which is {rate}, or give it a longer warm-up",
            )
    if recipe.precise_norm:
        _estimate_norms(model, images, recipe.precise_norm)
    return tuple(losses)


def _estimate_norms(model: nn.Module, images: _Images, count: int) -> None:
    """Mean and variance of every batch normalisation, as the average over batches of `count` images in all."""
    import torch
    from torch.nn.modules.batchnorm import _BatchNorm

    norms = {norm: norm.momentum for norm in model.modules() if isinstance(norm, _BatchNorm)}
    for norm in norms:
        norm.reset_running_stats()
        # torch's way to ask for a plain average instead of one that forgets.
        norm.momentum = None
    chosen = torch.randperm(len(images.y), device=images.y.device)[:count]
    with torch.no_grad():
        for batch in images.x[chosen].split(_TEST_BATCH):
            model(batch.contiguous(memory_format=torch.channels_last))
    for norm, momentum in norms.items():
        norm.momentum = momentum


def _rate_factor(step: int, steps: int, warm_up: float) -> float:
    """What the highest learning rate is multiplied by in `step` (0-based) of `steps`."""
    rising = warm_up * steps
    if step < rising:
        return (step + 1) / (rising + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / (steps - rising)))


def _augment(x: torch.Tensor, black: torch.Tensor, recipe: Recipe) -> torch.Tensor:
    """The batch `[N, C, H, W]`, each image shifted and mirrored by chance, in channels_last."""
    import torch

    count, _, height, width = x.shape
    device = x.device
    if recipe.shift:
        shift = recipe.shift
        padded = black.repeat(count, 1, height + 2 * shift, width + 2 * shift)
        padded[:, :, shift : shift + height, shift : shift + width] = x
        corner = torch.randint(0, 2 * shift + 1, (2, count, 1), device=device)
        rows = corner[0] + torch.arange(height, device=device)
        columns = corner[1] + torch.arange(width, device=device)
        image = torch.arange(count, device=device)[:, None, None]
        # Indices on both sides of the channels put these last: [N, H, W, C].
        x = padded[image, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    if recipe.flip:
        mirrored = torch.rand(count, 1, 1, 1, device=device) < 0.5
        x = torch.where(mirrored, x.flip(3), x)
    return x.contiguous(memory_format=torch.channels_last)


def _top1(model: nn.Module, images: _Images, progress: Progress) -> float:
    """Percent of the images whose highest class is theirs."""
    import torch

    batches = list(zip(images.x.split(_TEST_BATCH), images.y.split(_TEST_BATCH), strict=True))
    progress.start(f"testing on {len(images.y)} images", len(batches))
    right = 0
    model.eval()
    with torch.inference_mode():
        for x, y in batches:
            right += int((model(x).argmax(dim=1) == y).sum())
            progress.advance()
    return 100 * right / len(images.y)
