"""The kind of int8 that a target's runtime is fast and right at, as measured and not by the library's default.

onnxruntime 1.31 on x86-64 with VNNI, one thread, speed-up over fp32 (benchmarks/onnx_settings.py): its own default,
signed activations and weights (S8S8), ran resnet18 at 0.97, efficientnet_b0 at 0.32; unsigned activations with signed
weights per channel (U8S8) ran them at 2.59 and 1.09, because only then do all convolutions become QLinearConv. x86
without VNNI adds pairs of such products in 16 bits, which saturate: 7 bits of each weight leave room
(benchmarks/int8_avx2.py). On ARM its kernels want S8S8 (its quantization guide, "S8S8 is the first choice on ARM").
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["METHODS", "RANGE_METHODS", "TARGETS", "Settings", "for_target", "target_of"]

# Without numpy, for `--help`.
RANGE_METHODS = ("minmax", "moving-average", "percentile", "entropy", "mse")
METHODS = ("auto", *RANGE_METHODS)
_ARM = ("aarch64", "arm64", "armv7l", "armv8l")
_WITHOUT_SATURATION = frozenset({"avx512_vnni", "avx_vnni", "avx_vnni_int8", "amx_int8"})
_X86: dict[str, Any] = {"activations": "uint8", "weights": "int8"}
TARGETS: dict[str, dict[str, Any]] = {
    "x86-vnni": {**_X86, "weight_bits": 8},
    "x86-avx2": {**_X86, "weight_bits": 7},
    "arm": {"activations": "int8", "weights": "int8", "weight_bits": 8},
}


@dataclass(frozen=True)
class Settings:
    """How a model is quantized.

    method: of `METHODS`, how a range follows from what was seen; "auto" tries them and takes the most faithful.
    percentile: of the values that the method of that name keeps.
    form: "QDQ", or "QOperator" for onnxruntime's integer operators.
    activations, weights, weight_bits, per_channel, symmetric: as `qdq.Scheme` has them.
    equalize, correct_bias: see `equalize` and `qdq`; equalisation needs scales per channel.
    floats: nodes (names, or what they compute) and kinds of operators that stay float; `wide`: those with 16-bit
        activations.
    """

    method: str = "auto"
    percentile: float = 99.99
    form: str = "QDQ"
    activations: str = "uint8"
    weights: str = "int8"
    weight_bits: int = 8
    per_channel: bool = True
    symmetric: bool = False
    equalize: bool = True
    correct_bias: bool = True
    floats: tuple[str, ...] = ()
    wide: tuple[str, ...] = ()


def for_target(target: str, overrides: Mapping[str, Any]) -> Settings:
    """The settings for one of `TARGETS`, and what the user wants otherwise."""
    return Settings(**{**TARGETS[target], **overrides})


def target_of(machine: str, cpu_flags: Collection[str]) -> str:
    """Which of `TARGETS` a processor is: `machine` as `platform.machine()` names it, its flags as Linux does. One that
    is not known to have VNNI is taken to saturate."""
    if machine.lower() in _ARM:
        return "arm"
    return "x86-vnni" if _WITHOUT_SATURATION.intersection(cpu_flags) else "x86-avx2"
