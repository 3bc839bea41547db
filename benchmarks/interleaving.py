"""One artifact against itself, in three ways of taking turns, for each runtime and number of threads.

    python benchmarks/interleaving.py [--rounds 8]

`one after the other` is what most tools do. `in turn` alternates between two loaded processes and lets the one that
waits spin; `in turn, stopped` is edgebench's way; their ratios are medians over laps, as edgebench's are. For each: the
standard deviation over rounds of the logarithm of the ratio (0 would be perfect), its range, and p50 over that of a
process that is alone on the machine.
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

from benchmarks.conv_chain import CHANNELS, input_spec, write_network
from edgebench import stats
from edgebench.agent.process import WorkerProcess
from edgebench.agent.wire import WIRE_VERSION, Job
from edgebench.measure.jobs import JobRunner

TURNS, RUNS = 10, 5
LAYERS, SIDE = 6, 64
TIMEOUT_S = 120.0
Laps = tuple[dict[int, list[int]], dict[int, list[int]]]
Way = Callable[[WorkerProcess, WorkerProcess], Laps]


def _turn(process: WorkerProcess) -> list[int]:
    answer = process.ask({"do": "turn", "runs": RUNS, "limit_s": 10.0}, TIMEOUT_S)
    if answer is None:
        raise SystemExit(f"a process failed: {process.failure}")
    return list(answer["samples_ns"])


def sequential(one: WorkerProcess, other: WorkerProcess) -> Laps:
    """All turns of the one, and then all of the other; each is alone meanwhile. No two turns are of one lap."""
    found = []
    for number, (process, waiting) in enumerate(((one, other), (other, one))):
        waiting.pause()
        found.append({TURNS * number + lap: _turn(process) for lap in range(TURNS)})
        waiting.resume()
    return found[0], found[1]


def in_turn(one: WorkerProcess, other: WorkerProcess) -> Laps:
    """Turn by turn; who waits does what its runtime does then."""
    found: Laps = ({}, {})
    for lap in range(TURNS):
        for process, turns in zip((one, other), found, strict=True):
            turns[lap] = _turn(process)
    return found


def in_turn_stopped(one: WorkerProcess, other: WorkerProcess) -> Laps:
    """Turn by turn; who waits is stopped."""
    found: Laps = ({}, {})
    one.pause()
    other.pause()
    for lap in range(TURNS):
        for process, turns in zip((one, other), found, strict=True):
            process.resume()
            turns[lap] = _turn(process)
            process.pause()
    one.resume()
    other.resume()
    return found


WAYS: dict[str, Way] = {
    "one after the other": sequential,
    "in turn": in_turn,
    "in turn, stopped": in_turn_stopped,
}


def _ready(job: Job, path: str) -> WorkerProcess:
    process = WorkerProcess(job, path)
    process.ask(None, TIMEOUT_S)
    process.ask({"do": "warm_up", "least": 5, "limit_s": 2.0, "longest_s": 10.0}, TIMEOUT_S)
    return process


def _round(job: Job, way: Way | None, scratch: Path) -> tuple[float, float]:
    """The ratio of the medians of two fresh processes, and the first one's; alone where there is no way."""
    processes = [_ready(job, str(scratch / "a")), *([_ready(job, str(scratch / "b"))] if way else [])]
    try:
        if way is None:
            return 1.0, statistics.median(sample for _ in range(TURNS) for sample in _turn(processes[0]))
        one, other = way(*processes)
        found = stats.ratio([(one, other)])
        assert found is not None
        return found.ratio, statistics.median(sample for samples in one.values() for sample in samples)
    finally:
        for process in processes:
            process.close()


def _artifacts(directory: Path) -> dict[str, Path]:
    import torch

    # torch calls TorchScript deprecated; it is one of the runtimes that are measured.
    warnings.simplefilter("ignore", FutureWarning)
    layers: list[torch.nn.Module] = []
    for _ in range(LAYERS):
        layers += [torch.nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1), torch.nn.ReLU()]
    script = directory / "chain.pt"
    torch.jit.trace(torch.nn.Sequential(*layers).eval(), torch.zeros(input_spec(SIDE).shape)).save(str(script))
    network = write_network(directory / "chain.onnx", layers=LAYERS, side=SIDE)
    return {"onnxruntime": network, "torchscript": script}


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=8)
    rounds = parser.parse_args().rounds
    print(
        "| runtime | threads | way | sd of the ratio | range | p50 × alone |\n| --- | --- | --- | ---: | --- | ---: |"
    )
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        runner = JobRunner.here(scratch)
        for runtime, path in _artifacts(scratch).items():
            for threads in (1, 2):
                job = Job(
                    WIRE_VERSION, "measure", str(path), runtime, threads, runner.feeds_for((input_spec(SIDE),), [])
                )
                ratios: dict[str, list[float]] = {way: [] for way in WAYS}
                p50s: dict[str, list[float]] = {way: [] for way in (*WAYS, "alone")}
                for _ in range(rounds):
                    p50s["alone"].append(_round(job, None, scratch)[1])
                    for label, way in WAYS.items():
                        ratio, p50 = _round(job, way, scratch)
                        ratios[label].append(ratio)
                        p50s[label].append(p50)
                for label, found in ratios.items():
                    spread = 100 * statistics.stdev(math.log(value) for value in found)
                    slower = statistics.median(p50s[label]) / statistics.median(p50s["alone"])
                    bounds = f"{min(found):.3f} to {max(found):.3f}"
                    print(f"| {runtime} | {threads} | {label} | {spread:.1f} % | {bounds} | {slower:.2f} |", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
