"""torchvision's networks: by name, untrained or with torchvision's own weights, and how their images are prepared."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast, get_args

from edgebench.errors import EnvironmentFailure, MissingExtra, SourceError
from edgebench.types import Interpolation, Preprocess

if TYPE_CHECKING:
    import torch

__all__ = ["ZooNetwork", "classification_names", "drop_auxiliary_heads", "find", "has_auxiliary_heads", "names"]

_AUXILIARY = ("AuxLogits", "aux1", "aux2", "aux_classifier")


@dataclass(frozen=True)
class ZooNetwork:
    """One architecture of torchvision. `input_shape` and `preprocess` are those of its default weights, or None."""

    name: str
    input_shape: tuple[int, ...] | None
    preprocess: Preprocess | None
    default_parameters: int | None
    is_detector: bool = False

    def build(self, *, classes: int | None = None, auxiliary: bool = False, filled: bool = False) -> torch.nn.Module:
        """The network with random weights, with or without auxiliary heads; `filled` if others replace them."""
        models = _models()
        options: dict[str, Any] = {"weights": None}
        if classes is not None:
            options["num_classes"] = classes
        if self.name in ("inception_v3", "googlenet"):
            # Their own weights were trained behind transform_input. Without init_weights torchvision warns.
            options |= {"aux_logits": auxiliary, "transform_input": filled, "init_weights": not filled}
        elif self.name in models.list_models(module=models.segmentation):
            options["weights_backbone"] = None
            if "lraspp" not in self.name:
                options["aux_loss"] = auxiliary
        elif self.is_detector:
            # Its default is a download.
            options["weights_backbone"] = None
        return cast("torch.nn.Module", models.get_model(self.name, **options))

    def trained(self, weights: str) -> tuple[torch.nn.Module, str]:
        """The network with torchvision's weights of that name (`DEFAULT`, `IMAGENET1K_V1`), and their full name.

        Raises:
            SourceError: there are no such weights.
            EnvironmentFailure: they are not in the cache and cannot be downloaded.
        """
        models = _models()
        choices = models.get_model_weights(self.name)
        short = weights.rpartition(".")[2]
        if short not in choices.__members__:
            raise SourceError(
                f"torchvision has no weights `{weights}` for {self.name}",
                hint=f"it has {', '.join(choices.__members__)}",
            )
        chosen = choices[short]
        try:
            network = models.get_model(self.name, weights=chosen)
        except (OSError, RuntimeError) as error:
            raise EnvironmentFailure(
                f"torchvision's weights {chosen} could not be fetched: {error}",
                hint=f"put {chosen.url} in $TORCH_HOME/hub/checkpoints (~/.cache/torch/hub/checkpoints), "
                f"or go without them: torchvision:{self.name}",
            ) from error
        return cast("torch.nn.Module", network), str(chosen)


def has_auxiliary_heads(keys: Iterable[str]) -> bool:
    """Whether a state dict with these keys holds heads that only training looks at."""
    return any(key.startswith(tuple(f"{name}." for name in _AUXILIARY)) for key in keys)


def names() -> list[str]:
    """Every network that torchvision registers."""
    return list(_models().list_models())


def classification_names() -> list[str]:
    """Those that classify images."""
    models = _models()
    return list(models.list_models(module=models))


def find(name: str) -> ZooNetwork:
    """The network of that name.

    Raises:
        SourceError: torchvision has none.
        MissingExtra: torchvision is not installed.
    """
    known = names()
    if name not in known:
        close = difflib.get_close_matches(name, known, n=3)
        hint = f"did you mean {', '.join(close)}?" if close else "see torchvision.models.list_models()"
        raise SourceError(f"torchvision has no network `{name}`", hint=hint)
    choices = _models().get_model_weights(name)
    # Weights of quantized networks have no DEFAULT in some versions.
    weights = getattr(choices, "DEFAULT", None)
    preprocess = None if weights is None else _preprocess(name, weights.transforms())
    return ZooNetwork(
        name=name,
        input_shape=None if preprocess is None else _input_shape(preprocess),
        preprocess=preprocess,
        default_parameters=None if weights is None else weights.meta.get("num_params"),
        is_detector=name in _models().list_models(module=_models().detection),
    )


def drop_auxiliary_heads(network: torch.nn.Module) -> bool:
    """Take off the heads that only training looks at, so that the output is one tensor. False where there are none."""
    if not type(network).__module__.startswith("torchvision.models."):
        return False
    off: dict[str, object] = {name: None for name in _AUXILIARY if getattr(network, name, None) is not None}
    if off and hasattr(network, "aux_logits"):
        off["aux_logits"] = False
    for name, value in off.items():
        setattr(network, name, value)
    return bool(off)


def _preprocess(name: str, transforms: Any) -> Preprocess | None:
    interpolation: Any = getattr(getattr(transforms, "interpolation", None), "value", "bilinear")
    if not hasattr(transforms, "mean") or interpolation not in get_args(Interpolation):
        return None
    if len(transforms.mean) != 3 or not hasattr(transforms, "resize_size"):
        return None
    return Preprocess(
        name=f"torchvision:{name}",
        resize=_size(transforms.resize_size),
        crop=_size(getattr(transforms, "crop_size", None)),
        interpolation=interpolation,
        channels="rgb",
        scale=1 / 255,
        mean=tuple(transforms.mean),
        std=tuple(transforms.std),
    )


def _size(size: Any) -> int | tuple[int, int] | None:
    if size is None or isinstance(size, int):
        return size
    return int(size[0]) if len(size) == 1 else (int(size[0]), int(size[1]))


def _input_shape(preprocess: Preprocess) -> tuple[int, ...] | None:
    size = preprocess.crop or preprocess.resize
    if size is None:
        return None
    return (1, 3, size, size) if isinstance(size, int) else (1, 3, *size)


def _models() -> Any:
    try:
        with warnings.catch_warnings():
            # Some torchvision releases warn that their optional image library is absent.
            warnings.filterwarnings("ignore", message="Failed to load image Python extension")
            from torchvision import models
    except ImportError as error:
        raise MissingExtra("torchvision", "torch") from error
    except RuntimeError as error:
        raise EnvironmentFailure(
            f"torchvision does not work with the torch that is installed: {error}",
            hint="install the two together: pip install 'edgebench[torch]'",
        ) from error
    return models
