"""A small vision transformer for 32x32 images: patches of 4, 192 dimensions, 6 blocks of 3 heads.

Dosovitskiy et al., "An Image is Worth 16x16 Words" (2021), with the mean of all tokens instead of a class token.
Attention is written out in Linear, matmul and softmax: `nn.MultiheadAttention` has a fast path in evaluation mode that
the legacy ONNX exporter cannot read. Nothing is reshaped by a constant but the number of heads, so that a network whose
layers were pruned still runs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["FACTORIES", "INPUT_SHAPE", "PREPROCESS", "vit"]

FACTORIES: tuple[str, ...] = ("vit",)
INPUT_SHAPE: tuple[int, ...] = (1, 3, 32, 32)
PREPROCESS = "cifar10"

_IMAGE, _PATCH, _DIM, _DEPTH, _HEADS, _MLP = 32, 4, 192, 6, 3, 384


class Attention(nn.Module):
    """Self-attention of `[N, tokens, dim]`."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        # Of the unpruned head: removing dimensions of q and k should leave the others' logits as they were.
        self.scale = (dim // heads) ** -0.5
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        # [N, tokens, dim] to [N, heads, tokens, dim of a head]
        query, key, value = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        weights = torch.softmax(query @ key.transpose(-2, -1) * self.scale, dim=-1)
        out: Tensor = self.out((weights @ value).transpose(1, 2).flatten(2))
        return out


class Block(nn.Module):
    """Attention and a perceptron, each behind a layer norm and added to what it came from."""

    def __init__(self, dim: int, heads: int, mlp: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attention = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, mlp), nn.GELU(), nn.Linear(mlp, dim))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class VisionTransformer(nn.Module):
    """`[N, 3, 32, 32]` to logits `[N, num_classes]`."""

    def __init__(self, num_classes: int):
        super().__init__()
        self.patch = nn.Conv2d(3, _DIM, _PATCH, stride=_PATCH)
        self.position = nn.Parameter(torch.empty(1, (_IMAGE // _PATCH) ** 2, _DIM))
        nn.init.trunc_normal_(self.position, std=0.02)
        self.blocks = nn.Sequential(*(Block(_DIM, _HEADS, _MLP) for _ in range(_DEPTH)))
        self.norm = nn.LayerNorm(_DIM)
        self.head = nn.Linear(_DIM, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2) + self.position
        out: Tensor = self.head(self.norm(self.blocks(x)).mean(dim=1))
        return out


def vit(num_classes: int = 10) -> nn.Module:
    """The small vision transformer, untrained."""
    return VisionTransformer(num_classes)
