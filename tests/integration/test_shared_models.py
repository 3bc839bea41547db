"""Trained models and labelled images from elsewhere: all flow through, as accurate as their sources say."""

from __future__ import annotations

from pathlib import Path

import pytest

import edgebench

QUICK = edgebench.BenchSettings(processes=1, warmup=1, iterations=3, max_time_s=5.0, max_wait_s=0.0)

# Top-1 in percent as SOURCES.md beside the data gives it, for exactly these files and images.
CASES = {
    "resnet20": ("models/resnet20-12fca82f.th", "resnet20", "imagenet-colours", "cifar", 92.40),
    "resnet32": ("models/resnet32-d509ac18.th", "resnet32", "imagenet-colours", "cifar", 92.50),
    "nxp_cifar_net": ("models/nxp_cifar_net.pth", "NxpCifarNet", "half", "cifar", 58.10),
    "ort_mnist": ("models/ort_mnist.onnx", None, "none", "mnist", 98.20),
    "squeezenet": ("models/squeezenet1_1_imagenet.pth", None, None, "imagenet", 55.00),
}

PREPROCESSING = {
    "imagenet-colours": "mean = [0.485, 0.456, 0.406]\nstd = [0.229, 0.224, 0.225]\n",
    "half": "mean = [0.5]\nstd = [0.5]\n",
}


def _data(kind: str, shared: Path) -> tuple[str, str]:
    """Calibration and evaluation data."""
    if kind == "cifar":
        return f"npz:{shared}/cifar10/cifar10_calib_500A.npz", f"npz:{shared}/cifar10/cifar10_test_2000A.npz"
    if kind == "mnist":
        return f"mnist:{shared}/mnist:test", f"mnist:{shared}/mnist:test"
    table = f"csv:{shared}/imagenet/nips2017_A.csv"
    return f"{table}:calib", f"{table}:eval"


@pytest.mark.parametrize("name", CASES)
def test_a_trained_model_keeps_its_accuracy(name: str, shared: Path, tmp_path: Path) -> None:
    file, factory, preprocess, kind, top1 = CASES[name]
    if preprocess in PREPROCESSING:
        path = tmp_path / f"{preprocess}.toml"
        path.write_text(f'channels = "rgb"\nscale = {1 / 255!r}\n{PREPROCESSING[preprocess]}')
        preprocess = str(path)
    calib, data = _data(kind, shared)
    exported = edgebench.export(
        shared / file,
        "model.eb",
        arch=None if factory is None else f"{shared}/archs.py:{factory}",
        calib=calib,
        samples=64,
        preprocess=preprocess,
    )
    assert {artifact.status for artifact in exported.bundle.artifacts} == {"ok"}
    run = edgebench.bench(exported, data=data, threads=[1], settings=QUICK)
    for cell in run.cells:
        assert cell.status == "ok", cell.reason
        assert cell.accuracy is not None
        if cell.artifact.format == "onnx-int8":
            assert cell.accuracy.top1 == pytest.approx(top1, abs=3.0)
        else:
            assert round(cell.accuracy.top1, 2) == top1


@pytest.mark.parametrize(
    "file", ["version-RFB-320", "version-RFB-320_simplified", "version-RFB-320_without_postprocessing"]
)
def test_a_detector_flows_through(file: str, shared: Path, tmp_path: Path) -> None:
    (tmp_path / "faces.toml").write_text(
        'resize = [240, 320]\nchannels = "rgb"\nscale = 0.0078125\nmean = [0.9921875]\nstd = [1.0]\n'
    )
    exported = edgebench.export(
        shared / "models" / f"{file}.onnx",
        "faces.eb",
        calib=f"csv:{shared}/imagenet/nips2017_A.csv:calib",
        samples=16,
        preprocess="faces.toml",
    )
    artifacts = {artifact.name: artifact for artifact in exported.bundle.artifacts}
    assert {name: artifact.status for name, artifact in artifacts.items()} == {
        "onnx": "ok",
        "onnx-sim": "ok",
        "onnx-int8": "ok",
    }, [artifact.reason for artifact in artifacts.values()]
    run = edgebench.bench(exported, threads=[1], settings=QUICK)
    assert {cell.status for cell in run.cells} == {"ok"}
