"""The device's own limits, measured in a moment: how much it computes and how much memory it moves a second."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional


@dataclass(frozen=True)
class Roofline:
    """The best of several tries with `threads`: floating-point operations a second of a matrix product of float32, the
    same in int8 (None where nothing here can), and bytes a second read and written by a copy that exceeds the caches.
    `method` names what computed them."""

    threads: int
    flops_per_s: int
    int8_ops_per_s: Optional[int]
    bytes_per_s: int
    method: str
