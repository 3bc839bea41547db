"""`edgebench.export`: joins the source, the calibration images and the export chain into a bundle."""

from __future__ import annotations

import errno
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from numpy.typing import NDArray

from edgebench._version import __version__
from edgebench.agent.codec import decode, encode
from edgebench.bundle import SCHEMA, claim_directory, save_bundle, save_inputs
from edgebench.config import find_calibration_set
from edgebench.errors import DataError, EnvironmentFailure, SourceError, UsageError
from edgebench.evaluate.datasets import Dataset, batches, choose, content_sha256, open_dataset
from edgebench.evaluate.preprocess import apply, resolve_preprocess
from edgebench.exporters.cache import ArtifactCache, file_sha256, key_of
from edgebench.exporters.chain import INT8_PARITY_FEEDS, ChainRequest, Tolerance, run_chain
from edgebench.exporters.parity import open_runner
from edgebench.exporters.steps import Feed, tool_versions
from edgebench.inputs import random_feed
from edgebench.progress import Progress, Silent
from edgebench.source.sniff import Identity, identify
from edgebench.types import Artifact, Bundle, Calibration, CalibrationSet, Preprocess, SourceInfo, TensorSpec

__all__ = ["CALIBRATION_METHODS", "Exported", "export"]

CALIBRATION_METHODS = ("minmax",)
DEFAULT_SAMPLES = 128
_RANDOM_FEEDS = 4
_KEPT_INPUTS = 4


@dataclass(frozen=True)
class Exported:
    """What `export` made: the bundle, its directory, and the names of the artifacts that came out of the cache."""

    bundle: Bundle
    path: Path
    reused: frozenset[str]


@dataclass(frozen=True)
class _Source:
    """What is known of a source without loading it again."""

    info: SourceInfo
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    preprocess: Preprocess | None
    precision: str
    dependencies: dict[str, str]


def export(
    model: str | Path,
    out: str | Path | None = None,
    *,
    formats: Sequence[str] | None = None,
    calib: str | None = None,
    samples: int | None = None,
    method: str = "minmax",
    preprocess: str | None = None,
    input_shape: Sequence[int] | None = None,
    arch: str | None = None,
    opset: int | None = None,
    atol: float = Tolerance.atol,
    rtol: float = Tolerance.rtol,
    seed: int = 0,
    trust: bool = False,
    progress: Progress | None = None,
) -> Exported:
    """Export `model` to a bundle at `out` (default: `<its name>.eb` here): every format, each proved against its parent.

    Args:
        model: a file, `torchvision:NAME`, `PATH.py:FACTORY` or `package.module:FACTORY`.
        calib: the images for calibration and parity: `imagefolder:DIR`, ... or the name of a set in `calib/`.
        samples: how many of them (default 128).
        preprocess: a built-in's name or a TOML; default: what the architecture or the data set is known to use.
        input_shape: `[N, C, H, W]`; default: the architecture's own, else what the calibration images come out as.
        atol, rtol: a float step may differ by `atol + rtol * (its parent's largest absolute output)`.
        trust: admit a pickle or `.pt2` that runs code when it is read.

    Raises:
        UsageError: a model, data set, shape or directory that cannot be used; nothing was written.
        EnvironmentFailure: no space; what was exported before is kept.
    """
    watch = progress or Silent()
    if method not in CALIBRATION_METHODS:
        raise UsageError(f"unknown calibration method `{method}`", hint=f"there are: {', '.join(CALIBRATION_METHODS)}")
    identity = identify(str(model))
    images = None if calib is None else _Images.open(calib, samples, seed, preprocess)
    cache = ArtifactCache()
    loader = _Loader(identity, arch, trust)
    source = _resolve(loader, cache, images, preprocess, input_shape, watch)
    feeds = _Feeds(source, images, seed)
    directory = Path(out) if out is not None else Path(f"{identity.stem}.eb")
    name = directory.name.removesuffix(".eb") or identity.stem
    calibration = (
        None
        if images is None
        else Calibration(images.dataset.spec, images.sha256, len(images.indices), method, images.seed)
    )
    bundle = Bundle(
        schema=SCHEMA,
        name=name,
        source=source.info,
        inputs=source.inputs,
        outputs=source.outputs,
        preprocess=source.preprocess,
        calibration=calibration,
        artifacts=(),
    )
    request = ChainRequest(
        name=name,
        source_format="onnx-source" if identity.kind == "onnx" else "source",
        source_precision=source.precision,
        source_key=key_of(info=source.info.sha256, arch=source.info.architecture, dependencies=source.dependencies),
        source_path=identity.path,
        load_module=lambda: loader.loaded.module,
        inputs=source.inputs,
        parity_feeds=lambda: feeds.parity,
        inputs_kind=feeds.kind,
        calibration=None if images is None else feeds.calibration,
        calibration_key=key_of(calibration=calibration, preprocess=source.preprocess),
        settings={"opset": opset, "method": method, "machine": platform.machine()},
        formats=None if formats is None else tuple(formats),
        tolerance=Tolerance(atol, rtol),
    )
    return _write(bundle, request, directory, cache, feeds, watch)


def _write(
    bundle: Bundle, request: ChainRequest, directory: Path, cache: ArtifactCache, feeds: _Feeds, progress: Progress
) -> Exported:
    made: list[Artifact] = []
    reused: set[str] = set()
    new = claim_directory(directory, source=bundle.source.path)

    def keep(artifact: Artifact, from_cache: bool) -> None:
        made.append(artifact)
        if from_cache:
            reused.add(artifact.name)
        save_bundle(directory, replace(bundle, artifacts=tuple(made)))

    try:
        run_chain(request, directory, cache, progress, keep)
        if request.inputs_kind == "calibration" and len(reused) < len(made):
            save_inputs(directory, list(feeds.parity[:_KEPT_INPUTS]))
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
            raise
        raise EnvironmentFailure(
            f"{directory} cannot be written: {error.strerror}", hint="free some space, or choose another -o"
        ) from error
    finally:
        if new and not any(directory.iterdir()):
            directory.rmdir()
    return Exported(replace(bundle, artifacts=tuple(made)), directory, frozenset(reused))


@dataclass(frozen=True)
class _Images:
    """The chosen calibration images."""

    dataset: Dataset
    indices: tuple[int, ...]
    sha256: str
    seed: int
    preprocess: str | None

    @classmethod
    def open(cls, spec: str, samples: int | None, seed: int, preprocess: str | None) -> _Images:
        """Open `spec` (a data set, or a set of `calib/`) and choose from it, the same images for the same seed.

        Raises:
            DataError: no such data, no images in it, or other images than the set was made of.
        """
        chosen = find_calibration_set(spec) or CalibrationSet(spec, spec, DEFAULT_SAMPLES, seed=seed)
        if samples is not None and samples < 1:
            raise DataError(f"--samples {samples}: at least one image is needed")
        dataset = open_dataset(spec)
        indices = tuple(choose(dataset, samples or chosen.samples, chosen.seed))
        sha256 = content_sha256(dataset, indices)
        if samples is None and chosen.sha256 is not None and chosen.sha256 != sha256:
            raise DataError(
                f"calibration set `{chosen.name}` was made of other images than {chosen.data} holds now",
                hint=f"restore the images, or set sha256 in calib/{chosen.name}.toml to {sha256}",
            )
        return cls(dataset, indices, sha256, chosen.seed, preprocess or chosen.preprocess)


class _Loader:
    """Loads the source when its module is first needed, which for a cached export is never."""

    def __init__(self, identity: Identity, arch: str | None, trust: bool) -> None:
        self.identity = identity
        self.arch = arch
        self.trust = trust

    @cached_property
    def loaded(self) -> Any:
        """The `LoadedSource`."""
        from edgebench.source.load import load

        return load(self.identity, arch=self.arch, trust=self.trust)


def _resolve(
    loader: _Loader,
    cache: ArtifactCache,
    images: _Images | None,
    preprocess: str | None,
    input_shape: Sequence[int] | None,
    progress: Progress,
) -> _Source:
    """The source's facts, out of the cache while neither it nor the code that it came from has changed."""
    asked = (preprocess if images is None else images.preprocess) or None
    identity = loader.identity
    key = key_of(
        edgebench=__version__,
        sha256=identity.sha256,
        spec=identity.spec,
        arch=loader.arch,
        trust=loader.trust,
        preprocess=None if asked is None else resolve_preprocess(asked),
        ready=None if images is None else (images.dataset.ready, images.dataset.default_preprocess),
        images=None if images is None or input_shape is not None else images.sha256,
        input_shape=input_shape,
        tools=tool_versions(("torch", "torchvision", "onnx", "onnxruntime")),
    )
    record = cache.find_record(key)
    if record is not None and _unchanged(record.get("dependencies", {})):
        return decode(_Source, record, "the export cache")
    progress.start("source")
    source = _describe(loader, images, asked, input_shape)
    cache.add_record(key, encode(source))
    progress.done(f"{source.info.kind}, {source.info.architecture or 'architecture of its own'}")
    return source


def _unchanged(dependencies: Mapping[str, str]) -> bool:
    return all(Path(path).is_file() and file_sha256(Path(path)) == sha256 for path, sha256 in dependencies.items())


def _describe(loader: _Loader, images: _Images | None, asked: str | None, input_shape: Sequence[int] | None) -> _Source:
    loaded = loader.loaded
    prepared = _choose_preprocess(asked, images, loaded)
    if loader.identity.kind == "onnx":
        from edgebench.source.onnx_file import describe

        described = describe(loader.identity.path)
        free = described.inputs
        precision = described.precision
    else:
        free = (TensorSpec("input", tuple(loaded.input_shape or ()), "float32"),)
        precision = "fp32"
    inputs = _concrete(free, input_shape, images, prepared)
    source = _Source(loaded.info, inputs, (), prepared, precision, dict(loaded.dependencies))
    return replace(source, outputs=_try(loader, source, _Feeds(source, images, 0).parity[0]))


def _choose_preprocess(asked: str | None, images: _Images | None, loaded: Any) -> Preprocess | None:
    if images is not None and images.dataset.ready:
        return None if asked is None else resolve_preprocess(asked)
    if asked is not None:
        return resolve_preprocess(asked)
    if loaded.preprocess is not None:
        return loaded.preprocess  # type: ignore[no-any-return]
    default = loaded.preprocess_name or (None if images is None else images.dataset.default_preprocess)
    if default is not None:
        return resolve_preprocess(default)
    if images is None:
        return None
    raise DataError(
        f"it is not known how {loaded.info.path} wants the images of {images.dataset.spec} prepared",
        hint="name it: --preprocess imagenet, cifar10, mnist, none or a TOML file (see docs/data.md)",
    )


def _concrete(
    free: tuple[TensorSpec, ...],
    asked: Sequence[int] | None,
    images: _Images | None,
    preprocess: Preprocess | None,
) -> tuple[TensorSpec, ...]:
    """The inputs with every length known: what was asked for, else the model's own, else what the images come out as."""
    if asked is not None:
        if len(free) != 1:
            raise UsageError(f"--input-shape describes one input, the model has {len(free)}")
        return (replace(free[0], shape=tuple(int(length) for length in asked)),)
    if all(spec.shape and -1 not in spec.shape for spec in free):
        return free
    if len(free) == 1 and images is not None:
        probe = TensorSpec(free[0].name, (), free[0].dtype)
        shape = _sample_shape(images, preprocess, probe)
        known = free[0].shape or (-1,) * len(shape)
        if len(known) == len(shape):
            return (replace(free[0], shape=tuple(b if a == -1 else a for a, b in zip(known, shape, strict=True))),)
    if all(spec.shape and -1 not in spec.shape[1:] for spec in free):
        return tuple(replace(spec, shape=(1, *spec.shape[1:])) for spec in free)
    raise SourceError(
        "the model's input shape is not known", hint="pass --input-shape (for example 1,3,224,224), or --calib images"
    )


def _sample_shape(images: _Images, preprocess: Preprocess | None, spec: TensorSpec) -> tuple[int, ...]:
    sample: NDArray[Any] = images.dataset.load(images.indices[0])
    if not images.dataset.ready and preprocess is not None:
        sample = apply(sample, preprocess)
    return (1, *sample.shape)


def _try(loader: _Loader, source: _Source, feed: Feed) -> tuple[TensorSpec, ...]:
    """The outputs of the source on one input: proof that it takes inputs of that shape.

    Raises:
        SourceError: it does not.
    """
    shapes = ", ".join(str(list(spec.shape)) for spec in source.inputs)
    try:
        if loader.identity.kind == "onnx":
            outputs = open_runner("onnx", path=loader.identity.path)(feed)
        else:
            outputs = open_runner("source", module=loader.loaded.module)(feed)
    except Exception as error:
        first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise SourceError(
            f"the model does not take an input of shape {shapes}: {first}",
            hint="pass the --input-shape that it was trained with (for example 1,3,32,32)",
        ) from error
    return tuple(
        TensorSpec(f"output{index}", tuple(array.shape), str(array.dtype)) for index, array in enumerate(outputs)
    )


class _Feeds:
    """The model's inputs: the calibration images as it takes them, or random numbers where there are none."""

    def __init__(self, source: _Source, images: _Images | None, seed: int) -> None:
        self._source = source
        self._images = images
        self._seed = seed

    @property
    def kind(self) -> Literal["calibration", "random"]:
        """Where they come from."""
        return "random" if self._images is None else "calibration"

    @cached_property
    def parity(self) -> Sequence[Feed]:
        """The inputs that parities are measured on, in memory because each artifact is given the same ones."""
        if self._images is None:
            inputs = self._source.inputs
            return [random_feed(inputs, seed=self._seed, index=index) for index in range(_RANDOM_FEEDS)]
        count = INT8_PARITY_FEEDS * self._source.inputs[0].shape[0]
        return list(self._prepared(self._images, self._images.indices[:count]))

    def calibration(self) -> Iterator[Feed]:
        """All calibration inputs, each prepared when it is asked for."""
        assert self._images is not None
        return self._prepared(self._images, self._images.indices)

    def _prepared(self, images: _Images, indices: Sequence[int]) -> Iterator[Feed]:
        if len(self._source.inputs) != 1:
            raise DataError(
                f"images feed one input; the model has {len(self._source.inputs)}",
                hint="leave --calib out: parity is then measured on random inputs and int8 is skipped",
            )
        spec = self._source.inputs[0]
        for batch in batches(images.dataset, indices, self._source.preprocess, spec):
            yield {spec.name: batch}
