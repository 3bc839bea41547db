"""ncnn by way of pnnx, in float32: one file of weights, network and output shapes (see `agent/runtimes/ncnn.py`).

Made when it is asked for (`--formats ncnn`).
"""

from __future__ import annotations

import json
import re
import shutil
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory

from edgebench.agent.runtimes.ncnn import PARAM, TENSORS
from edgebench.errors import StepError
from edgebench.exporters.converter import convert
from edgebench.exporters.steps import Parent, Step, StepInput, StepResult
from edgebench.types import TensorSpec

__all__ = ["STEP"]

_OUTPUT = re.compile(r"^pnnx\.Output\s.*\s#\S+=\(([\d,]*)\)f32$", re.MULTILINE)
# Types of pnnx's and torch's own layers, which stay where ncnn has none: "pnnx.Expression", "torch.topk", "aten::roll".
_FOREIGN_LAYER = re.compile(r"^(\w+(?:\.|::)\S+)\s", re.MULTILINE)


def _export(parent: Parent, given: StepInput, out: Path) -> StepResult:
    import pnnx

    assert parent.path is not None
    _refuse_what_ncnn_cannot_be_fed(given.inputs)
    with TemporaryDirectory(prefix="edgebench-pnnx-") as scratch:
        directory = Path(scratch)
        # pnnx writes seven files beside what it reads.
        model = directory / ("model.onnx" if parent.path.suffix == ".onnx" else "model.pt")
        model.symlink_to(parent.path.resolve())
        shapes = ",".join(f"[{','.join(map(str, spec.shape))}]f32" for spec in given.inputs)
        convert([pnnx.EXEC_PATH, model.name, f"inputshape={shapes}", "fp16=0"], directory)
        weights, param = directory / "model.ncnn.bin", directory / "model.ncnn.param"
        if not param.is_file() or not weights.is_file():
            raise StepError("pnnx wrote no ncnn files", hint="try it with another network, or leave ncnn out")
        network = param.read_text(encoding="utf-8")
        foreign = sorted(set(_FOREIGN_LAYER.findall(network)))
        if foreign:
            raise StepError(f"ncnn has no layer for {', '.join(foreign)}", hint="replace it in the network")
        outputs = _output_shapes((directory / "model.pnnx.param").read_text(encoding="utf-8"))
        shutil.copyfile(weights, out)
    # Appended: ncnn reads the weights from the front, a zip is read from its end.
    with zipfile.ZipFile(out, "a", zipfile.ZIP_DEFLATED) as archive:
        for name, text in ((PARAM, network), (TENSORS, json.dumps({"outputs": outputs}))):
            archive.writestr(zipfile.ZipInfo(name), text)
    return StepResult()


def _refuse_what_ncnn_cannot_be_fed(inputs: tuple[TensorSpec, ...]) -> None:
    for spec in inputs:
        if spec.dtype != "float32" or not 2 <= len(spec.shape) <= 5 or spec.shape[0] != 1:
            raise StepError(
                f"ncnn takes one sample of float32 at a time, and `{spec.name}` is {spec.dtype} {list(spec.shape)}",
                hint="export with --input-shape 1,... for it",
            )


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
    parents=("torchscript", "onnx-sim", "onnx"),
    modules=("pnnx", "ncnn"),
    tools=("pnnx", "ncnn"),
    options=lambda _: {"fp16": False},
    run=_export,
    extra="ncnn",
    usual=False,
)
