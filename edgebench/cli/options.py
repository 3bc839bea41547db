"""Option types that several commands share: each turns text into a value or says what it expected."""

from __future__ import annotations

import argparse
import math

__all__ = ["comma_separated", "positive_int", "positive_ints", "seconds", "shape", "tolerance"]


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


def positive_ints(text: str) -> tuple[int, ...]:
    """`1,2,4` -> (1, 2, 4)."""
    return tuple(positive_int(part) for part in comma_separated(text))


def shape(text: str) -> tuple[int, ...]:
    """`1,3,224,224` (or with `x` between) -> (1, 3, 224, 224)."""
    lengths = positive_ints(text.replace("x", ","))
    if math.prod(lengths) > _LARGEST_INPUT:
        raise argparse.ArgumentTypeError(f"`{text}` has more than {_LARGEST_INPUT:,} values")
    return lengths
