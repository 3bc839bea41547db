"""Labelled images from where they lie to batches for a model: what a DATA argument names, and which of it is used.

The readers are next door (`image_files`, `arrays`); what they return satisfies `Dataset`, and no more is known of it.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from edgebench.config import find_calibration_set, names
from edgebench.errors import DataError
from edgebench.evaluation.arrays import Split, open_cifar10, open_digits, open_mnist, open_npz
from edgebench.evaluation.image_files import open_csv, open_imagefolder
from edgebench.evaluation.preprocess import apply, arrange, keeps_values, resolve_preprocess
from edgebench.types import Preprocess, TensorSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["KINDS", "Dataset", "batches", "choose", "content_sha256", "open_dataset", "overlap", "pixels"]

KINDS = {
    "imagefolder": "imagefolder:DIR",
    "npz": "npz:FILE",
    "csv": "csv:FILE[:SPLIT]",
    "cifar10": "cifar10:DIR[:train|:test]",
    "mnist": "mnist:DIR[:train|:test]",
    "fashion-mnist": "fashion-mnist:DIR[:train|:test]",
    "digits": "digits[:train|:test]",
}


class Dataset(Protocol):
    """Samples, and labels where there are any."""

    @property
    def spec(self) -> str:
        """The DATA argument that named it."""

    @property
    def labels(self) -> NDArray[np.int64] | None:
        """`[N]`, each from 0 up; None where samples have no labels."""

    @property
    def class_count(self) -> int | None:
        """How many classes there are, where the format says so."""

    @property
    def ready(self) -> bool:
        """Whether samples are already what the model takes; `preprocess` is then not applied."""

    @property
    def default_preprocess(self) -> str | None:
        """The built-in preprocessing that is usual for this data."""

    def __len__(self) -> int: ...

    def load(self, index: int) -> NDArray[np.uint8] | NDArray[np.float32]:
        """uint8 `[H, W, C]` with C = 1 or 3 (RGB); or, where `ready`, float32 without the batch axis.

        Raises:
            DataError: a broken image file.
        """

    def content(self, index: int) -> bytes:
        """Bytes that identify the sample, without decoding it: the file's, or the array's."""


def open_dataset(spec: str) -> Dataset:
    """The data set that a DATA argument names: `KIND:PATH`, or the name of a set in `calib/` (of which: its data).

    Raises:
        DataError: an unknown kind or name, or data that is missing or damaged.
        MissingExtra: `digits` without scikit-learn.
    """
    if spec.partition(":")[0] in KINDS:
        return _open(spec, spec)
    calibration = None if not spec or ":" in spec else find_calibration_set(spec)
    if calibration is not None:
        if calibration.data.partition(":")[0] not in KINDS:
            raise DataError(
                f"calibration set `{spec}` has the data `{calibration.data}`, which is of no known kind",
                hint=_kinds_hint(),
            )
        return _open(calibration.data, spec)
    kind, colon, _ = spec.partition(":")
    problem = f"`{kind}` is no kind of data" if colon else "it is no kind of data and no calibration set"
    raise DataError(f"`{spec}` names no data: {problem}", hint=_likely(spec) or _kinds_hint())


def choose(dataset: Dataset, samples: int | None, seed: int = 0) -> list[int]:
    """Sorted indices of `samples` of the data set, the same ones for the same seed; all of it for None.

    With labels, classes get equal shares as far as they last: a round takes one of every class, in random order.

    Raises:
        DataError: fewer than one sample asked for.
    """
    if samples is not None and samples < 1:
        raise DataError(f"{samples} samples of {dataset.spec} are none", hint="ask for 1 or more")
    if samples is None or samples >= len(dataset):
        return list(range(len(dataset)))
    # Not default_rng: only RandomState's stream is frozen (NEP 19), and content hashes in calib/ rest on it.
    order = [int(index) for index in np.random.RandomState(seed % 2**32).permutation(len(dataset))]
    if dataset.labels is not None:
        taken: Counter[int] = Counter()
        rounds = []
        for index in order:
            label = int(dataset.labels[index])
            rounds.append((taken[label], index))
            taken[label] += 1
        order = [index for _, index in sorted(rounds, key=lambda pair: pair[0])]
    return sorted(order[:samples])


def content_sha256(dataset: Dataset, indices: Sequence[int]) -> str:
    """Hexadecimal SHA-256 over content and label of the samples, in the order of `indices`."""
    digest = hashlib.sha256()
    for index in indices:
        content = dataset.content(index)
        label = b"" if dataset.labels is None else str(int(dataset.labels[index])).encode()
        # Lengths first, so that no two lists of samples run together into the same bytes.
        digest.update(f"{len(content)} {len(label)} ".encode() + content + label)
    return digest.hexdigest()


def overlap(a: Dataset, a_indices: Sequence[int], b: Dataset, b_indices: Sequence[int]) -> int:
    """How many of the chosen samples of `b` have exactly the content of a chosen sample of `a`."""
    seen = {hashlib.sha256(a.content(index)).digest() for index in a_indices}
    return sum(hashlib.sha256(b.content(index)).digest() in seen for index in b_indices)


def batches(
    dataset: Dataset, indices: Sequence[int], preprocess: Preprocess | None, spec: TensorSpec
) -> Iterator[NDArray[Any]]:
    """Model inputs of the samples, in order, each array of exactly the shape and dtype of `spec`.

    The batch is `spec.shape[0]`, 1 where that is free (-1); other free dimensions take the sample's size. The last
    batch is filled up with its last sample, so the caller keeps `len(indices)` rows of the results. `preprocess` None
    is the data set's own default.

    Raises:
        DataError: no preprocessing is known, one is given for data that is ready, or its result does not fit `spec`.
    """
    prepare = _preparation(dataset, preprocess)
    size = max(1, spec.shape[0]) if spec.shape else 1
    for start in range(0, len(indices), size):
        rows = [_fitting(prepare(dataset.load(index)), dataset, spec) for index in indices[start : start + size]]
        if any(row.shape != rows[0].shape for row in rows):
            raise DataError(
                f"images of {dataset.spec} differ in size after preprocessing and cannot form a batch of {size}",
                hint="choose a --preprocess that resizes or crops to one size",
            )
        yield np.stack(rows + rows[-1:] * (size - len(rows)))


def pixels(
    dataset: Dataset, indices: Sequence[int], preprocess: Preprocess | None, spec: TensorSpec
) -> list[NDArray[np.uint8]] | None:
    """The samples in the size and with the channels that `preprocess` gives them, uint8 `[H, W, C]`, all of one shape,
    which are normalised where they are used; None where samples or inputs are no such images.

    Raises:
        DataError: as `batches`.
    """
    if preprocess is None or dataset.ready or np.dtype(spec.dtype).kind != "f":
        return None
    arranged = [arrange(np.asarray(dataset.load(index), dtype=np.uint8), preprocess) for index in indices]
    if any(image.shape != arranged[0].shape for image in arranged):
        return None
    # Whether it fits is seen on the first.
    next(batches(dataset, indices[:1], preprocess, spec))
    return arranged


def _kinds_hint() -> str:
    sets = ", ".join(names("calib"))
    return f"kinds: {', '.join(KINDS.values())}; calibration sets: {sets or 'none'}"


def _likely(spec: str) -> str | None:
    path = Path(spec).expanduser()
    if spec and path.is_dir():
        return f"did you mean `imagefolder:{spec}`?"
    if path.suffix in (".npz", ".csv") and path.is_file():
        return f"did you mean `{path.suffix[1:]}:{spec}`?"
    return None


def _open(data: str, spec: str) -> Dataset:
    """The data set at `data`, which is to be called `spec`."""
    kind, _, rest = data.partition(":")
    if kind == "digits":
        return open_digits(spec, _split_name(rest or "test", data))
    if not rest:
        raise DataError(f"`{data}` says not where the data is", hint=f"write {KINDS[kind]}")
    if kind == "imagefolder":
        return open_imagefolder(spec, Path(rest).expanduser())
    if kind == "npz":
        return open_npz(spec, Path(rest).expanduser())
    if kind == "csv":
        path, split = _path_and_split(rest, lambda head, _: head.is_file() or head.suffix.lower() == ".csv")
        return open_csv(spec, path, split)
    directory, split = _path_and_split(rest, lambda head, tail: tail in ("train", "test") or head.is_dir())
    chosen = _split_name(split or "test", data)
    if kind == "cifar10":
        return open_cifar10(spec, directory, chosen)
    return open_mnist(spec, directory, chosen, "mnist" if kind == "mnist" else "fashion-mnist")


def _path_and_split(rest: str, is_split: Callable[[Path, str], bool]) -> tuple[Path, str | None]:
    """`PATH` or `PATH:SPLIT`; a path may itself hold colons, and one that exists is never taken apart."""
    whole = Path(rest).expanduser()
    head, colon, tail = rest.rpartition(":")
    if colon and head and tail and not whole.exists() and is_split(Path(head).expanduser(), tail):
        return Path(head).expanduser(), tail
    return whole, None


def _split_name(name: str, data: str) -> Split:
    if name == "train":
        return "train"
    if name == "test":
        return "test"
    raise DataError(f"`{data}` asks for the split `{name}`", hint="there are: train, test")


def _preparation(dataset: Dataset, preprocess: Preprocess | None) -> Callable[[NDArray[Any]], NDArray[np.float32]]:
    if dataset.ready:
        if preprocess is not None and not keeps_values(preprocess):
            raise DataError(
                f"{dataset.spec} holds float32 samples, taken as ready; `{preprocess.name}` would normalise them twice",
                hint="use --preprocess none, or store the images as uint8",
            )
        return lambda sample: sample
    if preprocess is None:
        if dataset.default_preprocess is None:
            raise DataError(
                f"{dataset.spec} holds images, and nothing says how the model wants them prepared",
                hint="give --preprocess: imagenet, cifar10, none, ... or a TOML file",
            )
        preprocess = resolve_preprocess(dataset.default_preprocess)
    chosen = preprocess
    return lambda sample: apply(sample, chosen)


def _fitting(sample: NDArray[np.float32], dataset: Dataset, spec: TensorSpec) -> NDArray[Any]:
    """The sample in the dtype of `spec`, once its shape is what `spec` wants behind the batch axis."""
    wanted = spec.shape[1:]
    if sample.ndim != len(wanted) or any(
        size not in (-1, given) for size, given in zip(wanted, sample.shape, strict=True)
    ):
        raise DataError(
            f"{dataset.spec} gives float32 {[1, *sample.shape]} per sample; input `{spec.name}` wants "
            f"{spec.dtype} {list(spec.shape)}",
            hint="choose another --preprocess, or say what the model takes with --input-shape",
        )
    try:
        dtype = np.dtype(spec.dtype)
    except TypeError:
        dtype = np.dtype(object)
    if dtype.kind == "f":
        return sample.astype(dtype, copy=False)
    if dtype.kind not in "iu":
        raise DataError(
            f"input `{spec.name}` wants {spec.dtype}, which images cannot become", hint="is it an image model?"
        )
    whole, limits = np.rint(sample), np.iinfo(dtype)
    # A cast would wrap around or cut off silently, and the accuracy would only look bad.
    if not np.allclose(sample, whole, rtol=0, atol=1e-3) or whole.min() < limits.min or whole.max() > limits.max:
        raise DataError(
            f"{dataset.spec} gives values from {sample.min():.3g} to {sample.max():.3g}; input `{spec.name}` wants "
            f"whole numbers of {dtype}",
            hint="integer inputs take pixels: --preprocess none, or a TOML with scale = 1 and a whole `mean`",
        )
    return whole.astype(dtype)
