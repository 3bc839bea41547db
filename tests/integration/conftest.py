"""What the integration tests share: a data directory of their own, small real models and labelled images."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared" / "data"

TINY_NET = """
import torch
from torch import nn

INPUT_SHAPE = (1, 3, 16, 16)


class TinyNet(nn.Module):
    def __init__(self, classes=4):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3, stride=2), nn.ReLU()
        )
        self.head = nn.Linear(16, classes)

    def forward(self, x):
        return self.head(self.features(x).mean((2, 3)))


def tiny():
    return TinyNet()
"""


def start_edgebench(*arguments: str) -> subprocess.Popen[str]:
    """The command as a process of its own, that Ctrl-C reaches."""
    code = "import sys; from edgebench.cli.main import main; sys.exit(main())"
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
        # A shell's background job, as a CI may run this, has SIGINT ignored, and its children with it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Runs and caches go below the test's directory, and relative paths start there."""
    home = tmp_path / "edgebench-home"
    monkeypatch.setenv("EDGEBENCH_HOME", str(home))
    monkeypatch.chdir(tmp_path)
    return home


# Hardswish has no int8 kernel in ONNX Runtime.
SWISH_NET = """
import torch
from torch import nn

INPUT_SHAPE = (1, 3, 16, 16)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.act = nn.Hardswish()

    def forward(self, x):
        return x + self.act(self.conv(x))


class SwishNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.blocks = nn.Sequential(Block(), Block())
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        return self.head(self.blocks(torch.relu(self.stem(x))).mean((2, 3)))


def net():
    return SwishNet()
"""


@pytest.fixture
def tiny_net(tmp_path: Path) -> str:
    """A factory of a small convolutional classifier: 16x16 RGB in, four classes out."""
    (tmp_path / "tiny_net.py").write_text(TINY_NET)
    return "tiny_net.py:tiny"


@pytest.fixture
def photos(tmp_path: Path) -> str:
    """24 images in four class folders, as DATA."""
    write_photos(tmp_path / "photos")
    return "imagefolder:photos"


def write_photos(directory: Path) -> None:
    """The same images wherever they are needed."""
    generator = np.random.default_rng(0)
    for label in range(4):
        folder = directory / f"class{label}"
        folder.mkdir(parents=True)
        for index in range(6):
            # Classes differ in brightness, so that a network has something to tell apart.
            pixels = generator.integers(0, 60, (16, 16, 3)) + 60 * label
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{index}.png")


@pytest.fixture
def shared() -> Path:
    """Real models and images; they lie beside a checkout, not in it."""
    if not SHARED.is_dir():
        pytest.skip("needs the trained models and images of ../shared/data")
    return SHARED
