"""Data sets that are arrays in memory: npz, CIFAR-10, MNIST and Fashion-MNIST as published, scikit-learn's digits.

A data set often comes from elsewhere, so nothing here unpickles more than arrays of numbers.
"""

from __future__ import annotations

import gzip
import math
import pickle
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from edgebench.errors import DataError, MissingExtra

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Arrays", "Split", "open_cifar10", "open_digits", "open_mnist", "open_npz"]

Split = Literal["train", "test"]

_NPZ_HINT = "expected x: uint8 [N, H, W, C] or [N, H, W], or float32 [N, ...] ready for the model; y: integer [N]"
_CIFAR10_FILES: dict[Split, tuple[str, ...]] = {
    "train": tuple(f"data_batch_{number}" for number in range(1, 6)),
    "test": ("test_batch",),
}
_CIFAR10_PIXELS = 3 * 32 * 32
_MNIST_FOLDERS = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST"}
_MNIST_PREFIXES: dict[Split, str] = {"train": "train", "test": "t10k"}


@dataclass(frozen=True, eq=False)
class Arrays:
    """A `Dataset` in memory: `samples` is uint8 `[N, H, W, C]`, or float32 `[N, ...]` that is `ready`."""

    spec: str
    samples: NDArray[np.uint8] | NDArray[np.float32]
    labels: NDArray[np.int64] | None
    class_count: int | None = None
    default_preprocess: str | None = None

    @property
    def ready(self) -> bool:
        """Whether samples are already what the model takes."""
        return self.samples.dtype == np.float32

    def __len__(self) -> int:
        return len(self.samples)

    def load(self, index: int) -> NDArray[np.uint8] | NDArray[np.float32]:
        """uint8 `[H, W, C]`, or a ready float32 sample without the batch axis."""
        sample: NDArray[np.uint8] | NDArray[np.float32] = self.samples[index]
        return sample

    def content(self, index: int) -> bytes:
        """The sample's values, row by row."""
        return bytes(self.samples[index].tobytes())


def open_npz(spec: str, path: Path) -> Arrays:
    """Arrays `x` (or `images`) and, where there are labels, `y` (or `labels`), of a file that `numpy.savez` wrote.

    `x` is uint8 `[N, H, W, C]` or `[N, H, W]`, or float32 `[N, ...]` that is taken as ready.

    Raises:
        DataError: no such file, damaged, or arrays of another shape or dtype.
    """
    with _translated(path, "an npz file"), path.open("rb") as file:
        # Given another file, np.load would speak of unpickling it, which nobody should.
        if not zipfile.is_zipfile(file):
            raise DataError(f"{path} is not an npz file", hint="write it with numpy.savez(path, x=..., y=...)")
        file.seek(0)
        arrays = np.load(file, allow_pickle=False)
        x = next((arrays[name] for name in ("x", "images") if name in arrays), None)
        y = next((arrays[name] for name in ("y", "labels") if name in arrays), None)
        names = arrays.files
    if x is None:
        raise DataError(f"{path} has no array `x` or `images` (it has: {', '.join(names) or 'none'})", hint=_NPZ_HINT)
    return Arrays(spec, _checked_samples(x, path), None if y is None else _checked_labels(y, len(x), path))


def open_cifar10(spec: str, directory: Path, split: Split) -> Arrays:
    """CIFAR-10 as published, unpacked: the python or the binary version, in `directory` or in the folder it unpacks to.

    Raises:
        DataError: no such directory or files, or damaged ones.
    """
    versions = (
        (directory, "", _read_cifar10_pickle),
        (directory / "cifar-10-batches-py", "", _read_cifar10_pickle),
        (directory, ".bin", _read_cifar10_binary),
        (directory / "cifar-10-batches-bin", ".bin", _read_cifar10_binary),
    )
    for folder, suffix, read in versions:
        paths = [folder / f"{name}{suffix}" for name in _CIFAR10_FILES[split]]
        missing = [path.name for path in paths if not path.is_file()]
        if len(missing) == len(paths):
            continue
        if missing:
            raise DataError(f"{folder} lacks {', '.join(missing)}", hint="unpack cifar-10-python.tar.gz again")
        pixels, labels = zip(*(read(path) for path in paths), strict=True)
        # On disk a row is all of red, then green, then blue.
        samples = np.concatenate(pixels).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        return Arrays(spec, np.ascontiguousarray(samples), np.concatenate(labels), 10, "cifar10")
    raise DataError(
        f"{directory} has no CIFAR-10 ({split}: {', '.join(_CIFAR10_FILES[split])})"
        if directory.is_dir()
        else f"{directory} is not a directory",
        hint="unpack https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz there",
    )


def open_mnist(spec: str, directory: Path, split: Split, kind: Literal["mnist", "fashion-mnist"]) -> Arrays:
    """MNIST or Fashion-MNIST as published: idx files, gzipped or not, in `directory` or where torchvision puts them.

    Raises:
        DataError: no such directory or files, more than one that fits, or damaged ones.
    """
    prefix = _MNIST_PREFIXES[split]
    for folder in (directory, directory / _MNIST_FOLDERS[kind] / "raw", directory / "raw"):
        images = _only_match(folder, f"{prefix}*images*idx3*")
        labels = _only_match(folder, f"{prefix}*labels*idx1*")
        if images is None and labels is None:
            continue
        if images is None or labels is None:
            found, missing = ("labels", "images*idx3") if images is None else ("images", "labels*idx1")
            raise DataError(f"{folder} has the {found} but no {prefix}*{missing}*", hint="both files are needed")
        samples = _read_idx(images, dimensions=3)
        return Arrays(
            spec, samples[..., np.newaxis], _checked_labels(_read_idx(labels, 1), len(samples), labels), 10, kind
        )
    raise DataError(
        f"{directory} has no {prefix}*images*idx3* file" if directory.is_dir() else f"{directory} is not a directory",
        hint=f"`{kind}:DIR` is the folder of the published .gz files, or the root that torchvision downloaded to",
    )


def open_digits(spec: str, split: Split) -> Arrays:
    """scikit-learn's 1,797 handwritten digits, 8x8; every fifth is test.

    Raises:
        MissingExtra: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MissingExtra("scikit-learn", "digits") from error
    digits = load_digits()
    # Its gray values are 0..16.
    samples = np.rint(digits.images * (255 / 16)).astype(np.uint8)[..., np.newaxis]
    is_test = np.arange(len(samples)) % 5 == 4
    kept = is_test if split == "test" else ~is_test
    return Arrays(spec, samples[kept], digits.target[kept].astype(np.int64), 10, "digits")


@contextmanager
def _translated(path: Path, kind: str) -> Iterator[None]:
    """Whatever a reader raises on a damaged file becomes a DataError that names the file."""
    try:
        yield
    except FileNotFoundError as error:
        raise DataError(f"there is no file {path}", hint="check the path") from error
    except MemoryError as error:
        raise DataError(f"{path} does not fit in memory", hint="is it damaged? else store fewer samples") from error
    except (OSError, ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path} is not {kind}, or is damaged: {error}", hint="fetch it again") from error


def _checked_samples(x: NDArray[Any], path: Path) -> NDArray[np.uint8] | NDArray[np.float32]:
    shape = list(x.shape)
    if x.ndim and not x.size:
        raise DataError(f"{path} has no samples", hint=_NPZ_HINT)
    if x.dtype == np.uint8 and x.ndim == 3:
        return x[..., np.newaxis]
    if x.dtype == np.uint8 and x.ndim == 4:
        if x.shape[3] in (1, 3):
            return x
        raise DataError(
            f"{path}: x is uint8 {shape}, which is not [N, H, W, C] with 1 or 3 channels",
            hint="x.transpose(0, 2, 3, 1) puts channels last" if x.shape[1] in (1, 3) else _NPZ_HINT,
        )
    if x.dtype.kind == "f" and x.dtype.itemsize == 4 and x.ndim >= 2:
        return x.astype(np.float32, copy=False)
    raise DataError(f"{path}: x is {x.dtype} {shape}", hint=_NPZ_HINT)


def _checked_labels(y: NDArray[Any], count: int, path: Path) -> NDArray[np.int64]:
    if y.dtype.kind not in "iu" or y.ndim != 1:
        raise DataError(
            f"{path}: labels are {y.dtype} {list(y.shape)}", hint="labels are integers, one per sample: [N]"
        )
    if len(y) != count:
        raise DataError(f"{path}: {len(y)} labels for {count} samples", hint="they must be as many, in the same order")
    if count and (y.min() < 0 or y.max() >= 2**31):
        raise DataError(f"{path}: labels from {y.min()} to {y.max()}", hint="labels are class numbers from 0 up")
    return y.astype(np.int64)


class _NumbersOnly(pickle.Unpickler):
    """Unpickles dicts, lists, numbers, bytes and numpy arrays of them: all that CIFAR-10's files hold."""

    def find_class(self, module: str, name: str) -> Any:
        # numpy's own spelling moved from numpy.core to numpy._core; importing either by name would warn somewhere.
        if (module, name) in (("numpy.core.multiarray", "_reconstruct"), ("numpy._core.multiarray", "_reconstruct")):
            return np.empty(0).__reduce__()[0]
        if module == "numpy" and name in ("ndarray", "dtype"):
            return getattr(np, name)
        if (module, name) == ("_codecs", "encode"):
            return _latin1
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which a file of numbers has no need of")


def _latin1(text: str, encoding: str) -> bytes:
    """How Python 3 writes bytes in the protocol of Python 2."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it encodes text as {encoding}")
    return text.encode("latin1")


def _read_cifar10_pickle(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    try:
        with path.open("rb") as file:
            # The published files are Python 2's, whose strings, and so whose keys, are bytes.
            content = _NumbersOnly(file, encoding="bytes").load()
        batch = {key.decode() if isinstance(key, bytes) else key: value for key, value in content.items()}
        pixels, labels = np.asarray(batch["data"]), np.asarray(batch["labels"])
    # A damaged pickle can raise anything; the language reference promises no list.
    except Exception as error:
        raise DataError(
            f"{path} is not a batch of CIFAR-10's python version: {error!s:.200}", hint="fetch it again"
        ) from error
    if pixels.dtype != np.uint8 or pixels.shape[1:] != (_CIFAR10_PIXELS,):
        raise DataError(
            f"{path}: data is {pixels.dtype} {list(pixels.shape)}, expected uint8 [N, {_CIFAR10_PIXELS}]",
            hint="fetch it again",
        )
    return pixels, _checked_labels(labels, len(pixels), path)


def _read_cifar10_binary(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    with _translated(path, "a batch of CIFAR-10's binary version"):
        data = path.read_bytes()
    record = 1 + _CIFAR10_PIXELS
    if not data or len(data) % record:
        raise DataError(
            f"{path} is truncated: {len(data)} bytes are not whole records of {record}", hint="fetch it again"
        )
    rows = np.frombuffer(data, dtype=np.uint8).reshape(-1, record)
    return rows[:, 1:], _checked_labels(rows[:, 0], len(rows), path)


def _only_match(folder: Path, pattern: str) -> Path | None:
    matches = {path.name: path for path in folder.glob(pattern) if path.is_file()}
    # torchvision leaves the .gz beside what it unpacked from it.
    distinct = sorted(name for name in matches if name.removesuffix(".gz") == name or name[:-3] not in matches)
    if len(distinct) > 1:
        raise DataError(f"{folder} has more than one {pattern}: {', '.join(distinct)}", hint="leave one of them there")
    return matches[distinct[0]] if distinct else None


def _read_idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """uint8 array of an idx file, the format of http://yann.lecun.com/exdb/mnist: type, rank and sizes, then bytes."""
    with _translated(path, "an idx file"):
        data = path.read_bytes()
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
    start = 4 + 4 * dimensions
    # 0x08 is the format's code for unsigned bytes.
    if data[:4] != bytes((0, 0, 8, dimensions)) or len(data) < start:
        raise DataError(
            f"{path} is not an idx file of unsigned bytes in {dimensions} dimension(s)", hint="fetch it again"
        )
    shape = [int(size) for size in np.frombuffer(data[4:start], dtype=">u4")]
    count = math.prod(shape)
    if len(data) - start != count or not count:
        raise DataError(
            f"{path} is truncated or damaged: {len(data) - start} bytes for an array of {shape}", hint="fetch it again"
        )
    return np.frombuffer(data, dtype=np.uint8, offset=start).reshape(shape)
