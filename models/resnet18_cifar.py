"""ResNet-18 for 32x32 images, with ReLU or ReLU6, and how to train it: 11,173,962 parameters for ten classes.

He et al., "Deep Residual Learning for Image Recognition" (2016), in the form that CIFAR checkpoints in the wild have
(kuangliu/pytorch-cifar and its many descendants, whose key names these are): a 3x3 stem of stride 1 without
max-pooling, four stages of two basic blocks, projection shortcuts (option B).

ReLU6 bounds every activation at 6, so that an int8 scale covers 0..6 instead of the largest value that was ever seen
(Krishnamoorthi, "Quantizing deep convolutional networks for efficient inference", 2018). The variant is trained from
scratch, not copied from the other.

    python models/resnet18_cifar.py --data digits --factory resnet18_relu6 -o resnet18_relu6.pt
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgebench.errors import EdgebenchError
from edgebench.training import Recipe, save_checkpoint, train

__all__ = ["FACTORIES", "INPUT_SHAPE", "PREPROCESS", "RECIPES", "resnet18", "resnet18_relu6"]

FACTORIES: tuple[str, ...] = ("resnet18", "resnet18_relu6")
INPUT_SHAPE: tuple[int, ...] = (1, 3, 32, 32)
PREPROCESS = "cifar10"

RECIPES: dict[str, Recipe] = {
    # The published settings of kuangliu/pytorch-cifar: cosine over 200 epochs, random crop with 4 pixels, mirroring.
    "cifar10": Recipe(
        preprocess="cifar10",
        epochs=200,
        batch_size=128,
        learning_rate=0.1,
        weight_decay=5e-4,
        shift=4,
        flip=True,
    ),
    # 1,438 images: one pass in small batches gives the optimiser enough steps. Starting at 8, 16 or 24 pixels, where a
    # step is cheaper, lost more than it saved: a filter learnt there meets strokes twice as wide in the end.
    "digits": Recipe(
        preprocess="digits",
        epochs=1,
        batch_size=16,
        learning_rate=0.01,
        warm_up=0.2,
        weight_decay=5e-4,
        shift=2,
        precise_norm=480,
    ),
}


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around which the input is added; a 1x1 convolution fits it where the shape changes."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, activation: type[nn.ReLU] | type[nn.ReLU6]):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.activation1 = activation(inplace=True)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.shortcut = nn.Sequential()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False), nn.BatchNorm2d(out_channels)
            )
        # One module per place, not one shared: hooks, fusion and per-layer quantization tell them apart by module.
        self.activation2 = activation(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.activation1(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        out: Tensor = self.activation2(y + self.shortcut(x))
        return out


class ResNet(nn.Module):
    """`[N, 3, H, W]` to logits `[N, num_classes]`; H and W are multiples of 8, meant to be 32."""

    def __init__(self, num_classes: int, activation: type[nn.ReLU] | type[nn.ReLU6]):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.activation1 = activation(inplace=True)
        self.layer1 = _stage(64, 64, 1, activation)
        self.layer2 = _stage(64, 128, 2, activation)
        self.layer3 = _stage(128, 256, 2, activation)
        self.layer4 = _stage(256, 512, 2, activation)
        self.linear = nn.Linear(512, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.activation1(self.bn1(self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        out: Tensor = self.linear(F.adaptive_avg_pool2d(x, 1).flatten(1))
        return out


def resnet18(num_classes: int = 10) -> nn.Module:
    """ResNet-18 for CIFAR with ReLU, untrained."""
    return ResNet(num_classes, nn.ReLU)


def resnet18_relu6(num_classes: int = 10) -> nn.Module:
    """ResNet-18 for CIFAR with ReLU6 in every place of ReLU, untrained."""
    return ResNet(num_classes, nn.ReLU6)


def _stage(in_channels: int, out_channels: int, stride: int, activation: type[nn.ReLU] | type[nn.ReLU6]) -> nn.Module:
    return nn.Sequential(
        BasicBlock(in_channels, out_channels, stride, activation),
        BasicBlock(out_channels, out_channels, 1, activation),
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Trains one of the factories and writes its checkpoint; the exit code."""
    from edgebench.cli.terminal import open_progress

    parser = argparse.ArgumentParser(description="Train ResNet-18 for CIFAR and write a checkpoint.")
    parser.add_argument("--data", required=True, help=f"what to train on: {' or '.join(RECIPES)}, as in cifar10:DIR")
    parser.add_argument("--factory", choices=FACTORIES, default="resnet18", help="default: %(default)s")
    parser.add_argument("--epochs", type=int, metavar="N", help="default: the recipe's")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--threads", type=int, metavar="N", help="of torch on the CPU; default: torch's own choice")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="default: FACTORY.pt")
    arguments = parser.parse_args(argv)

    kind = arguments.data.partition(":")[0]
    if kind not in RECIPES:
        parser.error(f"there is no recipe for the data `{kind}`; there are: {', '.join(RECIPES)}")
    for option in ("epochs", "threads"):
        value = getattr(arguments, option)
        if value is not None and value < 1:
            parser.error(f"--{option} is {value}; it is 1 or more")
    output: Path = arguments.output or Path(f"{arguments.factory}.pt")
    # Before hours of training, not after them.
    if output.is_dir() or not os.access(output.parent, os.W_OK):
        parser.error(f"{output} cannot be written; choose another file with -o")
    recipe = RECIPES[kind] if arguments.epochs is None else replace(RECIPES[kind], epochs=arguments.epochs)

    # Before the factory, which draws the initial weights.
    torch.manual_seed(arguments.seed)
    model = resnet18() if arguments.factory == "resnet18" else resnet18_relu6()
    try:
        with open_progress() as progress:
            result = train(
                model, recipe, arguments.data, seed=arguments.seed, threads=arguments.threads, progress=progress
            )
        save_checkpoint(
            output,
            model,
            result,
            architecture=f"models/{Path(__file__).name}:{arguments.factory}",
        )
    except EdgebenchError as error:
        sys.stderr.write(f"error: {error}\n" + (f"hint: {error.hint}\n" if error.hint else ""))
        return error.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
