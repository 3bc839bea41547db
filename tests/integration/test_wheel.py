"""The wheel carries what the checkout has at its top: models, calibration sets, device profiles."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

from tests.integration.conftest import ROOT


def test_a_wheel_finds_the_models_sets_and_profiles_that_it_ships(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path / "dist")]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    code = (
        "import edgebench.config as config\n"
        "from edgebench.source.factory import own_factories\n"
        "assert 'site' in config.__file__\n"
        "print(config.find_device('local').transport, config.find_calibration_set('digits256').samples)\n"
        "print(*sorted(factory.name for factory in own_factories()))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first == "local 256"
    assert "resnet18_relu6" in second
