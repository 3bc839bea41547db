"""VGG-16 with batch normalisation for 32x32 images: one linear layer behind the convolutions, widths as you like.

Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition" (2015), configuration D,
with the classifier that CIFAR versions have. With the full widths the keys are those of kuangliu/pytorch-cifar.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

__all__ = ["FACTORIES", "INPUT_SHAPE", "PREPROCESS", "WIDTHS", "vgg16"]

FACTORIES: tuple[str, ...] = ("vgg16",)
INPUT_SHAPE: tuple[int, ...] = (1, 3, 32, 32)
PREPROCESS = "cifar10"

WIDTHS: tuple[int, ...] = (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
_POOLED_AFTER = (1, 3, 6, 9, 12)


class VGG(nn.Module):
    """`[N, 3, 32, 32]` to logits `[N, num_classes]`: five poolings leave one pixel."""

    def __init__(self, num_classes: int, widths: Sequence[int]):
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for index, width in enumerate(widths):
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
            if index in _POOLED_AFTER:
                layers.append(nn.MaxPool2d(2))
            channels = width
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.classifier(self.features(x).flatten(1))
        return out


def vgg16(num_classes: int = 10, *, widths: Sequence[int] = WIDTHS) -> nn.Module:
    """VGG-16 for CIFAR, untrained.

    Args:
        widths: the output channels of the 13 convolutions; smaller ones give a slimmed network.

    Raises:
        ValueError: not 13 widths.
    """
    if len(widths) != len(WIDTHS):
        raise ValueError(f"VGG-16 has {len(WIDTHS)} convolutions, and {len(widths)} widths were given")
    return VGG(num_classes, widths)
