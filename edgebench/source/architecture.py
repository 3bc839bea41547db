"""Which network a state dict belongs to: by the file's name, then by every key and shape."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgebench.errors import EdgebenchError, SourceError
from edgebench.source import zoo
from edgebench.source.factory import Factory, factory_of, own_factories
from edgebench.source.sniff import TORCHVISION
from edgebench.source.weights import Renaming, renamings

if TYPE_CHECKING:
    import torch

__all__ = ["Architecture", "find_architecture"]

Shapes = Mapping[str, tuple[int, ...]]

# torch counts batches for a momentum that nobody uses; files from before torch 0.4.1 lack the counter.
_IGNORED = "num_batches_tracked"
_SHOWN = 5
_NEARLY_ALL, _HALF = 0.8, 0.5
# So near must the number of parameters be for a network to be built in memory without having been named.
_CLOSE = 0.01


@dataclass(frozen=True)
class Architecture:
    """A network that every key and shape of a file fits.

    `keys` maps the network's keys to the file's. `notes` say how it was found and what was done to the keys.
    """

    candidate: Factory | zoo.ZooNetwork
    keys: dict[str, str]
    classes: int | None
    notes: tuple[str, ...]

    @property
    def name(self) -> str:
        """As people write it: `torchvision:resnet18`, `archs.py:resnet20`, `models/resnet18_cifar.py:resnet18`."""
        return _label(self.candidate)

    def build(self) -> torch.nn.Module:
        """The network on the CPU, seeded by 0, without the file's weights."""
        import torch

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return _build(self.candidate, self.classes, zoo.has_auxiliary_heads(self.keys))


@dataclass(frozen=True)
class _Misfit:
    """How a file's keys differ from a network's."""

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    reshaped: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]
    common: int

    @property
    def fits(self) -> bool:
        return not (self.missing or self.unexpected or self.reshaped)

    @property
    def similarity(self) -> tuple[float, int]:
        """The share of keys in common, then how many of those have the same shape."""
        union = self.common + len(self.missing) + len(self.unexpected)
        return (self.common / union if union else 0.0, -len(self.reshaped))

    @property
    def is_near(self) -> bool:
        """Whether naming the network helps: nearly all keys agree, or half of them, and most of those in shape."""
        share, same = self.similarity[0], self.common - len(self.reshaped)
        return share >= _NEARLY_ALL or (share >= _HALF and same >= _HALF * self.common)


@dataclass(frozen=True)
class _Trial:
    candidate: Factory | zoo.ZooNetwork
    renaming: Renaming
    classes: int | None
    misfit: _Misfit


def find_architecture(keys_and_shapes: Shapes, stem: str, arch: str | None) -> Architecture:
    """The network for a state dict of a file named `stem`; `arch`, where given, is the only one tried.

    Candidates are the factories of `models/` and torchvision's networks: first those whose name the stem contains, the
    longest first; then all of `models/` and torchvision's classifiers, by keys and shapes alone.

    Raises:
        SourceError: none fits; the message names the nearest and how it differs.
    """
    shapes = {key: tuple(shape) for key, shape in keys_and_shapes.items()}
    if arch is not None:
        trial = _try(_named(arch), shapes)
        if trial.misfit.fits:
            return _found(trial, f"{_label(trial.candidate)} was asked for.")
        raise _refusal([trial], shapes, asked_for=True)
    own = own_factories()
    trials: list[_Trial] = []
    for candidate in _by_stem(stem, own):
        trials.append(_try(candidate, shapes))
        if trials[-1].misfit.fits:
            how = f"{_label(candidate)} was found by the file's name, and every key and shape fits."
            return _found(trials[-1], how, *_twin_notes(trials[-1], own, shapes))
    named = list(trials)
    for candidate, costly in _by_shape(own, shapes, {_label(trial.candidate) for trial in trials}):
        try:
            trials.append(_try(candidate, shapes, meta_only=not costly))
        except (EdgebenchError, RuntimeError):
            continue  # nobody asked for this one, so that it does not build is not this file's concern
        if trials[-1].misfit.fits:
            how = f"{_label(candidate)} was found by its keys and shapes; the file's name does not say."
            return _found(trials[-1], how, *_twin_notes(trials[-1], own, shapes))
    raise _refusal(trials, shapes, named=named)


def _named(arch: str) -> Factory | zoo.ZooNetwork:
    """What `--arch` means.

    Raises:
        SourceError: nothing of that name.
    """
    if arch.startswith(TORCHVISION):
        return zoo.find(arch.removeprefix(TORCHVISION))
    if (factory := factory_of(arch)) is not None:
        return factory
    own = {factory.function: factory for factory in own_factories()}
    if arch in own:
        return own[arch]
    known = [*own, *zoo.names()]
    if arch not in known:
        close = difflib.get_close_matches(arch, known, n=3)
        hint = (
            f"did you mean {', '.join(close)}?"
            if close
            else "give torchvision's name, PATH.py:FACTORY, or a name of models/"
        )
        raise SourceError(f"there is no architecture `{arch}`", hint=hint)
    return zoo.find(arch)


def _by_stem(stem: str, own: list[Factory]) -> Iterator[Factory | zoo.ZooNetwork]:
    plain = _plain(stem)
    yield from sorted((f for f in own if _plain(f.function) in plain), key=lambda f: -len(f.function))
    for name in sorted((name for name in zoo.names() if _plain(name) in plain), key=lambda name: -len(name)):
        yield zoo.find(name)


def _by_shape(own: list[Factory], shapes: Shapes, tried: set[str]) -> Iterator[tuple[Factory | zoo.ZooNetwork, bool]]:
    """What the name did not offer, and whether building it in memory is worth it: if it has as many parameters."""
    yield from ((factory, True) for factory in own if _label(factory) not in tried)
    expected = _parameters_with_1000_classes(shapes)
    networks = [zoo.find(name) for name in zoo.classification_names() if f"{TORCHVISION}{name}" not in tried]
    distances = {network.name: abs((network.default_parameters or 0) - expected) for network in networks}
    for network in sorted(networks, key=lambda network: distances[network.name]):
        yield network, distances[network.name] < _CLOSE * expected


def _parameters_with_1000_classes(shapes: Shapes) -> int:
    """What torchvision's own weights of this network would count, whose last layer has 1000 classes."""
    learned = {
        key: shape for key, shape in shapes.items() if not key.endswith(("running_mean", "running_var", _IGNORED))
    }
    total = sum(_elements(shape) for shape in learned.values())
    classes = _last_classes(shapes)
    head = [shape for shape in list(learned.values())[-2:] if classes is not None and shape[:1] == (classes,)]
    return total + sum((1000 - shape[0]) * _elements(shape[1:]) for shape in head)


def _try(candidate: Factory | zoo.ZooNetwork, shapes: Shapes, *, meta_only: bool = False) -> _Trial:
    """The best way to read the file's keys as this candidate's."""
    trials = []
    built: dict[tuple[int | None, bool], Shapes] = {}
    for classes in _class_counts(candidate, shapes):
        for way in renamings(list(shapes)):
            kind = classes, zoo.has_auxiliary_heads(way.keys)
            if kind not in built:
                built[kind] = _shapes(candidate, *kind, meta_only=meta_only)
            misfit = _compare({key: shapes[file_key] for key, file_key in way.keys.items()}, built[kind])
            trials.append(_Trial(candidate, way, classes, misfit))
            if misfit.fits:
                return trials[-1]
    return max(trials, key=lambda trial: trial.misfit.similarity)


def _class_counts(candidate: Factory | zoo.ZooNetwork, shapes: Shapes) -> list[int | None]:
    last = [_last_classes(shapes)]
    # A key that was added or renamed may lie behind the head; the last matrix is then the better guess.
    last += [shape[0] for shape in list(shapes.values())[::-1] if len(shape) == 2][:1]
    if isinstance(candidate, Factory):
        return list(dict.fromkeys([*last, None])) if candidate.takes_classes() else [None]
    # A detector's last layer is a box regression; its classes are told by the one that scores them.
    scores = [shape[0] for key, shape in shapes.items() if key.endswith("cls_score.weight")]
    return list(dict.fromkeys([*scores, None] if candidate.is_detector else last))


def _last_classes(shapes: Shapes) -> int | None:
    last = next((shape for shape in reversed(list(shapes.values())) if shape), None)
    return last[0] if last else None


def _shapes(candidate: Factory | zoo.ZooNetwork, classes: int | None, auxiliary: bool, *, meta_only: bool) -> Shapes:
    import torch

    # The user's own factory may do more than build, such as load weights, which goes wrong without memory.
    network = None
    if isinstance(candidate, zoo.ZooNetwork) or candidate.listed:
        try:
            with torch.device("meta"):
                network = _build(candidate, classes, auxiliary)
        except (SourceError, RuntimeError):
            # A constructor that reads values (torchvision's regnet) cannot run without them.
            if meta_only:
                raise
    if network is None:
        network = _build(candidate, classes, auxiliary)
    return {
        key: tuple(tensor.shape) for key, tensor in network.state_dict().items() if isinstance(tensor, torch.Tensor)
    }


def _build(candidate: Factory | zoo.ZooNetwork, classes: int | None, auxiliary: bool) -> torch.nn.Module:
    if isinstance(candidate, Factory):
        return candidate.build(classes=classes)
    return candidate.build(classes=classes, auxiliary=auxiliary, filled=True)


def _compare(file: Shapes, network: Shapes) -> _Misfit:
    file = {key: shape for key, shape in file.items() if not key.endswith(_IGNORED)}
    network = {key: shape for key, shape in network.items() if not key.endswith(_IGNORED)}
    return _Misfit(
        missing=tuple(key for key in network if key not in file),
        unexpected=tuple(key for key in file if key not in network),
        reshaped=tuple((k, file[k], shape) for k, shape in network.items() if k in file and file[k] != shape),
        common=sum(key in file for key in network),
    )


def _found(trial: _Trial, how: str, *notes: str) -> Architecture:
    own: tuple[str, ...] = (trial.renaming.note,) if trial.renaming.note else ()
    if isinstance(trial.candidate, zoo.ZooNetwork) and trial.candidate.name in ("inception_v3", "googlenet"):
        own += ("It was built with transform_input=True, which torchvision's own weights of this network need.",)
    return Architecture(trial.candidate, trial.renaming.keys, trial.classes, (how, *own, *notes))


def _twin_notes(found: _Trial, own: list[Factory], shapes: Shapes) -> Iterator[str]:
    """The same keys and shapes can belong to two networks, as those of resnet18 and of resnet18 with ReLU6 do."""
    for factory in own:
        if factory is found.candidate:
            continue
        try:
            fits = _try(factory, shapes).misfit.fits
        except EdgebenchError:
            continue
        if fits:
            yield f"The weights fit {factory.name} too; --arch {factory.function} takes that."


def _refusal(
    trials: list[_Trial], shapes: Shapes, *, asked_for: bool = False, named: Sequence[_Trial] = ()
) -> SourceError:
    """What fits least badly: the nearest, or else what the user or the file's name (`named`) said."""
    nearest = max(trials, key=lambda trial: trial.misfit.similarity, default=None)
    verdict = "does not fit {}" if asked_for else "fits no known architecture; {} is nearest"
    if nearest is not None and named and not nearest.misfit.is_near:
        nearest = max(named, key=lambda trial: trial.misfit.similarity)
        verdict = "does not fit {}, which the file's name suggests"
    elif nearest is None or not (nearest.misfit.is_near or asked_for):
        return SourceError(
            f"no known architecture has the keys of this state dict: {_listing('in all', shapes)}",
            hint="pass --arch PATH.py:FACTORY with the code that builds the network",
        )
    misfit, label = nearest.misfit, _label(nearest.candidate)
    reshaped = [f"{key} {list(ours)}, not {list(theirs)}" for key, ours, theirs in misfit.reshaped]
    parts = [
        _listing("missing", misfit.missing),
        _listing("unexpected", misfit.unexpected),
        _listing("of another shape", reshaped),
    ]
    return SourceError(
        f"the state dict {verdict.format(label)}: {'; '.join(filter(None, parts))}", hint=_refusal_hint(misfit)
    )


def _refusal_hint(misfit: _Misfit) -> str:
    if not misfit.missing and not misfit.unexpected:
        return (
            "this looks like a pruned or slimmed network: pass --arch PATH.py:FACTORY with the code that builds it, "
            "or save the whole module and pass --trust"
        )
    if any(key.endswith(("weight_g", "weight_v")) or ".parametrizations." in key for key in misfit.unexpected):
        return (
            "the weights are parametrized: before saving call torch.nn.utils.parametrize.remove_parametrizations, "
            "or remove_weight_norm, on each layer"
        )
    return (
        "pass --arch PATH.py:FACTORY with the code that builds the network, or save the whole module and pass --trust"
    )


def _listing(what: str, items: Iterable[str]) -> str | None:
    items = list(items)
    if not items:
        return None
    more = ", ..." if len(items) > _SHOWN else ""
    return f"{len(items)} {what} ({', '.join(items[:_SHOWN])}{more})"


def _label(candidate: Factory | zoo.ZooNetwork) -> str:
    return candidate.name if isinstance(candidate, Factory) else f"{TORCHVISION}{candidate.name}"


def _plain(name: str) -> str:
    return re.sub(r"[-_ .]", "", name).lower()


def _elements(shape: tuple[int, ...]) -> int:
    product = 1
    for side in shape:
        product *= side
    return product
