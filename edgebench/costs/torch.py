"""The costs of a network in memory, seen in one inference: which operators torch dispatches, in which module.

The formulas are torch's own (`torch.utils.flop_counter`, whose FLOPs are two for a MAC). In TorchScript and in exported
programs only operators with weights know their module, by the weights' names.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from edgebench.costs.layers import Counted, LayerCosts, Step, peak_live_bytes, summed

if TYPE_CHECKING:
    import torch

__all__ = ["count"]

# They read weights of two axes or more, and none multiplies and sums over one of them.
_WITHOUT_MACS = frozenset({
    "add", "sub", "mul", "div", "embedding", "index", "index_select", "gather", "where", "cat", "stack", "copy_",
    "clone", "_to_copy", "_unsafe_view", "native_batch_norm", "_native_batch_norm_legit_no_training",
    "native_layer_norm", "native_group_norm", "prelu", "_prelu_kernel", "pow", "repeat", "constant_pad_nd", "isnan",
})  # fmt: skip
_KNOWN_NAMESPACES = ("aten", "prim", "prims", "quantized_decomposed")


def count(
    network: torch.nn.Module | torch.jit.ScriptModule | torch.export.ExportedProgram, inputs: Sequence[NDArray[Any]]
) -> Counted:
    """The costs of one inference of `inputs`, in the order of the arguments, which is run on the CPU.

    Whatever the network raises for such inputs comes through.
    """
    import torch

    module: Any = network.module() if isinstance(network, torch.export.ExportedProgram) else network
    fast = torch.backends.mha.get_fastpath_enabled()
    # There a whole transformer layer is one operator, without a formula.
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad():
            return _watched(module, [torch.from_numpy(array.copy()) for array in inputs])
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def _watched(module: Any, inputs: Sequence[Any]) -> Counted:
    import torch
    from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    book = _Book(module, inputs)
    paths = {id(child): name for name, child in module.named_modules()}

    def enter(child: Any, _given: Any) -> None:
        book.inside.append(paths.get(id(child), ""))

    def leave(_child: Any, _given: Any, _result: Any) -> None:
        book.inside.pop()

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = function(*args, **(kwargs or {}))
            read = [item for item in tree_leaves((args, kwargs or {})) if isinstance(item, torch.Tensor)]
            made = [item for item in tree_leaves(result) if isinstance(item, torch.Tensor)]
            if made:
                book.note(function, (args, kwargs or {}, result), read, made)
            return result

    hooks = [register_module_forward_pre_hook(enter), register_module_forward_hook(leave)]
    try:
        with Watch():  # type: ignore[no-untyped-call]
            result = module(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return book.counted([item for item in tree_leaves(result) if isinstance(item, torch.Tensor)])


class _Book:
    """What was seen. A tensor is known by its storage, so that a view is its tensor."""

    def __init__(self, module: Any, inputs: Sequence[Any]) -> None:
        self.inside: list[str] = []
        self._layers: list[LayerCosts] = []
        self._steps: list[Step] = []
        self._sizes: dict[int, int | None] = {}
        self._tensors: dict[int, int] = {}
        self._weights: dict[int, list[tuple[str, Any]]] = {}
        self._used: set[int] = set()
        self._statistics = {_storage(buffer) for _, buffer in module.named_buffers()}
        for name, parameter in module.named_parameters():
            self._weights.setdefault(_storage(parameter), []).append((name, parameter))
        self._given = [self._new(tensor) for tensor in inputs]

    def note(self, function: Any, call: tuple[Any, Any, Any], read: Sequence[Any], made: Sequence[Any]) -> None:
        """One operator, with its arguments and result, and the tensors among them."""
        places = [_storage(tensor) for tensor in read]
        weights = []
        for place, tensor in zip(places, read, strict=True):
            if place not in self._tensors and place not in self._statistics and tensor.is_floating_point():
                # What no operator made and no name is known of is a constant of a frozen network.
                self._weights.setdefault(place, [("", tensor)])
                weights.append(place)
        reads = [self._tensors[place] for place in places if place in self._tensors]
        fresh = [tensor for tensor in made if _storage(tensor) not in places]
        writes = [
            self._tensors[place] for tensor in made if (place := _storage(tensor)) in places and place in self._tensors
        ]
        new = [self._new(tensor) for tensor in fresh]
        self._steps.append(Step(tuple(reads), (*writes, *new)))
        owned = [item for place in dict.fromkeys(weights) for item in self._weights[place]]
        first = [item for place in dict.fromkeys(weights) if place not in self._used for item in self._weights[place]]
        # A view of weights is no use of them.
        if fresh:
            self._used.update(weights)
        else:
            first = []
        named = next((name for name, _ in owned if name), None)
        self._layers.append(
            LayerCosts(
                name=f"{function.overloadpacket.__name__}_{len(self._layers)}",
                module=(named.rpartition(".")[0] if named else self.inside[-1] if self.inside else "") or None,
                operator=function.overloadpacket.__name__,
                output_shape=tuple(made[0].shape),
                macs=_macs(function, call, read, any(tensor.dim() > 1 for _, tensor in owned) and bool(fresh)),
                parameters=sum(tensor.numel() for _, tensor in first),
                zeros=sum(tensor.numel() - int(tensor.count_nonzero()) for _, tensor in first),
                weight_bytes=sum(tensor.nbytes for _, tensor in first),
                activation_bytes=sum(self._sizes[number] or 0 for number in new),
            )
        )

    def counted(self, results: Sequence[Any]) -> Counted:
        """The sum, with the operators that only make a view left out."""
        ends = [self._tensors[place] for tensor in results if (place := _storage(tensor)) in self._tensors]
        layers = [layer for layer in self._layers if layer.activation_bytes or layer.macs != 0]
        return summed(layers, peak_live_bytes(self._steps, self._given, ends, self._sizes))

    def _new(self, tensor: Any) -> int:
        number = len(self._sizes)
        self._sizes[number] = tensor.untyped_storage().nbytes()
        # A freed tensor's place may be taken again.
        self._tensors[_storage(tensor)] = number
        return number


def _storage(tensor: Any) -> int:
    return int(tensor.untyped_storage().data_ptr())


def _macs(function: Any, call: tuple[Any, Any, Any], read: Sequence[Any], has_matrices: bool) -> int | None:
    from torch.utils.flop_counter import flop_registry

    packet = function.overloadpacket
    args, kwargs, result = call
    if packet in flop_registry:
        return int(flop_registry[packet](*args, **kwargs, out_val=result)) // 2
    if packet.__name__ == "mkldnn_rnn_layer":
        # An input [T, N, I] and the weights that each step and sequence uses once: [gates * H, I], [gates * H, H].
        return int(math.prod(read[0].shape[:2]) * (read[1].numel() + read[2].numel()))
    if function.namespace not in _KNOWN_NAMESPACES:
        return None
    return None if has_matrices and packet.__name__ not in _WITHOUT_MACS else 0
