"""`edgebench.export`: joins the source, the calibration images and the export chain into a bundle."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from edgebench.agent.codec import encode
from edgebench.bundle import BUNDLE_FILE, SCHEMA, check_directory, load_bundle, save_bundle, save_inputs
from edgebench.cache import ArtifactCache, key_of
from edgebench.errors import EdgebenchError, EnvironmentFailure, UsageError
from edgebench.exporters.chain import ChainRequest, plan_steps, run_chain
from edgebench.exporters.steps import tool_versions
from edgebench.held_out import HeldOut, check_budget
from edgebench.int8_target import find_target
from edgebench.model_inputs import DEFAULT_SAMPLES, CalibrationImages, ModelInputs
from edgebench.progress import Progress, Silent
from edgebench.quantize.settings import METHODS, Settings, for_target
from edgebench.source.sniff import Identity, identify
from edgebench.source_facts import SourceLoader, find_facts
from edgebench.trade_off import Budget
from edgebench.types import RANDOM, Artifact, Bundle, Calibration, Tolerance

__all__ = ["Exported", "export"]

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
    method: str = "auto",
    percentile: float = Settings.percentile,
    preprocess: str | None = None,
    input_shape: Sequence[int] | None = None,
    arch: str | None = None,
    opset: int | None = None,
    atol: float = Tolerance.atol,
    rtol: float = Tolerance.rtol,
    seed: int = 0,
    trust: bool = False,
    target: str | None = None,
    int8: Mapping[str, Any] | None = None,
    budget: Budget | None = None,
    data: str | None = None,
    data_samples: int | None = None,
    progress: Progress | None = None,
) -> Exported:
    """Export `model` to a bundle at `out` (default: `<its name>.eb` here): every format, each proved against its
    parent.

    Args:
        model: a file, `torchvision:NAME`, `PATH.py:FACTORY` or `package.module:FACTORY`.
        calib: the images for calibration and parity: `imagefolder:DIR`, ... or the name of a set in `calib/`; `random`
            makes numbers up, which every table then says.
        samples: how many of them (default 128).
        preprocess: a built-in's name or a TOML; default: what the architecture or the data set is known to use.
        input_shape: `[N, C, H, W]`; default: the architecture's own, else what the calibration images come out as.
        atol, rtol: a float step may differ by `atol + rtol * (its parent's largest absolute output)`.
        trust: admit a pickle or `.pt2` that runs code when it is read.
        method: how ranges follow from the calibration images, of `quantize.settings.METHODS`; `percentile`: of the
            values that the method of that name keeps.
        target: what int8 is for: `x86-vnni`, `x86-avx2`, `arm`, or a device's name; default: this machine.
        int8: other settings of `quantize.settings.Settings` than the target's.
        budget: what int8 may lose; products are kept out of it until it loses no more.
        data: the labelled images on which that is judged, `data_samples` of them (default 1000); default: what the
            calibration set's data has beside the calibration images.

    Raises:
        UsageError: a model, data set, shape or directory that cannot be used; nothing was written.
        EnvironmentFailure: no space; what was exported before is kept.
    """
    watch = progress or Silent()
    if not isinstance(model, str | Path):
        raise UsageError("a network in memory cannot be named in a bundle", hint="pass a file, or PATH.py:FACTORY")
    if samples is not None and samples < 1:
        raise UsageError(f"{samples} calibration images are none", hint="ask for 1 or more")
    if method not in METHODS:
        raise UsageError(f"unknown calibration method `{method}`", hint=f"there are: {', '.join(METHODS)}")
    if not 0 < percentile <= 100:
        raise UsageError(f"{percentile} is no percentile of values to keep", hint="a usual one is 99.99")
    if budget is not None:
        check_budget(budget)
    elif data is not None or data_samples is not None:
        raise UsageError("--data is what a budget is judged on", hint="add --max-drop POINTS or --min-sqnr DB")
    identity = identify(str(model))
    source_format: Literal["source", "onnx-source"] = "onnx-source" if identity.kind == "onnx" else "source"
    plan_steps(formats, source_format)
    directory = Path(out) if out is not None else Path(f"{identity.stem}.eb")
    check_directory(directory, source=_whereabouts(identity))
    random_samples = (samples or DEFAULT_SAMPLES) if calib == RANDOM else 0
    images = None if calib is None or random_samples else CalibrationImages.open(calib, samples, seed)
    if calib is not None:
        method = _method_for(method, random_samples if images is None else len(images.indices), watch)
    if budget is not None and images is None:
        raise UsageError("a budget is kept by int8, which needs images", hint="add --calib, e.g. imagefolder:photos/")
    settings = for_target(find_target(target, watch), {"method": method, "percentile": percentile, **(int8 or {})})
    held_out = None
    if budget is not None and images is not None:
        held_out = HeldOut.open(data, data_samples, images, labelled=budget.max_drop is not None)
        if held_out.shared:
            watch.warn(
                f"{held_out.shared} of the images in {held_out.dataset.spec} calibrate too: the loss looks small"
            )
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
            "int8": encode(settings),
            "budget": None if held_out is None else {"budget": encode(budget), **held_out.options},
            "external_weights": identity.kind == "onnx" and bool(source.dependencies),
        },
        formats=None if formats is None else tuple(formats),
        tolerance=Tolerance(atol, rtol),
        score=None if held_out is None else held_out.scorer(source.inputs[0], source.preprocess),
    )
    return _write(bundle, request, directory, cache, feeds, watch)


def _method_for(method: str, samples: int, progress: Progress) -> str:
    """`method`, or what "auto" is with so few images.

    Raises:
        UsageError: they say nothing of what the method looks at.
    """
    if method == "minmax" or samples >= _FEWEST_FOR_METHOD:
        return method
    if method == "auto":
        progress.warn(f"only {samples} calibration images: ranges are their extremes; give 100 or so (--samples)")
        return "minmax"
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
