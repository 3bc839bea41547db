"""Benchmark tools for devices without Python, one file a tool: how it is called, and what it says.

A tool's module defines:

- `FORMATS`: the artifact formats it opens, and `RUNTIME`: the name of what executes them;
- `CANNOT`: what edgebench would say of an artifact elsewhere and cannot say from this tool, one sentence each;
- `argv(binary, artifact, *, threads, warmup, runs) -> list[str]`: the call for exactly so many runs;
- `parse(stdout, stderr) -> Measurement`: what a run printed that exited with 0, or `ToolOutputError`.

Tools are parsed strictly, for all that they print is text: a figure that is missing, or that contradicts another,
is an error. Lines that a tool does not print itself (a delegate's, a library's warnings) are passed over.
"""

from __future__ import annotations

from typing import Protocol

from edgebench.agent.wire import Measurement
from edgebench.targets.native import executorch_runner, onnxruntime_perf_test, tflite_benchmark_model
from edgebench.targets.native.reading import ToolOutputError

__all__ = ["TOOLS", "Tool", "ToolOutputError"]


class Tool(Protocol):
    """A tool's module."""

    FORMATS: tuple[str, ...]
    RUNTIME: str
    CANNOT: tuple[str, ...]

    def argv(self, binary: str, artifact: str, *, threads: int, warmup: int, runs: int) -> list[str]:
        """The call of `binary`, which may be a path on the device, like `artifact`."""

    def parse(self, stdout: str, stderr: str) -> Measurement:
        """The measurement, with times in ns.

        Raises:
            ToolOutputError: the text has no figures, or contradicts itself.
        """


# By the name that the tool's own project builds it under.
TOOLS: dict[str, Tool] = {
    "benchmark_model": tflite_benchmark_model,
    "onnxruntime_perf_test": onnxruntime_perf_test,
    "executor_runner": executorch_runner,
}
