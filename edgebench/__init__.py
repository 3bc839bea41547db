"""edgebench: from a PyTorch model to a decision about what to ship on a small device.

    result = edgebench.export("resnet18.pt", calib="imagefolder:photos/")
    run = edgebench.bench(result, data="imagefolder:val/")
    run == edgebench.load_run(run.id)
    comparison = edgebench.compare("old.eb", "new.eb", fail_if=["p50>5%"])

The functions are imported when they are first used: `import edgebench` loads no library.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgebench._version import __version__

if TYPE_CHECKING:
    from edgebench.measure.bench import bench
    from edgebench.measure.compare import compare
    from edgebench.pipeline import Exported, export
    from edgebench.run_file import load_run
    from edgebench.trade_off import Budget
    from edgebench.types import BenchSettings

__all__ = ["BenchSettings", "Budget", "Exported", "__version__", "bench", "compare", "export", "load_run"]

_HOME = {
    "BenchSettings": "edgebench.types",
    "Budget": "edgebench.trade_off",
    "Exported": "edgebench.pipeline",
    "bench": "edgebench.measure.bench",
    "compare": "edgebench.measure.compare",
    "export": "edgebench.pipeline",
    "load_run": "edgebench.run_file",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOME[name]), name)
