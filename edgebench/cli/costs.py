"""What `inspect` says of a model's costs: in all, and layer by layer."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

    from edgebench.costs.layers import Counted
    from edgebench.source.load import LoadedSource
    from edgebench.types import TensorSpec

__all__ = ["costs_facts", "layers_table", "loaded_costs_facts", "totals_rows"]

_NAME_WIDTH = 44


def costs_facts(path: Path, inputs: Sequence[TensorSpec], asked: Sequence[int] | None, layers: bool) -> dict[str, Any]:
    """Of an ONNX or TFLite file with those inputs, the only one of which has the shape that was `asked` for."""
    from dataclasses import replace

    from edgebench.costs import onnx, tflite
    from edgebench.source.tflite_file import is_tflite

    if asked is not None and len(inputs) == 1:
        inputs = [replace(inputs[0], shape=tuple(asked))]
    if any(-1 in spec.shape[1:] for spec in inputs):
        return {"no_costs": "the file leaves lengths of its inputs free: say them with --input-shape"}
    # By content, as `inspect` tells files apart.
    counted = tflite.count(path) if is_tflite(path) else onnx.count(path, inputs)
    return _facts(counted, layers)


def loaded_costs_facts(loaded: LoadedSource, asked: Sequence[int] | None, trust: bool, layers: bool) -> dict[str, Any]:
    """Of a network in memory, which is run once. One whose code came with its file is run for who trusts it."""
    import numpy as np

    from edgebench.costs import torch
    from edgebench.errors import first_line

    shape = tuple(asked or loaded.input_shape or ())
    if loaded.module is None:
        return {}
    if loaded.info.kind == "torchscript" and not trust:
        return {
            "no_costs": "counting runs the network, whose code is in the file: pass --trust if you know who made it"
        }
    if not shape:
        return {"no_costs": "the shape of its input is not known: say it with --input-shape (for example 1,3,224,224)"}
    try:
        # A network's own prints must not end up in our data.
        with redirect_stdout(sys.stderr):
            counted = torch.count(loaded.module, [np.zeros(shape, np.float32)])
    except Exception as error:  # noqa: BLE001 - whatever a network raises says why nothing could be counted
        return {"no_costs": f"it does not take an input of shape {list(shape)}: {first_line(error)}"}
    return _facts(counted, layers) | {"input_shape": list(shape)}


def _facts(counted: Counted, layers: bool) -> dict[str, Any]:
    from edgebench.agent.codec import encode

    found: dict[str, Any] = {"costs": encode(counted.totals)}
    return found | {"layers": encode(counted.layers)} if layers else found


def totals_rows(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """Labels and texts of the sums."""
    if "no_costs" in facts:
        return [("MACs", f"not counted: {facts['no_costs']}")]
    costs = facts.get("costs")
    if costs is None:
        return []
    least = "at least " * bool(costs["not_counted"])
    rows = [("MACs", f"{least}{costs['macs']:,}")]
    if costs["not_counted"]:
        rows.append(("not counted", ", ".join(costs["not_counted"])))
    if costs["zeros"]:
        rows.append(("zeros", f"{100 * costs['zeros'] / costs['parameters']:.1f} % of the parameters"))
    activations = "activations not known, as some shapes are computed when it runs"
    if costs["peak_activation_bytes"] is not None:
        peak, total = costs["peak_activation_bytes"], costs["activation_bytes"]
        activations = f"activations {peak / 1e6:.3f} MB at once at most, {total / 1e6:.3f} MB in all"
    rows.append(("memory", f"weights {costs['weight_bytes'] / 1e6:.3f} MB, {activations}"))
    return rows


def layers_table(layers: Sequence[dict[str, Any]]) -> Table:
    """The layers with MACs or parameters; how many others there are is in the last row."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Column, Table
    from rich.text import Text

    numbers = ("output", "MMAC", "share", "parameters", "zero", "act. kB")
    table = Table(
        Column("layer", no_wrap=True, overflow="ellipsis", max_width=_NAME_WIDTH),
        "operator",
        *(Column(heading, justify="right", no_wrap=True) for heading in numbers),
        box=SIMPLE_HEAD,
    )
    total = sum(layer["macs"] or 0 for layer in layers)
    shown = [layer for layer in layers if layer["macs"] != 0 or layer["parameters"]]
    for layer in shown:
        macs, parameters, zeros = layer["macs"], layer["parameters"], layer["zeros"]
        size = layer["activation_bytes"]
        table.add_row(
            Text(layer["module"] or layer["name"].partition(";")[0]),
            layer["operator"],
            "?" if layer["output_shape"] is None else ",".join(map(str, layer["output_shape"])),
            "not counted" if macs is None else f"{macs / 1e6:.3f}" if macs else "",
            "" if not macs else f"{100 * macs / total:.1f} %",
            f"{parameters:,}" if parameters else "",
            "" if not parameters or zeros is None else f"{100 * zeros / parameters:.1f} %",
            "?" if size is None else f"{size / 1e3:.1f}",
        )
    if len(layers) > len(shown):
        table.add_row(f"{len(layers) - len(shown)} others, no MACs and no parameters", *[""] * 7)
    return table
