"""Do the 95 % intervals of `edgebench.stats` hold the true value? Simulated runs, of which it is known.

    python benchmarks/coverage.py [--runs 2000]

A run has rounds; in each of them a process of A and one of B take turns of 5 samples, 10 laps long, 50 samples each,
and as much time passes between two rounds as in one. Logarithms of samples are sums of: the process's own effect
(normal, standard deviation 1 %), the sample's noise (2 %), and what the machine does at that moment, to A and B alike.
B is 3 % slower than A. The noises:

- independent: samples are independent and the machine does nothing. All others have its standard deviations;
- correlated: the samples of a process follow each other as AR(1) with 0.9;
- drift: the machine becomes slower by 0.5 % a round, steadily;
- modes: the machine switches between two modes that are 15 % apart, as a Markov chain that stays for 150 samples on
  average in the fast one and for 50 in the slow one; a round takes 100;
- all: all of these together.

Runs of 5, 8 and 15 rounds, and runs that grow as `bench --precision` lets them: from 5 rounds on until the interval (of
p50 in its column, of the ratio in its own) is within the precision, to 40 at most.

True values. The ratio: 1.03, whatever the machine did. p50, p90 and p95: those of the conditions that the run had, over
all processes that there could have been. So p50 is the same mean that edgebench takes of processes, geometric and from
8 rounds on trimmed, but of the medians that the machine's state during each round's samples gives; p90 and p95 are the
quantiles of all the samples that could have been seen in that state. A bound that lies beyond all samples holds
everything: "open" counts those.

No interval from some minutes can hold what the machine does at other times. "later" has as the true value that of the
state at the end of the run (with a drift), over all times (with modes). It has no limit and is here to be seen.

Beside it the peers' way on the same noise: one process of A and then one of B, 100 samples each; the mean with the
normal interval over samples, against the mean that A's conditions give, and the ratio of the means against 1.03.

The limit is 93 %, for all columns but "later", "open" and the peers'. 2000 runs tell a coverage to 1 %.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgebench import stats

Array = NDArray[np.float64]

LIMIT = 0.93
RATIO = 1.03
PROCESS_SD, SAMPLE_SD = 0.01, 0.02
LAPS, TURN = 10, 5
SAMPLES = LAPS * TURN
# A round's steps in time, one a sample: those of A and B, and as many until the next round.
STEPS = 4 * SAMPLES
ROUNDS = (5, 8, 15)
PRECISIONS = (1.0, 0.5)
LEAST_ROUNDS, MOST_ROUNDS = 5, 40
# After so many rounds in a row that are precise, Session.measure stops.
IN_A_ROW = 3
PEER_SAMPLES, PEER_PAUSE = 100, 50
TAIL = (90.0, 95.0)
HELD = ("p50", "ratio", "p90", "p95")
SHOWN = ("p90 open", "p95 open", "p50 later", "p90 later", "p95 later")
# Simulated at a time, for the memory that they take.
_BATCH = 250


@dataclass(frozen=True)
class Noise:
    """`correlation` of a process's neighbouring samples; `drift`: what a round adds to logarithms."""

    name: str
    correlation: float = 0.0
    drift: float = 0.0
    modes: bool = False

    def machine(self, generator: np.random.Generator, runs: int, steps: int) -> Array:
        """What the machine adds to logarithms: `[runs, steps]`."""
        state = np.tile(self.drift * np.arange(steps) / STEPS, (runs, 1))
        if self.modes:
            leaves_fast, leaves_slow = 1 / 150, 1 / 50
            slow = generator.random(runs) < leaves_fast / (leaves_fast + leaves_slow)
            draws = generator.random((steps, runs))
            for step in range(steps):
                slow ^= draws[step] < np.where(slow, leaves_slow, leaves_fast)
                state[:, step] += math.log(1.15) * slow
        return state

    def own(self, generator: np.random.Generator, shape: tuple[int, ...]) -> Array:
        """What processes add themselves, with the samples of each along the last axis."""
        found = generator.standard_normal(shape)
        for index in range(1, shape[-1]):
            found[..., index] *= math.sqrt(1 - self.correlation**2)
            found[..., index] += self.correlation * found[..., index - 1]
        effects: Array = PROCESS_SD * generator.standard_normal((*shape[:-1], 1))
        return SAMPLE_SD * found + effects


NOISES = (
    Noise("independent"),
    Noise("correlated", correlation=0.9),
    Noise("drift", drift=0.005),
    Noise("modes", modes=True),
    Noise("all", correlation=0.9, drift=0.005, modes=True),
)


@dataclass(frozen=True)
class Simulated:
    """`a`, `b`: samples in ns, `[runs, rounds, laps, turn]`; `machine`: what the machine added to A's logarithms,
    `[runs, rounds, samples]`."""

    a: NDArray[np.int64]
    b: NDArray[np.int64]
    machine: Array


def _simulate(noise: Noise, generator: np.random.Generator, runs: int, rounds: int) -> Simulated:
    steps = noise.machine(generator, runs, rounds * STEPS).reshape(runs, rounds, 2, LAPS, 2, TURN)[:, :, 0]
    # Which of the two comes first in a lap is drawn anew.
    swapped = generator.random((runs, rounds, LAPS, 1)) < 0.5
    first, second = steps[..., 0, :], steps[..., 1, :]
    machine = np.where(swapped, second, first)
    sides = []
    for shift, part in ((0.0, machine), (math.log(RATIO), np.where(swapped, first, second))):
        own = noise.own(generator, (runs, rounds, SAMPLES)).reshape(part.shape)
        sides.append(np.rint(1e6 * np.exp(shift + part + own)).astype(np.int64))
    return Simulated(sides[0], sides[1], machine.reshape(runs, rounds, SAMPLES))


def _quantile(centres: Array, deviation: float, share: float) -> Array:
    """Quantiles of mixtures of normal distributions around the last axis of `centres`."""
    low, high = centres.min(-1) - 5 * deviation, centres.max(-1) + 5 * deviation
    for _ in range(20):
        middle = (low + high) / 2
        below = _normal_below((middle[..., None] - centres) / deviation).mean(-1) < share
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    found: Array = (low + high) / 2
    return found


def _normal_below(z: Array) -> Array:
    """The normal distribution function to 1e-7 (Abramowitz and Stegun, 26.2.17), which numpy has not."""
    t = 1 / (1 + 0.2316419 * np.abs(z))
    series = t * (0.319381530 + t * (-0.356563782 + t * (1.781477937 + t * (-1.821255978 + t * 1.330274429))))
    above = np.exp(-z * z / 2) / math.sqrt(2 * math.pi) * series
    below: Array = np.where(z > 0, 1 - above, above)
    return below


def _p50(machine: Array) -> Array:
    """The logarithm of each process's true median, `[runs, rounds]`, without its own effect, which is zero on
    average."""
    return _quantile(machine, SAMPLE_SD, 0.5)


def _tail(machine: Array, percent: float) -> Array:
    """The logarithm of each run's true percentile over all processes that there could have been."""
    return _quantile(machine.reshape(len(machine), -1), math.hypot(PROCESS_SD, SAMPLE_SD), percent / 100)


def _later(noise: Noise, generator: np.random.Generator, rounds: int) -> dict[str, float]:
    """True values in ms of the state after `rounds`, over all times that the modes take."""
    machine = _simulate(replace(noise, drift=0.0), generator, 100, 20).machine
    end = rounds * noise.drift
    long = {f"p{percent:.0f}": _tail(machine.reshape(1, -1), percent)[0] for percent in TAIL}
    return {name: math.exp(value + end) for name, value in {"p50": _p50(machine).mean(), **long}.items()}


def _batches(runs: int) -> Iterator[int]:
    yield from (min(_BATCH, runs - start) for start in range(0, runs, _BATCH))


def _of_fixed_length(noise: Noise, generator: np.random.Generator, runs: int, rounds: int) -> dict[str, float]:
    """Shares of runs in which each interval held its true value."""
    later = _later(noise, generator, rounds)
    held: Counter[str] = Counter()
    for batch in _batches(runs):
        found = _simulate(noise, generator, batch, rounds)
        true = {"p50": [stats.interval(medians)[0] for medians in _p50(found.machine).tolist()]} | {
            f"p{percent:.0f}": _tail(found.machine, percent) for percent in TAIL
        }
        for run in range(batch):
            a, b = found.a[run].tolist(), found.b[run].tolist()
            intervals = _intervals(a, b)
            held["ratio"] += _holds(intervals.pop("ratio"), RATIO)
            for name, interval in intervals.items():
                held[name] += _holds(interval, math.exp(true[name][run]))
                held[f"{name} later"] += _holds(interval, later[name])
                held[f"{name} open"] += interval is not None and interval[1] is None
    return {name: count / runs for name, count in held.items()}


def _intervals(a: Any, b: Any) -> dict[str, tuple[float, float | None] | None]:
    """What edgebench says of samples in ns, `[rounds][laps][turn]`; times in ms."""
    latency = stats.summarise([[sample for turn in laps for sample in turn] for laps in a], percentiles=TAIL)
    ratio = stats.ratio([(dict(enumerate(one)), dict(enumerate(other))) for one, other in zip(a, b, strict=True)])
    assert latency is not None and ratio is not None
    return {
        "p50": latency.p50_ci_ms,
        "ratio": ratio.ci,
        **{f"p{percent:.0f}": latency.tail[percent].ci_ms for percent in TAIL},
    }


def _holds(interval: tuple[float, float | None] | None, true: float) -> bool:
    if interval is None:
        return False
    low, high = interval
    return low <= true and (high is None or true <= high)


def _growing(noise: Noise, generator: np.random.Generator, runs: int) -> dict[float, dict[str, float]]:
    """The same by precision for runs that stop when they reach it, and the rounds that it took."""
    counts: dict[float, Counter[str]] = {precision: Counter() for precision in PRECISIONS}
    for batch in _batches(runs):
        found = _simulate(noise, generator, batch, MOST_ROUNDS)
        states = _p50(found.machine).tolist()
        for run in range(batch):
            a, b = found.a[run].tolist(), found.b[run].tolist()
            medians = [statistics.median(sample for turn in laps for sample in turn) / 1e6 for laps in a]
            # A round's ratio as stats.ratio takes it.
            ratios = [
                ratio.ratio
                for one, other in zip(a, b, strict=True)
                if (ratio := stats.ratio([(dict(enumerate(one)), dict(enumerate(other)))]))
            ]
            for name, values in (("p50", medians), ("ratio", ratios)):
                for precision, (rounds, interval) in _stops(values).items():
                    true = math.exp(stats.interval(states[run][:rounds])[0]) if name == "p50" else RATIO
                    counts[precision][name] += _holds(interval, true)
                    counts[precision][f"{name} rounds"] += rounds
    return {precision: {name: count / runs for name, count in counted.items()} for precision, counted in counts.items()}


def _stops(values: Sequence[float]) -> dict[float, tuple[int, stats.Interval]]:
    """Where Session.measure stops for each precision, and the interval there."""
    stops: dict[float, tuple[int, stats.Interval]] = {}
    in_a_row = dict.fromkeys(PRECISIONS, 0)
    for rounds in range(LEAST_ROUNDS, MOST_ROUNDS + 1):
        _, interval = stats.log_interval(values[:rounds])
        assert interval is not None
        for precision in PRECISIONS:
            narrow = math.sqrt(interval[1] / interval[0]) <= 1 + precision / 100
            in_a_row[precision] = in_a_row[precision] + 1 if narrow else 0
            if precision not in stops and (in_a_row[precision] == IN_A_ROW or rounds == MOST_ROUNDS):
                stops[precision] = (rounds, interval)
        if len(stops) == len(PRECISIONS):
            break
    return stops


def _peers(noise: Noise, generator: np.random.Generator, runs: int) -> dict[str, float]:
    state = noise.machine(generator, runs, 2 * PEER_SAMPLES + PEER_PAUSE)
    machine = state[:, :PEER_SAMPLES], state[:, -PEER_SAMPLES:]
    shifts = (0.0, math.log(RATIO))
    samples = [
        np.exp(shift + part + noise.own(generator, part.shape)) for shift, part in zip(shifts, machine, strict=True)
    ]
    means = [side.mean(-1) for side in samples]
    errors = [1.96 * side.std(-1, ddof=1) / math.sqrt(PEER_SAMPLES) for side in samples]
    true = np.exp(machine[0]).mean(-1) * math.exp((PROCESS_SD**2 + SAMPLE_SD**2) / 2)
    off = np.abs(np.log(means[1] / means[0]) - math.log(RATIO))
    return {
        "mean": float((np.abs(means[0] - true) <= errors[0]).mean()),
        "ratio": float((off <= np.hypot(errors[0] / means[0], errors[1] / means[1])).mean()),
    }


def main() -> int:
    """Print the coverages; 1 when one of them is below the limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=2000, help="of each length with each noise (default: 2000)")
    runs = parser.parse_args().runs
    generator = np.random.default_rng(20261121)
    broken: list[str] = []
    columns = (*HELD, *SHOWN)
    print(f"{'coverage in %':12} {'rounds':>16}" + "".join(f"{name:>10}" for name in columns))
    for noise in NOISES:
        for rounds in ROUNDS:
            shares = _of_fixed_length(noise, generator, runs, rounds)
            _row(noise.name, str(rounds), [shares[name] for name in columns])
            broken += [f"{noise.name} {rounds} {name}" for name in HELD if shares[name] < LIMIT]
        for precision, shares in _growing(noise, generator, runs).items():
            took = f"{shares['p50 rounds']:.0f} or {shares['ratio rounds']:.0f}"
            _row(noise.name, f"±{precision} %, {took}", [shares[name] for name in HELD[:2]])
            broken += [f"{noise.name} ±{precision} % {name}" for name in HELD[:2] if shares[name] < LIMIT]
    print(f"\n{'the peers, %':12} {'':>16}{'mean':>10}{'ratio':>10}")
    for noise in NOISES:
        _row(noise.name, "", list(_peers(noise, generator, runs).values()))
    print(f"\nlimit {LIMIT:.0%}: " + ("held" if not broken else f"BROKEN by {', '.join(broken)}"))
    return 1 if broken else 0


def _row(name: str, rounds: str, shares: Sequence[float]) -> None:
    print(f"{name:12} {rounds:>16}" + "".join(f"{100 * share:10.1f}" for share in shares), flush=True)


if __name__ == "__main__":
    sys.exit(main())
