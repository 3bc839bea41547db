"""A small network of quaternion convolutions for 32x32 images: a quarter of the weights of real ones as wide.

Gaudet and Maida, "Deep Quaternion Networks" (2018): channels come in four equal groups, the parts r, i, j, k of
quaternions, and a weight multiplies them by the Hamilton product, so that four tensors stand for sixteen. The real
weight is put together in `forward`: training and pruning see the four. The dynamo ONNX exporter leaves most of
that in the graph, with the normalisation behind it; onnxsim folds both and leaves plain convolutions.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["FACTORIES", "INPUT_SHAPE", "PREPROCESS", "quaternion_cnn"]

FACTORIES: tuple[str, ...] = ("quaternion_cnn",)
INPUT_SHAPE: tuple[int, ...] = (1, 3, 32, 32)
PREPROCESS = "cifar10"


class QuaternionConv2d(nn.Module):
    """A 3x3 convolution with the weight on the left; channels are multiples of 4, in the order r, i, j, k."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1):
        super().__init__()
        self.stride = stride
        # He's deviation of the real weight: all of its entries are entries of these, up to the sign.
        deviation = (2 / (9 * in_channels)) ** 0.5
        shape = (out_channels // 4, in_channels // 4, 3, 3)
        self.r, self.i, self.j, self.k = (nn.Parameter(torch.randn(shape) * deviation) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        r, i, j, k = self.r, self.i, self.j, self.k
        rows = ((r, -i, -j, -k), (i, r, -k, j), (j, k, r, -i), (k, -j, i, r))
        weight = torch.cat([torch.cat(row, dim=1) for row in rows], dim=0)
        return F.conv2d(x, weight, stride=self.stride, padding=1)


class QuaternionCnn(nn.Module):
    """`[N, 3, H, W]` to logits `[N, num_classes]`."""

    def __init__(self, num_classes: int):
        super().__init__()
        layers: list[nn.Module] = []
        channels = 4
        for width, stride in ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1)):
            layers += [
                QuaternionConv2d(channels, width, stride),
                nn.BatchNorm2d(width),
                nn.ReLU(inplace=True),
            ]
            channels = width
        self.features = nn.Sequential(*layers)
        self.linear = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        # A pixel's quaternion: its brightness as the real part, red, green and blue as the imaginary ones.
        x = self.features(torch.cat((x.mean(dim=1, keepdim=True), x), dim=1))
        out: Tensor = self.linear(F.adaptive_avg_pool2d(x, 1).flatten(1))
        return out


def quaternion_cnn(num_classes: int = 10) -> nn.Module:
    """The small quaternion network, untrained."""
    return QuaternionCnn(num_classes)
