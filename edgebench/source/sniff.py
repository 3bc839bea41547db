"""What a file or a name is, told by content, with the standard library alone and without executing anything in it."""

from __future__ import annotations

import hashlib
import importlib.machinery
import io
import json
import mmap
import re
import sys
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from edgebench.errors import SourceError
from edgebench.source import pickles
from edgebench.types import SourceKind

__all__ = ["Identity", "find_module", "identify"]

TORCHVISION = "torchvision:"
# torch before 1.6 wrote five pickles (this magic number first) and then the storages.
OLD_TORCH_MAGIC = b"\x80\x02\x8a\n"
_OLD_TORCH_PICKLES = 5

_WEIGHTS_SUFFIXES = (".pth", ".pt", ".th", ".pt2", ".ckpt", ".bin", ".onnx", ".pkl")
_NESTED_LIMIT_BYTES = 64 << 20

_EXPORTED = {b"TFL3": "a TFLite file", b"ORTM": "an ONNX Runtime format file", b"ET12": "an ExecuTorch program"}
_FOREIGN = (
    (b"\x89HDF", "an HDF5 file, as Keras writes them", "convert it to ONNX with tf2onnx and give the .onnx"),
    (b"GGUF", "a GGUF file of a language model", "language models in GGUF are for llama.cpp"),
    (b"\x1f\x8b", "gzip-compressed", "gunzip it first"),
    (b"version https://git-lfs", "a Git LFS pointer, not the model itself", "run `git lfs pull` where it came from"),
    (b"<!DOCTYPE", "a web page, not a model", "the download saved an HTML page: fetch the file itself"),
    (b"<html", "a web page, not a model", "the download saved an HTML page: fetch the file itself"),
)
_FORMS = "a model is a .pt/.pth, .pt2 or .onnx file, torchvision:NAME, PATH.py:FACTORY or package.module:FACTORY"
_DAMAGED_HINT = "copy or download it again, and compare its size with the original's"


@dataclass(frozen=True)
class Identity:
    """What a MODEL argument names.

    `path` is the file itself, or the file that holds a factory; None for torchvision. `sha256` is of a file's bytes; of
    a factory's file and name; of torchvision's name and weights. `stem` is a safe name for what is made of it.
    `callables` are the globals that its pickles would import beyond plain tensors and containers.
    """

    spec: str
    kind: SourceKind
    path: Path | None
    sha256: str
    stem: str
    callables: tuple[str, ...] = ()


def identify(spec: str) -> Identity:
    """Tell what `spec` is: a file (by content, whatever its suffix), `torchvision:NAME[:WEIGHTS]`, or a factory.

    Raises:
        SourceError: it is not there, cut short, or not a model that can be exported.
    """
    if spec.startswith(TORCHVISION):
        return _identify_torchvision(spec)
    path = Path(spec)
    if path.is_dir():
        hint = f"a bundle is measured with `edgebench bench {spec}`" if (path / "bundle.json").is_file() else _FORMS
        raise SourceError(f"{spec} is a directory, not a model", hint=hint)
    if path.is_file():
        return _identify_file(spec, path)
    container, colon, factory = spec.rpartition(":")
    if colon and container.endswith(".py"):
        return _identify_factory(spec, Path(container), factory)
    if colon and all(part.isidentifier() for part in [*container.split("."), *factory.split(".")]):
        found = find_module(container)
        if found is None:
            hint = "it is looked for in the current directory, then where this Python looks for modules"
            raise SourceError(f"there is no Python module `{container}` for {spec}", hint=hint)
        return _identify_factory(spec, found, factory)
    hint = f"torchvision's networks are written {TORCHVISION}{spec}" if spec.isidentifier() else _FORMS
    raise SourceError(f"there is no file {spec}", hint=hint)


def find_module(name: str) -> Path | None:
    """The file of a module, the current directory first, found without importing it or its packages."""
    search: Iterable[str] = [str(Path.cwd()), *sys.path]
    parts = name.split(".")
    for depth in range(1, len(parts) + 1):
        qualified = ".".join(parts[:depth])
        found = importlib.machinery.PathFinder.find_spec(qualified, list(search))
        if found is None and depth == 1:
            # An editable install is known to a finder of its own only.
            finders = (finder for finder in sys.meta_path if finder is not importlib.machinery.PathFinder)
            specs = (finder.find_spec(qualified, None) for finder in finders if hasattr(finder, "find_spec"))
            found = next((spec for spec in specs if spec is not None), None)
        if found is None:
            return None
        search = found.submodule_search_locations or []
    return Path(found.origin) if found is not None and found.origin and Path(found.origin).is_file() else None


def _identify_torchvision(spec: str) -> Identity:
    name, _, weights = spec.removeprefix(TORCHVISION).partition(":")
    if not name.isidentifier() or not (weights.replace(".", "_").isidentifier() or (not weights and spec[-1] != ":")):
        raise SourceError(
            f"`{spec}` does not name a network of torchvision",
            hint="write torchvision:NAME or torchvision:NAME:WEIGHTS, as in torchvision:resnet18:DEFAULT",
        )
    digest = hashlib.sha256(spec.encode()).hexdigest()
    return Identity(spec=spec, kind="factory", path=None, sha256=digest, stem=name)


def _identify_factory(spec: str, path: Path, factory: str) -> Identity:
    if not path.is_file():
        raise SourceError(f"there is no file {path} for {spec}", hint=_FORMS)
    if not all(part.isidentifier() for part in factory.split(".")):
        raise SourceError(f"`{factory}` in {spec} is not the name of a function or class", hint=_FORMS)
    digest = hashlib.sha256(_bytes_of(path) + b"\0" + factory.encode()).hexdigest()
    return Identity(spec=spec, kind="factory", path=path, sha256=digest, stem=_safe(factory))


def _identify_file(spec: str, path: Path) -> Identity:
    if path.suffix == ".py":
        hint = f"name the function that builds the network: {spec}:FACTORY"
        raise SourceError(f"{spec} is Python source", hint=hint)
    try:
        with path.open("rb") as file:
            if not path.stat().st_size:
                raise SourceError(f"{spec} is empty", hint=_DAMAGED_HINT)
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                kind, callables = _classify(spec, path, content)
    except OSError as error:
        raise SourceError(f"{spec} cannot be read: {error.strerror or error}") from error
    return Identity(spec=spec, kind=kind, path=path, sha256=digest, stem=_file_stem(path), callables=callables)


def _classify(spec: str, path: Path, content: mmap.mmap) -> tuple[SourceKind, tuple[str, ...]]:
    if content[:4] == b"PK\x03\x04":
        return _classify_zip(spec, path)
    if content[:4] == OLD_TORCH_MAGIC:
        return _classify_pickle(spec, cast(BinaryIO, content), pickles_in_file=_OLD_TORCH_PICKLES)
    if exported := _EXPORTED.get(content[4:8]):
        raise SourceError(
            f"{spec} is {exported}, an end product of an export",
            hint=f"measure it: edgebench bench {spec}; or export from the network that it was made of",
        )
    for magic, what, hint in _FOREIGN:
        if content[: len(magic)].lower() == magic.lower():
            raise SourceError(f"{spec} is {what}", hint=hint)
    if _is_safetensors(content):
        raise SourceError(
            f"{spec} is a safetensors file, which edgebench does not read",
            hint="save it anew: torch.save(safetensors.torch.load_file(FILE), 'model.pt'), then give model.pt",
        )
    match _read_onnx_frame(content):
        case "onnx":
            return "onnx", ()
        case "cut":
            raise SourceError(f"{spec} is an ONNX file that is cut short", hint=_DAMAGED_HINT)
    try:
        return _classify_pickle(spec, cast(BinaryIO, content), pickles_in_file=1)
    except pickles.DamagedPickle:
        # A text file can begin with a letter that is an opcode, but since protocol 2 a pickle's first byte is 0x80.
        if content[:1] == b"\x80" and content[1] <= 5:
            raise SourceError(f"{spec} is a pickle that is cut short or damaged", hint=_DAMAGED_HINT) from None
        raise SourceError(f"{spec} is not a model in a known format", hint=_FORMS) from None


def _classify_zip(spec: str, path: Path) -> tuple[SourceKind, tuple[str, ...]]:
    try:
        with zipfile.ZipFile(path) as archive:
            # Everything lies in one top folder, named after the file that torch.save was given.
            inner = {name.partition("/")[2]: name for name in archive.namelist()}
            if "serialized_exported_program.json" in archive.namelist() or any(
                name.startswith("models/") and name.endswith(".json") for name in inner
            ):
                return "exported-program", _nested_callables(archive)
            if "archive_format" in inner:
                hint = "export anew from the .pt2 that torch.export.save wrote, or from the network itself"
                raise SourceError(f"{spec} is a compiled AOTInductor package without its program", hint=hint)
            if "constants.pkl" in inner:
                # libtorch reads TorchScript's pickles, and makes tensors and TorchScript objects of them only.
                return "torchscript", ()
            if "data.pkl" in inner:
                with archive.open(inner["data.pkl"]) as stream:
                    return _classify_pickle(spec, cast(BinaryIO, stream), pickles_in_file=1)
            raise SourceError(f"{spec} is {_foreign_zip(archive.namelist())}, not a model", hint=_FORMS)
    except pickles.DamagedPickle as error:
        raise SourceError(f"{spec} is a torch file whose data.pkl is damaged", hint=_DAMAGED_HINT) from error
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        raise SourceError(f"{spec} is a zip archive that is cut short or damaged", hint=_DAMAGED_HINT) from error


def _foreign_zip(names: list[str]) -> str:
    if any(name.endswith("extern_modules") for name in names):
        return "a torch.package archive"
    if names and all(name.endswith(".npy") for name in names):
        return "a numpy .npz archive"
    if "config.json" in names and "model.weights.h5" in names:
        return "a Keras archive"
    return "a zip archive of something else"


def _nested_callables(archive: zipfile.ZipFile) -> tuple[str, ...]:
    """What the pickles of an exported program (sample inputs, constants) would import, for the message refusing it."""
    found: dict[str, None] = {}
    for entry in archive.infolist():
        if entry.file_size > _NESTED_LIMIT_BYTES or entry.filename.endswith(".json"):
            continue
        data = archive.read(entry)
        if data[:4] == b"PK\x03\x04":
            with zipfile.ZipFile(io.BytesIO(data)) as nested:
                streams = [nested.read(name) for name in nested.namelist() if name.endswith("data.pkl")]
        else:
            streams = [data] if data[:1] == b"\x80" else []
        for stream in streams:
            try:
                found.update(dict.fromkeys(pickles.read(io.BytesIO(stream)).callables))
            except pickles.DamagedPickle:
                continue  # raw weights may begin with 0x80 as well
    return tuple(found)


def _classify_pickle(spec: str, stream: BinaryIO, *, pickles_in_file: int) -> tuple[SourceKind, tuple[str, ...]]:
    """The kind by what the pickle would build. Of torch's old format the fourth pickle is the content.

    Raises:
        DamagedPickle: where a single pickle is damaged: the caller knows what else the file might have been.
    """
    try:
        found = [pickles.read(stream) for _ in range(pickles_in_file)]
    except pickles.DamagedPickle as error:
        if pickles_in_file == 1:
            raise
        raise SourceError(f"{spec} is a torch file that is cut short or damaged", hint=_DAMAGED_HINT) from error
    top = found[max(0, pickles_in_file - 2)].top
    callables = tuple(dict.fromkeys(name for pickled in found for name in pickled.callables))
    if isinstance(top, pickles.Table):
        state = bool(top) and all(isinstance(key, str) and pickles.is_tensor(value) for key, value in top)
        return ("state-dict" if state else "checkpoint"), callables
    if isinstance(top, pickles.Made) and not pickles.is_tensor(top):
        return "module", callables
    if callables:
        return "checkpoint", callables
    what = "a single tensor" if pickles.is_tensor(top) else f"a pickled {type(top).__name__}"
    raise SourceError(f"{spec} holds {what}, not a model", hint="save the network's state_dict() or the whole network")


def _is_safetensors(content: mmap.mmap) -> bool:
    length = int.from_bytes(content[:8], "little")
    if content[8:9] != b"{" or not 2 <= length <= len(content) - 8:
        return False
    try:
        return isinstance(json.loads(content[8 : 8 + length]), dict)
    except ValueError:
        return False


# onnx.proto, message ModelProto: field number -> wire type (0 varint, 2 length-delimited).
_MODEL_PROTO = {1: 0, 2: 2, 3: 2, 4: 2, 5: 0, 6: 2, 7: 2, 8: 2, 14: 2, 20: 2, 25: 2, 26: 2}
_GRAPH = 7


def _read_onnx_frame(content: mmap.mmap) -> str | None:
    """`onnx` where the whole file is one ModelProto with a graph, `cut` where it begins as one, else None.

    Only the outermost fields are walked: each must be one of ModelProto's, and the last must end where the file does.
    """
    position = 0
    seen: list[int] = []
    while position < len(content):
        tag, position = _varint(content, position)
        field, wire = tag >> 3, tag & 7
        # Every writer we know begins with ir_version, 1 to 14 so far.
        if _MODEL_PROTO.get(field) != wire or (not seen and field != 1):
            return None
        value, position = _varint(content, position)
        if field == 1 and not 1 <= value < 100:
            return None
        seen.append(field)
        position += value if wire == 2 else 0
    if position == len(content) and _GRAPH in seen:
        return "onnx"
    return "cut" if len(seen) > 1 else None


def _varint(content: mmap.mmap, position: int) -> tuple[int, int]:
    """A protobuf varint and the position behind it; past the end of the file where it is cut."""
    value = shift = 0
    for byte in content[position : position + 10]:
        position += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            return value, position
    return 0, len(content) + 1


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror}") from error


def _file_stem(path: Path) -> str:
    name = path.name
    while (suffix := Path(name).suffix) in (*_WEIGHTS_SUFFIXES, ".tar", ".onnx"):
        name = name.removesuffix(suffix)
    # torch.hub names a file after the first eight digits of its sha256: resnet20-12fca82f.th.
    return _safe(re.sub(r"-[0-9a-f]{8}$", "", name if name != path.name else path.stem))


def _safe(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "model"
