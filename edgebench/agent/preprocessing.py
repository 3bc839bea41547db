"""How an image becomes a model's input: resize, centre crop, channels, normalisation, layout.

The numbers are those of torchvision's `Resize`, `CenterCrop`, `ToTensor` and `Normalize` on a PIL image, because models
that come here were trained with them; a test holds them equal. torch itself is not needed for it, numpy and Pillow are.
"""

from __future__ import annotations

import math
from typing import Any, Tuple, Union

from .wire import Preprocess

Size = Union[int, Tuple[int, int]]


class PreprocessError(ValueError):
    """A preprocessing that does not fit an image; `hint` says what to change."""

    def __init__(self, message: str, *, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


def prepare_pixels(image: Any, preprocess: Preprocess) -> Any:
    """The model's input of one image, without the batch axis.

    Args:
        image: numpy uint8 `[H, W, C]`, C = 1 (gray) or 3 (RGB).

    Returns:
        numpy float32 `[C, H, W]`, or `[H, W, C]` where the layout is nhwc.

    Raises:
        PreprocessError: a crop larger than the image, or values in `preprocess` that do not fit it.
    """
    return normalise_pixels(arrange_pixels(image, preprocess), preprocess)


def arrange_pixels(image: Any, preprocess: Preprocess) -> Any:
    """The first half of `prepare_pixels`, which asks for Pillow: channels and size; numpy uint8 `[H, W, C]`."""
    import numpy as np
    from PIL import Image

    picture = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
    if preprocess.channels is not None:
        # Before resizing, where torchvision's loader converts too.
        picture = picture.convert("L" if preprocess.channels == "gray" else "RGB")
    if preprocess.resize is not None:
        picture = _resize(picture, preprocess.resize, preprocess)
    if preprocess.crop is not None:
        picture = _centre_crop(picture, preprocess.crop, preprocess)

    pixels = np.asarray(picture)
    return pixels[:, :, np.newaxis] if pixels.ndim == 2 else pixels


def normalise_pixels(pixels: Any, preprocess: Preprocess) -> Any:
    """The second half, for which numpy is enough: float32 of what `arrange_pixels` gave."""
    import numpy as np

    pixels = pixels.astype(np.float32)
    if preprocess.channels == "bgr":
        pixels = pixels[:, :, ::-1]
    values = _normalise(pixels, preprocess)
    return np.ascontiguousarray(values if preprocess.layout == "nhwc" else values.transpose(2, 0, 1))


def _resize(picture: Any, resize: Size, preprocess: Preprocess) -> Any:
    from PIL import Image

    width, height = picture.size
    _positive(preprocess, "resize", resize)
    if isinstance(resize, tuple):
        size = (resize[1], resize[0])
    else:
        # The longer side is truncated, not rounded, as torchvision does.
        size = (resize, resize * height // width) if width <= height else (resize * width // height, resize)
    return picture if size == picture.size else picture.resize(size, Image.Resampling[preprocess.interpolation.upper()])


def _centre_crop(picture: Any, crop: Size, preprocess: Preprocess) -> Any:
    _positive(preprocess, "crop", crop)
    height, width = crop if isinstance(crop, tuple) else (crop, crop)
    if height > picture.height or width > picture.width:
        raise PreprocessError(
            f"preprocessing `{preprocess.name}` crops {height}x{width} out of an image of "
            f"{picture.height}x{picture.width} (height x width)",
            hint="choose another --preprocess, or one with a `resize` of at least the crop",
        )
    # round() goes to the even neighbour on halves, and torchvision's corner is computed with it.
    top, left = round((picture.height - height) / 2.0), round((picture.width - width) / 2.0)
    return picture.crop((left, top, left + width, top + height))


def _normalise(pixels: Any, preprocess: Preprocess) -> Any:
    """`(pixel * scale - mean) / std` of `[H, W, C]`."""
    import numpy as np

    channels = pixels.shape[2]
    values = pixels * np.float32(preprocess.scale)
    if preprocess.mean:
        values -= _per_channel(preprocess, "mean", preprocess.mean, channels)
    if preprocess.std:
        if 0 in preprocess.std:
            raise PreprocessError(
                f"preprocessing `{preprocess.name}` divides by a `std` of 0", hint="leave `std` out for no division"
            )
        values /= _per_channel(preprocess, "std", preprocess.std, channels)
    return values


def _per_channel(preprocess: Preprocess, key: str, values: Tuple[float, ...], channels: int) -> Any:
    if len(values) not in (1, channels):
        raise PreprocessError(
            f"preprocessing `{preprocess.name}`: {len(values)} values in `{key}` for an image of {channels} channel(s)",
            hint=f'give one value or {channels}, or convert with channels = "rgb", "bgr" or "gray"',
        )
    if not all(math.isfinite(value) for value in values):
        raise PreprocessError(
            f"preprocessing `{preprocess.name}` has a `{key}` that is not a finite number",
            hint=f"write `{key}` as plain decimals",
        )
    import numpy as np

    return np.asarray(values, dtype=np.float32)


def _positive(preprocess: Preprocess, key: str, size: Size) -> None:
    smallest = min(size) if isinstance(size, tuple) else size
    if smallest < 1:
        raise PreprocessError(
            f"preprocessing `{preprocess.name}` has `{key}` {smallest}, which is no length in pixels",
            hint=f"give `{key}` as 1 or more, or leave it out",
        )
