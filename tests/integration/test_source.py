"""Real torch and ONNX files, made here or published by others, through identify and load."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import pickle
import sys
import warnings
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs torch: pip install 'edgebench[torch]'")
pytest.importorskip("torchvision", reason="needs torchvision: pip install 'edgebench[torch]'")

import numpy as np  # noqa: E402

from edgebench.cli import inspect  # noqa: E402
from edgebench.errors import EnvironmentFailure, SourceError, UntrustedError  # noqa: E402
from edgebench.source import pickles  # noqa: E402
from edgebench.source.load import LoadedSource, load  # noqa: E402
from edgebench.source.sniff import identify  # noqa: E402

SHARED = Path(__file__).parents[3] / "shared" / "data"

NETS = """
import torch
from torch import nn

class Small(nn.Module):
    def __init__(self, num_classes=4, width=8):
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3, bias=False)
        self.bn = nn.BatchNorm2d(width)
        self.fc = nn.Linear(width, num_classes)

    def forward(self, x):
        return self.fc(torch.relu(self.bn(self.conv(x))).mean((2, 3)))

def small(num_classes=4):
    return Small(num_classes)

def small_relu6(num_classes=4):
    return Small(num_classes)

def slim():
    return Small(width=5)
"""


class Runs:
    """Makes a directory when it is unpickled: harmless, and proof."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return os.mkdir, (str(self.marker),)


@pytest.fixture(autouse=True)
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory of the user's own, with a network in `nets.py`; what it imports is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets.py").write_text(NETS)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        file = getattr(sys.modules[name], "__file__", None)
        if file and Path(file).is_relative_to(tmp_path):
            del sys.modules[name]


def nets(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module `nets` of the workspace, as a training script imports it."""
    monkeypatch.syspath_prepend(str(Path.cwd()))
    return importlib.import_module("nets")


def small_state(classes: int = 4, width: int = 8) -> dict[str, Any]:
    torch.manual_seed(1)
    namespace: dict[str, Any] = {"__name__": "made_here"}
    exec(NETS, namespace)
    return dict(namespace["Small"](classes, width).state_dict())


def loaded(spec: str | Path, **options: Any) -> LoadedSource:
    return load(identify(str(spec)), **options)


def logits(source: LoadedSource, size: int = 8) -> Any:
    assert isinstance(source.module, torch.nn.Module)
    with torch.no_grad():
        return source.module(torch.ones(1, 3, size, size))


# --- state dicts and checkpoints


def test_state_dict_is_loaded_by_arch() -> None:
    state = small_state()
    torch.save(state, "weights.pt")

    source = loaded("weights.pt", arch="nets.py:small")

    assert isinstance(source.module, torch.nn.Module)
    assert torch.equal(source.module.state_dict()["fc.weight"], state["fc.weight"])
    assert source.info.kind == "state-dict"
    assert source.info.architecture == "nets.py:small"
    # 3*8*9 + 2*8 + 8*4 + 4
    assert source.info.parameters == 268
    assert str(Path("nets.py").resolve()) in source.dependencies


def test_network_comes_back_ready_to_export() -> None:
    torch.save(small_state(), "weights.pt")

    module = loaded("weights.pt", arch="nets.py:small").module

    assert isinstance(module, torch.nn.Module)
    assert not module.training
    assert not any(parameter.requires_grad for parameter in module.parameters())


def test_class_count_is_read_off_the_last_layer() -> None:
    torch.save(small_state(classes=7), "weights.pt")

    assert logits(loaded("weights.pt", arch="nets.py:small")).shape == (1, 7)


def test_checkpoint_with_prefix_namespace_and_numpy_scalar_needs_no_trust() -> None:
    state = {f"module._orig_mod.{key}": value for key, value in small_state().items()}
    extra = {"args": argparse.Namespace(lr=0.1), "best": np.float64(93.5), "count": np.int64(3), "seen": {1, 2}}
    torch.save({"epoch": 3, "state_dict": state, "optimizer": {"state": {}, "param_groups": []}, **extra}, "c.pth.tar")

    source = loaded("c.pth.tar", arch="nets.py:small")

    assert source.info.kind == "checkpoint"
    assert any("`state_dict`" in note for note in source.info.notes)
    assert any("`module._orig_mod.`" in note for note in source.info.notes)


@pytest.mark.parametrize("where", ["model", "net", "params_ema"])
def test_weights_are_found_under_the_usual_names(where: str) -> None:
    torch.save({where: small_state(), "epoch": 1}, "c.pt")

    assert loaded("c.pt", arch="nets.py:small").info.parameters == 268


def test_weights_among_other_values_are_kept_and_the_rest_named() -> None:
    torch.save({**small_state(), "epoch": 1}, "c.pt")

    assert "What is no tensor was left out: epoch." in loaded("c.pt", arch="nets.py:small").info.notes


def test_old_format_is_loaded() -> None:
    torch.save(small_state(), "old.pth", _use_new_zipfile_serialization=False)

    assert loaded("old.pth", arch="nets.py:small").info.kind == "state-dict"


def test_half_weights_become_float32_with_a_note() -> None:
    torch.save(
        {key: value.half() if value.is_floating_point() else value for key, value in small_state().items()}, "h.pt"
    )

    source = loaded("h.pt", arch="nets.py:small")

    assert source.dtype == "float16"
    assert logits(source).dtype == torch.float32
    assert "Its float16 weights were converted to float32." in source.info.notes


def test_missing_batch_counters_are_tolerated() -> None:
    state = {key: value for key, value in small_state().items() if not key.endswith("num_batches_tracked")}
    torch.save(state, "early.pth")

    assert loaded("early.pth", arch="nets.py:small").info.parameters == 268


def test_pruning_masks_are_folded_and_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.nn.utils import prune

    network = nets(monkeypatch).small()
    prune.l1_unstructured(network.fc, "weight", amount=0.25)
    torch.save(network.state_dict(), "pruned.pt")

    source = loaded("pruned.pt", arch="nets.py:small")

    assert isinstance(source.module, torch.nn.Module)
    # A quarter of 8 * 4.
    assert int((source.module.state_dict()["fc.weight"] == 0).sum()) == 8
    assert any("25.0 %" in note for note in source.info.notes)


def test_near_miss_says_what_differs() -> None:
    state = small_state()
    state["head.weight"] = state.pop("fc.weight")
    torch.save(state, "weights.pt")

    with pytest.raises(SourceError) as caught:
        loaded("weights.pt", arch="nets.py:small")

    assert "1 missing (fc.weight)" in str(caught.value)
    assert "1 unexpected (head.weight)" in str(caught.value)


def test_slimmed_network_is_recognised_as_one() -> None:
    torch.save(small_state(width=5), "slim.pt")

    with pytest.raises(SourceError, match="of another shape") as caught:
        loaded("slim.pt", arch="nets.py:small")

    assert "pruned or slimmed" in (caught.value.hint or "")
    assert loaded("slim.pt", arch="nets.py:slim").info.parameters == 3 * 5 * 9 + 2 * 5 + 5 * 4 + 4


def test_parametrized_weights_are_recognised_as_such() -> None:
    network = torch.nn.Sequential(torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(3, 2)))
    torch.save(network.state_dict(), "weights.pt")
    Path("plain.py").write_text("from torch import nn\ndef plain(): return nn.Sequential(nn.Linear(3, 2))\n")

    with pytest.raises(SourceError) as caught:
        loaded("weights.pt", arch="plain.py:plain")

    assert "remove_parametrizations" in (caught.value.hint or "")


def test_truncated_weights_are_refused() -> None:
    torch.save(small_state(), "old.pth", _use_new_zipfile_serialization=False)
    Path("old.pth").write_bytes(Path("old.pth").read_bytes()[:-20])

    with pytest.raises(SourceError, match="damaged"):
        loaded("old.pth", arch="nets.py:small")


def test_protocol_that_the_safe_loader_does_not_read_is_refused_with_a_way_out() -> None:
    torch.save(small_state(), "p4.pt", pickle_protocol=4)

    with pytest.raises(SourceError, match="safe loader") as caught:
        loaded("p4.pt", arch="nets.py:small")

    assert "--trust" in (caught.value.hint or "")
    assert loaded("p4.pt", arch="nets.py:small", trust=True).info.parameters == 268


def test_file_without_weights_is_refused() -> None:
    torch.save({"epoch": 3}, "empty.pt")

    with pytest.raises(SourceError, match="no network's weights"):
        loaded("empty.pt")


def test_sniffing_admits_nothing_that_torch_refuses() -> None:
    from torch._weights_only_unpickler import _get_allowed_globals

    plain = {name for name in pickles._PLAIN if name not in pickles.ADMITTED}

    assert plain <= set(_get_allowed_globals())


# --- finding the architecture


def own_models(shape: tuple[int, ...] = (1, 3, 32, 32)) -> None:
    Path("models").mkdir()
    declared = f'FACTORIES = ("small", "small_relu6")\nINPUT_SHAPE = {shape}\nPREPROCESS = "cifar10"\n'
    Path("models/small.py").write_text(NETS + declared)
    # A folder called models may hold anything; what declares no FACTORIES is not executed.
    Path("models/train.py").write_text("raise RuntimeError('executed')")


def test_own_model_is_found_by_the_files_name() -> None:
    own_models()
    torch.save(small_state(classes=3), "Small-relu6.best.pt")

    source = loaded("Small-relu6.best.pt")

    assert source.info.architecture == "models/small.py:small_relu6"
    assert (source.input_shape, source.preprocess_name) == ((1, 3, 32, 32), "cifar10")
    assert any("fit models/small.py:small too" in note for note in source.info.notes)
    assert str(Path("models/small.py").resolve()) in source.dependencies


def test_own_model_is_found_by_its_keys_alone() -> None:
    own_models()
    torch.save(small_state(), "weights.pt")

    source = loaded("weights.pt")

    assert source.info.architecture == "models/small.py:small"
    assert any("fit models/small.py:small_relu6 too" in note for note in source.info.notes)


def test_own_model_is_named_by_arch() -> None:
    own_models()
    torch.save(small_state(), "weights.pt")

    assert loaded("weights.pt", arch="small_relu6").info.architecture == "models/small.py:small_relu6"


def torchvision_state(name: str, **options: Any) -> dict[str, Any]:
    from torchvision.models import get_model

    return dict(get_model(name, weights=None, **options).state_dict())


def test_torchvision_network_is_found_by_name_with_its_preprocessing() -> None:
    torch.save(torchvision_state("shufflenet_v2_x0_5", num_classes=5), "shufflenet_v2_x0_5.best.pt")

    source = loaded("shufflenet_v2_x0_5.best.pt")

    assert source.info.architecture == "torchvision:shufflenet_v2_x0_5"
    assert source.input_shape == (1, 3, 224, 224)
    # torchvision's documentation of ShuffleNet_V2_X0_5_Weights.IMAGENET1K_V1.transforms.
    assert source.preprocess is not None
    assert (source.preprocess.resize, source.preprocess.crop, source.preprocess.interpolation) == (256, 224, "bilinear")
    assert source.preprocess.mean == (0.485, 0.456, 0.406)
    assert source.preprocess.scale == pytest.approx(1 / 255)


def test_torchvision_network_is_found_by_its_keys_alone() -> None:
    torch.save(torchvision_state("mnasnet0_5", num_classes=9), "weights.pt")

    assert loaded("weights.pt").info.architecture == "torchvision:mnasnet0_5"


def test_network_that_cannot_be_built_without_memory_is_found_by_its_keys() -> None:
    torch.save(torchvision_state("regnet_y_400mf", num_classes=9), "weights.pt")

    assert loaded("weights.pt").info.architecture == "torchvision:regnet_y_400mf"


def test_slimmed_torchvision_network_names_its_origin() -> None:
    state = torchvision_state("mobilenet_v2", width_mult=0.3, num_classes=10)
    torch.save(state, "mobilenet_v2_slim.pt")

    with pytest.raises(SourceError, match="torchvision:mobilenet_v2 is nearest") as caught:
        loaded("mobilenet_v2_slim.pt")

    assert "pruned or slimmed" in (caught.value.hint or "")


def test_old_densenet_names_are_mended() -> None:
    state = torchvision_state("densenet121")
    old = {key.replace("norm1.", "norm.1.").replace("norm2.", "norm.2."): value for key, value in state.items()}
    old = {key.replace("conv1.", "conv.1.").replace("conv2.", "conv.2."): value for key, value in old.items()}
    assert old.keys() != state.keys()
    torch.save(old, "densenet121-a639ec97.pth")

    source = loaded("densenet121-a639ec97.pth")

    assert source.info.architecture == "torchvision:densenet121"
    assert any("old key names" in note for note in source.info.notes)


def test_auxiliary_heads_are_taken_off() -> None:
    torch.save(torchvision_state("googlenet", init_weights=False), "googlenet.pth")

    source = loaded("googlenet.pth")

    assert logits(source, 64).shape == (1, 1000)
    assert any("auxiliary heads" in note for note in source.info.notes)


def test_unknown_weights_name_the_first_keys() -> None:
    torch.save({"alpha.weight": torch.ones(2, 2), "beta.weight": torch.ones(2, 2)}, "weights.pt")

    with pytest.raises(SourceError, match=r"no known architecture has the keys .*alpha\.weight") as caught:
        loaded("weights.pt")

    assert "--arch" in (caught.value.hint or "")


def test_weights_that_their_files_name_misleads_about_name_the_keys_that_differ() -> None:
    torch.save({"alpha.weight": torch.ones(2, 2)}, "resnet18.pt")

    with pytest.raises(SourceError, match=r"resnet18, which the file's name suggests: .*missing .*alpha\.weight"):
        loaded("resnet18.pt")


def test_unknown_architecture_is_refused_with_suggestions() -> None:
    torch.save(small_state(), "weights.pt")

    with pytest.raises(SourceError, match="no architecture `resnt18`") as caught:
        loaded("weights.pt", arch="resnt18")

    assert "resnet18" in (caught.value.hint or "")


# --- what would run code


def exported_program(path: str) -> None:
    program = torch.export.export(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3)).eval(), (torch.ones(1, 3, 8, 8),))
    torch.export.save(program, path)


def write_poisoned(form: str, path: Path, marker: Path) -> None:
    if form == "raw":
        path.write_bytes(pickle.dumps(Runs(marker)))
    elif form == "zip":
        torch.save({"state_dict": small_state(), "extra": Runs(marker)}, path)
    elif form == "old":
        torch.save({"state_dict": small_state(), "extra": Runs(marker)}, path, _use_new_zipfile_serialization=False)
    else:
        exported_program("clean.pt2")
        torch.save(((torch.ones(1, 3, 8, 8), Runs(marker)), {}), "inputs.pt")
        with zipfile.ZipFile("clean.pt2") as clean, zipfile.ZipFile(path, "w") as poisoned:
            for name in clean.namelist():
                inputs = name.endswith("data/sample_inputs/model.pt")
                poisoned.writestr(name, Path("inputs.pt").read_bytes() if inputs else clean.read(name))


@pytest.mark.parametrize("form", ["raw", "zip", "old", "pt2"])
def test_untrusted_code_is_refused_and_never_runs(workspace: Path, form: str) -> None:
    path, marker = workspace / "evil.bin", workspace / "ran"
    write_poisoned(form, path, marker)

    with pytest.raises(UntrustedError, match="mkdir") as caught:
        loaded(path)

    assert any(name.endswith("mkdir") for name in caught.value.globals)
    assert "--trust" in (caught.value.hint or "")
    assert not marker.exists()


@pytest.mark.parametrize("form", ["raw", "zip", "old", "pt2"])
def test_trusted_code_runs(workspace: Path, form: str) -> None:
    """The counter-proof: these very files do run code where they are let."""
    path, marker = workspace / "evil.bin", workspace / "ran"
    write_poisoned(form, path, marker)

    with pytest.raises(SourceError) if form == "raw" else warnings.catch_warnings():
        loaded(path, trust=True, **({"arch": "nets.py:small"} if form in ("zip", "old") else {}))

    assert marker.exists()


@pytest.mark.parametrize("form", ["raw", "zip", "old"])
def test_code_does_not_run_even_if_sniffing_overlooked_it(workspace: Path, form: str) -> None:
    path, marker = workspace / "evil.bin", workspace / "ran"
    write_poisoned(form, path, marker)

    with pytest.raises(SourceError):
        load(replace(identify(str(path)), callables=()), arch="nets.py:small")

    assert not marker.exists()


def test_clean_exported_program_needs_trust_all_the_same() -> None:
    exported_program("clean.pt2")

    with pytest.raises(UntrustedError, match="exported program"):
        loaded("clean.pt2")

    source = loaded("clean.pt2", trust=True)
    assert isinstance(source.module, torch.export.ExportedProgram)
    # 3*4*9 + 4
    assert (source.info.parameters, source.input_shape) == (112, (1, 3, 8, 8))


def test_pickled_network_needs_trust_and_its_class(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(nets(monkeypatch).small(), "net.pt")
    with pytest.raises(UntrustedError, match=r"nets\.Small"):
        loaded("net.pt")

    source = loaded("net.pt", trust=True)

    assert (source.info.kind, source.info.architecture) == ("module", "nets.Small")
    assert logits(source).shape == (1, 4)


def test_trusted_class_is_imported_from_the_current_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as scope:
        torch.save({"model": nets(scope).small(), "epoch": 1}, "c.pt")
    del sys.modules["nets"]

    source = loaded("c.pt", trust=True)

    assert source.info.kind == "module"
    assert str(Path("nets.py").resolve()) in source.dependencies


def test_class_that_cannot_be_imported_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as scope:
        torch.save(nets(scope).small(), "net.pt")
    del sys.modules["nets"]
    Path("nets.py").unlink()

    with pytest.raises(SourceError, match="No module named 'nets'") as caught:
        loaded("net.pt", trust=True)

    assert "install `nets`" in (caught.value.hint or "")


def test_parallel_wrapper_and_pruning_of_a_pickled_network_are_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.nn.utils import prune

    network = nets(monkeypatch).small()
    prune.l1_unstructured(network.fc, "weight", amount=0.5)
    torch.save(torch.nn.DataParallel(network), "net.pt")

    source = loaded("net.pt", trust=True)

    assert isinstance(source.module, torch.nn.Module)
    assert "fc.weight" in source.module.state_dict()
    assert any("50.0 %" in note for note in source.info.notes)


# --- TorchScript


def test_torchscript_is_loaded_without_trust_or_warnings() -> None:
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU()).half()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        torch.jit.save(torch.jit.script(network), "script.pt")

    source = loaded("script.pt")

    assert isinstance(source.module, torch.jit.ScriptModule)
    assert (source.info.kind, source.info.parameters, source.dtype) == ("torchscript", 112, "float16")
    assert logits(source).dtype == torch.float32


def test_arch_for_what_has_its_own_is_refused() -> None:
    exported_program("clean.pt2")

    with pytest.raises(SourceError, match="own architecture"):
        loaded("clean.pt2", arch="resnet18", trust=True)


# --- torchvision by name


def test_untrained_torchvision_network_is_the_same_every_time() -> None:
    torch.manual_seed(5)
    first = loaded("torchvision:squeezenet1_1")
    drawn = torch.rand(1)
    second = loaded("torchvision:squeezenet1_1")

    assert first.info.weights == "untrained (seed 0)"
    assert torch.equal(logits(first, 64), logits(second, 64))
    torch.manual_seed(5)
    assert torch.equal(torch.rand(1), drawn), "the caller's random numbers must not be disturbed"


def test_zero_head_of_vit_is_given_weights() -> None:
    source = loaded("torchvision:vit_b_32")

    assert isinstance(source.module, torch.nn.Module)
    assert float(source.module.state_dict()["heads.head.weight"].std()) == pytest.approx(0.02, rel=0.01)
    assert any("heads.head" in note for note in source.info.notes)


def test_inception_gives_one_tensor() -> None:
    source = loaded("torchvision:inception_v3")

    assert source.input_shape == (1, 3, 299, 299)
    assert logits(source, 96).shape == (1, 1000)


def test_unknown_torchvision_network_is_refused_with_suggestions() -> None:
    with pytest.raises(SourceError, match="no network `resnt18`") as caught:
        loaded("torchvision:resnt18")

    assert "resnet18" in (caught.value.hint or "")


def test_unknown_torchvision_weights_are_refused_with_the_known() -> None:
    with pytest.raises(SourceError, match="no weights `BEST`") as caught:
        loaded("torchvision:resnet18:BEST")

    assert "IMAGENET1K_V1" in (caught.value.hint or "")


def test_failed_download_says_where_to_put_the_file(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(workspace / "cache"))
    for name in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # the discard port: nothing listens

    with pytest.raises(EnvironmentFailure) as caught:
        loaded("torchvision:squeezenet1_1:DEFAULT")

    assert "squeezenet1_1" in (caught.value.hint or "")


# --- factories


def test_factory_reports_every_local_file_it_read() -> None:
    Path("helper.py").write_text("WIDTH = 6\n")
    Path("weights.json").write_text(json.dumps({"scale": 2}))
    Path("build.py").write_text(
        "import json\nfrom pathlib import Path\nfrom torch import nn\nimport helper\n"
        "def build():\n    json.loads((Path(__file__).parent / 'weights.json').read_text())\n"
        "    print('chatter')\n    return nn.Linear(3, helper.WIDTH)\n"
    )

    read = {Path(path).name for path in loaded("build.py:build").dependencies}
    again = {Path(path).name for path in loaded("build.py:build").dependencies}

    assert read == {"build.py", "helper.py", "weights.json"}
    assert read <= again, "a helper that is already imported is still depended on"


def test_user_code_does_not_write_to_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    Path("build.py").write_text(
        "from torch import nn\nprint('import')\ndef build():\n    print('call')\n    return nn.ReLU()\n"
    )

    loaded("build.py:build")

    assert capsys.readouterr() == ("", "import\ncall\n")


def test_edited_factory_is_read_anew() -> None:
    for width in (3, 4):
        Path("build.py").write_text(f"from torch import nn\ndef build(): return nn.Linear({width}, 1, bias=False)\n")

        assert loaded("build.py:build").info.parameters == width


def test_factory_is_deterministic_and_declares_its_input() -> None:
    own_models()
    first, second = loaded("models/small.py:small"), loaded("models/small.py:small")

    assert torch.equal(logits(first), logits(second))
    assert (first.input_shape, first.preprocess_name) == ((1, 3, 32, 32), "cifar10")


def test_module_factory_is_found_from_the_current_directory() -> None:
    Path("own_package").mkdir()
    Path("own_package/__init__.py").write_text("")
    Path("own_package/parts.py").write_text("from torch import nn\nLayer = nn.Linear\n")
    Path("own_package/nets.py").write_text("from .parts import Layer\ndef build(): return Layer(2, 2)\n")

    source = loaded("own_package.nets:build")

    assert source.info.parameters == 6
    assert {"nets.py", "parts.py"} <= {Path(path).name for path in source.dependencies}


def test_network_with_named_outputs_is_accepted() -> None:
    Path("detr.py").write_text(
        "from torch import nn\n"
        "class Detr(nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n        self.fc = nn.Linear(3, 2)\n"
        "    def forward(self, x):\n        return {'pred_logits': self.fc(x), 'pred_boxes': self.fc(x).sigmoid()}\n"
    )

    source = loaded("detr.py:Detr")

    assert isinstance(source.module, torch.nn.Module)
    assert set(source.module(torch.ones(1, 3))) == {"pred_logits", "pred_boxes"}


@pytest.mark.parametrize(
    ("code", "message", "hint"),
    [
        ("def build(): return 3", "returned int", "called without arguments"),
        (
            "def build(): raise KeyError('lost')",
            r"raised KeyError: 'lost' \(.*build\.py, line 1\)",
            "without arguments",
        ),
        ("def build(size): return None", "raised TypeError", "called without arguments"),
        ("import sys\nsys.exit(3)", "raised SystemExit", ""),
        ("import no_such_thing", "No module named 'no_such_thing'", "install `no_such_thing`"),
        ("from . import sibling", "relative import", "package.module:FACTORY"),
        ("def biuld(): pass", "has no `build`", "biuld"),
    ],
)
def test_broken_factory_is_explained(code: str, message: str, hint: str) -> None:
    Path("build.py").write_text(code)

    with pytest.raises(SourceError, match=message) as caught:
        loaded("build.py:build")

    assert hint in (caught.value.hint or "")


# --- ONNX


def onnx_model(path: Path, location: str | None = None) -> None:
    """y = x @ w, with w [4, 2] in the file, or at `location` without any check of it."""
    onnx = pytest.importorskip("onnx", reason="needs onnx: pip install 'edgebench[torch]'")
    from onnx import TensorProto, helper

    weights = helper.make_tensor("w", TensorProto.FLOAT, [4, 2], np.ones(8, np.float32).tobytes(), raw=True)
    if location is not None:
        weights.ClearField("raw_data")
        weights.data_location = TensorProto.EXTERNAL
        weights.external_data.add(key="location", value=location)
        weights.external_data.add(key="length", value="32")
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 2])]
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", inputs, outputs, [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    path.write_bytes(onnx.ModelProto.SerializeToString(model))


def test_onnx_is_described_without_running_it() -> None:
    onnx_model(Path("m.onnx"))

    source = loaded("m.onnx")

    assert source.module is None
    assert (source.info.kind, source.info.parameters, source.input_shape) == ("onnx", 8, (1, 4))


def test_onnx_with_weights_beside_it_depends_on_them() -> None:
    onnx_model(Path("m.onnx"), location="m.data")
    Path("m.data").write_bytes(bytes(32))

    assert list(loaded("m.onnx").dependencies) == [str(Path("m.data").resolve())]


@pytest.mark.parametrize(
    "location", ["/etc/hostname", "../secret", "a/../../secret", "C:\\secret", "..\\secret", "link"]
)
def test_onnx_whose_weights_leave_its_folder_is_refused(workspace: Path, location: str) -> None:
    (workspace / "secret").write_bytes(bytes(32))
    folder = workspace / "model"
    folder.mkdir()
    (folder / "link").symlink_to(workspace / "secret")
    onnx_model(folder / "m.onnx", location=location)

    with pytest.raises(SourceError, match="outside its own folder"):
        loaded(folder / "m.onnx")


@pytest.mark.parametrize(("size", "message"), [(None, "is not there"), (31, "cut short")])
def test_onnx_with_missing_weights_is_refused(size: int | None, message: str) -> None:
    onnx_model(Path("m.onnx"), location="m.data")
    if size is not None:
        Path("m.data").write_bytes(bytes(size))

    with pytest.raises(SourceError, match=message):
        loaded("m.onnx")


def test_onnx_with_damaged_graph_is_refused() -> None:
    # The frame is whole: ir_version 8, then a graph of two bytes that are no field.
    Path("m.onnx").write_bytes(b"\x08\x08\x3a\x02\xff\xff")

    with pytest.raises(SourceError, match="not an ONNX model"):
        loaded("m.onnx")


# --- the command


def run_inspect(*argv: str) -> int:
    parser = argparse.ArgumentParser()
    inspect.add_parser(parser.add_subparsers())
    args = parser.parse_args(["inspect", *argv])
    return int(args.run(args))


def test_inspect_describes_an_untrusted_pickle_and_succeeds(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_poisoned("zip", workspace / "evil.pt", workspace / "ran")

    code = run_inspect("evil.pt")

    printed = capsys.readouterr().out
    assert code == 0
    assert "mkdir" in printed
    assert "--trust" in printed
    assert not (workspace / "ran").exists()


def test_inspect_writes_json_alone_to_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(small_state(), "weights.pt")

    run_inspect("weights.pt", "--arch", "nets.py:small", "--json", "-")

    facts = json.loads(capsys.readouterr().out)
    assert (facts["kind"], facts["parameters"], facts["dtype"]) == ("state-dict", 268, "float32")
    assert facts["bytes"] == Path("weights.pt").stat().st_size


def test_inspect_lists_what_an_onnx_file_holds(capsys: pytest.CaptureFixture[str]) -> None:
    onnx_model(Path("m.onnx"))

    run_inspect("m.onnx")

    printed = capsys.readouterr().out
    assert "x float32[?,4]" in printed
    assert "MatMul 1" in printed


def test_inspect_without_torch_tells_what_it_can(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(small_state(), "weights.pt")
    monkeypatch.setitem(sys.modules, "torch", None)  # what Python does for a module that is not there

    code = run_inspect("weights.pt")

    printed = capsys.readouterr().out
    assert code == 0
    assert "state-dict" in printed
    assert "pip install 'edgebench[torch]'" in printed


# --- files that others published (shared/data/SOURCES.md)


def published(name: str) -> Path:
    path = SHARED / "models" / name
    if not path.is_file():
        pytest.skip(f"needs the published model {path}")
    return path


@pytest.mark.parametrize(
    ("name", "arch", "parameters"),
    [
        # The depths' parameter counts as akamaster's README gives them: 0.27 M and 0.46 M.
        ("resnet20-12fca82f.th", "resnet20", 0.27e6),
        ("resnet32-d509ac18.th", "resnet32", 0.46e6),
    ],
)
def test_published_cifar_resnet_is_loaded(name: str, arch: str, parameters: float) -> None:
    path = published(name)

    source = loaded(path, arch=f"{SHARED / 'archs.py'}:{arch}")

    assert source.info.kind == "checkpoint"
    assert source.info.parameters == pytest.approx(parameters, rel=0.02)
    assert identify(str(path)).stem == arch


def test_published_squeezenet_is_found_by_name() -> None:
    source = loaded(published("squeezenet1_1_imagenet.pth"))

    assert source.info.architecture == "torchvision:squeezenet1_1"
    # torchvision's documentation of SqueezeNet1_1_Weights: num_params.
    assert source.info.parameters == 1_235_496


def test_published_mnist_onnx_is_described() -> None:
    pytest.importorskip("onnx", reason="needs onnx: pip install 'edgebench[torch]'")
    from edgebench.source.onnx_file import describe

    found = describe(published("ort_mnist.onnx"))

    assert [(spec.name, spec.shape, spec.dtype) for spec in found.inputs] == [("Input3", (1, 1, 28, 28), "float32")]
    assert [spec.shape for spec in found.outputs] == [(1, 10)]


@pytest.mark.parametrize(
    ("name", "nodes"),
    [
        ("version-RFB-320.onnx", 242),
        ("version-RFB-320_simplified.onnx", 110),
        ("version-RFB-320_without_postprocessing.onnx", 217),
    ],
)
def test_published_face_detector_has_one_input_among_its_listed_initializers(name: str, nodes: int) -> None:
    pytest.importorskip("onnx", reason="needs onnx: pip install 'edgebench[torch]'")
    from edgebench.source.onnx_file import describe

    found = describe(published(name))

    assert [spec.shape for spec in found.inputs] == [(1, 3, 240, 320)]
    assert len(found.outputs) == 2
    assert sum(found.operators.values()) == nodes
