"""Option types that several commands share: each turns text into a value or says what it expected."""

from __future__ import annotations

import argparse
import math

from edgebench.types import HIGHEST_PERCENTILE

__all__ = [
    "comma_separated",
    "non_negative_int",
    "percentage",
    "percentiles",
    "positive_int",
    "positive_ints",
    "seconds",
    "shape",
    "tolerance",
]


# 4 GB of float32: a slip of the finger, not an image.
_LARGEST_INPUT = 10**9


def comma_separated(text: str) -> tuple[str, ...]:
    """`a,b` -> ("a", "b")."""
    values = tuple(part.strip() for part in text.split(",") if part.strip())
    if not values:
        raise argparse.ArgumentTypeError("expected names separated by commas")
    return values


def positive_int(text: str) -> int:
    """A whole number above zero."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, found `{text}`")
    return value


def non_negative_int(text: str) -> int:
    """A whole number, 0 or above."""
    return 0 if text.strip() == "0" else positive_int(text)


def tolerance(text: str) -> float:
    """A finite number, 0 or above."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise argparse.ArgumentTypeError(f"expected a number, 0 or above, found `{text}`")
    return value


def seconds(text: str) -> float:
    """A finite number above 0."""
    value = tolerance(text)
    if value == 0:
        raise argparse.ArgumentTypeError("expected seconds above 0")
    return value


def percentage(text: str) -> float:
    """`1` or `1%` -> 1.0; above 0."""
    value = tolerance(text.removesuffix("%"))
    if value == 0:
        raise argparse.ArgumentTypeError("expected a percentage above 0")
    return value


def percentiles(text: str) -> tuple[float, ...]:
    """`50,99.9` -> (50.0, 99.9), each from 50 to 99.99."""
    values = tuple(tolerance(part) for part in comma_separated(text))
    if any(not 50 <= value <= HIGHEST_PERCENTILE for value in values):
        raise argparse.ArgumentTypeError(f"expected percentiles from 50 to {HIGHEST_PERCENTILE}, found `{text}`")
    return values


def positive_ints(text: str) -> tuple[int, ...]:
    """`1,2,4` -> (1, 2, 4)."""
    return tuple(positive_int(part) for part in comma_separated(text))


def shape(text: str) -> tuple[int, ...]:
    """`1,3,224,224` (or with `x` between) -> (1, 3, 224, 224)."""
    lengths = positive_ints(text.replace("x", ","))
    if math.prod(lengths) > _LARGEST_INPUT:
        raise argparse.ArgumentTypeError(f"`{text}` has more than {_LARGEST_INPUT:,} values")
    return lengths
