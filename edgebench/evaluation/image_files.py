"""Data sets whose samples are image files: a folder with one sub-folder per class, and a CSV of file names."""

from __future__ import annotations

import csv
import os
import struct
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from edgebench.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["ImageFiles", "open_csv", "open_imagefolder"]

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp"})
# Pillow also opens formats that start other programs (EPS runs Ghostscript); a data set has no need of them.
_DECODERS = ("JPEG", "PNG", "BMP", "WEBP", "GIF", "TIFF", "PPM")


@dataclass(frozen=True, eq=False)
class ImageFiles:
    """A `Dataset` of image files, decoded one at a time."""

    spec: str
    files: tuple[Path, ...]
    labels: NDArray[np.int64] | None
    class_count: int | None = None
    ready: ClassVar[bool] = False
    default_preprocess: ClassVar[str | None] = None

    def __len__(self) -> int:
        return len(self.files)

    def load(self, index: int) -> NDArray[np.uint8]:
        """uint8 `[H, W, 3]` RGB, or `[H, W, 1]` of a gray file, as stored: EXIF orientation is not applied.

        Raises:
            DataError: the file is not an image, is truncated, too large, or has more than 8 bits per channel.
        """
        return _decode(self.files[index])

    def content(self, index: int) -> bytes:
        """The file's bytes.

        Raises:
            DataError: the file cannot be read.
        """
        try:
            return self.files[index].read_bytes()
        except OSError as error:
            raise DataError(
                f"{self.files[index]} cannot be read: {error.strerror}", hint="is it still there?"
            ) from error


def open_imagefolder(spec: str, directory: Path) -> ImageFiles:
    """One sub-folder per class, numbered in the order of their names; or images in `directory` itself, without labels.

    Raises:
        DataError: no such directory, no images, or a class without images.
    """
    if not directory.is_dir():
        raise DataError(
            f"{directory} is not a directory", hint=f"`{spec}` needs a folder with one sub-folder per class"
        )
    try:
        entries = sorted(directory.iterdir(), key=lambda path: path.name)
    except OSError as error:
        raise DataError(f"{directory} cannot be read: {error.strerror}", hint="check its permissions") from error
    per_class = {path.name: _images_below(path) for path in entries if path.is_dir()}
    if any(per_class.values()):
        # torchvision refuses these too: whether an empty folder is a class decides every label after it.
        if empty := [name for name, files in per_class.items() if not files]:
            raise DataError(
                f"{directory} has class folders without an image: {', '.join(empty)}",
                hint="remove them if they are no classes, or put their images in",
            )
        labels = [label for label, files in enumerate(per_class.values()) for _ in files]
        files = tuple(path for files in per_class.values() for path in files)
        return ImageFiles(spec, files, np.asarray(labels, dtype=np.int64), len(per_class))
    flat = tuple(path for path in entries if path.suffix.lower() in SUFFIXES and path.is_file())
    if not flat:
        raise DataError(
            f"{directory} has no images", hint=f"looked for {' '.join(sorted(SUFFIXES))}, also in sub-folders"
        )
    return ImageFiles(spec, flat, None)


def open_csv(spec: str, path: Path, split: str | None = None) -> ImageFiles:
    """The rows of a CSV with a header: `file`, and `label` where there are labels. Other columns are ignored.

    A file is looked for in the CSV's folder, then in the folder beside the CSV that is named like it. With `split`,
    only rows whose column `split` is equal to it count.

    Raises:
        DataError: no such file, not UTF-8 text, a column or an image missing, or a label that is not an integer.
    """
    columns, rows = _read_rows(path)
    if "file" not in columns:
        raise DataError(
            f"{path} has no column `file` (columns: {', '.join(columns)[:200] or 'none'})",
            hint="its first line must be a header such as `file,label`",
        )
    if split is not None:
        rows = _of_split(path, columns, rows, split)
    if not rows:
        raise DataError(f"{path} has no rows", hint="one row per image, after the header")
    files = [_find(path, line, row["file"]) for line, row in rows]
    if "label" not in columns:
        return ImageFiles(spec, tuple(files), None)
    labels = [_label(path, line, row["label"]) for line, row in rows]
    return ImageFiles(spec, tuple(files), np.asarray(labels, dtype=np.int64))


def _images_below(directory: Path) -> list[Path]:
    # The very walk of torchvision's make_dataset, so that samples come in its order.
    return [
        Path(root) / name
        for root, _, names in sorted(os.walk(directory, followlinks=True))
        for name in sorted(names)
        if Path(name).suffix.lower() in SUFFIXES
    ]


Row = tuple[int, dict[str, str]]


def _read_rows(path: Path) -> tuple[list[str], list[Row]]:
    """The header, and every row with its line number."""
    try:
        # utf-8-sig: spreadsheets write a byte order mark, which would become part of the first column's name.
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, restval="", skipinitialspace=True)
            columns = [name.strip() for name in reader.fieldnames or ()]
            reader.fieldnames = columns
            return columns, [(reader.line_num, row) for row in reader]
    except OSError as error:
        raise DataError(
            f"{path} cannot be read: {error.strerror}", hint="csv:FILE names a file with a header"
        ) from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not a CSV file in UTF-8: {error}", hint="save it as CSV (UTF-8)") from error


def _of_split(path: Path, columns: list[str], rows: list[Row], split: str) -> list[Row]:
    if "split" not in columns:
        raise DataError(f"{path} has no column `split` to find `{split}` in", hint=f"leave `:{split}` out for all rows")
    kept = [(line, row) for line, row in rows if row["split"] == split]
    if not kept:
        there = sorted({row["split"] for _, row in rows})
        raise DataError(f"{path} has no row of split `{split}`", hint=f"there are: {', '.join(there) or 'no rows'}")
    return kept


def _find(path: Path, line: int, name: str) -> Path:
    places = (path.parent, path.parent / path.stem)
    found = next((file for folder in places if name and (file := folder / name).is_file()), None)
    if found is None:
        raise DataError(
            f"{path}, line {line}: there is no image file `{name}`",
            hint=f"files are looked for in {places[0]} and {places[1]}",
        )
    return found


def _label(path: Path, line: int, text: str) -> int:
    try:
        label = int(text)
    except ValueError:
        label = -1
    if not 0 <= label < 2**31:
        raise DataError(
            f"{path}, line {line}: the label `{text}` is not an integer from 0 up",
            hint="labels are class numbers, in the order of the model's outputs",
        ) from None
    return label


def _decode(path: Path) -> NDArray[np.uint8]:
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            # Pillow's other warnings are about metadata, which plays no part here.
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with path.open("rb") as file, Image.open(file, formats=_DECODERS) as image:
                if image.mode in ("I", "F") or image.mode.startswith("I;"):
                    # Converted, these would be clipped to white.
                    raise DataError(
                        f"{path} has more than 8 bits per channel",
                        hint="save it as an 8-bit image, scaled as in training",
                    )
                pixels = np.asarray(image if image.mode == "L" else image.convert("RGB"))
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise DataError(f"{path} is too large to decode safely: {error}", hint="make the image smaller") from error
    except UnidentifiedImageError as error:
        raise DataError(
            f"{path} is not an image in a known format ({', '.join(_DECODERS)})", hint="remove or replace the file"
        ) from error
    # What Pillow's decoders raise on damaged files, besides OSError ("image file is truncated").
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError, OverflowError, struct.error) as error:
        raise DataError(f"{path} cannot be decoded: {error}", hint="remove or replace the file") from error
    return pixels[:, :, np.newaxis] if pixels.ndim == 2 else pixels
