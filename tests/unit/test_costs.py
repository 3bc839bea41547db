"""What an inference takes and how near its device's limits it is; expected numbers are worked out in the comments."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from rich.console import Console

from edgebench.agent import peaks
from edgebench.agent.codec import decode, encode
from edgebench.agent.roofline import Roofline
from edgebench.agent.wire import WIRE_VERSION, Job
from edgebench.compute import Compute
from edgebench.costs.layers import LayerCosts, Step, peak_live_bytes, summed
from edgebench.figures import figures
from edgebench.report.run_table import render
from edgebench.run_file import load_run, run_document
from edgebench.types import ArtifactRef, Cell, Costs, Run
from tests.unit.runs import cell, run

# 1 GFLOP in 10 MB of weights and 20 MB of results: 1e9 / (10e6 + 2 * 20e6) = 20 operations a byte.
COSTS = Costs(500_000_000, 2_500_000, 0, 10_000_000, 20_000_000, 5_000_000)
# 100 GFLOP/s at 10 GB/s: what does fewer than 10 operations a byte waits for memory.
ROOFLINE = Roofline(1, 100_000_000_000, 400_000_000_000, 10_000_000_000, "float32 by numpy")
# Three processes whose medians are 20 ms.
SAMPLES = ((20_000_000,) * 5,) * 3


def _with(costs: Costs | None = COSTS, rooflines: tuple[Roofline, ...] = (ROOFLINE,), **changes: object) -> Run:
    made = run(cell("onnx", *SAMPLES, costs=costs, **changes))
    return replace(made, devices=(replace(made.devices[0], rooflines=rooflines),))


def _compute(made: Run) -> Compute | None:
    return figures(made, made.cells[0]).compute


def test_the_peak_is_where_most_is_alive() -> None:
    # a (10) -> b (30); a, b -> c (5); c -> d (1): 40 after the first, 45 at the second, 6 at the third.
    steps = [Step(("a",), ("b",)), Step(("a", "b"), ("c",)), Step(("c",), ("d",))]
    assert peak_live_bytes(steps, ["a"], ["d"], {"a": 10, "b": 30, "c": 5, "d": 1}) == 45


def test_a_result_of_the_network_lives_to_the_end() -> None:
    # As above, but b is a result: it is still there when d is made: 30 + 5 + 1, less than 45; with d of 20 it is 55.
    steps = [Step(("a",), ("b",)), Step(("a", "b"), ("c",)), Step(("c",), ("d",))]
    assert peak_live_bytes(steps, ["a"], ["b", "d"], {"a": 10, "b": 30, "c": 5, "d": 20}) == 55


def test_a_view_takes_no_memory_of_its_own() -> None:
    steps = [Step(("a",), ("b",)), Step(("b",), ("b",)), Step(("b",), ("c",))]
    assert peak_live_bytes(steps, ["a"], ["c"], {"a": 10, "b": 10, "c": 10}) == 20


def test_a_size_that_is_not_known_leaves_the_peak_unknown() -> None:
    assert peak_live_bytes([Step(("a",), ("b",))], ["a"], ["b"], {"a": 10, "b": None}) is None


def test_what_is_not_counted_is_named_once() -> None:
    layer = LayerCosts("x", None, "If", None, None, 0, 0, 0, 4)
    totals = summed([layer, replace(layer, name="y"), replace(layer, operator="Conv", macs=7)], 4).totals
    assert (totals.macs, totals.not_counted) == (7, ("If",))


def test_operations_a_second_are_two_for_each_mac_over_p50() -> None:
    # 1 GFLOP in 20 ms is 50 GFLOP/s, half of the peak; 20 operations a byte are beyond the ridge at 10.
    found = _compute(_with())
    assert found is not None
    assert found.ops_per_s == pytest.approx(50e9)
    assert found.share == pytest.approx(0.5)
    assert found.intensity == pytest.approx(20)
    assert found.bound == "compute"


def test_few_operations_a_byte_wait_for_memory() -> None:
    # 1e9 / (400e6 + 2 * 20e6) is 2.3 operations a byte, below 10.
    found = _compute(_with(replace(COSTS, weight_bytes=400_000_000)))
    assert found is not None
    assert found.bound == "memory"


def test_int8_is_set_against_the_peak_of_int8_alone() -> None:
    int8 = ArtifactRef("onnx", "onnx-int8", "int8", "ff")
    found, without = (
        _compute(_with(artifact=int8)),
        _compute(_with(artifact=int8, rooflines=(replace(ROOFLINE, int8_ops_per_s=None),))),
    )
    assert found is not None and without is not None
    # 50 of 400 GOP/s.
    assert found.share == pytest.approx(0.125)
    assert (without.ops_per_s, without.share, without.bound) == (pytest.approx(50e9), None, None)


@pytest.mark.parametrize("changes", [{"threads": 2}, {"runtime": "onnxruntime-cuda"}])
def test_a_peak_of_other_threads_or_of_the_cpu_is_none_for_the_cell(changes: dict[str, object]) -> None:
    found = _compute(_with(**changes))
    assert found is not None
    assert found.share is None


@pytest.mark.parametrize("scenario", ["paced:30", "end-to-end"])
def test_times_of_more_than_the_inference_give_no_rate(scenario: str) -> None:
    assert _compute(_with(scenario=scenario)) is None


def test_streams_compute_at_once() -> None:
    found = _compute(_with(scenario="multi-stream:2"))
    assert found is not None
    assert found.ops_per_s == pytest.approx(100e9)


def test_an_emulated_device_has_no_rate_and_no_share() -> None:
    made = _with()
    assert _compute(replace(made, devices=(replace(made.devices[0], emulated=True),))) is None


def _printed(made: Run) -> str:
    console = Console(file=io.StringIO(), width=200, record=True)
    console.print(render(made))
    return console.export_text()


def test_the_table_says_how_well_the_device_is_used() -> None:
    text = _printed(_with())
    row = next(line for line in text.splitlines() if "50 %" in line)
    assert row.split()[:4] == ["onnx", "0.500", "2.50", "5.0"]
    assert "peak of local with 1 thread: 100 GFLOP/s float32, 400 GOP/s int8, 10.0 GB/s" in text


def test_a_count_that_leaves_something_out_is_a_least() -> None:
    text = _printed(_with(replace(COSTS, not_counted=("If",))))
    assert "≥ 0.500" in text
    assert "of onnx If is not counted" in text


def test_without_costs_the_table_has_no_such_columns() -> None:
    assert "GMAC" not in _printed(_with(None))


def test_why_there_is_no_peak_is_said() -> None:
    made = _with(rooflines=())
    made = replace(made, devices=(replace(made.devices[0], no_roofline="numpy is not installed: pip install numpy"),))
    assert "no peak of local: numpy is not installed: pip install numpy" in _printed(made)


def test_costs_and_peaks_go_through_json_and_the_figures_are_computed_anew(tmp_path: Path) -> None:
    made = _with()
    document = run_document(made)
    assert document["cells"][0]["compute"]["share"] == pytest.approx(0.5)
    (tmp_path / "run.json").write_text(json.dumps(document))
    assert load_run(tmp_path / "run.json") == made


def test_a_cell_of_an_older_run_has_no_costs() -> None:
    document = encode(cell("onnx", *SAMPLES))
    del document["costs"]
    assert decode(Cell, document).costs is None


@pytest.mark.parametrize("kind", [peaks._FLOAT, peaks._INT8])
def test_the_spelled_out_model_is_a_matrix_product(kind: int) -> None:
    # numpy's own product is the peer; integers up to 4 * 255 * 127 are exact in both.
    generator = np.random.default_rng(0)
    given, weights = generator.integers(0, 255, (4, 4)), generator.integers(-127, 127, (4, 4))
    types = (np.float32, np.float32) if kind == peaks._FLOAT else (np.uint8, np.int8)
    model = peaks._matmul_model(4, kind, weights.astype(types[1]).tobytes())
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"a": given.astype(types[0])})
    assert (found == given @ weights).all()


def test_peaks_of_this_machine_are_positive_and_name_what_computed_them() -> None:
    found = peaks.measure_peaks(Job(WIRE_VERSION, "roofline", "", "", 1, ()))
    (roofline,) = found.rooflines
    assert (found.status, roofline.threads) == ("ok", 1)
    assert min(roofline.flops_per_s, roofline.int8_ops_per_s or 0, roofline.bytes_per_s) > 0
    assert "int8 by onnxruntime" in roofline.method


def test_the_copy_is_larger_than_the_caches_and_fits_into_memory(tmp_path: Path) -> None:
    cache = tmp_path / "sys/devices/system/cpu/cpu0/cache/index3"
    cache.mkdir(parents=True)
    (cache / "size").write_text("98304K\n")
    (tmp_path / "proc").mkdir()
    meminfo = tmp_path / "proc/meminfo"
    meminfo.write_text("MemTotal: 16000000 kB\nMemAvailable: 12000000 kB\n")
    # Twice 96 MiB.
    assert peaks._copied_bytes(str(tmp_path)) == 192 << 20
    meminfo.write_text("MemTotal: 430000 kB\nMemAvailable: 160000 kB\n")
    # An eighth of what is free, twice: a quarter.
    assert peaks._copied_bytes(str(tmp_path)) == 160000 * 1024 // 8
