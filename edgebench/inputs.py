"""Random model inputs: the labelled last resort where there are no real ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgebench.types import TensorSpec

__all__ = ["random_feed"]


def random_feed(inputs: Sequence[TensorSpec], *, seed: int, index: int) -> dict[str, NDArray[Any]]:
    """One tensor per input: standard normal for floats, 0 or 1 for integers; the same for the same `seed` and `index`."""
    generator = np.random.default_rng((seed, index))
    return {spec.name: _tensor(generator, spec) for spec in inputs}


def _tensor(generator: np.random.Generator, spec: TensorSpec) -> NDArray[Any]:
    if spec.dtype.startswith("float"):
        return generator.standard_normal(spec.shape).astype(spec.dtype)
    return generator.integers(0, 2, spec.shape).astype(spec.dtype)
