"""What is counted, the same for every format.

A MAC is one multiplication with its accumulation in a convolution, a matrix product, an attention or a recurrent layer;
two operations are counted for it elsewhere (1 GFLOP is 0.5 GMAC). So a convolution has `N * C_out * H_out * W_out *
C_in / groups * k_h * k_w`, whatever algorithm a runtime chooses. Bias, activations, normalisation, pooling and all that
goes element by element are no MACs. What multiplies and has no formula here is named in `Costs.not_counted`.

Peak activation memory is the largest sum of tensors alive at once, when operators run one by one in the order of the
file: inputs and results live until their last use, those of the network until its end; a view is its tensor. Runtimes
fuse operators and write in place, which needs less, or keep copies in layouts of their own, which needs more.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgebench.types import Costs

__all__ = ["Counted", "LayerCosts", "Step", "known_sum", "peak_live_bytes", "summed"]


@dataclass(frozen=True)
class LayerCosts:
    """One operator. `module` is the path of its module in the network, None where the file does not tell.

    `macs` is None where the operator multiplies and is not counted. A constant that several operators share is of the
    first. `zeros` are those parameters that are zero, None where their values were not read. `output_shape` is of the
    first result, and `activation_bytes` of all results, 0 for a view; None where a length is not known.
    """

    name: str
    module: str | None
    operator: str
    output_shape: tuple[int, ...] | None
    macs: int | None
    parameters: int
    zeros: int | None
    weight_bytes: int
    activation_bytes: int | None


@dataclass(frozen=True)
class Counted:
    """The layers in the order of their execution, and their sum."""

    totals: Costs
    layers: tuple[LayerCosts, ...]


@dataclass(frozen=True)
class Step:
    """Which tensors an operator reads and writes; constants are left out."""

    reads: tuple[Hashable, ...]
    writes: tuple[Hashable, ...]


def known_sum(values: Iterable[int | None]) -> int | None:
    """The sum, or None where one of them is not known."""
    found = list(values)
    return None if None in found else sum(value or 0 for value in found)


def peak_live_bytes(
    steps: Sequence[Step],
    inputs: Iterable[Hashable],
    outputs: Iterable[Hashable],
    sizes: Mapping[Any, int | None],
) -> int | None:
    """The largest sum of `sizes` (bytes) alive at once, while `steps` run one after the other; None where a size is not
    known."""
    if None in sizes.values():
        return None
    bytes_of = {tensor: size or 0 for tensor, size in sizes.items()}
    last = {tensor: number for number, step in enumerate(steps) for tensor in (*step.reads, *step.writes)}
    last.update(dict.fromkeys(outputs, len(steps)))
    alive = {tensor: bytes_of[tensor] for tensor in inputs}
    peak = sum(alive.values())
    for number, step in enumerate(steps):
        alive.update({tensor: bytes_of[tensor] for tensor in step.writes})
        peak = max(peak, sum(alive.values()))
        for tensor in (*step.reads, *step.writes):
            if last[tensor] == number:
                alive.pop(tensor, None)
    return peak


def summed(layers: Sequence[LayerCosts], peak_activation_bytes: int | None) -> Counted:
    """The layers with their totals."""
    return Counted(
        Costs(
            macs=sum(layer.macs or 0 for layer in layers),
            parameters=sum(layer.parameters for layer in layers),
            zeros=known_sum(layer.zeros for layer in layers),
            weight_bytes=sum(layer.weight_bytes for layer in layers),
            activation_bytes=known_sum(layer.activation_bytes for layer in layers),
            peak_activation_bytes=peak_activation_bytes,
            not_counted=tuple(dict.fromkeys(layer.operator for layer in layers if layer.macs is None)),
        ),
        tuple(layers),
    )
