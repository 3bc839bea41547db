"""Run by itself, by a Python that has litert-torch: `litert_child.py PROGRAM.pt2 MODEL.tflite` converts, and prints the
process's peak memory in bytes last; `--versions` prints those of its tools. It imports nothing of edgebench, which need
not be there."""

from __future__ import annotations

import json
import resource
import sys
from importlib import metadata

_TOOLS = ("litert-torch", "litert-converter", "torch")


def main() -> None:
    """Do what the arguments say."""
    if sys.argv[1] == "--versions":
        sys.stdout.write(json.dumps({f"{name} (converter)": metadata.version(name) for name in _TOOLS}))
        return
    import litert_torch
    import torch

    program_path, model_path = sys.argv[1:]
    program = torch.export.load(program_path)
    arguments, _ = program.example_inputs
    try:
        litert_torch.convert(program.module(), tuple(arguments)).export(model_path)
    except Exception as error:  # noqa: BLE001 - whatever it raises is the reason of a format that is not made
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        sys.exit(f"{type(error).__name__}: {lines[0] if lines else 'without words'}")
    # Kilobytes on Linux, bytes on a Mac.
    unit = 1 if sys.platform == "darwin" else 1024
    sys.stdout.write(f"\n{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}\n")


if __name__ == "__main__":
    main()
