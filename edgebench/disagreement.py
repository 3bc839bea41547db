"""How a device's answers differ from this machine's."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Disagreement", "WorstInput"]


@dataclass(frozen=True)
class WorstInput:
    """An image by its number in the data set, by how much its scores differ, and its class here and on the device."""

    index: int
    max_abs_error: float
    here: int
    there: int


@dataclass(frozen=True)
class Disagreement:
    """How a device's answers differ from this machine's, for the same artifact and inputs: on how many images the class
    differs (or a score is no number), by how much a score does at most, and the images that differ most, those of
    another class first."""

    classes: int
    max_abs_error: float
    worst: tuple[WorstInput, ...]
