"""From an identity to a network in memory: on the CPU, in eval mode, in float32, without gradients.

What would run code that came with a file is refused before anything is opened for loading, unless the user trusts it.
"""

from __future__ import annotations

import importlib
import pickle
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from edgebench.errors import MissingExtra, SourceError, UntrustedError
from edgebench.source import onnx_file, pickles, zoo
from edgebench.source.architecture import find_architecture
from edgebench.source.factory import factory_of
from edgebench.source.sniff import OLD_TORCH_MAGIC, TORCHVISION, Identity
from edgebench.source.untrained import enliven
from edgebench.source.user_code import running_user_code
from edgebench.source.weights import State, fold_module_pruning, fold_pruning, unwrap
from edgebench.types import Preprocess, SourceInfo, SourceKind

if TYPE_CHECKING:
    import torch

__all__ = ["LoadedSource", "load", "refusal"]

T = TypeVar("T", bound="torch.nn.Module")

_SHOWN = 5
_DAMAGED_HINT = "copy or download it again, and compare its size with the original's"


@dataclass(frozen=True)
class LoadedSource:
    """A network ready to export, and what is known about feeding it.

    `module` is None for ONNX, which stays a file. `input_shape` ([N, C, H, W], N is 1) and `preprocess` are
    suggestions; `preprocess_name` names a preprocessing where the architecture's file does. `dtype` is that of the
    weights as they were stored. `dependencies` maps the other local files that the network was built from to their
    sha256.
    """

    info: SourceInfo
    module: torch.nn.Module | torch.jit.ScriptModule | torch.export.ExportedProgram | None
    input_shape: tuple[int, ...] | None = None
    preprocess: Preprocess | None = None
    preprocess_name: str | None = None
    dtype: str | None = None
    dependencies: dict[str, str] = field(default_factory=dict)


def load(identity: Identity, *, arch: str | None = None, trust: bool = False) -> LoadedSource:
    """Load what `identity` names. `arch` is the architecture of a state dict; without it one is looked for.

    Raises:
        SourceError: it cannot be read, or its weights fit no architecture.
        UntrustedError: reading it would run code that came with it, and `trust` is False.
        MissingExtra: torch, torchvision or onnx is not installed.
        EnvironmentFailure: torchvision's weights cannot be downloaded.
    """
    if arch is not None and identity.kind not in ("state-dict", "checkpoint", "module"):
        raise SourceError(
            f"{identity.spec} carries its own architecture ({identity.kind})",
            hint="leave --arch out: it is for state dicts",
        )
    if identity.kind == "onnx":
        return _load_onnx(identity)
    if not trust and (error := refusal(identity)) is not None:
        raise error
    try:
        importlib.import_module("torch")
    except ImportError as error:
        raise MissingExtra("torch", "torch") from error
    if identity.spec.startswith(TORCHVISION):
        return _load_torchvision(identity)
    loaders: dict[SourceKind, Callable[[Identity], LoadedSource]] = {
        "factory": _load_factory,
        "torchscript": _load_torchscript,
        "exported-program": _load_exported_program,
    }
    if identity.kind in loaders:
        return loaders[identity.kind](identity)
    return _load_pickle(identity, arch, trust)


def refusal(identity: Identity) -> UntrustedError | None:
    """Why loading this would run code that came with it; None where it would not."""
    if identity.kind == "exported-program":
        return UntrustedError(
            f"{identity.spec} is an exported program, whose loader evaluates what is in it{_named(identity.callables)}",
            hint="pass --trust if you know who made it, or export from the network itself",
            globals=identity.callables,
        )
    if identity.callables:
        return UntrustedError(
            f"reading {identity.spec} would run code that came with it{_named(identity.callables)}",
            hint="pass --trust if you know who made it, or save the weights alone: torch.save(net.state_dict(), FILE)",
            globals=identity.callables,
        )
    return None


def _named(callables: tuple[str, ...]) -> str:
    if not callables:
        return ""
    more = f", ... {len(callables)} in all" if len(callables) > _SHOWN else ""
    return f": it calls {', '.join(callables[:_SHOWN])}{more}"


def _load_onnx(identity: Identity) -> LoadedSource:
    path = _path(identity)
    description = onnx_file.describe(path)
    shape = None
    if len(description.inputs) == 1:
        only = description.inputs[0].shape
        # A free first axis is the batch; other free axes are for the user to say.
        shape = (1, *only[1:]) if only and -1 not in only[1:] and only[0] in (-1, 1) else None
    info = _info(identity, None, description.parameters, f"read from {path.name}", ())
    return LoadedSource(info, None, shape, dtype=description.precision, dependencies=description.external)


def _load_torchvision(identity: Identity) -> LoadedSource:
    import torch

    name, _, weights = identity.spec.removeprefix(TORCHVISION).partition(":")
    network = zoo.find(name)
    notes: tuple[str, ...] = ()
    if weights:
        module, full_name = network.trained(weights)
        origin = f"torchvision's {full_name}"
    else:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            module = network.build()
        origin = "untrained (seed 0)"
        notes = enliven(module, None if network.is_detector else network.input_shape)
    loaded = _finish(identity, module, f"{TORCHVISION}{name}", origin, notes)
    return _suggesting(loaded, network.input_shape, network.preprocess, None)


def _load_factory(identity: Identity) -> LoadedSource:
    factory = factory_of(identity.spec)
    if factory is None:
        raise SourceError(f"{identity.spec} is not PATH.py:FACTORY or package.module:FACTORY")
    module = factory.build()
    loaded = _finish(identity, module, factory.name, f"as {factory.name} gives them (seed 0)", ())
    loaded = _suggesting(loaded, factory.input_shape, None, factory.preprocess_name)
    loaded.dependencies.update(factory.dependencies)
    return loaded


def _load_torchscript(identity: Identity) -> LoadedSource:
    import torch

    path = _path(identity)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r"`torch\.jit\.load` is deprecated", category=FutureWarning)
            module = torch.jit.load(str(path), map_location="cpu")
    except (RuntimeError, ValueError, OSError) as error:
        message = f"{identity.spec} is TorchScript that cannot be read: {_first_line(error)}"
        raise SourceError(message, hint=_DAMAGED_HINT) from error
    return _finish(identity, module, module.original_name, f"read from {path.name}", ())


def _load_exported_program(identity: Identity) -> LoadedSource:
    import torch

    path = _path(identity)
    hint = "it may be damaged, or made by another version of torch"
    with running_user_code(f"loading {identity.spec}", Path.cwd(), hint=hint) as read:
        program = torch.export.load(path)
    for parameter in program.parameters():
        parameter.requires_grad_(False)
    dtype = _stored_dtype([*program.parameters(), *program.buffers()])
    inputs: tuple[object, ...] = program.example_inputs[0] if program.example_inputs else ()
    only = inputs[0] if len(inputs) == 1 else None
    shape = tuple(only.shape) if isinstance(only, torch.Tensor) else None
    parameters = sum(parameter.numel() for parameter in program.parameters())
    notes = (f"It computes in {dtype}.",) if dtype not in (None, "float32") else ()
    info = _info(identity, None, parameters, f"read from {path.name}", notes)
    read.pop(str(path.resolve()), None)
    return LoadedSource(info, program, shape, dtype=dtype, dependencies=read)


def _load_pickle(identity: Identity, arch: str | None, trust: bool) -> LoadedSource:
    import torch

    path = _path(identity)
    value, read = _unpickle_trusted(identity, path) if trust else (_unpickle_safely(identity, path), {})
    content, notes = unwrap(value)
    if content is None:
        raise SourceError(
            f"{identity.spec} holds no network's weights", hint="save the network's state_dict(), or the whole network"
        )
    origin = f"read from {path.name}"
    if isinstance(content, torch.nn.Module):
        if isinstance(content, torch.nn.DataParallel):
            content, notes = content.module, (*notes, "It was taken out of its DataParallel.")
        if arch is not None:
            notes = (*notes, "The file holds the whole network; --arch was not used.")
        notes = (*notes, *fold_module_pruning(content))
        kind = type(content)
        loaded = _finish(identity, content, f"{kind.__module__}.{kind.__qualname__}", origin, notes, kind="module")
    else:
        loaded = _load_state(identity, content, arch, origin, notes)
    loaded.dependencies.update(read)
    if (trained_with := _trained_with(value)) is not None:
        loaded = replace(loaded, preprocess=None, preprocess_name=trained_with)
    return loaded


def _trained_with(checkpoint: object) -> str | None:
    """The preprocessing that a checkpoint of `edgebench.training` names; it knows better than the architecture."""
    if not isinstance(checkpoint, dict) or not {"state_dict", "architecture", "preprocess"} <= set(checkpoint):
        return None
    name = checkpoint["preprocess"]
    return name if isinstance(name, str) else None


def _load_state(
    identity: Identity, state: State, arch: str | None, origin: str, notes: tuple[str, ...]
) -> LoadedSource:
    state, folded = fold_pruning(state)
    shapes = {key: tuple(tensor.shape) for key, tensor in state.items()}
    architecture = find_architecture(shapes, identity.stem, arch)
    module = architecture.build()
    # Its own state dict carries the versions that some modules ask for, and batch counters that the file may lack.
    filled = module.state_dict()
    filled.update({key: state[name] for key, name in architecture.keys.items() if key in filled})
    module.load_state_dict(filled)
    notes = (*notes, *folded, *architecture.notes)
    loaded = _finish(identity, module, architecture.name, origin, notes, stored=_stored_dtype(list(state.values())))
    candidate = architecture.candidate
    if isinstance(candidate, zoo.ZooNetwork):
        return _suggesting(loaded, candidate.input_shape, candidate.preprocess, None)
    loaded.dependencies.update(candidate.dependencies)
    return _suggesting(loaded, candidate.input_shape, None, candidate.preprocess_name)


def _unpickle_safely(identity: Identity, path: Path) -> object:
    """With torch's restricted unpickler, which builds tensors and containers only."""
    import torch

    form = _torch_form(path)
    if form is None:
        hint = "write it with torch.save(model.state_dict(), FILE)"
        raise SourceError(f"{identity.spec} is a plain Python pickle, not written by torch.save", hint=hint)
    known = set(torch.serialization.get_safe_globals())
    admitted = [item for item in _admitted() if item not in known]
    try:
        with torch.serialization.safe_globals(admitted), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Detected pickle protocol", category=UserWarning)
            return torch.load(path, map_location="cpu", weights_only=True, mmap=form == "zip")
    except pickle.UnpicklingError as error:
        reason = str(error).rpartition("WeightsUnpickler error:")[2].strip()
        raise SourceError(
            f"torch's safe loader does not read {identity.spec}: {_first_line(reason)}",
            hint="write it with torch.save and its default pickle protocol, or pass --trust if you know who made it",
        ) from error
    except Exception as error:
        message = f"{identity.spec} is damaged: {type(error).__name__}: {_first_line(error)}"
        raise SourceError(message, hint=_DAMAGED_HINT) from error


def _unpickle_trusted(identity: Identity, path: Path) -> tuple[object, dict[str, str]]:
    """With everything in it executed. Its classes may lie in the current directory."""
    import torch

    hint = "run edgebench where its classes can be imported, or save the state_dict() and pass --arch PATH.py:FACTORY"
    with running_user_code(f"reading {identity.spec}", Path.cwd(), hint=hint) as read:
        if _torch_form(path) is None:
            with path.open("rb") as file:
                value: object = pickle.load(file)  # noqa: S301  the user has said that this file may run code
        else:
            value = torch.load(path, map_location="cpu", weights_only=False)
    read.pop(str(path.resolve()), None)
    return value, read


def _torch_form(path: Path) -> str | None:
    with path.open("rb") as file:
        head = file.read(4)
    return {b"PK\x03\x04": "zip", OLD_TORCH_MAGIC: "old"}.get(head)


def _admitted() -> list[Callable[..., Any] | tuple[Callable[..., Any], str]]:
    found: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = []
    for name in pickles.ADMITTED:
        module, _, attribute = name.rpartition(".")
        # Files written under numpy 1 say numpy.core, whose import warns since numpy 2.
        module = module.replace("numpy.core", "numpy._core")
        found.append((getattr(importlib.import_module(module), attribute), name))
    return found


def _finish(
    identity: Identity,
    module: T,
    architecture: str,
    origin: str,
    notes: tuple[str, ...],
    *,
    kind: SourceKind | None = None,
    stored: str | None = None,
) -> LoadedSource:
    """The network made ready, with what was done to it noted."""
    import torch

    if zoo.drop_auxiliary_heads(module):
        notes = (*notes, "Its auxiliary heads, which only training looks at, were taken off.")
    tensors = [*module.parameters(), *module.buffers()]
    stored = stored or _stored_dtype(tensors)
    if any(tensor.is_floating_point() and tensor.dtype != torch.float32 for tensor in tensors):
        module.float()
    if stored not in (None, "float32"):
        notes = (*notes, f"Its {stored} weights were converted to float32.")
    module.to("cpu").eval()
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    parameters = sum(parameter.numel() for parameter in module.parameters())
    # A frozen TorchScript holds its weights as constants, which cannot be counted from here.
    info = _info(identity, architecture, parameters or None, origin, notes, kind=kind)
    return LoadedSource(info, module, dtype=stored)


def _info(
    identity: Identity,
    architecture: str | None,
    parameters: int | None,
    origin: str,
    notes: tuple[str, ...],
    *,
    kind: SourceKind | None = None,
) -> SourceInfo:
    return SourceInfo(
        path=identity.spec,
        sha256=identity.sha256,
        kind=kind or identity.kind,
        architecture=architecture,
        parameters=parameters,
        weights=origin,
        notes=notes,
    )


def _suggesting(
    loaded: LoadedSource,
    input_shape: tuple[int, ...] | None,
    preprocess: Preprocess | None,
    preprocess_name: str | None,
) -> LoadedSource:
    return LoadedSource(
        loaded.info, loaded.module, input_shape, preprocess, preprocess_name, loaded.dtype, loaded.dependencies
    )


def _stored_dtype(tensors: list[torch.Tensor]) -> str | None:
    """The floating-point dtype that holds most elements."""
    counts: dict[str, int] = {}
    for tensor in tensors:
        if tensor.is_floating_point():
            name = str(tensor.dtype).removeprefix("torch.")
            counts[name] = counts.get(name, 0) + tensor.numel()
    return max(counts, key=lambda name: counts[name]) if counts else None


def _path(identity: Identity) -> Path:
    if identity.path is None:
        raise SourceError(f"{identity.spec} is not a file")
    return identity.path


def _first_line(text: object) -> str:
    return next((line.strip() for line in str(text).splitlines() if line.strip()), "no reason given")
