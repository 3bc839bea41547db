"""How an image becomes a model's input: resize, centre crop, channels, normalisation, layout.

The numbers are those of torchvision's `Resize`, `CenterCrop`, `ToTensor` and `Normalize` on a PIL image, because models
that come here were trained with them; a test holds them equal. torch itself is not needed for it.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgebench.config import load_preprocess
from edgebench.errors import DataError, UsageError
from edgebench.types import Preprocess

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image

__all__ = ["BUILT_IN", "apply", "keeps_values", "resolve_preprocess"]

_BUILT_IN = (
    Preprocess(
        "imagenet",
        resize=256,
        crop=224,
        channels="rgb",
        scale=1 / 255,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    ),
    Preprocess("cifar10", channels="rgb", scale=1 / 255, mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616)),
    Preprocess("mnist", channels="gray", scale=1 / 255, mean=(0.1307,), std=(0.3081,)),
    Preprocess("fashion-mnist", channels="gray", scale=1 / 255, mean=(0.2860,), std=(0.3530,)),
    Preprocess("digits", resize=32, channels="rgb", scale=1 / 255, mean=(0.5,), std=(0.5,)),
    Preprocess("none"),
)
BUILT_IN: dict[str, Preprocess] = {preprocess.name: preprocess for preprocess in _BUILT_IN}


def resolve_preprocess(name_or_path: str) -> Preprocess:
    """The built-in of that name, or what the TOML file at that path (ending `.toml`) says.

    Raises:
        UsageError: neither, or a file that cannot be read or has an unknown key.
    """
    if name_or_path in BUILT_IN:
        return BUILT_IN[name_or_path]
    if name_or_path.lower().endswith(".toml"):
        return load_preprocess(Path(name_or_path).expanduser())
    raise UsageError(
        f"there is no preprocessing `{name_or_path}`",
        hint=f"there are: {', '.join(BUILT_IN)}; or give the path of a TOML file with resize, crop, mean, std, ...",
    )


def keeps_values(preprocess: Preprocess) -> bool:
    """Whether pixels pass through with their values as they are, like `none`; layout and labels may still differ."""
    same = BUILT_IN["none"]
    return (
        replace(preprocess, name=same.name, layout=same.layout, interpolation=same.interpolation, label_offset=0)
        == same
    )


def apply(image: NDArray[np.uint8], preprocess: Preprocess) -> NDArray[np.float32]:
    """The model's input of one image, without the batch axis.

    Args:
        image: uint8 `[H, W, C]`, C = 1 (gray) or 3 (RGB).

    Returns:
        float32 `[C, H, W]`, or `[H, W, C]` where the layout is nhwc.

    Raises:
        DataError: a crop larger than the image, or values in `preprocess` that do not fit it.
    """
    from PIL import Image

    picture = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
    if preprocess.channels is not None:
        # Before resizing, where torchvision's loader converts too.
        picture = picture.convert("L" if preprocess.channels == "gray" else "RGB")
    if preprocess.resize is not None:
        picture = _resize(picture, preprocess.resize, preprocess)
    if preprocess.crop is not None:
        picture = _centre_crop(picture, preprocess.crop, preprocess)

    pixels = np.asarray(picture, dtype=np.float32)
    pixels = pixels[:, :, np.newaxis] if pixels.ndim == 2 else pixels
    if preprocess.channels == "bgr":
        pixels = pixels[:, :, ::-1]
    values = _normalise(pixels, preprocess)
    return np.ascontiguousarray(values if preprocess.layout == "nhwc" else values.transpose(2, 0, 1))


def _resize(picture: Image.Image, resize: int | tuple[int, int], preprocess: Preprocess) -> Image.Image:
    from PIL import Image

    width, height = picture.size
    _positive(preprocess, "resize", resize)
    if isinstance(resize, tuple):
        size = (resize[1], resize[0])
    else:
        # The longer side is truncated, not rounded, as torchvision does.
        size = (resize, resize * height // width) if width <= height else (resize * width // height, resize)
    return picture if size == picture.size else picture.resize(size, Image.Resampling[preprocess.interpolation.upper()])


def _centre_crop(picture: Image.Image, crop: int | tuple[int, int], preprocess: Preprocess) -> Image.Image:
    _positive(preprocess, "crop", crop)
    height, width = crop if isinstance(crop, tuple) else (crop, crop)
    if height > picture.height or width > picture.width:
        raise DataError(
            f"preprocessing `{preprocess.name}` crops {height}x{width} out of an image of "
            f"{picture.height}x{picture.width} (height x width)",
            hint="choose another --preprocess, or one with a `resize` of at least the crop",
        )
    # round() goes to the even neighbour on halves, and torchvision's corner is computed with it.
    top, left = round((picture.height - height) / 2.0), round((picture.width - width) / 2.0)
    return picture.crop((left, top, left + width, top + height))


def _normalise(pixels: NDArray[np.float32], preprocess: Preprocess) -> NDArray[np.float32]:
    """`(pixel * scale - mean) / std` of `[H, W, C]`."""
    channels = pixels.shape[2]
    values = pixels * np.float32(preprocess.scale)
    if preprocess.mean:
        values -= _per_channel(preprocess, "mean", preprocess.mean, channels)
    if preprocess.std:
        if 0 in preprocess.std:
            raise DataError(
                f"preprocessing `{preprocess.name}` divides by a `std` of 0", hint="leave `std` out for no division"
            )
        values /= _per_channel(preprocess, "std", preprocess.std, channels)
    return values


def _per_channel(preprocess: Preprocess, key: str, values: tuple[float, ...], channels: int) -> NDArray[np.float32]:
    if len(values) not in (1, channels):
        raise DataError(
            f"preprocessing `{preprocess.name}`: {len(values)} values in `{key}` for an image of {channels} channel(s)",
            hint=f'give one value or {channels}, or convert with channels = "rgb", "bgr" or "gray"',
        )
    if not all(math.isfinite(value) for value in values):
        raise DataError(
            f"preprocessing `{preprocess.name}` has a `{key}` that is not a finite number",
            hint=f"write `{key}` as plain decimals",
        )
    return np.asarray(values, dtype=np.float32)


def _positive(preprocess: Preprocess, key: str, size: int | tuple[int, int]) -> None:
    smallest = min(size) if isinstance(size, tuple) else size
    if smallest < 1:
        raise DataError(
            f"preprocessing `{preprocess.name}` has `{key}` {smallest}, which is no length in pixels",
            hint=f"give `{key}` as 1 or more, or leave it out",
        )
