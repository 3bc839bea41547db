"""Time until a network's p50 is known to 1 %: edgebench against pyperf with its defaults, in turn.

    pip install pyperf
    python benchmarks/time_to_answer.py [--pairs 5]

Both measure the same call, onnxruntime's `session.run` of six convolutions with one thread. pyperf runs its 20
processes after one that calibrates, whatever they tell. edgebench runs rounds of one fresh process until the interval
over the processes' medians has been 1 % or less to either side three times in a row, from 5 processes on and up to 40,
as does `bench --precision 1 --iterations 25 --max-wait 0`. With 25 samples instead of 50 a process is over sooner and
its median just as good: what is left in it is the process's own.

Precision is half the 95 % interval over processes, in percent: of their medians for edgebench, of their means for
pyperf, which itself shows the standard deviation of its 60 values. On a busy machine neither may reach 1 %. The limit,
a third, is for the median ratio of wall times.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.conv_chain import input_spec, onnx_job, write_network
from edgebench import stats
from edgebench.agent.wire import WIRE_VERSION, Round
from edgebench.measure.jobs import JobRunner

LIMIT = 1 / 3
PRECISION = 1.0
SIDE, LAYERS = 64, 6
LAPS, TURN = 5, 5
LEAST_PROCESSES, IN_A_ROW = 5, 3
MOST_PROCESSES = 40

PYPERF = """
import numpy as np, onnxruntime, pyperf
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
session = onnxruntime.InferenceSession({path!r}, options, providers=["CPUExecutionProvider"])
feed = {{"input": np.random.default_rng(0).standard_normal({shape}).astype(np.float32)}}
pyperf.Runner().bench_func("session.run", session.run, None, feed)
"""


@dataclass(frozen=True)
class Answer:
    """What was known after `seconds`; `precision` in percent, and `spread` what the tool itself shows beside it."""

    seconds: float
    processes: int
    milliseconds: float
    precision: float
    spread: float | None = None


def _edgebench(runner: JobRunner, path: Path, seed: int) -> Answer:
    job = onnx_job(runner, path, side=SIDE)
    medians: list[float] = []
    in_a_row = 0
    started = time.perf_counter()
    while True:
        (found,) = runner.measure(
            Round(WIRE_VERSION, (job,), f"{seed} {len(medians)}", laps=LAPS, turn=TURN)
        ).measurements
        if found.status != "ok":
            raise SystemExit(f"the network could not be measured: {found.reason}")
        medians.append(statistics.median(found.samples_ns))
        answer = _answer(medians, time.perf_counter() - started)
        if len(medians) >= LEAST_PROCESSES:
            in_a_row = in_a_row + 1 if answer.precision <= PRECISION else 0
        if in_a_row == IN_A_ROW or len(medians) == MOST_PROCESSES:
            return answer


def _answer(values_ns: list[float], seconds: float, spread: float | None = None) -> Answer:
    centre, interval = stats.log_interval(values_ns)
    half = math.inf if interval is None else math.sqrt(interval[1] / interval[0]) - 1
    return Answer(seconds, len(values_ns), centre / 1e6, 100 * half, spread)


def _pyperf(script: Path, result: Path) -> Answer:
    started = time.perf_counter()
    subprocess.run([sys.executable, str(script), "-o", str(result)], check=True, capture_output=True)
    seconds = time.perf_counter() - started
    (benchmark,) = json.loads(result.read_text())["benchmarks"]
    result.unlink()
    # The run that calibrates has no values.
    processes = [[1e9 * value for value in run["values"]] for run in benchmark["runs"] if "values" in run]
    every = [value for values in processes for value in values]
    spread = 100 * statistics.stdev(every) / statistics.fmean(every)
    return _answer([statistics.fmean(values) for values in processes], seconds, spread)


def _print(name: str, answer: Answer) -> None:
    shown = "" if answer.spread is None else f" (shows ± {answer.spread:.1f} %)"
    print(
        f"  {name:26}{answer.seconds:6.1f} s {answer.processes:3} processes "
        f"{answer.milliseconds:7.3f} ms ± {answer.precision:.2f} %{shown}",
        flush=True,
    )


def _list(values: list[float]) -> str:
    return ", ".join(f"{value:.2g}" for value in values)


def main() -> int:
    """Print the ratios; 1 when edgebench takes more than the limit, 2 when pyperf is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5, help="how often each of them measures (default: 5)")
    pairs = parser.parse_args().pairs
    if importlib.util.find_spec("pyperf") is None:
        print("pyperf is not installed: pip install pyperf", file=sys.stderr)
        return 2
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    ratios: list[float] = []
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        path = write_network(directory / "network.onnx", layers=LAYERS, side=SIDE)
        script = directory / "with_pyperf.py"
        script.write_text(PYPERF.format(path=str(path), shape=input_spec(SIDE).shape))
        runner = JobRunner.here(directory)
        for pair in range(pairs):
            print(f"pair {pair + 1}")
            ours = _edgebench(runner, path, pair)
            _print("edgebench", ours)
            theirs = _pyperf(script, directory / "pyperf.json")
            _print("pyperf", theirs)
            ratios.append(ours.seconds / theirs.seconds)
    ratio = statistics.median(ratios)
    held = ratio <= LIMIT
    print(f"{ratio:.2f} x pyperf's time (pairs {_list(ratios)}); limit {LIMIT:.2f}: {'held' if held else 'BROKEN'}")
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
