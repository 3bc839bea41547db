"""False alarms and missed regressions on a machine with a load that comes and goes: edgebench's way and its peers'.

    python benchmarks/false_alarms.py [--comparisons 50]

The load is two processes that each burn a CPU for spells of 0.5 to 3 s with pauses of 0.5 to 3 s, so that on a machine
with two CPUs one or both are taken most of the time. Under it A is compared with A, and A with B, which has 18
convolutions where A has 17. How much slower B really is is measured beforehand, in 16 rounds without load.

edgebench: rounds in which a fresh process of each takes turns with the other's, which is what
`edgebench compare A B --fail-if 'p50>5%' --processes 4 --iterations 100 --max-wait 0` does. After 4 rounds they go on
until the gate is decided or there are 12. The gate fails when the ratio's interval lies above 1.05, holds when none of
it does, and is not known else; the verdict is "slower" when it lies above 1.

The peers: one fresh process of A and then one of B, 10 runs to warm up and 100 that are timed; the ratio of the means,
and an alarm when it is above 1.05, or above 1.025. Both ways take turns under the same load.

The limits: no gate fails for A against A, and B is found slower in 96 % of the comparisons (48 of 50).
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.conv_chain import input_spec, onnx_job, write_network
from edgebench import stats
from edgebench.agent.wire import WIRE_VERSION, Job, Measurement, Round
from edgebench.measure.jobs import JobRunner

GATE = 1.05
PEER_THRESHOLDS = (1.05, 1.025)
FOUND_LIMIT = 0.96
SIDE, LAYERS = 20, (17, 18)
# Most of a round's time is the start of its processes, so they are worth many turns; and the median over 20 laps stays
# where it is while a load takes part in fewer than half of them.
LAPS, TURN = 20, 5
LEAST_ROUNDS, MOST_ROUNDS = 4, 12
CALIBRATION_ROUNDS = 16
SPELL_S = PAUSE_S = (0.5, 3.0)

PEER = f"""
import sys, time
import numpy as np, onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
feed = {{"input": np.random.default_rng(0).standard_normal({input_spec(SIDE).shape}).astype(np.float32)}}
for _ in range(10):
    session.run(None, feed)
samples = []
for _ in range(100):
    started = time.perf_counter()
    session.run(None, feed)
    samples.append(time.perf_counter() - started)
print(sum(samples) / len(samples))
"""


@dataclass(frozen=True)
class Answer:
    """What one comparison said, and what it took."""

    ratio: stats.Ratio
    seconds: float
    peer_ratio: float
    peer_seconds: float

    @property
    def gate(self) -> str:
        """What became of it."""
        return _gate(self.ratio)

    @property
    def is_slower(self) -> bool:
        """The verdict."""
        return self.ratio.ci is not None and self.ratio.ci[0] > 1


def _gate(ratio: stats.Ratio) -> str:
    low, high = ratio.ci or (0.0, math.inf)
    return "failed" if low > GATE else "held" if high <= GATE else "not known"


@contextmanager
def _load() -> Iterator[None]:
    """Spells of work on the machine's CPUs while the block runs."""
    burners = [multiprocessing.Process(target=_burn, args=(os.getpid(), seed), daemon=True) for seed in range(2)]
    for burner in burners:
        burner.start()
    try:
        yield
    finally:
        for burner in burners:
            burner.kill()
            burner.join()


def _burn(parent: int, seed: int) -> None:
    lengths = random.Random(seed)
    while os.getppid() == parent:
        end = time.monotonic() + lengths.uniform(*SPELL_S)
        while time.monotonic() < end:
            sum(range(1000))
        time.sleep(lengths.uniform(*PAUSE_S))


def _ratio(runner: JobRunner, jobs: tuple[Job, Job], seed: str, *, least: int, most: int) -> stats.Ratio:
    """The second job's over the first's, from `least` rounds, or from up to `most` until the gate is decided."""
    rounds: list[tuple[dict[int, tuple[int, ...]], dict[int, tuple[int, ...]]]] = []
    while True:
        result = runner.measure(Round(WIRE_VERSION, jobs, f"{seed} {len(rounds)}", laps=LAPS, turn=TURN))
        for measurement in result.measurements:
            if measurement.status != "ok":
                raise SystemExit(f"a network could not be measured: {measurement.reason}")
        before, after = result.measurements
        rounds.append((_laps(before), _laps(after)))
        ratio = stats.ratio(rounds)
        assert ratio is not None
        if len(rounds) >= most or (len(rounds) >= least and _gate(ratio) != "not known"):
            return ratio


def _laps(measurement: Measurement) -> dict[int, tuple[int, ...]]:
    return {turn.lap: turn.samples_ns for turn in measurement.turns}


def _peer_ratio(before: Path, after: Path) -> float:
    means = []
    for path in (before, after):
        done = subprocess.run(
            [sys.executable, "-c", PEER, str(path)],
            capture_output=True,
            text=True,
            check=True,
            # The kernel may share the CPUs between sessions: as edgebench, so that both ways have the same share.
            start_new_session=True,
        )
        means.append(float(done.stdout))
    return means[1] / means[0]


def _compare(runner: JobRunner, before: Path, after: Path, seed: str) -> Answer:
    started = time.monotonic()
    peer_ratio = _peer_ratio(before, after)
    peer_seconds = time.monotonic() - started
    jobs = (onnx_job(runner, before, side=SIDE), onnx_job(runner, after, side=SIDE))
    ratio = _ratio(runner, jobs, seed, least=LEAST_ROUNDS, most=MOST_ROUNDS)
    return Answer(ratio, time.monotonic() - started - peer_seconds, peer_ratio, peer_seconds)


def _report(title: str, answers: list[Answer]) -> None:
    gates = Counter(answer.gate for answer in answers)
    count = len(answers)
    slower = sum(answer.is_slower for answer in answers)
    seconds = statistics.fmean(answer.seconds for answer in answers)
    peer_seconds = statistics.fmean(answer.peer_seconds for answer in answers)
    print(f"\n{title}, {count} comparisons")
    print(f"{'':36}{'alarm':>7}{'none':>7}{'not known':>11}{'s each':>8}{'lowest':>8}{'highest':>9}")
    ratios, peers = ([answer.ratio.ratio for answer in answers], [answer.peer_ratio for answer in answers])
    rows = [
        ("edgebench, gate p50>5%", gates["failed"], gates["held"], str(gates["not known"]), seconds, ratios),
        ("edgebench, verdict slower", slower, count - slower, "", seconds, ratios),
    ]
    for threshold in PEER_THRESHOLDS:
        alarms = sum(peer > threshold for peer in peers)
        rows.append((f"peers, ratio of means > {threshold}", alarms, count - alarms, "", peer_seconds, peers))
    for name, alarms, none, unknown, took, values in rows:
        print(f"{name:36}{alarms:7}{none:7}{unknown:>11}{took:8.1f}{min(values):8.2f}{max(values):9.2f}")
    rounds = Counter(answer.ratio.rounds for answer in answers)
    print("rounds: " + ", ".join(f"{rounds[number]} x {number}" for number in sorted(rounds)), flush=True)


def main() -> int:
    """Print a table for each part; 1 when a limit is broken."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comparisons", type=int, default=50, help="in each part (default: 50)")
    count = parser.parse_args().comparisons
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        a, b = (write_network(directory / f"{layers}.onnx", layers=layers, side=SIDE) for layers in LAYERS)
        runner = JobRunner.here(directory)
        jobs = (onnx_job(runner, a, side=SIDE), onnx_job(runner, b, side=SIDE))
        true = _ratio(runner, jobs, "without load", least=CALIBRATION_ROUNDS, most=CALIBRATION_ROUNDS)
        assert true.ci is not None
        print(f"without load B takes {true.ratio:.4f} x A's time [{true.ci[0]:.4f}, {true.ci[1]:.4f}]", flush=True)
        same: list[Answer] = []
        slower: list[Answer] = []
        with _load():
            for number in range(count):
                same.append(_compare(runner, a, a, f"same {number}"))
                slower.append(_compare(runner, a, b, f"slower {number}"))
    _report("A against A", same)
    _report(f"A against B, which is {true.ratio - 1:.1%} slower", slower)
    alarms = sum(answer.gate == "failed" for answer in same)
    found = sum(answer.is_slower for answer in slower)
    held = alarms == 0 and found >= FOUND_LIMIT * count
    print(f"\n{alarms} false alarms of {count} (limit 0), {found} found of {count} (limit {FOUND_LIMIT:.0%}): ", end="")
    print("held" if held else "BROKEN")
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
