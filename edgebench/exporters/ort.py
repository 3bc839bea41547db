"""onnxruntime's own format, for its builds that read no ONNX: a minimal build, as on small devices and in apps.

The graph is optimised when the file is written, as such a build cannot. That is done at the extended level, which fuses
what all CPUs fuse (without it an int8 model runs in float: 4.4 of the time) and leaves out the layout of this machine's
own: one CPU's file would not run on another. On x86-64 float32 convolutions miss that layout (onnxruntime 1.31, one
thread: resnet18 1.29, mobilenet_v2 2.33 of the time of the ONNX file); int8 ones have none (0.98, 1.01).
"""

from __future__ import annotations

from pathlib import Path

from edgebench.agent.environment import switch_telemetry_off
from edgebench.exporters.steps import Parent, Step, StepInput, StepResult

__all__ = ["INT8_STEP", "STEP"]


def _export(parent: Parent, given: StepInput, out: Path) -> StepResult:
    switch_telemetry_off()
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(out)
    options.add_session_config_entry("session.save_model_format", "ORT")
    onnxruntime.InferenceSession(str(parent.path), options, providers=["CPUExecutionProvider"])
    return StepResult(notes=(f"optimised by onnxruntime {onnxruntime.__version__}, for any CPU",))


def _step(format: str, precision: str, parents: tuple[str, ...]) -> Step:
    return Step(
        format=format,
        precision=precision,
        suffix=f".{format}" if format == "ort" else ".int8.ort",
        parents=parents,
        modules=("onnxruntime",),
        tools=("onnxruntime",),
        options=lambda _: {"optimization": "extended"},
        run=_export,
        usual=lambda: False,
    )


STEP = _step("ort", "fp32", ("onnx-sim", "onnx"))
INT8_STEP = _step("ort-int8", "int8", ("onnx-int8",))
