"""ncnn by way of pnnx, in float32: one file of weights, network and output shapes (see `agent/runtimes/ncnn.py`).

pnnx gets a fresh trace and not the `torchscript` artifact: that is frozen, and torch's modules, which pnnx knows as
layers (attention as one), are dissolved in it. Made when it is asked for (`--formats ncnn`).
"""

from __future__ import annotations

import json
import re
import shutil
import warnings
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from edgebench.agent.runtimes.ncnn import PARAM, TENSORS, refusal, takes
from edgebench.errors import StepError
from edgebench.exporters.converter import convert
from edgebench.exporters.steps import Parent, Step, StepInput, StepResult

__all__ = ["STEP"]

_OUTPUT = re.compile(r"^pnnx\.Output\s.*\s#\S+=\(([\d,]*)\)f32$", re.MULTILINE)
# Types of pnnx's and torch's own layers, which stay where ncnn has none: "pnnx.Expression", "torch.topk", "aten::roll".
_FOREIGN_LAYER = re.compile(r"^(\w+(?:\.|::)\S+)\s", re.MULTILINE)


def _export(parent: Parent, given: StepInput, out: Path) -> StepResult:
    import pnnx

    for spec in given.inputs:
        if not takes(spec):
            raise StepError(f"{refusal(spec)}: export with --input-shape 1,...")
    with TemporaryDirectory(prefix="edgebench-pnnx-") as scratch:
        directory = Path(scratch)
        # pnnx writes seven files beside what it reads.
        if parent.module is None:
            assert parent.path is not None
            model = directory / "model.onnx"
            model.symlink_to(parent.path.resolve())
        else:
            model = directory / "model.pt"
            _trace(parent.module, given, model)
        shapes = ",".join(f"[{','.join(map(str, spec.shape))}]f32" for spec in given.inputs)
        convert("pnnx", [pnnx.EXEC_PATH, model.name, f"inputshape={shapes}", "fp16=0"], directory)
        weights, param = directory / "model.ncnn.bin", directory / "model.ncnn.param"
        if not param.is_file() or not weights.is_file():
            raise StepError("pnnx wrote no ncnn files: leave ncnn out of --formats, or try another network")
        network = param.read_text(encoding="utf-8")
        foreign = sorted(set(_FOREIGN_LAYER.findall(network)))
        if foreign:
            raise StepError(f"ncnn has no layer for {', '.join(foreign)}: write it otherwise in the network")
        outputs = _output_shapes((directory / "model.pnnx.param").read_text(encoding="utf-8"))
        shutil.copyfile(weights, out)
    # Appended: ncnn reads the weights from the front, a zip is read from its end.
    with zipfile.ZipFile(out, "a", zipfile.ZIP_DEFLATED) as archive:
        for name, text in ((PARAM, network), (TENSORS, json.dumps({"outputs": outputs}))):
            archive.writestr(zipfile.ZipInfo(name), text)
    return StepResult()


def _trace(module: Any, given: StepInput, out: Path) -> None:
    import torch

    if isinstance(module, torch.export.ExportedProgram):
        module = module.module()
    fastpath = torch.backends.mha.get_fastpath_enabled()
    # The fast path of attention is one operator that pnnx does not know, and ends with an abort.
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            # Of the tracer's suspicions parity is the judge; torch calls TorchScript deprecated each time.
            warnings.simplefilter("ignore")
            if not isinstance(module, torch.jit.ScriptModule):
                example = tuple(torch.from_numpy(array.copy()) for array in given.example.values())
                module = torch.jit.trace(module, example, check_trace=False)
            torch.jit.save(module, str(out))
    finally:
        torch.backends.mha.set_fastpath_enabled(fastpath)


def _output_shapes(pnnx_param: str) -> dict[str, list[int]]:
    """The outputs' shapes with the batch, by ncnn's names for them.

    Raises:
        StepError: pnnx does not tell one of them.
    """
    shapes = [[int(length) for length in text.split(",") if length] for text in _OUTPUT.findall(pnnx_param)]
    if not shapes or len(shapes) != len(re.findall(r"^pnnx\.Output\s", pnnx_param, re.MULTILINE)):
        raise StepError("pnnx does not tell the shape of every output, or one is not float32")
    return {f"out{index}": shape for index, shape in enumerate(shapes)}


STEP = Step(
    format="ncnn",
    precision="fp32",
    suffix=".ncnn",
    parents=("source", "onnx-sim", "onnx"),
    modules=("pnnx", "ncnn"),
    tools=("torch", "pnnx", "ncnn"),
    options=lambda _: {"fp16": False},
    run=_export,
    extra="ncnn",
    usual=lambda: False,
)
