"""Which kind of int8 a processor gets, and what the command line makes of its options."""

from __future__ import annotations

import argparse
from typing import Any

import pytest

from edgebench.cli.int8_options import add_options, read_options
from edgebench.errors import UsageError
from edgebench.int8_target import find_target
from edgebench.progress import Silent
from edgebench.quantize.settings import Settings, for_target, target_of
from edgebench.trade_off import Budget


@pytest.mark.parametrize(
    ("machine", "flags", "target"),
    [
        ("x86_64", ["avx2", "avx512_vnni"], "x86-vnni"),
        ("AMD64", ["avx2", "avx_vnni"], "x86-vnni"),
        # Haswell: pairs of products are added in 16 bits.
        ("x86_64", ["avx2"], "x86-avx2"),
        # Not known to have VNNI is taken to saturate.
        ("x86_64", [], "x86-avx2"),
        ("aarch64", ["asimddp"], "arm"),
        ("armv7l", [], "arm"),
    ],
)
def test_a_processor_is_told_by_its_flags(machine: str, flags: list[str], target: str) -> None:
    assert target_of(machine, flags) == target


def test_only_a_processor_without_vnni_leaves_a_bit_of_the_weights() -> None:
    assert [for_target(name, {}).weight_bits for name in ("x86-vnni", "x86-avx2", "arm")] == [8, 7, 8]
    assert [for_target(name, {}).activations for name in ("x86-vnni", "x86-avx2", "arm")] == ["uint8", "uint8", "int8"]


def test_what_the_user_wants_goes_before_the_target() -> None:
    assert for_target("arm", {"activations": "uint8", "weight_bits": 7}).activations == "uint8"


def test_a_target_that_is_no_device_either_is_refused() -> None:
    with pytest.raises(UsageError, match="toaster"):
        find_target("toaster", Silent())


def test_this_machine_is_a_target() -> None:
    assert find_target(None, Silent()) in ("x86-vnni", "x86-avx2", "arm")


def _read(*arguments: str) -> dict[str, Any]:
    parser = argparse.ArgumentParser()
    add_options(parser)
    return read_options(parser.parse_args(arguments))


def test_without_options_nothing_is_set() -> None:
    assert _read() == {"target": None, "int8": {}, "budget": None, "data": None, "data_samples": None}


def test_every_setting_has_an_option() -> None:
    read = _read(
        *(
            "--activations",
            "int8",
            "--weights",
            "uint8",
            "--per-tensor",
            "--symmetric",
            "--reduce-range",
            "on",
            "--form",
            "QOperator",
        ),
        *("--equalize", "off", "--bias-correction", "off", "--float", "Sigmoid,conv1", "--int16", "conv2"),
    )
    settings = Settings(method="mse", percentile=99.9, **read["int8"])
    defaults = Settings()
    assert all(getattr(settings, name) != getattr(defaults, name) for name in Settings.__dataclass_fields__)
    assert settings.floats == ("Sigmoid", "conv1")


def test_a_budget_is_read_with_its_bounds() -> None:
    read = _read(
        "--max-drop", "1", "--keep", "int16", "--max-evaluations", "9", "--search-time", "60", "--data", "digits"
    )
    assert read["budget"] == Budget(max_drop=1.0, keep="int16", evaluations=9, seconds=60)
    assert read["data"] == "digits"
