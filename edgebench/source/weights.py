"""A state dict as training scripts leave it, brought into the form that the network's own keys have."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

__all__ = ["Renaming", "State", "fold_module_pruning", "fold_pruning", "renamings", "unwrap"]

State = dict[str, "torch.Tensor"]

# Under which keys training scripts keep the network's weights; the first that is there is taken.
_WRAPPERS = (
    *("state_dict", "model_state_dict", "model_state", "model", "net", "network", "module", "weights", "params"),
    *("generator", "ema_state_dict", "state_dict_ema", "model_ema", "params_ema", "ema"),
)
# What wrappers put before every key: DataParallel, Lightning, torch.compile, and common attribute names.
_PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.", "backbone.")
# How torchvision's first releases named what is called otherwise now; it renames them at loading, too.
_OLD_NAMES = (
    (re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12])\."), {"1": r"\g<1>1.", "2": r"\g<1>2."}),
    (re.compile(r"(\.mlp)\.linear_([12])\."), {"1": r"\g<1>.0.", "2": r"\g<1>.3."}),
)
_DEPTH = 3


@dataclass(frozen=True)
class Renaming:
    """One way to read the keys of a file: `keys` maps each new key to the file's own; `note` says what was done."""

    keys: dict[str, str]
    note: str | None


def unwrap(value: object) -> tuple[State | torch.nn.Module | None, tuple[str, ...]]:
    """The tensors, or the whole network, that a file held, None where there is neither; and notes on the way to it."""
    import torch

    taken: list[str] = []
    for _ in range(_DEPTH):
        if isinstance(value, torch.nn.Module):
            return value, _wrapper_note(taken)
        if not isinstance(value, Mapping):
            return None, ()
        if all(isinstance(item, torch.Tensor) and isinstance(key, str) for key, item in value.items()):
            return (dict(value) or None), _wrapper_note(taken)
        chosen = _chosen(value)
        if chosen is None:
            return _mixed(value, taken)
        taken.append(chosen)
        value = value[chosen]
    return None, ()


def fold_pruning(state: State) -> tuple[State, tuple[str, ...]]:
    """Multiply the pairs that torch.nn.utils.prune leaves (`X_orig`, `X_mask`) into `X`."""
    pairs = {
        key.removesuffix("_mask"): (f"{key.removesuffix('_mask')}_orig", key)
        for key in state
        if key.endswith("_mask") and f"{key.removesuffix('_mask')}_orig" in state
    }
    if not pairs:
        return state, ()
    masks = [state[mask] for _, mask in pairs.values()]
    share = 1 - sum(float(mask.sum()) for mask in masks) / sum(mask.numel() for mask in masks)
    by_original = {original: (key, mask) for key, (original, mask) in pairs.items()}
    dropped = {mask for _, mask in pairs.values()}
    folded: State = {}
    for key, tensor in state.items():
        if key in by_original:
            name, mask = by_original[key]
            folded[name] = tensor * state[mask].to(tensor.dtype)
        elif key not in dropped:
            folded[key] = tensor
    return folded, (_pruning_note(len(pairs), share),)


def fold_module_pruning(network: torch.nn.Module) -> tuple[str, ...]:
    """Make the pruning of a whole network permanent, which torch.nn.utils.prune does at every forward pass."""
    from torch.nn.utils import prune

    kept = total = tensors = 0
    for module in network.modules():
        for hook in list(module._forward_pre_hooks.values()):
            if isinstance(hook, prune.BasePruningMethod):
                mask = getattr(module, f"{hook._tensor_name}_mask")
                kept, total, tensors = kept + int(mask.sum()), total + mask.numel(), tensors + 1
                prune.remove(module, hook._tensor_name)
    return (_pruning_note(tensors, 1 - kept / total),) if tensors else ()


def renamings(keys: list[str]) -> Iterator[Renaming]:
    """The ways to read `keys`: as they are, without prefixes that all share, with torchvision's old names mended."""
    current = {key: key for key in keys}
    # Averaged models (torch.optim.swa_utils) keep a counter beside the network.
    if "n_averaged" in current and all(key == "n_averaged" or key.startswith("module.") for key in current):
        del current["n_averaged"]
    stripped = ""
    while True:
        note = f"The prefix `{stripped}` was taken off every key." if stripped else None
        yield Renaming(dict(current), note)
        mended = {_mend(key): own for key, own in current.items()}
        if mended.keys() != current.keys():
            yield Renaming(mended, " ".join(filter(None, (note, "torchvision's old key names were mended."))))
        prefix = next((p for p in _PREFIXES if current and all(k.startswith(p) for k in current)), None)
        if prefix is None:
            return
        current = {key.removeprefix(prefix): own for key, own in current.items()}
        stripped += prefix


def _pruning_note(tensors: int, share: float) -> str:
    return f"The pruning masks of {tensors} tensors were multiplied in; {100 * share:.1f} % of their weights are zero."


def _mend(key: str) -> str:
    for pattern, replacement in _OLD_NAMES:
        if found := pattern.search(key):
            return pattern.sub(replacement[found.group(2)], key)
    return key


def _chosen(value: Mapping[object, object]) -> str | None:
    import torch

    def holds_weights(item: object, depth: int = 0) -> bool:
        if isinstance(item, torch.nn.Module):
            return True
        if not isinstance(item, Mapping) or not item:
            return False
        if all(isinstance(inner, torch.Tensor) and isinstance(key, str) for key, inner in item.items()):
            return True
        return depth < _DEPTH and any(holds_weights(item.get(name), depth + 1) for name in _WRAPPERS)

    named = next((name for name in _WRAPPERS if holds_weights(value.get(name))), None)
    if named is not None:
        return named
    others = [key for key, item in value.items() if isinstance(key, str) and holds_weights(item)]
    return others[0] if len(others) == 1 else None


def _mixed(value: Mapping[object, object], taken: list[str]) -> tuple[State | None, tuple[str, ...]]:
    import torch

    state = {key: item for key, item in value.items() if isinstance(key, str) and isinstance(item, torch.Tensor)}
    if not state:
        return None, ()
    rest = [str(key) for key in value if key not in state]
    return state, (*_wrapper_note(taken), f"What is no tensor was left out: {', '.join(rest[:5])}.")


def _wrapper_note(taken: list[str]) -> tuple[str, ...]:
    return (f"The weights are those under `{'.'.join(taken)}`.",) if taken else ()
