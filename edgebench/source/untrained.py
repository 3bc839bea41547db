"""Untrained networks made fit for what follows: signals that do not vanish on their way through."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

__all__ = ["enliven"]

_POWER = 1e-4


def enliven(network: torch.nn.Module, input_shape: Sequence[int] | None) -> tuple[str, ...]:
    """Give layers that start as zeros random weights, and make batch norms keep the power of a signal; what was done.

    A constant output proves no parity (torchvision's ViT begins with a head of zeros). And as they begin, batch norms
    pass on what the layers before them shrink: efficientnet_b0 answers 1e-13, below what a quantizer resolves.
    """
    return (*_fill_zero_layers(network), *_scale_batch_norms(network, input_shape))


def _fill_zero_layers(network: torch.nn.Module) -> tuple[str, ...]:
    import torch

    generator = torch.Generator().manual_seed(0)
    linear = {name: layer for name, layer in network.named_modules() if isinstance(layer, torch.nn.Linear)}
    zero = {name: layer for name, layer in linear.items() if not layer.weight.detach().any()}
    for layer in zero.values():
        torch.nn.init.normal_(layer.weight, 0.0, 0.02, generator=generator)
    return (f"The layers {', '.join(zero)} start as zeros and were given random weights.",) if zero else ()


def _scale_batch_norms(network: torch.nn.Module, input_shape: Sequence[int] | None) -> tuple[str, ...]:
    """One scale for all channels and no mean taken off: what training has not made meaningful, a difference between
    channels or from their mean, would be noise made large, and int8 would drown in it. And a small one, for which
    activations are nearly linear: at a power of 1 efficientnet_b0's int8 was at 5 dB, of ONNX and of TFLite."""
    import torch

    norms = [layer for layer in network.modules() if isinstance(layer, torch.nn.modules.batchnorm._BatchNorm)]
    if not norms or input_shape is None:
        return ()

    def scale(layer: Any, given: tuple[torch.Tensor, ...]) -> None:
        layer.running_var.fill_(float(given[0].square().mean()) / _POWER)

    hooks = [layer.register_forward_pre_hook(scale) for layer in norms]
    inputs = torch.randn(tuple(input_shape), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        network.eval()(inputs)
    for hook in hooks:
        hook.remove()
    return ("Batch norms were scaled so that the signal of a random input keeps its power.",)
