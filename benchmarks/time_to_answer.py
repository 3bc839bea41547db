"""Time until a network's p50 is known to 1 %: edgebench against pyperf with its defaults, in turn.

    pip install pyperf
    python benchmarks/time_to_answer.py [--pairs 5]

Both measure the same call, onnxruntime's `session.run` of six convolutions with one thread. pyperf runs its 20
processes after one that calibrates, whatever they tell. edgebench runs rounds of one fresh process until the interval
over the processes' medians is 1 % or less to either side, as does `bench --precision 1 --iterations 25 --max-wait 0`:
from 5 processes on, and from 3, the least that an interval can be made of, to 40 at most. With 25 samples instead of 50
a process is over sooner and its median just as good: what is left in it is the process's own.

Precision is half the 95 % interval over processes, in percent: of their medians for edgebench, of their means for
pyperf, which itself shows the standard deviation of its 60 values. On a busy machine 1 % is not always reached, and the
time is then none to an answer: it counts as the time of as many processes as would reach it, by the square of the
precision, for both alike. Of these times the median ratio from 5 processes has the limit, a third; that of the bare
wall times stands beside it.
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
LEAST_PROCESSES = (3, 5)
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

    @property
    def seconds_to_answer(self) -> float:
        """For a precision of PRECISION."""
        return self.seconds * max(1.0, self.precision / PRECISION) ** 2


def _edgebench(runner: JobRunner, path: Path, seed: int) -> dict[int, Answer]:
    """By the least number of processes; all are from the same rounds."""
    job = onnx_job(runner, path, side=SIDE)
    answers: dict[int, Answer] = {}
    medians: list[float] = []
    started = time.perf_counter()
    while len(answers) < len(LEAST_PROCESSES):
        (found,) = runner.measure(
            Round(WIRE_VERSION, (job,), f"{seed} {len(medians)}", laps=LAPS, turn=TURN)
        ).measurements
        if found.status != "ok":
            raise SystemExit(f"the network could not be measured: {found.reason}")
        medians.append(statistics.median(found.samples_ns))
        answer = _answer(medians, time.perf_counter() - started)
        for least in LEAST_PROCESSES:
            known = answer.precision <= PRECISION or len(medians) == MOST_PROCESSES
            if least not in answers and len(medians) >= least and known:
                answers[least] = answer
    return answers


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
    found: list[tuple[dict[int, Answer], Answer]] = []
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        path = write_network(directory / "network.onnx", layers=LAYERS, side=SIDE)
        script = directory / "with_pyperf.py"
        script.write_text(PYPERF.format(path=str(path), shape=input_spec(SIDE).shape))
        runner = JobRunner(directory)
        for pair in range(pairs):
            print(f"pair {pair + 1}")
            ours = _edgebench(runner, path, pair)
            for least, answer in ours.items():
                _print(f"edgebench, from {least} processes", answer)
            theirs = _pyperf(script, directory / "pyperf.json")
            _print("pyperf", theirs)
            found.append((ours, theirs))
    for least in LEAST_PROCESSES:
        ratios = [ours[least].seconds_to_answer / theirs.seconds_to_answer for ours, theirs in found]
        bare = [ours[least].seconds / theirs.seconds for ours, theirs in found]
        print(
            f"from {least} processes: {statistics.median(ratios):.2f} x pyperf's time (pairs {_list(ratios)}); "
            f"of wall times {statistics.median(bare):.2f} ({_list(bare)})"
        )
    # The last of them, from the most processes.
    held = statistics.median(ratios) <= LIMIT
    print(f"limit {LIMIT:.2f} from {max(LEAST_PROCESSES)} processes: {'held' if held else 'BROKEN'}")
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
