"""What a table says of int8 that was calibrated on no data."""

from __future__ import annotations

from collections.abc import Iterable

from edgebench.types import RANDOM, ArtifactRef

__all__ = ["MEANINGLESS", "calibrated_on_nothing"]

MEANINGLESS = "calibrated on RANDOM numbers (--calib random): its ranges and its accuracy say nothing about real images"


def calibrated_on_nothing(artifacts: Iterable[ArtifactRef]) -> list[str]:
    """A line that names those of `artifacts` that were calibrated on random numbers, where there are any."""
    names = dict.fromkeys(artifact.name for artifact in artifacts if artifact.calibrated_on == RANDOM)
    return [f"{', '.join(names)}: {MEANINGLESS}; export again with --calib DATA"] if names else []
