"""A function of the user's that builds a network: found, imported, called with a fixed seed."""

from __future__ import annotations

import ast
import difflib
import hashlib
import importlib
import importlib.machinery
import importlib.util
import inspect
import sys
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import CodeType
from typing import TYPE_CHECKING, Any

from edgebench.config import search_directories
from edgebench.errors import SourceError
from edgebench.source.sniff import find_module
from edgebench.source.user_code import OWN_PREFIX, running_user_code

if TYPE_CHECKING:
    import torch

__all__ = ["Factory", "factory_of", "own_factories"]


@dataclass(frozen=True, eq=False)
class Factory:
    """A callable in a .py file, or in a module; its network is the same at every call. Nothing is imported before that.

    `listed` in a file of `models/`: it does nothing but build. `input_shape` and `preprocess_name` are such a file's
    suggestions. `dependencies` fills as code runs:
    local path -> sha256.
    """

    name: str
    path: Path
    function: str
    module: str | None = None
    input_shape: tuple[int, ...] | None = None
    preprocess_name: str | None = None
    listed: bool = False
    dependencies: dict[str, str] = field(default_factory=dict)

    def takes_classes(self) -> bool:
        """Whether it has a parameter `num_classes`.

        Raises:
            SourceError: its file cannot be imported.
        """
        try:
            return "num_classes" in inspect.signature(self._target).parameters
        except (TypeError, ValueError):
            return False

    def build(self, *, classes: int | None = None) -> torch.nn.Module:
        """Its network, with torch seeded by 0.

        Raises:
            SourceError: it cannot be imported, raises, or does not return a torch.nn.Module.
        """
        import torch

        target = self._target
        if isinstance(target, torch.nn.Module):
            return target
        hint = "the factory is called without arguments and returns the network"
        with running_user_code(self.name, self._folder, hint=hint) as read, torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = target() if classes is None else target(num_classes=classes)
        self.dependencies.update(read)
        if not isinstance(network, torch.nn.Module):
            raise SourceError(
                f"{self.name} returned {type(network).__name__}, where a torch.nn.Module was expected",
                hint="name a function or class that gives the network when called without arguments",
            )
        return network

    @property
    def _folder(self) -> Path:
        return Path.cwd() if self.module else self.path.parent

    @cached_property
    def _target(self) -> Any:
        with running_user_code(f"importing {self.module or self.path}", self._folder) as read:
            module = importlib.import_module(self.module) if self.module else _import_file(self.path)
        self.dependencies.update(read)
        own = self.path.resolve()
        self.dependencies.setdefault(str(own), hashlib.sha256(own.read_bytes()).hexdigest())
        target: Any = module
        for part in self.function.split("."):
            if not hasattr(target, part):
                close = difflib.get_close_matches(part, _offered(target), n=3)
                hint = f"it has {', '.join(close or _offered(target)[:10])}" if _offered(target) else None
                raise SourceError(f"{self.path} has no `{self.function}`", hint=hint)
            target = getattr(target, part)
        return target


def factory_of(spec: str) -> Factory | None:
    """The factory that `PATH.py:FACTORY` or `package.module:FACTORY` names, None for anything else.

    Raises:
        SourceError: there is no such file or module.
    """
    container, colon, function = spec.rpartition(":")
    if not colon or not all(part.isidentifier() for part in function.split(".")):
        return None
    if container.endswith(".py"):
        if not Path(container).is_file():
            raise SourceError(f"there is no file {container} for {spec}")
        return _declared(Path(container), f"{Path(container).name}:{function}", function)
    if all(part.isidentifier() for part in container.split(".")):
        if (path := find_module(container)) is None:
            raise SourceError(f"there is no Python module `{container}` for {spec}")
        return _declared(path, spec, function, module=container)
    return None


def own_factories() -> list[Factory]:
    """The factories of the files in `models/`, the user's own first; of two with one name only the first.

    A file counts where it declares `FACTORIES`, a tuple of names, as a literal: it is read, not executed, because a
    folder called `models` may hold anything.
    """
    found: dict[str, Factory] = {}
    for directory in search_directories("models"):
        for path in sorted(directory.glob("*.py")):
            names = _literals(path).get("FACTORIES")
            for name in names if isinstance(names, (tuple, list)) else ():
                function = str(name)
                found.setdefault(function, _declared(path, f"models/{path.name}:{function}", function, listed=True))
    return list(found.values())


def _declared(path: Path, name: str, function: str, *, module: str | None = None, listed: bool = False) -> Factory:
    """The factory with what its file declares of the network's input."""
    literals = _literals(path)
    shape, preprocess = literals.get("INPUT_SHAPE"), literals.get("PREPROCESS")
    whole = isinstance(shape, (tuple, list)) and all(isinstance(side, int) for side in shape)
    return Factory(
        name=name,
        path=path,
        function=function,
        module=module,
        input_shape=tuple(shape) if whole and isinstance(shape, (tuple, list)) else None,
        preprocess_name=preprocess if isinstance(preprocess, str) else None,
        listed=listed,
    )


class _FreshLoader(importlib.machinery.SourceFileLoader):
    """Compiles the source as it is now: a .pyc is told to be old by whole seconds, and an edit can be quicker."""

    def get_code(self, fullname: str) -> CodeType:
        code: CodeType = self.source_to_code(self.get_data(self.path), self.path)
        return code


def _import_file(path: Path) -> Any:
    digest = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]
    # A name of its own: `model.py` must not shadow a module called `model`, nor another model.py.
    name = f"{OWN_PREFIX}{path.stem}_{digest}"
    spec = importlib.util.spec_from_file_location(name, path, loader=_FreshLoader(name, str(path)))
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _literals(path: Path) -> dict[str, object]:
    try:
        body = ast.parse(path.read_bytes()).body
    except (OSError, SyntaxError, ValueError):
        return {}
    found = {}
    for statement in body:
        if isinstance(statement, ast.Assign):
            targets, value = statement.targets, statement.value
        elif isinstance(statement, ast.AnnAssign) and statement.value is not None:
            targets, value = [statement.target], statement.value
        else:
            continue
        for target in targets:
            if isinstance(target, ast.Name) and target.id.isupper():
                try:
                    found[target.id] = ast.literal_eval(value)
                except ValueError:
                    continue
    return found


def _offered(module: object) -> list[str]:
    own = getattr(module, "__name__", None)
    return [
        name
        for name, value in vars(module).items()
        if callable(value) and not name.startswith("_") and getattr(value, "__module__", own) == own
    ]
