"""What each product alone would do to the outputs if it were the only one that reads int8.

The outputs are what counts: a layer's own error does not say how far it carries. And each alone, because where several
are bad, taking one of them out changes nothing.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from edgebench.quantize.placement import MATRIX_PRODUCTS, Placement, key_of
from edgebench.quantize.static import Quantizer, answers, output_sqnr_db

__all__ = ["sensitivities"]


def sensitivities(quantizer: Quantizer, feeds: Sequence[Mapping[str, Any]], *, deadline: float) -> dict[str, float]:
    """By `key_of` each int8 product: the SQNR of the outputs in dB with only it in int8, the worst one first.

    A product's share is what its weights and the tensors that it reads lose. Where `deadline` (of `time.monotonic`)
    passes, those that were not tried are missing.
    """
    expected = answers(quantizer.source, feeds)
    path = quantizer.scratch / "single.onnx"
    found = {}
    for node in quantizer.graph.nodes:
        key = key_of(node)
        if key not in quantizer.placement.int8 or node.op_type not in MATRIX_PRODUCTS:
            continue
        if time.monotonic() > deadline:
            break
        read = tuple(dict.fromkeys(quantizer.graph.activations_of(node)))
        # Its result stays float: what that loses as int8 is the share of those that read it.
        alone = Placement(frozenset({key}), {}, read, {}, quantizer.placement.transformer)
        quantizer.write(path, placement=alone)
        found[key] = output_sqnr_db(expected, answers(path, feeds))
    return dict(sorted(found.items(), key=lambda item: item[1]))
