"""ONNX: the dynamo exporter first; the legacy one where dynamo fails, or cannot write the opset that was asked for.

The opset that was written is read back from the file, because dynamo silently raises one that it does not support
(torch 2.15: below 18). The IR version is the oldest that has the opset: onnx 1.23 by itself writes IR 14, which
onnxruntime 1.31 does not load, and a device may have an older one still.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgebench.errors import StepError, first_line
from edgebench.exporters.steps import Parent, Step, StepInput, StepResult

__all__ = ["DEFAULT_OPSET", "STEP", "pin_ir_version", "written_opset"]

# Measured by benchmarks/onnx_settings.py: convolutional networks run alike at 18, 20 and 23; from 20 on Gelu is one
# operator, which gives convnext_tiny 4 % in float and 12 % in int8. onnxruntime reads 20 since 1.17 (January 2024).
DEFAULT_OPSET = 20
_OLDEST_DYNAMO_OPSET = 18
# Before this IR version every weight had to be an input as well.
_WEIGHTS_APART = 4
# Protobuf's limit for one file.
_LARGEST_FILE_BYTES = 2**31 - 1


def _export(parent: Parent, given: StepInput, out: Path) -> StepResult:
    import torch

    opset = int(given.options["opset"])
    example = tuple(torch.from_numpy(array.copy()) for array in given.example.values())
    names = [spec.name for spec in given.inputs]
    notes: list[str] = []
    if opset < _OLDEST_DYNAMO_OPSET:
        notes.append(f"legacy exporter: dynamo writes opset {_OLDEST_DYNAMO_OPSET} at least")
        _export_legacy(parent.module, example, names, opset, out)
    else:
        try:
            _export_dynamo(parent.module, example, names, opset, out)
        except Exception as error:  # noqa: BLE001 - the exporter raises whatever the network raised
            # Dynamo's own messages begin with a banner; the cause is what they were raised from.
            notes.append(
                f"legacy exporter: dynamo failed with {type(error).__name__}: {first_line(error.__cause__ or error)}"
            )
            _export_legacy(parent.module, example, names, opset, out)
    written = _finish(out)
    if written != opset:
        notes.append(f"opset {opset} was asked for, the exporter wrote {written}")
    return StepResult(notes=tuple(notes), opset=written)


def _export_dynamo(module: Any, example: tuple[Any, ...], names: list[str], opset: int, out: Path) -> None:
    import torch

    with _quiet():
        program = torch.onnx.export(
            module,
            example,
            dynamo=True,
            opset_version=opset,
            input_names=names,
            external_data=False,
            verbose=False,
        )
        if program is None:
            raise StepError("the exporter returned nothing")
        program.save(str(out), external_data=False)


def _export_legacy(module: Any, example: tuple[Any, ...], names: list[str], opset: int, out: Path) -> None:
    import torch

    if isinstance(module, torch.export.ExportedProgram):
        module = module.module()
    fastpath = torch.backends.mha.get_fastpath_enabled()
    # The fast path of attention is one operator that the legacy exporter cannot write.
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with _quiet(), torch.no_grad():
            torch.onnx.export(
                module, example, str(out), dynamo=False, opset_version=opset, input_names=names, verbose=False
            )
    finally:
        torch.backends.mha.set_fastpath_enabled(fastpath)


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporters warn about their own internals on every call, and log what they then raise."""
    previous = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)


def _finish(path: Path) -> int:
    """Pin the file's IR version; its opset."""
    import onnx

    if path.stat().st_size > _LARGEST_FILE_BYTES:
        raise StepError("the model is larger than the 2 GB that one ONNX file can hold")
    model = onnx.load(path)
    before = model.ir_version
    pin_ir_version(model)
    if model.ir_version != before:
        onnx.save(model, path)
    return written_opset(model)


def pin_ir_version(model: Any) -> None:
    """Give an `onnx.ModelProto` the oldest IR version that has its operator sets, and weights that are no inputs."""
    from onnx import helper

    oldest = max(_WEIGHTS_APART, helper.find_min_ir_version_for(model.opset_import, ignore_unknown=True))
    model.ir_version = min(max(model.ir_version, _WEIGHTS_APART), oldest)


def written_opset(model: Any) -> int:
    """The version of the standard operator set in an `onnx.ModelProto`."""
    return next(int(entry.version) for entry in model.opset_import if entry.domain in ("", "ai.onnx"))


STEP = Step(
    format="onnx",
    precision="fp32",
    suffix=".onnx",
    parents=("source",),
    modules=("torch", "onnx", "onnxscript"),
    tools=("torch", "onnx", "onnxscript", "onnx-ir"),
    options=lambda settings: {"opset": settings["opset"] or DEFAULT_OPSET},
    run=_export,
)
