"""How a TFLite file is quantized, read from its tensors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from edgebench.explaining.scheme import Scheme
from edgebench.source.tflite_file import TfliteDescription, TfliteTensor

__all__ = ["FORM", "scheme_of"]

FORM = "TFLite"


def scheme_of(file: TfliteDescription) -> Scheme:
    """Activations and weights with scales, each tensor once; biases, of 32 bits and one axis, are no weights."""
    tensors = {
        tensor.name: tensor
        for operator in file.operators
        for tensor in (*operator.inputs, *operator.outputs)
        if tensor is not None and tensor.scales
    }
    weights = [tensor for tensor in tensors.values() if tensor.constant and len(tensor.shape) > 1]
    return Scheme(
        form=FORM if tensors else "float",
        activations=tuple(_types(tensor for tensor in tensors.values() if not tensor.constant)),
        weights=tuple(
            (dtype, per_channel, count)
            for (dtype, per_channel), count in Counter(
                (tensor.dtype, len(tensor.scales) > 1) for tensor in weights
            ).most_common()
        ),
        seven_bits=False,
    )


def _types(tensors: Iterable[TfliteTensor]) -> list[tuple[str, int]]:
    return Counter(tensor.dtype for tensor in tensors).most_common()
