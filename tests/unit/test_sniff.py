"""What a model argument is, told without torch: the files are made by hand, opcode by opcode."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from edgebench.errors import SourceError
from edgebench.source import pickles
from edgebench.source.sniff import find_module, identify

# torch/serialization.py: MAGIC_NUMBER and PROTOCOL_VERSION of the format before torch 1.6.
OLD_MAGIC, OLD_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001


def text(value: str) -> bytes:
    return b"X" + len(value).to_bytes(4, "little") + value.encode()


def call(module: str, name: str) -> bytes:
    """A call without arguments."""
    return f"c{module}\n{name}\n".encode() + b")R"


TENSOR = call("torch._utils", "_rebuild_tensor_v2")
STATE = b"ccollections\nOrderedDict\n)R(" + text("conv.weight") + TENSOR + text("conv.bias") + TENSOR + b"u"
MODULE = b"cmymodule\nNet\n)\x81}" + text("training") + b"\x88sb"


def pickled(body: bytes) -> bytes:
    return b"\x80\x02" + body + b"."


def old_torch(body: bytes) -> bytes:
    head = [pickle.dumps(value, protocol=2) for value in (OLD_MAGIC, OLD_PROTOCOL, {"little_endian": True})]
    return b"".join([*head, pickled(body), pickle.dumps(["0"], protocol=2), bytes(64)])


def zipped(path: Path, entries: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return path


def torch_zip(path: Path, body: bytes, **more: bytes) -> Path:
    return zipped(path, {"archive/data.pkl": pickled(body), "archive/version": b"3", **more})


def field(number: int, content: bytes) -> bytes:
    """A length-delimited protobuf field, of less than 128 bytes."""
    return bytes([number << 3 | 2, len(content)]) + content


ONNX = b"\x08\x08" + field(2, b"maker") + field(7, b"\x0a\x00") + field(8, b"\x10\x12")


def write(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    return str(path)


@pytest.mark.parametrize(
    ("body", "kind", "callables"),
    [
        (STATE, "state-dict", ()),
        (b"}(" + text("epoch") + b"K\x05" + text("state_dict") + STATE + b"u", "checkpoint", ()),
        (b"}(" + text("args") + b"cargparse\nNamespace\n)\x81}b" + text("w") + TENSOR + b"u", "checkpoint", ()),
        (b"}(" + text("net") + MODULE + b"u", "checkpoint", ("mymodule.Net",)),
        (MODULE, "module", ("mymodule.Net",)),
    ],
    ids=["state dict", "checkpoint", "checkpoint with Namespace", "checkpoint with network", "network"],
)
@pytest.mark.parametrize("form", ["zip", "old"])
def test_torch_files_are_told_apart_by_what_they_would_build(
    tmp_path: Path, form: str, body: bytes, kind: str, callables: tuple[str, ...]
) -> None:
    path = tmp_path / "file.bin"
    if form == "zip":
        torch_zip(path, body)
    else:
        path.write_bytes(old_torch(body))

    identity = identify(str(path))

    assert (identity.kind, identity.callables) == (kind, callables)


def test_torchscript_is_known_by_its_constants(tmp_path: Path) -> None:
    path = torch_zip(tmp_path / "model.pt", MODULE, **{"archive/constants.pkl": pickled(b")")})

    identity = identify(str(path))

    assert (identity.kind, identity.callables) == ("torchscript", ())


def test_exported_program_is_known_whatever_its_suffix(tmp_path: Path) -> None:
    nested = io.BytesIO()
    with zipfile.ZipFile(nested, "w") as archive:
        archive.writestr("archive/data.pkl", pickled(call("os", "getcwd")))
    entries = {
        "m/archive_format": b"pt2",
        "m/models/model.json": b"{}",
        "m/data/sample_inputs/model.pt": nested.getvalue(),
    }

    identity = identify(str(zipped(tmp_path / "model.pth", entries)))

    assert (identity.kind, identity.callables) == ("exported-program", ("os.getcwd",))


def test_onnx_is_known_without_its_suffix(tmp_path: Path) -> None:
    assert identify(write(tmp_path / "model.bin", ONNX)).kind == "onnx"


def test_sha256_is_of_the_files_bytes(tmp_path: Path) -> None:
    assert identify(write(tmp_path / "m.onnx", ONNX)).sha256 == hashlib.sha256(ONNX).hexdigest()


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("resnet20-12fca82f.th", "resnet20"),
        ("resnet18.pt", "resnet18"),
        ("checkpoint.pth.tar", "checkpoint"),
        ("my model (2).pth", "my-model-2"),
        ("mobilenet_v2.1.pt", "mobilenet_v2.1"),
        ("model", "model"),
    ],
)
def test_stem_is_the_files_name_without_suffix_and_hash(tmp_path: Path, name: str, stem: str) -> None:
    assert identify(write(tmp_path / name, ONNX)).stem == stem


def stack_global(module: str, name: str) -> bytes:
    return b"\x8c" + bytes([len(module)]) + module.encode() + b"\x8c" + bytes([len(name)]) + name.encode() + b"\x93"


@pytest.mark.parametrize(
    "body",
    [
        b"cos\nsystem\n" + text("true") + b"\x85R.",
        b"\x80\x04" + stack_global("os", "system") + b")R.",
        # The names come out of the memo, in the other order than they went in.
        b"\x80\x04\x8c\x06system\x94\x8c\x02os\x9400h\x01h\x00\x93)R.",
        b"(S'true'\nios\nsystem\n.",
        b"\x80\x02(cos\nsystem\n" + text("true") + b"o.",
        b"\x80\x02cos\nsystem\n)\x81.",
    ],
    ids=["GLOBAL", "STACK_GLOBAL", "STACK_GLOBAL from memo", "INST", "OBJ", "NEWOBJ"],
)
def test_every_way_to_name_a_callable_is_seen(tmp_path: Path, body: bytes) -> None:
    identity = identify(write(tmp_path / "evil.pkl", body))

    assert identity.callables == ("os.system",)


def test_computed_name_is_reported_as_unknown() -> None:
    # STACK_GLOBAL of the results of two calls: only executing them would tell.
    computed = call("torch", "Size")

    found = pickles.read(io.BytesIO(b"\x80\x04" + computed + computed + b"\x93)R."))

    assert found.callables == ("?.?",)


def test_callable_in_the_first_pickle_of_an_old_file_is_seen(tmp_path: Path) -> None:
    # An old file is five pickles; the magic number's own may do more than give the number.
    magic = pickle.dumps(OLD_MAGIC, protocol=2)[:-1] + call("os", "getcwd") + b"0."

    identity = identify(
        write(tmp_path / "old.pth", magic + old_torch(STATE)[len(pickle.dumps(OLD_MAGIC, protocol=2)) :])
    )

    assert identity.callables == ("os.getcwd",)


def test_python_2_names_are_read_as_todays(tmp_path: Path) -> None:
    body = b"}(" + text("a") + b"c__builtin__\nset\n)R" + text("b") + b"c__builtin__\neval\n)Ru"

    assert identify(str(torch_zip(tmp_path / "py2.pt", body))).callables == ("builtins.eval",)


def test_ordered_dict_of_python_2_is_a_state_dict(tmp_path: Path) -> None:
    # Python 2 gave the constructor a list of [key, value] lists.
    body = b"ccollections\nOrderedDict\n(](](" + text("w") + TENSOR + b"e](" + text("b") + TENSOR + b"eetR"

    assert identify(str(torch_zip(tmp_path / "py2.pt", body))).kind == "state-dict"


def test_plain_pickle_of_this_python_is_followed() -> None:
    value = {"a": [1, 2.5, None, True, b"x", {3}, frozenset({4})], "b": ("t", ("u", "v", "w", "x")), "c": {"d": 10**30}}

    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        found = pickles.read(io.BytesIO(pickle.dumps(value, protocol=protocol)))

        assert isinstance(found.top, pickles.Table)
        assert [key for key, _ in found.top] == ["a", "b", "c"]


def test_nothing_in_a_pickle_runs(tmp_path: Path) -> None:
    class Writes:
        def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
            return Path.write_text, (tmp_path / "ran", "yes")

    identify(write(tmp_path / "evil.pkl", pickle.dumps(Writes())))

    assert not (tmp_path / "ran").exists()


def safetensors() -> bytes:
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    return len(header).to_bytes(8, "little") + header + bytes(4)


@pytest.mark.parametrize(
    ("content", "message", "hint"),
    [
        (b"", "is empty", "download it again"),
        (b"\x1c\0\0\0TFL3" + bytes(32), "TFLite file", "network that it was made of"),
        (b"\x18\0\0\0ORTM" + bytes(32), "ONNX Runtime format file", "measure it: edgebench bench"),
        (safetensors(), "safetensors", "torch.save"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer", "git lfs pull"),
        (b"<!DOCTYPE html><html>", "web page", "fetch the file itself"),
        (b"\x89HDF\r\n\x1a\n", "HDF5", "tf2onnx"),
        (b"PK\x03\x04" + bytes(40), "zip archive that is cut short", "download it again"),
        (pickled(STATE)[:-9], "pickle that is cut short", "download it again"),
        (old_torch(STATE)[:60], "torch file that is cut short", "download it again"),
        (ONNX[:-3], "ONNX file that is cut short", "download it again"),
        (ONNX[:9], "ONNX file that is cut short", "download it again"),
        (pickled(TENSOR), "a single tensor", "state_dict()"),
        (pickled(b"]"), "a pickled list", "state_dict()"),
        (b"Not a model. At all.", "not a model in a known format", ".onnx"),
        (b"\xff\xfe" + bytes(100), "not a model in a known format", ".onnx"),
    ],
    ids=lambda value: None if isinstance(value, bytes) else value,
)
def test_what_is_no_model_is_named_with_a_hint(tmp_path: Path, content: bytes, message: str, hint: str) -> None:
    with pytest.raises(SourceError, match=message) as caught:
        identify(write(tmp_path / "model.pt", content))

    assert hint in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"a.npy": b"", "b.npy": b""}, "npz"),
        ({"config.json": b"{}", "model.weights.h5": b""}, "Keras"),
        ({"readme.txt": b""}, "zip archive of something else"),
        ({"p/.data/extern_modules": b"", "p/model/model.pkl": b""}, "torch.package"),
        ({"m/archive_format": b"pt2", "m/data/aotinductor/model/x.so": b""}, "AOTInductor"),
        ({"archive/data.pkl": pickled(STATE)[:-5]}, "data.pkl is damaged"),
    ],
)
def test_zip_that_is_no_model_is_named(tmp_path: Path, entries: dict[str, bytes], message: str) -> None:
    with pytest.raises(SourceError, match=message):
        identify(str(zipped(tmp_path / "model.pt", entries)))


def test_truncated_zip_is_refused(tmp_path: Path) -> None:
    path = torch_zip(tmp_path / "model.pt", STATE, **{"archive/data/0": bytes(1000)})
    path.write_bytes(path.read_bytes()[:700])

    with pytest.raises(SourceError, match="cut short"):
        identify(str(path))


def test_directory_is_refused_and_a_bundle_recognised(tmp_path: Path) -> None:
    (tmp_path / "bundle.json").write_text("{}")

    with pytest.raises(SourceError, match="is a directory") as caught:
        identify(str(tmp_path))

    assert "edgebench bench" in (caught.value.hint or "")


def test_missing_file_with_a_networks_name_hints_at_torchvision() -> None:
    with pytest.raises(SourceError, match="there is no file resnet18") as caught:
        identify("resnet18")

    assert "torchvision:resnet18" in (caught.value.hint or "")


def test_torchvision_name_and_weights_are_hashed() -> None:
    plain, trained = identify("torchvision:resnet18"), identify("torchvision:resnet18:DEFAULT")

    assert (plain.kind, plain.path, plain.stem) == ("factory", None, "resnet18")
    assert trained.stem == "resnet18"
    assert plain.sha256 != trained.sha256


@pytest.mark.parametrize("spec", ["torchvision:", "torchvision:resnet18:", "torchvision:a b"])
def test_malformed_torchvision_name_is_refused(spec: str) -> None:
    with pytest.raises(SourceError, match="does not name a network"):
        identify(spec)


def test_factory_is_hashed_with_its_file_and_name(tmp_path: Path) -> None:
    path = tmp_path / "nets.py"
    path.write_text("raise RuntimeError('imported')")
    first, other = identify(f"{path}:small"), identify(f"{path}:large")
    path.write_text("pass")
    edited = identify(f"{path}:small")

    assert (first.kind, first.path, first.stem) == ("factory", path, "small")
    assert len({first.sha256, other.sha256, edited.sha256}) == 3


def test_module_factory_is_found_without_importing_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "sniffed_package"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "nets.py").write_text("raise RuntimeError('imported')")
    monkeypatch.chdir(tmp_path)

    assert identify("sniffed_package.nets:build").path == package / "nets.py"
    assert find_module("sniffed_package") == package / "__init__.py"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("no_such_module.nets:build", "no Python module `no_such_module.nets`"),
        ("missing.py:build", "there is no file missing.py"),
    ],
)
def test_missing_factory_is_refused(spec: str, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        identify(spec)


def test_python_file_without_factory_asks_for_one(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="Python source") as caught:
        identify(write(tmp_path / "net.py", b"x = 1"))

    assert "net.py:FACTORY" in (caught.value.hint or "")


def test_sniffing_and_the_inspect_command_import_nothing_heavy() -> None:
    code = (
        "import sys; import edgebench.source.sniff, edgebench.cli.inspect; "
        "print(sorted({'torch', 'torchvision', 'onnx', 'onnxruntime', 'numpy', 'rich'} & set(sys.modules)))"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"
