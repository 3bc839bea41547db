"""Run by itself, by a Python that has litert-torch: `litert_child.py PROGRAM.pt2 MODEL.tflite REPORT.json`, or
`--versions`. It imports nothing of edgebench, which need not be there."""

from __future__ import annotations

import json
import resource
import sys
from importlib import metadata
from pathlib import Path

_TOOLS = ("litert-torch", "litert-converter", "torch")


def main() -> None:
    """Print the versions, or convert and report."""
    if sys.argv[1] == "--versions":
        sys.stdout.write(json.dumps({f"{name} (converter)": metadata.version(name) for name in _TOOLS}))
        return
    program_path, model_path, report_path = sys.argv[1:]
    report: dict[str, object]
    try:
        _convert(program_path, model_path)
        # Kilobytes on Linux, bytes on a Mac.
        unit = 1 if sys.platform == "darwin" else 1024
        report = {"peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}
    except Exception as error:  # noqa: BLE001 - whatever it raises is the reason of a format that is not made
        lines = [line for line in str(error).splitlines() if line.strip()]
        report = {"error": f"{type(error).__name__}: {lines[0].strip() if lines else ''}"}
    Path(report_path).write_text(json.dumps(report))


def _convert(program_path: str, model_path: str) -> None:
    import litert_torch
    import torch

    program = torch.export.load(program_path)
    arguments, _ = program.example_inputs
    litert_torch.convert(program.module(), tuple(arguments)).export(model_path)


if __name__ == "__main__":
    main()
