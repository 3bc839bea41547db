"""An explanation as a JSON document. An infinite SQNR, of values that are the same, is `"inf"`."""

from __future__ import annotations

import math
from typing import Any

from edgebench.explaining.explanation import Explanation
from edgebench.explaining.findings import find
from edgebench.explaining.layers import Layer
from edgebench.explaining.values import sqnr_of
from edgebench.report import profile_json

__all__ = ["document"]

_SCHEMA = 1


def document(explained: Explanation) -> dict[str, Any]:
    """Everything that was found, with the profiles beside it."""
    profiles = [explained.profile, *([explained.parent_profile] if explained.parent_profile is not None else [])]
    return {
        "schema": _SCHEMA,
        "artifact": {"name": explained.name, "path": explained.path, "form": explained.scheme.form},
        "activations": [{"dtype": dtype, "tensors": count} for dtype, count in explained.scheme.activations],
        "weights": [
            {"dtype": dtype, "per_channel": per_channel, "tensors": count}
            for dtype, per_channel, count in explained.scheme.weights
        ],
        "seven_bit_weights": explained.scheme.seven_bits,
        "calibration": explained.calibration,
        "float_model": explained.parent,
        "device": {
            "name": explained.profile.device,
            "cpu": explained.cpu.cpu,
            "machine": explained.cpu.machine,
            "int8_dot_products": list(explained.cpu.dot_products) if explained.cpu.known else None,
            "may_saturate": explained.may_saturate,
        },
        "ratio": explained.ratio,
        "inputs": {"from": explained.fed_with, "count": explained.inputs, "why_none": explained.why_no_values},
        "sqnr_db": _db(explained.sqnr_db),
        "device_sqnr_db": _db(explained.device_sqnr_db),
        "unfused": [
            {
                "kind": group.kind or None,
                "reason": group.reason,
                "detail": group.detail,
                "operators": list(group.names),
                "conversions": group.conversions,
                "ms": group.ns / 1e6,
                "conversion_ms": group.conversion_ns / 1e6,
            }
            for group in explained.unfused
        ],
        "layers": [_layer(layer) for layer in explained.layers],
        "findings": [
            {"kind": finding.kind, "text": finding.text, "remedy": finding.remedy} for finding in find(explained)
        ],
        "profiles": profile_json.document(profiles, None)["profiles"],
    }


def _layer(layer: Layer) -> dict[str, Any]:
    result = layer.result
    return {
        "name": layer.name,
        "kind": layer.kind,
        "tensor": layer.tensor,
        "module": layer.module,
        "ms": None if layer.ns is None else layer.ns / 1e6,
        "conversion_ms": layer.conversion_ns / 1e6,
        "float_ms": None if layer.float_ns is None else layer.float_ns / 1e6,
        "sqnr_db": _db(layer.sqnr_db),
        "lost_db": layer.lost_db,
        "weights_sqnr_db": _db(sqnr_of(layer.weight_noise)),
        "values": None
        if result is None
        else {
            "count": result.count,
            "low": result.low,
            "high": result.high,
            "below": result.below,
            "above": result.above,
            "at_ends": result.at_ends,
            "levels_used": result.used,
            "sqnr_before_rounding_db": _db(sqnr_of(result.noise_before)),
            "rescaled": result.rescaled,
        },
    }


def _db(value: float | None) -> float | str | None:
    return "inf" if value is not None and math.isinf(value) else value
