"""What edgebench adds to TFLite's own interpreter: its timed loop against a bare one, and a whole `bench` against a
script that everyone writes.

    python benchmarks/tflite_overhead.py FILE.tflite... [--rounds 30] [--pairs 6]

Loop: in one process, on one interpreter, blocks of the agent's turns alternate with blocks of a bare loop (set_tensor,
invoke, get_tensor between two readings of `perf_counter_ns`) and of `invoke` alone, in an order drawn anew. The limit
is 1.02 against the bare loop. There are rounds until the interval lies on one side of it, up to --rounds.

Whole: `edgebench.bench` of one process against the bare loop in a fresh process of its own, by turns, --pairs of each:
p50 over p50. Each process has its own memory layout, so that the interval is wide.
"""

from __future__ import annotations

import argparse
import gc
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import edgebench
from edgebench import stats
from edgebench.agent.loop import Loop
from edgebench.agent.runtimes.tflite import TfliteSession, open_interpreter
from edgebench.measure.subjects import find_subjects
from edgebench.model_inputs import random_feed

LIMIT = 1.02
TURN, LAPS, LEAST_ROUNDS, FEEDS = 10, 20, 6, 4

Laps = dict[int, Sequence[int]]

# In a process of its own: warm for half a second, then 200 runs.
SCRIPT = """
import statistics, sys, time
import numpy as np
from ai_edge_litert.interpreter import Interpreter

interpreter = Interpreter(sys.argv[1], num_threads=1)
interpreter.allocate_tensors()
inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
feed = []
for item in inputs:
    values = np.random.default_rng(0).standard_normal(item["shape"])
    feed.append((item["index"], (values * (1 if np.dtype(item["dtype"]).kind == "f" else 30)).astype(item["dtype"])))
samples, begun = [], time.perf_counter()
while len(samples) < 200:
    started = time.perf_counter_ns()
    for index, array in feed:
        interpreter.set_tensor(index, array)
    interpreter.invoke()
    found = [interpreter.get_tensor(item["index"]) for item in outputs]
    ended = time.perf_counter_ns()
    if time.perf_counter() - begun > 0.5:
        samples.append(ended - started)
print(statistics.median(samples))
"""


def _bare(interpreter: Any, feeds: Sequence[Any], outputs: Sequence[int]) -> list[int]:
    """What everyone writes."""
    samples = []
    for number in range(TURN):
        feed = feeds[number % len(feeds)]
        started = time.perf_counter_ns()
        for index, array in feed:
            interpreter.set_tensor(index, array)
        interpreter.invoke()
        for index in outputs:
            interpreter.get_tensor(index)
        samples.append(time.perf_counter_ns() - started)
    return samples


def _invoke_alone(interpreter: Any) -> list[int]:
    samples = []
    for _ in range(TURN):
        started = time.perf_counter_ns()
        interpreter.invoke()
        samples.append(time.perf_counter_ns() - started)
    return samples


def _known(ratio: stats.Ratio | None) -> bool:
    return ratio is not None and ratio.ci is not None and not ratio.ci[0] <= LIMIT < ratio.ci[1]


def _loop_ratios(path: Path, most_rounds: int) -> tuple[stats.Ratio, stats.Ratio, float]:
    """The agent's turns over the bare loop's and over invoke's, and the bare median in milliseconds."""
    (subject,) = find_subjects([path], include_failed=False)
    interpreter = open_interpreter(str(path), 1)
    session = TfliteSession(interpreter)
    feeds = [
        session.adapt(dict(random_feed(subject.inputs, seed=0, index=index)))
        for index in range(FEEDS)
    ]  # fmt: skip
    outputs = [detail["index"] for detail in interpreter.get_output_details()]
    loop = Loop(session.run, feeds)
    loop.warm_up(20, 2.0, 10.0)
    blocks: dict[str, Callable[[], Sequence[int]]] = {
        "ours": lambda: loop.timed(TURN, 60.0),
        "bare": lambda: _bare(interpreter, feeds, outputs),
        "invoke": lambda: _invoke_alone(interpreter),
    }
    order = random.Random(0)
    rounds: list[dict[str, Laps]] = []
    while True:
        laps: dict[str, Laps] = {name: {} for name in blocks}
        for lap in range(LAPS):
            for name in order.sample(list(blocks), len(blocks)):
                # Untimed runs before every block, as before every turn of a measurement.
                loop.lead_in(1.0)
                laps[name] = {**laps[name], lap: blocks[name]()}
        rounds.append(laps)
        over = {name: stats.ratio([(item[name], item["ours"]) for item in rounds]) for name in ("bare", "invoke")}
        if len(rounds) >= most_rounds or (_known(over["bare"]) and len(rounds) >= LEAST_ROUNDS):
            every = [sample for item in rounds for samples in item["bare"].values() for sample in samples]
            assert over["bare"] is not None and over["invoke"] is not None
            return over["bare"], over["invoke"], statistics.median(every) / 1e6


def _whole_ratio(path: Path, pairs: int) -> stats.Ratio | None:
    """The p50 of `bench` over the script's."""
    settings = edgebench.BenchSettings(processes=1, iterations=200, max_wait_s=0.0)

    def ours() -> float:
        (cell,) = edgebench.bench(path, threads=[1], settings=settings).cells
        return statistics.median(cell.measurements[0].samples_ns)

    def script() -> float:
        done = subprocess.run([sys.executable, "-c", SCRIPT, str(path)], capture_output=True, text=True, check=True)
        return float(done.stdout)

    found = []
    for number in range(pairs):
        # Now this one first, now that one.
        order = [script, ours][:: 1 if number % 2 else -1]
        p50 = {measure: measure() for measure in order}
        found.append((p50[script], p50[ours]))
    return stats.paired_ratio(found)


def _words(ratio: stats.Ratio | None) -> str:
    if ratio is None:
        return "not measured"
    interval = "" if ratio.ci is None else f" [{ratio.ci[0]:.4f}, {ratio.ci[1]:.4f}]"
    return f"{ratio.ratio:.4f}{interval}, {ratio.rounds} rounds"


def main() -> int:
    """Print the ratios; 1 when the loop is known to be beyond its limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", metavar="FILE.tflite", nargs="+", type=Path)
    parser.add_argument("--rounds", type=int, default=30, help="at most, of 20 laps each (default: 30)")
    parser.add_argument("--pairs", type=int, default=6, help="of whole runs, 0 for none (default: 6)")
    arguments = parser.parse_args()
    held = True
    for path in arguments.files:
        whole = _whole_ratio(path, arguments.pairs) if arguments.pairs else None
        gc.collect()
        # As the worker does; with the collector on, all loops would have its pauses.
        gc.disable()
        bare, invoke, bare_ms = _loop_ratios(path, max(arguments.rounds, LEAST_ROUNDS))
        gc.enable()
        held = held and (bare.ci is None or bare.ci[0] <= LIMIT)
        print(f"{path.stem}, {bare_ms:.3f} ms bare")
        print(f"  loop × a bare loop: {_words(bare)}; limit {LIMIT}")
        print(f"  loop × invoke alone: {_words(invoke)}")
        print(f"  bench × a script, in fresh processes: {_words(whole)}", flush=True)
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
