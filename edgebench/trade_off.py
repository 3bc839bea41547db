"""What accuracy control tried: which nodes out of int8 gave which accuracy, at which latency."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Budget", "Keep", "Score", "TradeOff", "Trial"]

Keep = Literal["float", "int16"]


@dataclass(frozen=True)
class Budget:
    """What may be lost: points of top-1, or down to which SQNR of the outputs. What is taken out of int8 for it is kept
    in float or with 16-bit activations; `evaluations` and `seconds` bound the search for it."""

    max_drop: float | None = None
    min_sqnr_db: float | None = None
    keep: Keep = "float"
    evaluations: int = 24
    seconds: float = 600.0

    def holds(self, score: Score) -> bool:
        """Whether `score` is within it."""
        if self.max_drop is not None and (score.drop_points is None or score.drop_points > self.max_drop):
            return False
        return self.min_sqnr_db is None or score.sqnr_db is None or score.sqnr_db >= self.min_sqnr_db


@dataclass(frozen=True)
class Score:
    """What a model is worth on held-out inputs. `sqnr_db` is None where it answers the very same.

    drop_points: of top-1 in percentage points, with its 95 % interval; None without labels.
    """

    samples: int
    sqnr_db: float | None
    agreement: float | None = None
    drop_points: float | None = None
    drop_ci: tuple[float, float] | None = None


@dataclass(frozen=True)
class Trial:
    """One model that was tried. `kept`: what was taken out of int8, the most sensitive first; `int8_products` of
    `products` convolutions and matrix products stayed in it. `latency_ratio` is to the float model's, on this machine
    with one thread, the median of a few dozen turns: an orientation, which `bench` turns into a measurement."""

    kept: tuple[str, ...]
    int8_products: int
    products: int
    score: Score
    latency_ratio: float | None
    met: bool


@dataclass(frozen=True)
class TradeOff:
    """The budget, what was tried for it, in order, and which of the trials was taken (an index). `data` names the
    images that they were judged by; `stopped`: why it was not searched on, where it was not: evaluations or time."""

    budget: Budget
    data: str
    trials: tuple[Trial, ...]
    chosen: int
    seconds: float
    stopped: str | None = None

    @property
    def met(self) -> bool:
        """Whether what was taken is within the budget."""
        return self.trials[self.chosen].met
