"""`edgebench.export`: joins the source, the calibration images and the export chain into a bundle."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from edgebench.bundle import BUNDLE_FILE, SCHEMA, check_directory, load_bundle, save_bundle, save_inputs
from edgebench.cache import ArtifactCache, key_of
from edgebench.errors import EdgebenchError, EnvironmentFailure, UsageError
from edgebench.exporters.chain import ChainRequest, plan_steps, run_chain
from edgebench.exporters.steps import tool_versions
from edgebench.model_inputs import DEFAULT_SAMPLES, CalibrationImages, ModelInputs
from edgebench.progress import Progress, Silent
from edgebench.quantize.ranges import METHODS
from edgebench.source.sniff import Identity, identify
from edgebench.source_facts import SourceLoader, find_facts
from edgebench.types import RANDOM, Artifact, Bundle, Calibration, Tolerance

__all__ = ["CALIBRATION_METHODS", "Exported", "export"]

CALIBRATION_METHODS = METHODS
_KEPT_INPUTS = 4
# Of the ranges in a trained squeezenet1_1, a tenth differed from those over 96 images by more than 45 % of their length
# with 1 image, by 20 % with 8 and by 18 % with 16 (percentile; the other methods alike).
_FEWEST_FOR_METHOD = 16


@dataclass(frozen=True)
class Exported:
    """What `export` made: the bundle, its directory, and the names of the artifacts that came out of the cache."""

    bundle: Bundle
    path: Path
    reused: frozenset[str]


def export(
    model: str | Path,
    out: str | Path | None = None,
    *,
    formats: Sequence[str] | None = None,
    calib: str | None = None,
    samples: int | None = None,
    method: str = "minmax",
    percentile: float = 99.99,
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
    """Export `model` to a bundle at `out` (default: `<its name>.eb` here): every format, each proved against its
    parent.

    Args:
        model: a file, `torchvision:NAME`, `PATH.py:FACTORY` or `package.module:FACTORY`.
        calib: the images for calibration and parity: `imagefolder:DIR`, ... or the name of a set in `calib/`; `random`
            makes numbers up, which every table then says.
        samples: how many of them (default 128).
        method: how int8's ranges are chosen, of `CALIBRATION_METHODS`; `percentile`: of the values that the method of
            that name keeps.
        preprocess: a built-in's name or a TOML; default: what the architecture or the data set is known to use.
        input_shape: `[N, C, H, W]`; default: the architecture's own, else what the calibration images come out as.
        atol, rtol: a float step may differ by `atol + rtol * (its parent's largest absolute output)`.
        trust: admit a pickle or `.pt2` that runs code when it is read.

    Raises:
        UsageError: a model, data set, shape or directory that cannot be used; nothing was written.
        EnvironmentFailure: no space; what was exported before is kept.
    """
    watch = progress or Silent()
    if not isinstance(model, str | Path):
        raise UsageError("a network in memory cannot be named in a bundle", hint="pass a file, or PATH.py:FACTORY")
    if samples is not None and samples < 1:
        raise UsageError(f"{samples} calibration images are none", hint="ask for 1 or more")
    if method not in CALIBRATION_METHODS:
        raise UsageError(f"unknown calibration method `{method}`", hint=f"there are: {', '.join(CALIBRATION_METHODS)}")
    if not 0 < percentile <= 100:
        raise UsageError(f"{percentile} is no percentile of values to keep", hint="a usual one is 99.99")
    identity = identify(str(model))
    source_format: Literal["source", "onnx-source"] = "onnx-source" if identity.kind == "onnx" else "source"
    plan_steps(formats, source_format)
    directory = Path(out) if out is not None else Path(f"{identity.stem}.eb")
    check_directory(directory, source=_whereabouts(identity))
    random_samples = (samples or DEFAULT_SAMPLES) if calib == RANDOM else 0
    images = None if calib is None or random_samples else CalibrationImages.open(calib, samples, seed)
    _check_count(method, random_samples if images is None else len(images.indices), calib)
    cache = ArtifactCache()
    loader = SourceLoader(identity, arch, trust)
    source = find_facts(loader, cache, images, preprocess, input_shape, watch)
    feeds = ModelInputs(source.inputs, source.preprocess, images, seed, random_samples)
    name = directory.name.removesuffix(".eb") or identity.stem
    calibration = None
    if images is not None:
        calibration = Calibration(images.dataset.spec, images.sha256, len(images.indices), method, images.seed)
    elif random_samples:
        calibration = Calibration(RANDOM, feeds.random_sha256(), random_samples, method, seed)
    bundle = Bundle(
        schema=SCHEMA,
        name=name,
        source=replace(source.info, path=_whereabouts(identity)),
        inputs=source.inputs,
        outputs=source.outputs,
        preprocess=source.preprocess,
        calibration=calibration,
        artifacts=(),
    )
    request = ChainRequest(
        name=name,
        source_format=source_format,
        source_precision=source.precision,
        source_key=key_of(
            sha256=source.info.sha256,
            architecture=source.info.architecture,
            dependencies=source.dependencies,
            tools=tool_versions(("torch", "torchvision")),
        ),
        source_path=identity.path if identity.kind in ("onnx", "torchscript") else None,
        load_module=lambda: loader.loaded.module,
        inputs=source.inputs,
        parity_feeds=lambda: feeds.parity,
        inputs_kind=feeds.kind,
        images=None if images is None else len(images.indices),
        calibration=None if calibration is None else feeds.calibration,
        # Without the method, which is an option of the steps that calibrate: other files stay as they are.
        calibration_key=key_of(
            calibration=None if calibration is None else (calibration.sha256, calibration.samples, calibration.seed),
            preprocess=source.preprocess,
            seed=seed,
        ),
        settings={
            "opset": opset,
            "method": method,
            "percentile": percentile,
            "machine": platform.machine(),
            "external_weights": identity.kind == "onnx" and bool(source.dependencies),
        },
        formats=None if formats is None else tuple(formats),
        tolerance=Tolerance(atol, rtol),
    )
    return _write(bundle, request, directory, cache, feeds, watch)


def _check_count(method: str, samples: int, calib: str | None) -> None:
    """Raises UsageError where so few images say nothing of what the method looks at."""
    if calib is not None and method != "minmax" and samples < _FEWEST_FOR_METHOD:
        raise UsageError(
            f"{samples} calibration images are too few for `{method}`, which needs {_FEWEST_FOR_METHOD}",
            hint="give more with --calib and --samples, 100 or so; --method minmax takes any number",
        )


def _whereabouts(identity: Identity) -> str:
    """The source as it can be found from anywhere."""
    if identity.path is None:
        return identity.spec
    factory = f":{identity.spec.rpartition(':')[2]}" if identity.kind == "factory" else ""
    return f"{identity.path.resolve()}{factory}"


def _files(artifacts: Iterable[Artifact]) -> set[str]:
    return {file for artifact in artifacts for file in (artifact.file, artifact.statistics) if file is not None}


def _write(
    bundle: Bundle, request: ChainRequest, directory: Path, cache: ArtifactCache, feeds: ModelInputs, progress: Progress
) -> Exported:
    made: list[Artifact] = []
    reused: set[str] = set()
    new = not directory.exists()

    def keep(artifact: Artifact, from_cache: bool) -> None:
        if not made:
            # Together with the first artifact: until then an earlier bundle here stays as it was.
            save_inputs(directory, feeds.first(_KEPT_INPUTS) if request.inputs_kind == "calibration" else ())
        made.append(artifact)
        if from_cache:
            reused.add(artifact.name)
        save_bundle(directory, replace(bundle, artifacts=tuple(made)))

    try:
        directory.mkdir(parents=True, exist_ok=True)
        if not (directory / BUNDLE_FILE).is_file():
            # From here on it is a bundle, whenever an interruption comes.
            save_bundle(directory, bundle)
        before = load_bundle(directory).artifacts
        run_chain(request, directory, cache, progress, keep)
        # A bundle holds what its last export made.
        for file in _files(before) - _files(made):
            (directory / file).unlink(missing_ok=True)
    except (OSError, EdgebenchError) as error:
        if new and not made:
            shutil.rmtree(directory, ignore_errors=True)
        if isinstance(error, EdgebenchError):
            raise
        raise EnvironmentFailure(
            f"{directory} cannot be written: {error.strerror}", hint="free some space, or choose another -o"
        ) from error
    return Exported(replace(bundle, artifacts=tuple(made)), directory, frozenset(reused))
