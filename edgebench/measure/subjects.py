"""What `bench` was given, as subjects to measure: the artifacts of bundles, and single files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgebench.agent.environment import switch_telemetry_off
from edgebench.agent.runtimes import (
    Unsupported,
    executorch,
    ncnn,
    onnxruntime,
    openvino,
    tflite,
    torch_compiled,
    torchscript,
)
from edgebench.bundle import load_bundle, load_inputs
from edgebench.errors import MissingExtra, SourceError, UsageError, first_line
from edgebench.files import file_sha256
from edgebench.source.sniff import identify
from edgebench.source.tflite_file import describe as describe_tflite
from edgebench.source.tflite_file import is_tflite
from edgebench.types import ArtifactRef, Preprocess, TensorSpec

__all__ = ["ALL_RUNTIMES", "RUNTIMES", "USUAL_RUNTIMES", "Subject", "find_subjects"]

# Runtimes with the formats that they open. The usual ones serve unless a device's profile, or the user, names others.
USUAL_RUNTIMES: dict[str, tuple[str, ...]] = {
    "onnxruntime": onnxruntime.FORMATS,
    "torchscript": torchscript.FORMATS,
    "torch-compiled": torch_compiled.FORMATS,
    "tflite": tflite.FORMATS,
    "ncnn": ncnn.FORMATS,
    "executorch": executorch.FORMATS,
}
RUNTIMES = {
    **USUAL_RUNTIMES,
    "tflite-no-xnnpack": tflite.FORMATS,
    "openvino": openvino.FORMATS,
    "onnxruntime-openvino": onnxruntime.ONNX_FORMATS,
    "onnxruntime-xnnpack": onnxruntime.ONNX_FORMATS,
    "onnxruntime-qnn": onnxruntime.ONNX_FORMATS,
    "torch-aot": torch_compiled.FORMATS,
    "torch-compiled-cuda": torch_compiled.FORMATS,
    "onnxruntime-cuda": onnxruntime.ONNX_FORMATS,
    "onnxruntime-tensorrt": onnxruntime.ONNX_FORMATS,
    "torchscript-cuda": torchscript.FORMATS,
}
# In place of a list of names: what is not there has a cell that says how to install it.
ALL_RUNTIMES = "all"
_FORMATS = {format for formats in RUNTIMES.values() for format in formats}
# Files that a tool reads and edgebench does not, by bytes 4 to 7.
_FOREIGN = {b"ET12": "executorch"}


@dataclass(frozen=True)
class Subject:
    """One file to measure. `reason` says why it must not be, where it must not. `kept` are inputs that came with it,
    and `fed_with` says what it is fed with. `broken`: its file is not what was exported. `frames`: pixels
    `[H, W, C]` to measure it with from before the preprocessing. `exported`: the file that is shipped, where `path` is
    a copy of it for another batch."""

    ref: ArtifactRef
    path: Path
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    preprocess: Preprocess | None
    kept: Sequence[Mapping[str, NDArray[Any]]]
    from_bundle: bool = False
    fed_with: str = "random numbers"
    reason: str | None = None
    broken: bool = False
    untrained: bool = False
    frames: Sequence[NDArray[np.uint8]] = ()
    exported: Path | None = None


def find_subjects(paths: Sequence[Path], *, include_failed: bool) -> list[Subject]:
    """The subjects in `paths`, each a bundle's directory, an artifact within one, or a single ONNX or TFLite file.

    Raises:
        UsageError: a path that is none of these, or two subjects of one name.
    """
    several = len({_bundle_directory(path) or path for path in paths}) > 1
    subjects: list[Subject] = []
    for path in paths:
        directory = _bundle_directory(path)
        if directory is None:
            subjects.append(_single_file(path))
        else:
            found = _of_bundle(directory, several=several, include_failed=include_failed)
            subjects.extend(found if path.is_dir() else [item for item in found if item.path.name == path.name])
    twice = [name for name, count in Counter(subject.ref.name for subject in subjects).items() if count > 1]
    if twice:
        raise UsageError(
            f"two artifacts are called `{twice[0]}`",
            hint="measure them in two runs, or export one of them to a bundle of another name",
        )
    return subjects


def _bundle_directory(path: Path) -> Path | None:
    """The bundle that `path` is, or that lists it."""
    if path.is_dir():
        return path
    if not path.exists():
        raise UsageError(f"{path} does not exist", hint="give a bundle that `edgebench export` made, or an artifact")
    if (path.parent / "bundle.json").is_file() and any(
        artifact.file == path.name for artifact in load_bundle(path.parent).artifacts
    ):
        return path.parent
    return None


def _of_bundle(directory: Path, *, several: bool, include_failed: bool) -> list[Subject]:
    bundle = load_bundle(directory)
    kept = load_inputs(directory, bundle.inputs)
    untrained = bundle.source.weights.startswith("untrained")
    subjects = []
    for artifact in bundle.artifacts:
        reason, broken = None, False
        path = directory / (artifact.file or "")
        if artifact.status == "skipped" or artifact.file is None:
            reason = f"not exported: {artifact.reason}"
        elif artifact.status == "failed" and not include_failed:
            reason = f"{artifact.reason} (--include-failed measures it all the same)"
        elif artifact.format not in _FORMATS:
            reason = f"no runtime here opens the format `{artifact.format}`"
        elif not path.is_file():
            reason, broken = f"{artifact.file} is missing from the bundle; export it again", True
        elif artifact.sha256 != file_sha256(path):
            reason = f"{artifact.file} is not the file that was exported (other sha256); export it again"
            broken = True
        name = f"{bundle.name}/{artifact.name}" if several else artifact.name
        calibration = bundle.calibration if artifact.calibrated else None
        ref = ArtifactRef(
            name,
            artifact.format,
            artifact.precision,
            artifact.sha256,
            None if calibration is None else calibration.data,
        )
        fed_with = f"inputs of {bundle.calibration.data}" if kept and bundle.calibration else "random numbers"
        subjects.append(
            Subject(
                ref,
                path,
                bundle.inputs,
                bundle.outputs,
                bundle.preprocess,
                kept,
                True,
                fed_with,
                reason,
                broken,
                untrained,
            )
        )
    return subjects


def _single_file(path: Path) -> Subject:
    with path.open("rb") as file:
        identifier = file.read(8)[4:]
    if (format := _FOREIGN.get(identifier)) is not None:
        # The tool makes its own inputs.
        ref = ArtifactRef(path.stem, format, None, file_sha256(path))
        return Subject(ref, path, (), (), None, (), fed_with="what its tool makes up")
    if identifier == onnxruntime.ORT_IDENTIFIER:
        inputs, outputs = _describe_ort(path)
        return Subject(ArtifactRef(path.stem, "ort", None, file_sha256(path)), path, inputs, outputs, None, ())
    if is_tflite(path):
        precision, inputs, outputs = _describe_tflite(path)
        return Subject(ArtifactRef(path.stem, "tflite", precision, file_sha256(path)), path, inputs, outputs, None, ())
    identity = identify(str(path))
    if identity.kind == "onnx":
        precision, inputs, outputs = _describe_onnx(path)
        ref = ArtifactRef(path.name.removesuffix(".onnx"), "onnx", precision, identity.sha256)
        return Subject(ref, path, inputs, outputs, None, ())
    hint = f"export it first: edgebench export {path} --input-shape 1,3,224,224 (or what it takes)"
    if identity.kind == "torchscript":
        raise UsageError(f"{path} does not say what shape its input has", hint=hint)
    raise SourceError(f"{path} is not an artifact that a runtime opens ({identity.kind})", hint=hint)


def _describe_onnx(path: Path) -> tuple[str | None, tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    try:
        from edgebench.source.onnx_file import describe

        described = describe(path)
    except MissingExtra:
        # A device host has the runtime alone, which knows the shapes; what precision it is stays unsaid.
        inputs, outputs = _specs_by_runtime(path)
        return None, _one_at_a_time(path, inputs), outputs
    if described.external:
        raise UsageError(f"{path} keeps its weights in other files", hint=f"export it first: edgebench export {path}")
    return described.precision, _one_at_a_time(path, described.inputs), described.outputs


def _describe_ort(path: Path) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    try:
        inputs, outputs = _specs_by_runtime(path)
    except ImportError as error:
        raise MissingExtra("onnxruntime", "torch") from error
    except Exception as error:  # onnxruntime has a type for each of its error codes.
        raise SourceError(
            f"{path} does not load: {first_line(error)}", hint="copy or export it again, and compare its size"
        ) from error
    return _one_at_a_time(path, inputs), outputs


def _describe_tflite(path: Path) -> tuple[str | None, tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Quantized inputs and outputs are float32 here: the agent converts them, by the file's own scales."""
    try:
        described = describe_tflite(path)
    except MissingExtra:
        # tflite-runtime alone is enough to measure; a device's own tool needs neither.
        with suppress(Unsupported):
            tflite.load_library()
            interpreter = tflite.open_interpreter(str(path), 1)
            details = [*interpreter.get_input_details(), *interpreter.get_output_details()]
            specs = [
                _as_float(
                    TensorSpec(item["name"], tuple(map(int, item["shape"])), np.dtype(item["dtype"]).name),
                    item["quantization"][0],
                )
                for item in details
            ]
            count = len(interpreter.get_input_details())
            return None, tuple(specs[:count]), tuple(specs[count:])
        return None, (), ()
    inputs, outputs = (
        tuple(_as_float(tensor.spec, bool(tensor.scales)) for tensor in tensors)
        for tensors in (described.inputs, described.outputs)
    )
    return described.precision, _one_at_a_time(path, inputs), outputs


def _as_float(spec: TensorSpec, quantized: bool) -> TensorSpec:
    return replace(spec, dtype="float32") if quantized else spec


def _one_at_a_time(path: Path, inputs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
    """The inputs with a free batch set to 1.

    Raises:
        UsageError: another length is free, and nothing says what it will be.
    """
    for spec in inputs:
        if -1 in spec.shape[1:]:
            shape = "x".join("?" if length == -1 else str(length) for length in spec.shape)
            raise UsageError(
                f"{path} does not say how large its input `{spec.name}` is ({shape})",
                hint=f"export it first: edgebench export {path} --input-shape 1,3,224,224 (or what it takes)",
            )
    return tuple(TensorSpec(spec.name, (abs(spec.shape[0]), *spec.shape[1:]), spec.dtype) for spec in inputs)


def _specs_by_runtime(path: Path) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    switch_telemetry_off()
    from onnxruntime import InferenceSession

    session = InferenceSession(str(path), onnxruntime.options_for(str(path), 1), providers=[onnxruntime.PROVIDER])

    def specs(values: Sequence[Any]) -> tuple[TensorSpec, ...]:
        dtypes = {"float": "float32", "double": "float64"}
        kinds = [value.type.removeprefix("tensor(").removesuffix(")") for value in values]
        return tuple(
            TensorSpec(
                value.name,
                tuple(length if isinstance(length, int) else -1 for length in value.shape),
                dtypes.get(kind, kind),
            )
            for value, kind in zip(values, kinds, strict=True)
        )

    return specs(session.get_inputs()), specs(session.get_outputs())
