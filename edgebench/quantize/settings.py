"""The kind of int8 that a target's runtime is fast at, as measured and not by the library's default.

onnxruntime 1.31 on x86-64 with VNNI, one thread, speed-up over fp32 (benchmarks/int8_settings.py prints such a table):
its own default, signed activations and weights (S8S8), ran resnet18 at 0.97, efficientnet_b0 at 0.32; unsigned
activations with signed weights per channel (U8S8) ran them at 2.59 and 1.09, because only then do all convolutions
become QLinearConv. On ARM onnxruntime's kernels want S8S8 (its quantization guide, "S8S8 is the first choice on ARM").
"""

from __future__ import annotations

from typing import Any

__all__ = ["for_machine"]

_ARM = ("aarch64", "arm64", "armv7l", "armv8l")


def for_machine(machine: str) -> dict[str, Any]:
    """Signedness and granularity for `machine`, as `platform.machine()` names it."""
    return {
        "form": "QDQ",
        "activations": "int8" if machine.lower() in _ARM else "uint8",
        "weights": "int8",
        "per_channel": True,
    }
