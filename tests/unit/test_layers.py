"""The rules of the house: who may import whom, and what the agent is made of."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "edgebench"
AGENT = sorted((PACKAGE / "agent").rglob("*.py"))
MODULES = sorted(PACKAGE.rglob("*.py"))

# These stand beside each other; what joins them stands above.
APART = {"agent", "source", "exporters", "quantize", "costs", "evaluation", "targets", "stats", "store", "explaining"}
ALLOWED = {
    ("exporters", "quantize"),
    ("exporters", "costs"),
    ("costs", "source"),
    ("explaining", "source"),
    *((name, "agent") for name in APART),
}


def _names(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def _imports(tree: ast.AST) -> Iterator[tuple[ast.AST, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node, "." * node.level + (node.module or "")


@pytest.mark.parametrize("path", AGENT, ids=_names)
def test_the_agent_speaks_python_3_8(path: Path) -> None:
    ast.parse(path.read_text(), feature_version=(3, 8))


@pytest.mark.parametrize("path", AGENT, ids=_names)
def test_the_agent_imports_the_standard_library_and_itself_and_a_runtime_only_inside_a_function(path: Path) -> None:
    tree = ast.parse(path.read_text())
    top_level = {id(node) for node in tree.body}
    for node, name in _imports(tree):
        own = name.startswith((".", "edgebench.agent"))
        if own or name.split(".")[0] in sys.stdlib_module_names:
            continue
        # Runtimes, and pixels that are prepared for them; PIL and numpy come with those.
        allowed = path.parent.name in {"runtimes", "profilers"} or path.stem in {
            "peaks",
            "predicting",
            "preprocessing",
            "scenarios",
        }
        assert allowed, f"{name} is not in the standard library"
        assert id(node) not in top_level, f"{name} is imported before it is needed"


@pytest.mark.parametrize("path", MODULES, ids=_names)
def test_arrows_go_one_way(path: Path) -> None:
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    for _, name in _imports(ast.parse(path.read_text())):
        parts = name.split(".")
        if parts[0] != "edgebench" or len(parts) < 2:
            continue
        other = parts[1]
        assert other != "cli" or room == "cli", "nothing imports cli"
        if room in APART and other in APART and other != room:
            assert (room, other) in ALLOWED, f"{room} must not import {other}"
        if room == "report":
            assert other in {
                "report",
                "types",
                "stats",
                "figures",
                "verdict",
                "comparison",
                "gate",
                "profiling",
                "explaining",
                "sustained",
                "trade_off",
                "errors",
            }, f"report must not import {other}"


@pytest.mark.parametrize(
    "path", [path for path in MODULES if path.parts[-2] in {"agent", "probes", "profilers", "measure"}], ids=_names
)
def test_durations_are_taken_from_clocks_that_do_not_jump(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            assert (node.value.id, node.attr) not in {("time", "time"), ("time", "time_ns")}, "set clocks jump"
