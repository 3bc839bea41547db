"""Option types that several commands share: each turns text into a value or says what it expected."""

from __future__ import annotations

import argparse

__all__ = ["comma_separated", "positive_int", "positive_ints", "shape"]


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


def positive_ints(text: str) -> tuple[int, ...]:
    """`1,2,4` -> (1, 2, 4)."""
    return tuple(positive_int(part) for part in comma_separated(text))


def shape(text: str) -> tuple[int, ...]:
    """`1,3,224,224` (or with `x` between) -> (1, 3, 224, 224)."""
    return positive_ints(text.replace("x", ","))
