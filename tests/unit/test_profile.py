"""Sums of a profile, what it says in words, and its files."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from edgebench.agent.operator_times import GraphNode, OperatorTime, OperatorTimes
from edgebench.cli.main import main
from edgebench.profiling.findings import comparison, doubts, float_in_int8
from edgebench.profiling.onnx_modules import INSERTED, Found
from edgebench.profiling.profile import NETWORK, UNKNOWN, Operator, Profile, best_depth, build, module_at, totals
from edgebench.report import chrome_trace, profile_json
from edgebench.report.profile_table import render


def _operator(
    kind: str,
    module: str | None,
    *ns: int,
    precision: str | None = "fp32",
    converted: bool = False,
    started_ns: tuple[int, ...] = (),
) -> Operator:
    return Operator(f"{kind} of {module}", kind, f"ai.onnx {kind}", precision, module, False, converted, ns, started_ns)


def _profile(*operators: Operator, name: str = "onnx", whole: int = 100, unprofiled: int = 100) -> Profile:
    runs = len(operators[0].ns)
    return Profile(
        name=name,
        format="onnx",
        precision="fp32",
        runtime="onnxruntime",
        runtime_version="1.31.1",
        device="local",
        threads=1,
        fed_with="random numbers",
        method="a profiler",
        operators=operators,
        whole_ns=(whole,) * runs,
        unprofiled_ns=(unprofiled,) * runs,
    )


FLOAT = _profile(
    _operator("Conv", "layer1.0.conv1", 40, 50, 400),
    _operator("Conv", "layer1.0.conv2", 30, 30, 30),
    _operator("Gemm", "fc", 15, 15, 15),
    _operator("ReorderOutput", INSERTED, 5, 5, 5),
)
INT8 = _profile(
    _operator("QLinearConv", "layer1.0.conv1", 20, precision="int8"),
    _operator("DequantizeLinear", "layer1.0", 5, precision="int8"),
    _operator("HardSigmoid", "layer1.0", 20, converted=True),
    _operator("QuantizeLinear", "layer1.0", 5),
    _operator("QGemm", "fc", 50, precision="int8"),
    name="onnx-int8",
)


def test_an_operators_time_is_its_p50_and_sums_and_shares_are_of_these() -> None:
    # Medians 50, 30, 15 and 5 make 100; the mean of the first would be 163.
    assert [(item.name, item.count, item.p50_ns, item.share) for item in totals(FLOAT, lambda op: op.kind)] == [
        ("Conv", 2, 80, 0.8),
        ("Gemm", 1, 15, 0.15),
        ("ReorderOutput", 1, 5, 0.05),
    ]


def test_modules_are_cut_to_a_depth() -> None:
    cut = [module_at(_operator("Conv", module, 1), 2) for module in ("a.b.c", "a", "", None, INSERTED)]
    assert cut == ["a.b", "a", NETWORK, UNKNOWN, INSERTED]


def test_the_depth_is_the_largest_that_gives_an_overview() -> None:
    few = _profile(*(_operator("Conv", f"a.{number}.conv", 1) for number in range(10)))
    many = _profile(*(_operator("Conv", f"a.{number % 10}.{number}", 1) for number in range(30)))
    assert best_depth([few]) == 3
    assert best_depth([many]) == 2
    assert best_depth([few, many]) == 2


def test_time_outside_operators_and_the_profilers_cost_are_told() -> None:
    # Operators 85, 100 and 435 of 200 a run: their median is 0.5; 200 with the profiler and 100 without.
    found = _profile(*FLOAT.operators, whole=200)
    assert found.accounted == 0.5
    assert found.overhead == 2.0
    said = " ".join(doubts(found))
    assert "2.00 times as long" in said
    assert "50% of the profiled inference was in no operator" in said


def test_a_busy_machine_is_told() -> None:
    # Each p50 is 10, and in each of the three inferences another operator takes 40: 60 against 30.
    found = _profile(
        _operator("Conv", "a", 40, 10, 10), _operator("Conv", "b", 10, 40, 10), _operator("Conv", "c", 10, 10, 40)
    )
    assert found.disturbance == pytest.approx(2.0)
    assert "operators took 2.0 times their p50" in " ".join(doubts(found))


def test_a_quiet_profile_has_no_doubts() -> None:
    assert doubts(_profile(_operator("Conv", "a", 95, 95))) == []


def test_time_of_unknown_modules_is_told() -> None:
    found = _profile(_operator("Conv", "a", 50), _operator("Relu", None, 50))
    assert "50% of the operators' time is of no known module" in " ".join(doubts(found))


def test_an_int8_model_says_what_is_not_int8_and_what_to_do() -> None:
    text = float_in_int8(INT8)
    assert text is not None
    assert "70% of its time in int8" in text
    assert "converts between int8 and float for 10% (2 conversions)" in text
    assert "computes in float for 20%, in 1 operator: 1 HardSigmoid" in text
    assert "found no int8 kernel for HardSigmoid" in text
    assert "next:" in text


def test_what_was_not_quantized_is_not_blamed_on_the_runtime() -> None:
    text = float_in_int8(_profile(_operator("QLinearConv", "a", 50, precision="int8"), _operator("Softmax", "b", 50)))
    assert text is not None
    assert "they were not quantized" in text
    assert "kernel" not in text


def test_a_float_model_has_nothing_to_say_of_int8() -> None:
    assert float_in_int8(FLOAT) is None


def test_two_profiles_name_the_modules_that_take_longer() -> None:
    # layer1 80 -> 50, fc 15 -> 50; in all 100 -> 100.
    text = comparison(FLOAT, INT8, 1)
    assert "take 1.00 of onnx's time" in text
    assert "; fc take longer" in text


def test_an_operator_between_conversions_is_known_by_the_graph() -> None:
    graph = (
        GraphNode("dq", "DequantizeLinear", ("q0",), ("f0",)),
        GraphNode("hs", "HardSigmoid", ("f0",), ("f1",)),
        GraphNode("q", "QuantizeLinear", ("f1",), ("q1",)),
        GraphNode("sm", "Softmax", ("f1",), ("f2",)),
    )
    times = OperatorTimes(
        method="",
        operators=tuple(OperatorTime(node.name, "?", (1,), node=place) for place, node in enumerate(graph)),
        whole_ns=(9,),
        graph=graph,
    )
    built = build(times, range(4), [Found("a", guessed=True)] * 4)
    assert [item.converted for item in built] == [False, True, False, False]
    assert [item.kind for item in built] == [node.operator for node in graph]
    assert all(item.guessed and item.module == "a" for item in built)


def test_a_trace_nests_modules_and_lays_inferences_behind_each_other() -> None:
    found = _profile(
        _operator("Conv", "a.b", 20, 21, started_ns=(1000, 1100)),
        _operator("ReorderOutput", INSERTED, 5, 5, started_ns=(1030, 1130)),
        _operator("Relu", "a.c", 10, 10, started_ns=(1040, 1140)),
        whole=2000,
    )
    events = chrome_trace.document([found])["traceEvents"]
    spans = {
        thread: [(item["name"], item["ts"], item["dur"]) for item in events if item["ph"] == "X" and item["tid"] == tid]
        for tid, thread in ((1, "inferences"), (2, "modules"), (3, "operators"))
    }
    # In microseconds.
    assert spans["inferences"] == [("inference 0", 0, 2), ("inference 1", 2, 2)]
    assert spans["operators"][0] == ("Conv of a.b", 1.0, 0.02)
    assert spans["operators"][3] == ("Conv of a.b", 3.1, 0.021)
    # `a` holds from its first operator to its last, also over what the runtime put between them.
    assert sorted(spans["modules"][:3]) == [("a", 1.0, 0.05), ("a.b", 1.0, 0.02), ("a.c", 1.04, 0.01)]
    assert {item["name"] for item in events if item["ph"] == "M"} == {"process_name", "thread_name"}


def test_operators_whose_start_is_not_told_say_so_in_a_trace() -> None:
    events = chrome_trace.document([_profile(_operator("Conv", "a", 20), _operator("Relu", "a", 10))])["traceEvents"]
    second = next(item for item in events if item["name"] == "Relu of a")
    assert (second["ts"], second["dur"]) == (0.02, 0.01)
    assert "does not tell when" in second["args"]["start"]


def test_the_json_holds_raw_times_and_sums() -> None:
    document = json.loads(json.dumps(profile_json.document([FLOAT, INT8], None), allow_nan=False))
    first, second = document["profiles"]
    assert first["operators"][0]["ns"] == [40, 50, 400]
    assert first["modules"][0] == {"name": "layer1.0.conv1", "operators": 1, "p50_ms": 50e-6, "share": 0.5}
    assert second["shares"]["conversion"] == pytest.approx(0.1)
    assert second["shares"]["float"] == pytest.approx(0.2)


def _text(*profiles: Profile, views: tuple[str, ...] = ("kind", "module"), top: int = 10) -> str:
    console = Console(file=io.StringIO(), width=200)
    console.print(render(profiles, views, top, 1))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_two_profiles_stand_side_by_side_with_ratios() -> None:
    sums = _text(FLOAT, INT8).partition("slowest")[0]
    rows = {line.split()[0]: line.split() for line in sums.splitlines() if line.strip()}
    # 15 ns and 50 ns.
    assert rows["fc"][-1] == "3.33"
    assert rows["QLinearConv"][-1] == "—"
    assert rows["QLinearConv"][1] == "—"


def test_rows_beyond_the_top_are_summed_up() -> None:
    text = _text(FLOAT, views=("kind",), top=1)
    assert "2 more" in text
    assert "20.0 %" in text
    assert "Gemm" not in text


def test_a_profile_without_modules_has_no_table_of_them() -> None:
    table = _text(_profile(_operator("Relu", None, 5), _operator("ReorderInput", INSERTED, 5)))
    assert "  module  " not in table.partition("slowest")[0]
    assert "  module  " in _text(_profile(_operator("Relu", "a", 5))).partition("slowest")[0]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["gone.onnx"], "gone.onnx does not exist"),
        (["."], "is not a bundle"),
        (["text.onnx"], "text.onnx"),
        (["gone.onnx", "--device", "nowhere"], "there is no device profile `nowhere`"),
        (["gone.onnx", "--json", "-", "--trace", "-"], "cannot both go to stdout"),
        (["gone.onnx", "--trace", "no/such/place.json"], "cannot be written"),
        (["gone.py:net"], "there is no file gone.py"),
    ],
)
def test_what_cannot_be_profiled_is_one_error_with_a_next_step(
    arguments: list[str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EDGEBENCH_HOME", str(tmp_path))
    (tmp_path / "text.onnx").write_text("this is no model")
    assert main(["profile", *arguments]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert "hint: " in said
