"""What a CPU's instructions mean for int8, by the flags that its kernel shows (/proc/cpuinfo).

x86 without VNNI multiplies unsigned by signed bytes with VPMADDUBSW, which adds two products in 16 bits and saturates:
2 * 255 * 127 is 64,770, 16 bits hold 32,767. Weights within +-64 cannot overflow (2 * 255 * 64 = 32,640), which is what
reduce_range is for (onnxruntime's quantization guide, "When to use reduce-range and per-channel quantization").
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgebench.explaining.executed import is_arm
from edgebench.explaining.scheme import QuantizedFile

__all__ = ["Instructions", "instructions", "may_saturate"]

_X86 = ("x86_64", "amd64", "i386", "i686")
_DOT_PRODUCTS = {
    "amx_int8": "AMX-INT8",
    "avx512_vnni": "AVX-512 VNNI",
    "avx_vnni": "AVX-VNNI",
    "i8mm": "I8MM",
    "asimddp": "ASIMD dot product",
}


@dataclass(frozen=True)
class Instructions:
    """`known`: the device said which it has. `dot_products` are those that multiply bytes and add in 32 bits;
    `saturates`: without them this CPU adds pairs of unsigned times signed products in 16 bits."""

    cpu: str
    machine: str
    known: bool
    dot_products: tuple[str, ...]
    saturates: bool

    @property
    def text(self) -> str:
        """In words."""
        name = self.cpu or self.machine or "this CPU"
        if not self.known:
            return f"{name}: it does not say which instructions it has"
        if self.dot_products:
            return f"{name}: has int8 dot products ({', '.join(self.dot_products)})"
        if self.saturates:
            return f"{name}: no VNNI; unsigned times signed bytes are added in 16 bits, which saturate"
        return f"{name}: no int8 dot products, so int8 gains little over float32"


def instructions(fingerprint: Mapping[str, Any]) -> Instructions:
    """What a device's fingerprint says."""
    machine, flags = str(fingerprint.get("machine", "")), fingerprint.get("isa")
    found = tuple(name for flag, name in _DOT_PRODUCTS.items() if flag in (flags or ()))
    x86 = machine.lower() in _X86
    # AMX alone does not help the small matrix products, but no CPU has it without VNNI.
    return Instructions(
        cpu=str(fingerprint.get("cpu", "")),
        machine=machine,
        known=flags is not None and (x86 or is_arm(machine)),
        dot_products=found,
        saturates=flags is not None and x86 and not found,
    )


def may_saturate(file: QuantizedFile, cpu: Instructions) -> bool:
    """Whether sums of two products can overflow: unsigned activations, signed weights of 8 bits, no VNNI."""
    return (
        cpu.saturates
        and any(how.dtype == "uint8" for how in file.activations.values())
        and any(weight.how.dtype == "int8" and not weight.seven_bits for weight in file.weights)
    )
