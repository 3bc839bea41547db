"""What is known of a source without loading it again: its inputs and outputs, its preprocessing, where it came from.

Loading takes seconds of imports, so the facts are kept in the cache, under everything that decides them, together with
the hashes of the local files that the network was built from.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from edgebench._version import __version__
from edgebench.agent.codec import DecodeError, decode, encode
from edgebench.cache import ArtifactCache, key_of
from edgebench.errors import DataError, EdgebenchError, SourceError, UsageError, first_line
from edgebench.evaluation.preprocess import resolve_preprocess
from edgebench.exporters.parity import Runner, open_runner
from edgebench.exporters.steps import tool_versions
from edgebench.files import file_sha256
from edgebench.model_inputs import CalibrationImages, ModelInputs
from edgebench.progress import Progress
from edgebench.source.load import LoadedSource, load
from edgebench.source.onnx_file import describe
from edgebench.source.sniff import Identity
from edgebench.types import Preprocess, SourceInfo, TensorSpec

__all__ = ["SourceFacts", "SourceLoader", "find_facts"]


@dataclass(frozen=True)
class SourceFacts:
    """Inputs with every length known; `precision` is "fp32" for a network, what the file says for ONNX;
    `dependencies` maps local files to their sha256."""

    info: SourceInfo
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    preprocess: Preprocess | None
    precision: str
    dependencies: dict[str, str]


class SourceLoader:
    """Loads the source when its module is first needed, which for a cached export is never."""

    def __init__(self, identity: Identity, arch: str | None, trust: bool) -> None:
        self.identity = identity
        self.arch = arch
        self.trust = trust

    @cached_property
    def loaded(self) -> LoadedSource:
        """The network in memory."""
        return load(self.identity, arch=self.arch, trust=self.trust)


def find_facts(
    loader: SourceLoader,
    cache: ArtifactCache,
    images: CalibrationImages | None,
    preprocess: str | None,
    input_shape: Sequence[int] | None,
    progress: Progress,
) -> SourceFacts:
    """The facts, out of the cache while neither the source nor the code that it came from has changed.

    Raises:
        SourceError: it cannot be loaded, or does not take the input shape.
        DataError: it is not known how its images are prepared.
    """
    asked = None if preprocess is None else resolve_preprocess(preprocess)
    identity = loader.identity
    key = key_of(
        # Code imports what lies beside it, and weights may lie beside an ONNX file.
        path=None if identity.path is None else str(identity.path.resolve()),
        directory=str(Path.cwd()),
        edgebench=__version__,
        sha256=identity.sha256,
        spec=identity.spec,
        arch=loader.arch,
        trust=loader.trust,
        preprocess=asked,
        images=None
        if images is None
        else (images.sha256, images.preprocess, images.dataset.ready, images.dataset.default_preprocess),
        input_shape=input_shape,
        tools=tool_versions(("torch", "torchvision", "onnx", "onnxruntime")),
    )
    with contextlib.suppress(DecodeError):
        known = decode(SourceFacts, cache.find_record(key), "record")
        if _unchanged(known.dependencies):
            return known
    progress.start("source")
    facts = _describe(loader, images, asked, input_shape)
    cache.add_record(key, encode(facts))
    progress.done(f"{facts.info.kind}, {facts.info.architecture or 'architecture of its own'}")
    return facts


def _unchanged(dependencies: Mapping[str, str]) -> bool:
    return all(Path(path).is_file() and file_sha256(Path(path)) == sha256 for path, sha256 in dependencies.items())


def _describe(
    loader: SourceLoader, images: CalibrationImages | None, asked: Preprocess | None, input_shape: Sequence[int] | None
) -> SourceFacts:
    loaded = loader.loaded
    path = loader.identity.path
    preprocess = _choose_preprocess(asked, images, loaded)
    if loader.identity.kind == "onnx" and path is not None:
        described = describe(path)
        free, precision = described.inputs, described.precision
    else:
        free, precision = (TensorSpec("input", tuple(loaded.input_shape or ()), "float32"),), "fp32"
    inputs = _concrete(free, input_shape, images, preprocess)
    outputs = _try(loader, inputs, ModelInputs(inputs, preprocess, images, seed=0))
    return SourceFacts(loaded.info, inputs, outputs, preprocess, precision, dict(loaded.dependencies))


def _choose_preprocess(
    asked: Preprocess | None, images: CalibrationImages | None, loaded: LoadedSource
) -> Preprocess | None:
    """What was asked for, else what the model is known to want, else the calibration set's or the data's own."""
    if asked is not None:
        return asked
    if images is not None and images.dataset.ready:
        return None
    known = loaded.preprocess or (resolve_preprocess(loaded.preprocess_name) if loaded.preprocess_name else None)
    if images is None:
        return known
    chosen = resolve_preprocess(images.preprocess) if images.preprocess else None
    if known is not None and chosen not in (None, known):
        raise DataError(
            f"{loaded.info.path} wants images prepared as `{known.name}`, the calibration set {images.dataset.spec} "
            f"says `{images.preprocess}`",
            hint=f"say which is right: --preprocess {images.preprocess}, or another name or TOML (see docs/data.md)",
        )
    if (found := known or chosen) is not None:
        return found
    if images.dataset.default_preprocess is not None:
        return resolve_preprocess(images.dataset.default_preprocess)
    raise DataError(
        f"it is not known how {loaded.info.path} wants the images of {images.dataset.spec} prepared",
        hint="name it: --preprocess imagenet, cifar10, mnist, none or a TOML file (see docs/data.md)",
    )


def _concrete(
    free: tuple[TensorSpec, ...],
    asked: Sequence[int] | None,
    images: CalibrationImages | None,
    preprocess: Preprocess | None,
) -> tuple[TensorSpec, ...]:
    """Every length known: as asked, else as the model has it, else as the images come out."""
    if asked is not None:
        if len(free) != 1:
            raise UsageError(f"--input-shape describes one input, the model has {len(free)}")
        return (replace(free[0], shape=tuple(asked)),)
    if all(spec.shape and -1 not in spec.shape for spec in free):
        return free
    if len(free) == 1 and images is not None:
        shape = images.sample_shape(preprocess)
        known = free[0].shape or (-1,) * len(shape)
        if len(known) == len(shape):
            return (replace(free[0], shape=tuple(b if a == -1 else a for a, b in zip(known, shape, strict=True))),)
    if all(spec.shape and -1 not in spec.shape[1:] for spec in free):
        return tuple(replace(spec, shape=(1, *spec.shape[1:])) for spec in free)
    raise SourceError(
        "the model's input shape is not known", hint="pass --input-shape (for example 1,3,224,224), or --calib images"
    )


def _try(loader: SourceLoader, inputs: Sequence[TensorSpec], feeds: ModelInputs) -> tuple[TensorSpec, ...]:
    """The outputs of the source on one input: proof that it takes inputs of that shape.

    Raises:
        SourceError: it does not.
    """
    try:
        feed = feeds.first(1)[0]
        # A network's own prints must not end up in our data.
        with redirect_stdout(sys.stderr):
            outputs = _runner(loader)(feed)
    except EdgebenchError:
        raise
    except Exception as error:
        shapes = ", ".join(str(list(spec.shape)) for spec in inputs)
        raise SourceError(
            f"the model does not take an input of shape {shapes}: {first_line(error)}",
            hint="pass the --input-shape that it was trained with (for example 1,3,32,32); a network that takes other "
            "than one float32 tensor comes in as an ONNX file that you export yourself",
        ) from error
    return tuple(
        TensorSpec(f"output{index}", tuple(array.shape), str(array.dtype)) for index, array in enumerate(outputs)
    )


def _runner(loader: SourceLoader) -> Runner:
    if loader.identity.kind != "onnx":
        return open_runner("source", module=loader.loaded.module)
    try:
        return open_runner("onnx", path=loader.identity.path)
    except Exception as error:
        # "[ONNXRuntimeError] : 1 : FAIL : what it is"
        reason = first_line(error).split(" : ", 3)[-1]
        raise SourceError(
            f"onnxruntime does not open {loader.identity.path}: {reason}",
            hint="write it with operators of the ONNX standard: what no runtime has cannot be measured either",
        ) from error
