"""An explanation: what an int8 artifact is, what runs of it, what it loses where, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass

from edgebench.explaining.executed import Unfused
from edgebench.explaining.instructions import Instructions
from edgebench.explaining.layers import Layer
from edgebench.explaining.scheme import Scheme
from edgebench.explaining.values import sqnr_of
from edgebench.profiling.profile import Profile

__all__ = ["Explanation", "Finding"]


@dataclass(frozen=True)
class Finding:
    """One thing in words; `remedy` is what to type or do, None where there is nothing to mend; `kind` is for
    scripts."""

    kind: str
    text: str
    remedy: str | None = None


@dataclass(frozen=True)
class Explanation:
    """All that was read and measured of one artifact; sentences are made of it in `findings`.

    exported: it lies in a bundle of ours.
    calibration: what the bundle knows of it, in words.
    parent: the path of the float model, None where none is known.
    fed_with, inputs: what the values were seen on, and on how many, 0 where they were not looked at.
    why_no_values: why nothing is known of what layers lose.
    noise: of the artifact's answers, by the file's own arithmetic, `device_noise` by the device's kernels; over the
        power of the float model's.
    """

    name: str
    path: str
    exported: bool
    scheme: Scheme
    calibration: str | None
    parent: str | None
    cpu: Instructions
    may_saturate: bool
    profile: Profile
    parent_profile: Profile | None
    unfused: tuple[Unfused, ...]
    layers: tuple[Layer, ...]
    fed_with: str
    inputs: int
    why_no_values: str | None
    noise: float | None
    device_noise: float | None

    @property
    def sqnr_db(self) -> float | None:
        """Of the answers, by the file's arithmetic."""
        return sqnr_of(self.noise)

    @property
    def device_sqnr_db(self) -> float | None:
        """Of the answers of the device."""
        return sqnr_of(self.device_noise)

    @property
    def ratio(self) -> float | None:
        """The int8 model's time over the float one's, by the inferences without the profiler."""
        if self.parent_profile is None or not self.profile.unprofiled_ns or not self.parent_profile.unprofiled_ns:
            return None
        return self.profile.unprofiled_p50_ns / self.parent_profile.unprofiled_p50_ns
