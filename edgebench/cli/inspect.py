"""`edgebench inspect`: what a file is, without running anything that came with it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgebench.cli.options import shape
from edgebench.cli.output_file import OutputFile

if TYPE_CHECKING:
    from edgebench.errors import EdgebenchError
    from edgebench.source.onnx_file import OnnxDescription
    from edgebench.source.sniff import Identity

__all__ = ["add_parser", "run"]


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the program's."""
    parser = subparsers.add_parser(
        "inspect",
        help="what a file is, safely: kind, architecture, parameters, MACs, operators",
        description="Say what a model file is, and what an inference of it takes. A pickle that would run code is "
        "described, not loaded.",
    )
    parser.add_argument(
        "file", metavar="FILE", help="a .pt/.pth, .pt2, .onnx or .tflite file, torchvision:NAME, or PATH.py:FACTORY"
    )
    parser.add_argument(
        "--arch",
        metavar="ARCH",
        help="a state dict's architecture: torchvision's name, PATH.py:FACTORY, package.module:FACTORY, or a name of "
        "models/ (default: found by the file's name and keys)",
    )
    parser.add_argument(
        "--trust", action="store_true", help="load a file even if that runs code that came with it (default: no)"
    )
    parser.add_argument(
        "--layers", action="store_true", help="MACs, parameters and activations of each layer as well (default: no)"
    )
    parser.add_argument(
        "--input-shape",
        metavar="N,C,H,W",
        type=shape,
        help="what MACs are counted for (default: the model's own, a free batch as 1)",
    )
    parser.add_argument("--json", metavar="FILE", help="write JSON instead, - for stdout (default: a table)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print what the file is. A file that may not be loaded, or cannot for want of an extra, is still described."""
    from edgebench.source.sniff import identify
    from edgebench.source.tflite_file import is_tflite

    json_file = OutputFile("--json", args.json)
    path = Path(args.file)
    if path.is_file() and is_tflite(path):
        facts = _tflite_facts(path, args)
    else:
        facts = _facts(identify(args.file), args)
    if args.json:
        json_file.write_json(facts)
    else:
        _show(facts)
    return 0


def _facts(identity: Identity, args: argparse.Namespace) -> dict[str, Any]:
    from edgebench.agent.codec import encode
    from edgebench.cli.costs import loaded_costs_facts
    from edgebench.errors import MissingExtra, SourceError
    from edgebench.source.load import load, refusal

    facts: dict[str, Any] = {
        "spec": identity.spec,
        "kind": identity.kind,
        "path": None if identity.path is None else str(identity.path),
        "sha256": identity.sha256,
        "bytes": identity.path.stat().st_size if identity.path is not None and identity.kind != "factory" else None,
        "callables": list(identity.callables),
    }
    if not args.trust and (refused := refusal(identity)) is not None:
        return facts | _problem(refused)
    try:
        if identity.kind == "onnx":
            facts |= _onnx_facts(identity, args)
        loaded = load(identity, arch=args.arch, trust=args.trust)
    except MissingExtra as error:
        return facts | _problem(error)
    except SourceError as error:
        # Weights whose architecture was not found are still weights.
        if identity.kind not in ("state-dict", "checkpoint") or args.arch is not None:
            raise
        return facts | _problem(error)
    found = {
        "kind": loaded.info.kind,
        "architecture": loaded.info.architecture,
        "parameters": loaded.info.parameters,
        "weights": loaded.info.weights,
        "dtype": loaded.dtype,
        "input_shape": None if loaded.input_shape is None else list(loaded.input_shape),
        "preprocess": loaded.preprocess_name if loaded.preprocess is None else encode(loaded.preprocess),
        "dependencies": loaded.dependencies,
        "notes": list(loaded.info.notes),
    }
    if "costs" in facts:
        # Scales and running means, which the description of the file has among them, are not learned.
        found["parameters"] = facts["costs"]["parameters"]
    return facts | found | loaded_costs_facts(loaded, args.input_shape, args.trust, args.layers)


def _onnx_facts(identity: Identity, args: argparse.Namespace) -> dict[str, Any]:
    from edgebench.agent.codec import encode
    from edgebench.cli.costs import costs_facts
    from edgebench.source.onnx_file import describe

    if identity.path is None:
        return {}
    description = describe(identity.path)
    costs = costs_facts(identity.path, description.inputs, args.input_shape, args.layers)
    return {"onnx": encode(description), **_quantized(identity.path, description), **costs}


def _quantized(path: Path, description: OnnxDescription) -> dict[str, Any]:
    """How a quantized file is; weights are read of those alone."""
    from edgebench.explaining.scheme import CONVERSIONS, read_file

    if description.precision != "int8" and not description.operators.keys() & {*CONVERSIONS, "MatMulNBits"}:
        return {}
    scheme = read_file(path).scheme
    text = f"{scheme.form}; activations: {scheme.activations_in_words}; weights: {scheme.weights_in_words}"
    return {"quantization": {"form": scheme.form, "text": text}}


def _tflite_facts(path: Path, args: argparse.Namespace) -> dict[str, Any]:
    from edgebench.agent.codec import encode
    from edgebench.cli.costs import costs_facts
    from edgebench.errors import MissingExtra, UsageError
    from edgebench.files import file_sha256
    from edgebench.source.tflite_file import describe

    if args.arch is not None:
        raise UsageError(
            f"{path} carries its own architecture (tflite)", hint="leave --arch out: it is for state dicts"
        )
    facts: dict[str, Any] = {
        "spec": str(path),
        "kind": "tflite",
        "path": str(path),
        "sha256": file_sha256(path),
        "bytes": path.stat().st_size,
        "callables": [],
    }
    try:
        found = describe(path)
    except MissingExtra as error:
        return facts | _problem(error)
    inputs, outputs = ([tensor.spec for tensor in tensors] for tensors in (found.inputs, found.outputs))
    return {
        **facts,
        "parameters": found.parameters,
        "dtype": found.precision,
        "tflite": {"inputs": encode(inputs), "outputs": encode(outputs), "operators": found.kinds},
        **costs_facts(path, inputs, args.input_shape, args.layers),
    }


def _problem(error: EdgebenchError) -> dict[str, Any]:
    return {"not_loaded": str(error), "hint": error.hint}


def _show(facts: dict[str, Any]) -> None:
    from rich.table import Table
    from rich.text import Text

    from edgebench.cli.costs import layers_table
    from edgebench.cli.terminal import data_console

    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for label, text in _rows(facts):
        # A path may look like rich's markup.
        table.add_row(Text(label), Text(text))
    console = data_console()
    console.print(table)
    if "layers" in facts:
        console.print(layers_table(facts["layers"]))


def _rows(facts: dict[str, Any]) -> list[tuple[str, str]]:
    from edgebench.cli.costs import totals_rows

    rows = [("file", facts["spec"]), ("kind", facts["kind"]), ("sha256", facts["sha256"])]
    if facts["bytes"] is not None:
        rows.append(("bytes", f"{facts['bytes']:,}"))
    if facts["callables"]:
        rows.append(("calls", "\n".join(facts["callables"])))
    if facts.get("architecture"):
        rows.append(("architecture", facts["architecture"]))
    if facts.get("parameters") is not None:
        rows.append(("parameters", f"{facts['parameters']:,}"))
    if facts.get("weights"):
        rows.append(("weights", facts["weights"]))
    if facts.get("dtype"):
        rows.append(("dtype", facts["dtype"]))
    if facts.get("input_shape"):
        rows.append(("input shape", ",".join(map(str, facts["input_shape"]))))
    if preprocess := facts.get("preprocess"):
        rows.append(("preprocess", preprocess if isinstance(preprocess, str) else preprocess["name"]))
    if "quantization" in facts:
        rows.append(("quantized", facts["quantization"]["text"]))
    rows += totals_rows(facts)
    rows += _graph_rows(facts.get("onnx") or facts.get("tflite"))
    rows += [("note", note) for note in facts.get("notes", ())]
    rows += [("uses", path) for path in facts.get("dependencies", {})]
    if "not_loaded" in facts:
        rows.append(("not loaded", facts["not_loaded"]))
        if facts["hint"]:
            rows.append(("hint", facts["hint"]))
    return rows


def _graph_rows(graph: dict[str, Any] | None) -> list[tuple[str, str]]:
    if graph is None:
        return []
    rows = [("input", _tensor(spec)) for spec in graph["inputs"]] + [
        ("output", _tensor(spec)) for spec in graph["outputs"]
    ]
    if "opset" in graph:
        rows.append(("opset", f"{graph['opset']} (IR version {graph['ir_version']})"))
    if graph.get("producer"):
        rows.append(("producer", graph["producer"]))
    operators = ", ".join(f"{name} {count}" for name, count in graph["operators"].items())
    rows.append(("operators", f"{sum(graph['operators'].values())}: {operators}"))
    return rows


def _tensor(spec: dict[str, Any]) -> str:
    shape = ",".join("?" if side == -1 else str(side) for side in spec["shape"])
    return f"{spec['name']} {spec['dtype']}[{shape}]"
