"""How an image becomes a model's input: resize, centre crop, channels, normalisation, layout.

The pixels are worked on in `agent.preprocessing`, because a device does the same where a latency is measured from the
frame on.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgebench.agent.preprocessing import PreprocessError, arrange_pixels, prepare_pixels
from edgebench.config import load_preprocess
from edgebench.errors import DataError, UsageError
from edgebench.types import Preprocess

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["BUILT_IN", "apply", "arrange", "keeps_values", "resolve_preprocess"]

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
    try:
        values: NDArray[np.float32] = prepare_pixels(image, preprocess)
    except PreprocessError as error:
        raise DataError(str(error), hint=error.hint) from error
    return values


def arrange(image: NDArray[np.uint8], preprocess: Preprocess) -> NDArray[np.uint8]:
    """The image in the size and with the channels that the model takes, uint8 `[H, W, C]`, not yet normalised.

    Raises:
        DataError: as `apply`.
    """
    try:
        pixels: NDArray[np.uint8] = arrange_pixels(image, preprocess)
    except PreprocessError as error:
        raise DataError(str(error), hint=error.hint) from error
    return pixels
