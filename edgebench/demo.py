"""`edgebench demo`: the whole path on data and models that it makes itself: train, export, bench.

It trains the CIFAR-style ResNet18 of `models/`, once with ReLU and once with ReLU6, on scikit-learn's handwritten
digits, and asks what an engineer asks: what does int8 cost in accuracy, what does it save, and does ReLU6 quantize
better? What a run of it made is used again by the next.
"""

from __future__ import annotations

import importlib.util
import runpy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgebench.config import search_directories
from edgebench.errors import MissingExtra, UsageError
from edgebench.measure.bench import bench
from edgebench.pipeline import Exported, export
from edgebench.progress import Progress
from edgebench.training import save_checkpoint, train
from edgebench.types import Run

__all__ = ["VARIANTS", "demo"]

# What to train, and what it shows in the table.
VARIANTS = {"resnet18": "ReLU", "resnet18_relu6": "ReLU6"}
_DATA = "digits"
_CALIBRATION_SET = "digits256"
_SEED = 0


def demo(directory: Path, progress: Progress, command: Sequence[str] = ()) -> tuple[list[Exported], Run]:
    """Train, export and measure in `directory`; the bundles and the run.

    Raises:
        UsageError: the directory is a file.
        MissingExtra: torch or scikit-learn is not installed.
    """
    for module, extra in (("torch", "torch"), ("sklearn", "digits")):
        if importlib.util.find_spec(module) is None:
            raise MissingExtra(module, extra)
    if directory.exists() and not directory.is_dir():
        raise UsageError(f"{directory} is a file, not a directory", hint="choose another directory with -o")
    directory.mkdir(parents=True, exist_ok=True)
    bundles = []
    for factory in VARIANTS:
        checkpoint = directory / f"{factory}.pt"
        if checkpoint.is_file():
            progress.start(f"train {factory}")
            progress.done(f"{checkpoint} was trained before")
        else:
            _train(factory, checkpoint, progress)
        bundles.append(export(checkpoint, directory / f"{factory}.eb", calib=_CALIBRATION_SET, progress=progress))
    return bundles, bench(*bundles, data=f"{_DATA}:test", command=command, progress=progress)


def _train(factory: str, checkpoint: Path, progress: Progress) -> None:
    import torch

    path = search_directories("models")[-1] / "resnet18_cifar.py"
    architecture: Any = runpy.run_path(str(path))
    # Before the factory, which draws the initial weights.
    torch.manual_seed(_SEED)
    model = architecture[factory]()
    result = train(model, architecture["RECIPES"][_DATA], _DATA, seed=_SEED, progress=progress)
    save_checkpoint(checkpoint, model, result, architecture=f"models/{path.name}:{factory}")
