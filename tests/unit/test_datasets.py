"""Every kind of DATA is read as it lies on disk, and what cannot be read is told with its remedy."""

from __future__ import annotations

import builtins
import gzip
import io
import pickle
import shutil
import struct
import sys
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from edgebench.config import find_calibration_set
from edgebench.errors import DataError, MissingExtra
from edgebench.evaluation.arrays import Arrays
from edgebench.evaluation.datasets import KINDS, batches, choose, content_sha256, open_dataset, overlap
from edgebench.evaluation.preprocess import BUILT_IN
from edgebench.types import Preprocess, TensorSpec

SHARED = Path(__file__).parents[3] / "shared" / "data"


def shared(name: str) -> Path:
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"needs {path}")
    return path


def gray(value: int, side: int = 4) -> np.ndarray:
    return np.full((side, side), value, dtype=np.uint8)


def write_image(path: Path, pixels: np.ndarray, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def in_memory(count: int, labels: list[int] | None = None) -> Arrays:
    """Samples of 1x1 whose only pixel is their index."""
    samples = np.arange(count, dtype=np.uint8).reshape(count, 1, 1, 1)
    return Arrays("memory", samples, None if labels is None else np.asarray(labels, dtype=np.int64))


def refusal(spec: str) -> DataError:
    with pytest.raises(DataError) as caught:
        open_dataset(spec)
    assert caught.value.hint
    return caught.value


# --- what a spec names ---


@pytest.mark.parametrize("spec", ["imagenet:/data", "resnet", ""])
def test_unknown_data_lists_the_kinds(spec: str) -> None:
    error = refusal(spec)

    assert f"`{spec}` names no data" in str(error)
    assert error.hint is not None
    assert all(kind in error.hint for kind in KINDS)


def test_bare_path_is_answered_with_the_spec_that_was_meant(tmp_path: Path) -> None:
    assert refusal(str(tmp_path)).hint == f"did you mean `imagefolder:{tmp_path}`?"


@pytest.mark.parametrize("kind", ["imagefolder", "npz", "csv", "cifar10", "mnist", "fashion-mnist"])
def test_kind_without_a_path_or_with_a_missing_one_is_refused(kind: str, tmp_path: Path) -> None:
    assert "says not where the data is" in str(refusal(kind))
    assert "says not where the data is" in str(refusal(f"{kind}:"))
    assert str(tmp_path / "absent") in str(refusal(f"{kind}:{tmp_path / 'absent'}"))


def test_calibration_set_gives_its_data_under_its_own_name() -> None:
    pytest.importorskip("sklearn", reason="needs scikit-learn")
    dataset = open_dataset("digits256")

    assert dataset.spec == "digits256"
    assert len(dataset) == 1438
    assert dataset.default_preprocess == "digits"


def test_calibration_set_that_names_another_set_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "calib").mkdir()
    (tmp_path / "calib" / "loop.toml").write_text('data = "loop"\nsamples = 1\n')

    assert "of no known kind" in str(refusal("loop"))


def test_content_of_the_shipped_calibration_set_is_what_it_says() -> None:
    pytest.importorskip("sklearn", reason="needs scikit-learn")
    described = find_calibration_set("digits256")
    assert described is not None
    dataset = open_dataset("digits256")

    chosen = choose(dataset, described.samples, described.seed)

    assert content_sha256(dataset, chosen) == described.sha256


# --- imagefolder ---


def test_imagefolder_numbers_classes_in_the_order_of_their_names(tmp_path: Path) -> None:
    write_image(tmp_path / "dog" / "1.png", gray(1))
    write_image(tmp_path / "cat" / "2.PNG", gray(2))
    write_image(tmp_path / "dog" / "deeper" / "3.bmp", gray(3))
    (tmp_path / "dog" / "notes.txt").write_text("no image")

    dataset = open_dataset(f"imagefolder:{tmp_path}")

    assert dataset.labels is not None
    assert dataset.labels.dtype == np.int64
    assert dataset.labels.tolist() == [0, 1, 1]
    assert [int(dataset.load(index)[0, 0, 0]) for index in range(3)] == [2, 1, 3]
    assert (dataset.class_count, dataset.ready, dataset.default_preprocess) == (2, False, None)


def test_flat_folder_of_images_has_no_labels(tmp_path: Path) -> None:
    write_image(tmp_path / "b.jpeg", gray(0))
    write_image(tmp_path / "a.webp", gray(0))
    (tmp_path / "empty").mkdir()

    dataset = open_dataset(f"imagefolder:{tmp_path}")

    assert len(dataset) == 2
    assert dataset.labels is None
    assert dataset.content(0) == (tmp_path / "a.webp").read_bytes()


def test_folder_without_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "readme.txt").write_text("nothing here")

    assert "has no images" in str(refusal(f"imagefolder:{tmp_path}"))


def test_class_folder_without_images_is_refused_by_name(tmp_path: Path) -> None:
    write_image(tmp_path / "cat" / "1.png", gray(0))
    (tmp_path / "dog").mkdir()

    assert "without an image: dog" in str(refusal(f"imagefolder:{tmp_path}"))


# --- image files ---


def loaded(path: Path) -> np.ndarray:
    path.with_suffix(".csv").write_text(f"file\n{path.name}\n")
    return open_dataset(f"csv:{path.with_suffix('.csv')}").load(0)


@pytest.mark.parametrize("mode", ["RGBA", "P", "LA", "1", "CMYK"])
def test_other_colour_modes_become_rgb(mode: str, tmp_path: Path) -> None:
    path = tmp_path / ("x.jpg" if mode == "CMYK" else "x.png")
    Image.new("RGB", (3, 2), (255, 255, 255)).convert(mode).save(path)

    pixels = loaded(path)

    assert pixels.shape == (2, 3, 3)
    assert pixels.dtype == np.uint8
    assert (pixels == 255).all()


def test_transparent_palette_gives_its_colours_without_a_warning(tmp_path: Path) -> None:
    image = Image.new("P", (1, 1))
    image.putpalette([10, 20, 30])
    image.save(tmp_path / "x.png", transparency=b"\x00")

    assert loaded(tmp_path / "x.png").tolist() == [[[10, 20, 30]]]


def test_gray_file_stays_gray(tmp_path: Path) -> None:
    assert loaded(write_image(tmp_path / "x.png", gray(9))).shape == (4, 4, 1)


def test_exif_orientation_is_left_alone(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # "rotate by 90 degrees to show"
    path = write_image(tmp_path / "x.jpg", np.zeros((2, 5), dtype=np.uint8), exif=exif)

    assert loaded(path).shape == (2, 5, 1)


def test_sixteen_bit_image_is_refused_rather_than_clipped(tmp_path: Path) -> None:
    path = write_image(tmp_path / "x.png", np.full((2, 2), 40000, dtype=np.uint16))

    with pytest.raises(DataError, match=r"x\.png has more than 8 bits"):
        loaded(path)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "bmp"])
def test_truncated_image_is_refused_by_name_when_loaded(suffix: str, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    path = write_image(tmp_path / f"x.{suffix}", noise)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    with pytest.raises(DataError, match=rf"x\.{suffix} (cannot be decoded|is not an image)"):
        loaded(path)


def test_file_that_is_no_image_is_refused_by_name_when_loaded(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_text("<html>not found</html>")

    with pytest.raises(DataError, match=r"x\.jpg is not an image"):
        loaded(tmp_path / "x.jpg")


# Pillow warns of the first and refuses the second by itself.
@pytest.mark.parametrize("side", [10_000, 60_000])
def test_decompression_bomb_is_refused_by_name_when_loaded(side: int, tmp_path: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    (tmp_path / "x.png").write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", b""))

    with pytest.raises(DataError, match=r"x\.png is too large"):
        loaded(tmp_path / "x.png")


def test_file_that_vanished_is_refused_by_name_when_read(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a" / "x.png", gray(0))
    dataset = open_dataset(f"imagefolder:{tmp_path}")
    path.unlink()

    with pytest.raises(DataError, match=r"x\.png cannot be decoded"):
        dataset.load(0)
    with pytest.raises(DataError, match=r"x\.png cannot be read"):
        dataset.content(0)


# --- csv ---


def test_csv_finds_files_beside_it_and_in_the_folder_named_like_it(tmp_path: Path) -> None:
    write_image(tmp_path / "near.png", gray(1))
    write_image(tmp_path / "set" / "far.png", gray(2))
    (tmp_path / "set.csv").write_text("author,file,label\nme,near.png,7\nyou,far.png,0\n")

    dataset = open_dataset(f"csv:{tmp_path}/set.csv")

    assert dataset.labels is not None
    assert dataset.labels.tolist() == [7, 0]
    assert [int(dataset.load(index)[0, 0, 0]) for index in range(2)] == [1, 2]
    assert dataset.class_count is None


def test_csv_of_a_spreadsheet_is_read(tmp_path: Path) -> None:
    write_image(tmp_path / "ü, 1.png", gray(1))
    (tmp_path / "set.csv").write_bytes('\ufefffile, label\r\n"ü, 1.png", 3\r\n'.encode())

    dataset = open_dataset(f"csv:{tmp_path}/set.csv")

    assert dataset.labels is not None
    assert dataset.labels.tolist() == [3]


def test_csv_without_a_label_column_has_no_labels(tmp_path: Path) -> None:
    write_image(tmp_path / "x.png", gray(1))
    (tmp_path / "set.csv").write_text("file\nx.png\n")

    assert open_dataset(f"csv:{tmp_path}/set.csv").labels is None


def test_csv_split_keeps_its_rows_only(tmp_path: Path) -> None:
    for name in "abc":
        write_image(tmp_path / f"{name}.png", gray(1))
    (tmp_path / "set.csv").write_text("file,label,split\na.png,0,eval\nb.png,1,calib\nc.png,2,eval\n")

    dataset = open_dataset(f"csv:{tmp_path}/set.csv:eval")

    assert dataset.labels is not None
    assert dataset.labels.tolist() == [0, 2]
    assert dataset.spec == f"csv:{tmp_path}/set.csv:eval"


def test_colon_in_a_path_that_exists_is_part_of_it(tmp_path: Path) -> None:
    write_image(tmp_path / "x.png", gray(1))
    (tmp_path / "set.csv").write_text("file,split\nx.png,other\n")
    (tmp_path / "set.csv:eval").write_text("file\nx.png\nx.png\n")

    assert len(open_dataset(f"csv:{tmp_path}/set.csv:eval")) == 2


@pytest.mark.parametrize(
    ("text", "suffix", "message"),
    [
        ("", "", "no column `file`"),
        ("x.png,1\n", "", r"no column `file` \(columns: x.png, 1\)"),
        ("file,label\n", "", "has no rows"),
        ("file,label\nx.png,one\n", "", "line 2: the label `one` is not an integer"),
        ("file,label\nx.png,1\nx.png,-1\n", "", "line 3: the label `-1`"),
        ("file,label\nx.png,1.5\n", "", "the label `1.5`"),
        ("file,label\nx.png\n", "", "the label ``"),
        ("file,label\ny.png,1\n", "", "line 2: there is no image file `y.png`"),
        ("label,file\n1\n", "", "line 2: there is no image file ``"),
        ("file,label\nx.png,1\n", ":eval", "no column `split`"),
        ("file,split\nx.png,calib\n", ":eval", "no row of split `eval`"),
    ],
)
def test_csv_that_cannot_be_used_is_refused(text: str, suffix: str, message: str, tmp_path: Path) -> None:
    write_image(tmp_path / "x.png", gray(1))
    (tmp_path / "set.csv").write_text(text)

    with pytest.raises(DataError, match=message):
        open_dataset(f"csv:{tmp_path}/set.csv{suffix}")


def test_csv_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "set.csv").write_bytes(b"file\n\xff\xfe\x00")

    assert "is not a CSV file in UTF-8" in str(refusal(f"csv:{tmp_path}/set.csv"))


# --- npz ---


@pytest.mark.parametrize(("x", "y"), [("x", "y"), ("images", "labels")])
def test_npz_of_uint8_images_is_read(x: str, y: str, tmp_path: Path) -> None:
    pixels = np.arange(2 * 3 * 4 * 3, dtype=np.uint8).reshape(2, 3, 4, 3)
    np.savez(tmp_path / "set.npz", **{x: pixels, y: np.asarray([5, 6], dtype=np.int32)})

    dataset = open_dataset(f"npz:{tmp_path}/set.npz")

    assert not dataset.ready
    assert dataset.labels is not None
    assert dataset.labels.tolist() == [5, 6]
    assert (dataset.load(1) == pixels[1]).all()
    assert dataset.content(1) == pixels[1].tobytes()


def test_npz_of_gray_images_gets_a_channel_axis(tmp_path: Path) -> None:
    np.savez(tmp_path / "set.npz", x=np.zeros((2, 3, 4), dtype=np.uint8))

    dataset = open_dataset(f"npz:{tmp_path}/set.npz")

    assert dataset.load(0).shape == (3, 4, 1)
    assert dataset.labels is None


@pytest.mark.parametrize("order", ["<", ">"])
def test_npz_of_float32_is_ready(order: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "set.npz", x=np.ones((2, 3, 4, 4), dtype=f"{order}f4"), y=np.asarray([0, 1]))

    dataset = open_dataset(f"npz:{tmp_path}/set.npz")

    assert dataset.ready
    assert dataset.load(0).dtype == np.dtype(np.float32)
    assert dataset.load(0).shape == (3, 4, 4)


IMAGES = np.zeros((2, 4, 4, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"pictures": IMAGES}, r"no array `x` or `images` \(it has: pictures\)"),
        ({"x": IMAGES.astype(np.float64)}, "x is float64"),
        ({"x": IMAGES.astype(np.int64)}, "x is int64"),
        ({"x": IMAGES.transpose(0, 3, 1, 2)}, "not .N, H, W, C."),
        ({"x": IMAGES[0, 0]}, "x is uint8"),
        ({"x": IMAGES[:0]}, "no samples"),
        ({"x": IMAGES, "y": np.asarray([0.0, 1.0])}, "labels are float64"),
        ({"x": IMAGES, "y": np.asarray(["cat", "dog"])}, "labels are <U3"),
        ({"x": IMAGES, "y": np.eye(2, dtype=np.int64)}, "labels are int64"),
        ({"x": IMAGES, "y": np.asarray([0, 1, 2])}, "3 labels for 2 samples"),
        ({"x": IMAGES, "y": np.asarray([0, -1])}, "labels from -1 to 0"),
        ({"x": IMAGES, "y": np.asarray([0, None], dtype=object)}, "Object arrays cannot be loaded"),
    ],
)
def test_npz_with_other_arrays_is_refused(content: dict[str, np.ndarray], message: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "set.npz", **content)

    with pytest.raises(DataError, match=message):
        open_dataset(f"npz:{tmp_path}/set.npz")


@settings(deadline=None)
@given(st.data())
def test_damaged_npz_is_refused_or_read_but_never_a_crash(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, x=IMAGES, y=np.asarray([0, 1]))
    whole = bytearray(buffer.getvalue())
    whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("npz") / "set.npz"
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole)))])

    try:
        open_dataset(f"npz:{path}")
    except DataError as error:
        assert str(path) in str(error)


def test_npz_that_is_a_pickle_is_refused_without_advice_to_load_it(tmp_path: Path) -> None:
    (tmp_path / "set.npz").write_bytes(pickle.dumps({"x": 1}))

    error = refusal(f"npz:{tmp_path}/set.npz")

    assert "is not an npz file" in str(error)
    assert "allow_pickle" not in str(error)


# --- cifar10 ---


def cifar_batch(first: int, count: int = 2) -> dict[bytes, Any]:
    """Red is `first` + index, green 100, blue 200; the first pixel of the last row is black."""
    data = np.repeat(np.asarray([[0, 100, 200]], dtype=np.uint8), 1024, axis=1).repeat(count, axis=0)
    data[:, :1024] = np.arange(first, first + count, dtype=np.uint8)[:, np.newaxis]
    data[:, [31 * 32, 1024 + 31 * 32, 2048 + 31 * 32]] = 0
    return {b"batch_label": b"batch", b"labels": [first + index for index in range(count)], b"data": data}


class _Python2Pickler(pickle._Pickler):
    """Writes what Python 2's pickle wrote for str, as in the published files."""

    def _save_string(self, value: str | bytes) -> None:
        text = value.encode("latin1") if isinstance(value, str) else value
        self.write(pickle.BINSTRING + struct.pack("<i", len(text)) + text)

    dispatch = {**pickle._Pickler.dispatch, bytes: _save_string, str: _save_string}  # noqa: RUF012


def python2_pickle(value: object) -> bytes:
    buffer = io.BytesIO()
    _Python2Pickler(buffer, protocol=2).dump(value)
    return buffer.getvalue().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


def check_cifar(spec: str, labels: list[int]) -> None:
    dataset = open_dataset(spec)
    assert dataset.labels is not None
    assert dataset.labels.tolist() == labels
    assert dataset.load(0).shape == (32, 32, 3)
    assert dataset.load(1)[0, 0].tolist() == [labels[1], 100, 200]
    assert dataset.load(1)[31, 0].tolist() == [0, 0, 0]
    assert (dataset.class_count, dataset.default_preprocess) == (10, "cifar10")


@pytest.mark.parametrize(
    "dumps",
    [python2_pickle, lambda value: pickle.dumps(value, 2), lambda value: pickle.dumps(value, 4)],
    ids=["python-2", "protocol-2", "protocol-4"],
)
def test_cifar10_python_version_is_read(dumps: Callable[[object], bytes], tmp_path: Path) -> None:
    (tmp_path / "cifar-10-batches-py").mkdir()
    (tmp_path / "cifar-10-batches-py" / "test_batch").write_bytes(dumps(cifar_batch(3)))

    check_cifar(f"cifar10:{tmp_path}", [3, 4])
    check_cifar(f"cifar10:{tmp_path}/cifar-10-batches-py:test", [3, 4])


def test_cifar10_train_is_its_five_batches_in_order(tmp_path: Path) -> None:
    for number in range(1, 6):
        (tmp_path / f"data_batch_{number}").write_bytes(pickle.dumps(cifar_batch(number), 2))

    check_cifar(f"cifar10:{tmp_path}:train", [1, 2, 2, 3, 3, 4, 4, 5, 5, 6])


def test_cifar10_binary_version_is_read(tmp_path: Path) -> None:
    batch = cifar_batch(3)
    rows = np.hstack([np.asarray(batch[b"labels"], dtype=np.uint8)[:, np.newaxis], batch[b"data"]])
    (tmp_path / "cifar-10-batches-bin").mkdir()
    (tmp_path / "cifar-10-batches-bin" / "test_batch.bin").write_bytes(rows.tobytes())

    check_cifar(f"cifar10:{tmp_path}", [3, 4])


def test_cifar10_file_that_would_run_code_is_refused_by_what_it_calls(tmp_path: Path) -> None:
    (tmp_path / "test_batch").write_bytes(b"cos\nsystem\n(S'touch " + bytes(tmp_path / "ran") + b"'\ntR.")

    error = refusal(f"cifar10:{tmp_path}")

    assert "os.system" in str(error)
    assert not (tmp_path / "ran").exists()


def test_cifar10_file_that_asks_for_a_builtin_is_refused(tmp_path: Path) -> None:
    (tmp_path / "test_batch").write_bytes(pickle.dumps({"data": builtins.eval}, 2))

    assert "eval" in str(refusal(f"cifar10:{tmp_path}"))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        pickle.dumps([1, 2]),
        pickle.dumps({"data": IMAGES}),
        pickle.dumps({**cifar_batch(0), b"data": cifar_batch(0)[b"data"][:, :100]}),
        pickle.dumps({**cifar_batch(0), b"labels": [1]}),
        pickle.dumps({**cifar_batch(0), b"labels": ["cat", "dog"]}),
        pickle.dumps(cifar_batch(0))[:1000],
    ],
)
def test_cifar10_batch_that_is_damaged_is_refused_by_name(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "test_batch").write_bytes(content)

    assert str(tmp_path / "test_batch") in str(refusal(f"cifar10:{tmp_path}"))


def test_cifar10_binary_that_is_truncated_is_refused(tmp_path: Path) -> None:
    (tmp_path / "test_batch.bin").write_bytes(bytes(3073 + 100))

    assert "truncated" in str(refusal(f"cifar10:{tmp_path}"))


def test_cifar10_missing_batches_are_named(tmp_path: Path) -> None:
    (tmp_path / "data_batch_2").write_bytes(pickle.dumps(cifar_batch(0), 2))

    assert "lacks data_batch_1, data_batch_3, data_batch_4, data_batch_5" in str(refusal(f"cifar10:{tmp_path}:train"))


def test_unknown_split_lists_the_splits(tmp_path: Path) -> None:
    assert refusal(f"cifar10:{tmp_path}:val").hint == "there are: train, test"
    assert refusal("digits:val").hint == "there are: train, test"


# --- mnist ---


def idx(array: np.ndarray) -> bytes:
    return bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write_mnist(folder: Path, split: str = "t10k", *, first: int = 0, zipped: bool = False) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    images = np.full((3, 4, 5), 9, dtype=np.uint8)
    images[:, 0, 0] = np.arange(first, first + 3)
    for name, array in (("images-idx3", images), ("labels-idx1", np.asarray([2, 0, 1], dtype=np.uint8))):
        data = idx(array)
        path = folder / f"{split}-{name}-ubyte{'.gz' if zipped else ''}"
        path.write_bytes(gzip.compress(data) if zipped else data)


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize(
    ("kind", "place"),
    [
        ("mnist", ""),
        ("mnist", "MNIST/raw"),
        ("mnist", "raw"),
        ("fashion-mnist", ""),
        ("fashion-mnist", "FashionMNIST/raw"),
        ("fashion-mnist", "raw"),
    ],
)
def test_mnist_is_found_where_people_keep_it(kind: str, place: str, zipped: bool, tmp_path: Path) -> None:
    write_mnist(tmp_path / place, zipped=zipped)

    dataset = open_dataset(f"{kind}:{tmp_path}")

    assert dataset.labels is not None
    assert dataset.labels.tolist() == [2, 0, 1]
    assert dataset.load(1).shape == (4, 5, 1)
    assert dataset.load(1)[0, 0, 0] == 1
    assert (dataset.class_count, dataset.default_preprocess) == (10, kind)


def test_mnist_split_is_chosen_by_its_suffix_and_is_test_without_one(tmp_path: Path) -> None:
    write_mnist(tmp_path, "train", first=100)
    write_mnist(tmp_path, "t10k", first=50)

    assert open_dataset(f"mnist:{tmp_path}:train").load(0)[0, 0, 0] == 100
    assert open_dataset(f"mnist:{tmp_path}:test").load(0)[0, 0, 0] == 50
    assert open_dataset(f"mnist:{tmp_path}").load(0)[0, 0, 0] == 50


def test_mnist_file_beside_its_own_gz_is_one_file(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    write_mnist(tmp_path, zipped=True)

    assert len(open_dataset(f"mnist:{tmp_path}")) == 3


def test_mnist_with_two_candidates_names_them(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    write_mnist(tmp_path, "t10k-first")

    assert "t10k-first-images-idx3-ubyte, t10k-images-idx3-ubyte" in str(refusal(f"mnist:{tmp_path}"))


def test_mnist_without_labels_is_refused(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()

    assert "no t10k*labels*idx1*" in str(refusal(f"mnist:{tmp_path}"))


def test_mnist_with_other_number_of_labels_is_refused(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(idx(np.zeros(2, dtype=np.uint8)))

    assert "2 labels for 3 samples" in str(refusal(f"mnist:{tmp_path}"))


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1],
        lambda data: data[:10],
        lambda data: b"",
        lambda data: data + b"\x00",
        lambda data: b"\x00\x00\x0d\x03" + data[4:],
        lambda data: data[:4] + b"\xff" * 12 + data[16:],
        lambda data: gzip.compress(data)[:-20],
        lambda data: b"\x1f\x8b" + data,
    ],
)
def test_damaged_idx_file_is_refused_by_name(damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    write_mnist(tmp_path)
    path = tmp_path / "t10k-images-idx3-ubyte"
    path.write_bytes(damage(path.read_bytes()))

    assert str(path) in str(refusal(f"mnist:{tmp_path}"))


# --- digits ---


def test_digits_are_scikit_learns_with_every_fifth_for_test() -> None:
    datasets = pytest.importorskip("sklearn.datasets", reason="needs scikit-learn")
    theirs = datasets.load_digits()
    train, test = open_dataset("digits:train"), open_dataset("digits")

    assert (len(train), len(test)) == (1438, 359)
    assert train.labels is not None
    assert test.labels is not None
    assert train.labels[:5].tolist() == theirs.target[[0, 1, 2, 3, 5]].tolist()
    assert test.labels[:2].tolist() == theirs.target[[4, 9]].tolist()
    assert test.load(0).dtype == np.uint8
    # 16 becomes 255; half a step of rounding is 16 / 255 / 2.
    np.testing.assert_allclose(test.load(1)[:, :, 0] * (16 / 255), theirs.images[9], atol=0.032)
    assert overlap(train, range(1438), test, range(359)) == 0


def test_digits_without_scikit_learn_name_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)

    with pytest.raises(MissingExtra, match="scikit-learn is not installed") as caught:
        open_dataset("digits")
    assert caught.value.extra == "digits"


# --- choosing samples ---


def test_all_samples_are_chosen_when_there_are_no_more() -> None:
    assert choose(in_memory(4), None, 0) == [0, 1, 2, 3]
    assert choose(in_memory(4, [0, 0, 1, 1]), 9, 0) == [0, 1, 2, 3]


@settings(deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=80), st.integers(1, 80), st.integers(-5, 2**40))
def test_chosen_samples_are_spread_evenly_over_classes(labels: list[int], samples: int, seed: int) -> None:
    dataset = in_memory(len(labels), labels)

    chosen = choose(dataset, samples, seed)

    assert chosen == sorted(set(chosen))
    assert len(chosen) == min(samples, len(labels))
    assert chosen == choose(dataset, samples, seed)
    taken, there = Counter(labels[index] for index in chosen), Counter(labels)
    # A class is behind the fullest one by more than a round only when it has run out.
    assert all(taken[label] >= max(taken.values()) - 1 or taken[label] == there[label] for label in there)


def test_seed_changes_the_choice() -> None:
    assert choose(in_memory(100), 10, 0) != choose(in_memory(100), 10, 1)
    assert choose(in_memory(100, [0] * 100), 10, 0) != choose(in_memory(100, [0] * 100), 10, 1)


def test_fewer_samples_than_classes_do_not_favour_the_first_classes() -> None:
    dataset = in_memory(100, list(range(100)))

    assert max(choose(dataset, 10, 0)) >= 50


@pytest.mark.parametrize("samples", [0, -1])
def test_no_samples_are_refused(samples: int) -> None:
    with pytest.raises(DataError, match=f"{samples} samples of memory"):
        choose(in_memory(4), samples, 0)


# --- identity of content ---


def test_content_hash_depends_on_pixels_labels_and_choice() -> None:
    base = in_memory(4, [0, 1, 2, 3])
    hashes = {
        content_sha256(base, [0, 1]),
        content_sha256(base, [1, 0]),
        content_sha256(base, [0]),
        content_sha256(in_memory(4, [0, 2, 2, 3]), [0, 1]),
        content_sha256(in_memory(4), [0, 1]),
    }

    assert len(hashes) == 5
    assert content_sha256(base, [0, 1]) == content_sha256(in_memory(9, [0, 1] + [7] * 7), [0, 1])


def test_content_hash_does_not_depend_on_where_files_lie(tmp_path: Path) -> None:
    write_image(tmp_path / "one" / "cat" / "a.png", gray(1))
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    one, two = (open_dataset(f"imagefolder:{tmp_path / name}") for name in ("one", "two"))

    assert content_sha256(one, [0]) == content_sha256(two, [0])


def test_overlap_counts_the_second_sets_samples_that_the_first_has() -> None:
    a, b = in_memory(5), in_memory(9)

    assert overlap(a, range(5), b, range(9)) == 5
    assert overlap(a, [0, 1], b, [1, 1, 2]) == 2
    assert overlap(a, [], b, range(9)) == 0


def test_real_calibration_and_test_images_do_not_overlap() -> None:
    test = open_dataset(f"npz:{shared('cifar10/cifar10_test_2000A.npz')}")
    calibration = open_dataset(f"npz:{shared('cifar10/cifar10_calib_500A.npz')}")

    assert overlap(calibration, range(len(calibration)), test, range(len(test))) == 0


# --- batches ---


def spec(*shape: int, dtype: str = "float32") -> TensorSpec:
    return TensorSpec("input", shape, dtype)


def test_batches_have_the_models_shape_and_the_last_repeats_its_last_sample() -> None:
    result = list(batches(in_memory(7), [0, 2, 3, 5, 6], BUILT_IN["none"], spec(2, 1, 1, 1)))

    assert [batch.ravel().tolist() for batch in result] == [[0, 2], [3, 5], [6, 6]]
    assert all(batch.shape == (2, 1, 1, 1) and batch.dtype == np.float32 for batch in result)


def test_free_batch_axis_is_one_and_other_free_axes_take_the_images_size() -> None:
    result = list(batches(in_memory(3), [0, 1], BUILT_IN["none"], spec(-1, 1, -1, -1)))

    assert [batch.shape for batch in result] == [(1, 1, 1, 1)] * 2


def test_no_indices_give_no_batches() -> None:
    assert list(batches(in_memory(3), [], BUILT_IN["none"], spec(1, 1, 1, 1))) == []


def test_images_of_different_size_cannot_share_a_batch(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", gray(1, side=4))
    write_image(tmp_path / "b.png", gray(1, side=5))
    dataset = open_dataset(f"imagefolder:{tmp_path}")

    with pytest.raises(DataError, match="differ in size"):
        list(batches(dataset, [0, 1], BUILT_IN["none"], spec(2, 1, -1, -1)))


@pytest.mark.parametrize("wanted", [(1, 3, 224, 224), (1, 1, 28, 28, 1), (1, 784), (1,), ()])
def test_result_of_another_shape_states_both_shapes(wanted: tuple[int, ...]) -> None:
    dataset = Arrays("some:data", np.zeros((1, 28, 28, 1), dtype=np.uint8), None)

    with pytest.raises(DataError) as caught:
        list(batches(dataset, [0], BUILT_IN["none"], spec(*wanted)))

    assert "[1, 1, 28, 28]" in str(caught.value)
    assert str(list(wanted)) in str(caught.value)
    assert caught.value.hint is not None
    assert "--preprocess" in caught.value.hint
    assert "--input-shape" in caught.value.hint


def test_without_a_preprocessing_the_data_sets_own_default_is_used() -> None:
    dataset = Arrays("mnist:x", np.zeros((1, 28, 28, 1), dtype=np.uint8), None, 10, "mnist")

    (batch,) = batches(dataset, [0], None, spec(1, 1, 28, 28))

    np.testing.assert_allclose(batch, -0.1307 / 0.3081, rtol=1e-6)


def test_images_without_any_preprocessing_are_refused() -> None:
    with pytest.raises(DataError, match="nothing says how the model wants them prepared"):
        list(batches(in_memory(1), [0], None, spec(1, 1, 1, 1)))


def test_ready_samples_pass_as_they_are() -> None:
    dataset = Arrays("ready", np.full((1, 5), 0.25, dtype=np.float32), None)

    for preprocess in (None, BUILT_IN["none"], Preprocess("mine", label_offset=1)):
        (batch,) = batches(dataset, [0], preprocess, spec(1, 5))
        assert batch.tolist() == [[0.25] * 5]


def test_ready_samples_are_not_normalised_twice() -> None:
    dataset = Arrays("ready", np.zeros((1, 1, 28, 28), dtype=np.float32), None)

    with pytest.raises(DataError, match="normalise them twice"):
        list(batches(dataset, [0], BUILT_IN["mnist"], spec(1, 1, 28, 28)))


@pytest.mark.parametrize(
    ("dtype", "mean", "expected"),
    [("uint8", 0.0, 200), ("int8", 128.0, 72), ("float16", 0.0, 200), ("int64", 0.0, 200)],
)
def test_pixels_are_given_in_the_dtype_the_model_wants(dtype: str, mean: float, expected: int) -> None:
    dataset = Arrays("some:data", np.full((1, 2, 2, 1), 200, dtype=np.uint8), None)

    (batch,) = batches(dataset, [0], Preprocess("p", mean=(mean,)), spec(1, 1, 2, 2, dtype=dtype))

    assert batch.dtype == np.dtype(dtype)
    assert (batch == expected).all()


@pytest.mark.parametrize(("dtype", "preprocess"), [("uint8", "mnist"), ("int8", "none")])
def test_values_that_an_integer_input_cannot_hold_are_refused(dtype: str, preprocess: str) -> None:
    dataset = Arrays("some:data", np.full((1, 2, 2, 1), 200, dtype=np.uint8), None)

    with pytest.raises(DataError, match=f"wants whole numbers of {dtype}"):
        list(batches(dataset, [0], BUILT_IN[preprocess], spec(1, 1, 2, 2, dtype=dtype)))


@pytest.mark.parametrize("dtype", ["string", "bool", "bfloat16"])
def test_inputs_that_images_cannot_become_are_refused(dtype: str) -> None:
    with pytest.raises(DataError, match=f"wants {dtype}"):
        list(batches(in_memory(1), [0], BUILT_IN["none"], spec(1, 1, 1, 1, dtype=dtype)))


# --- the real thing ---


def test_real_cifar10_npz_is_read() -> None:
    dataset = open_dataset(f"npz:{shared('cifar10/cifar10_test_2000A.npz')}")

    assert len(dataset) == 2000
    assert dataset.labels is not None
    assert np.bincount(dataset.labels).tolist() == [200] * 10


def test_real_csv_split_is_read() -> None:
    dataset = open_dataset(f"csv:{shared('imagenet/nips2017_A.csv')}:eval")

    assert len(dataset) == 300
    assert next(batches(dataset, [299], BUILT_IN["imagenet"], spec(1, 3, 224, 224))).shape == (1, 3, 224, 224)


def test_real_mnist_is_read() -> None:
    dataset = open_dataset(f"mnist:{shared('mnist')}")

    assert len(dataset) == 2500
    assert dataset.labels is not None
    # The first ten labels of MNIST's test set.
    assert dataset.labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
