"""What a quantized network is worth beside its float32 original: answers on test data, and latency in turns with it.

Every variant runs in this process and this onnxruntime, with one thread; CPU time, so that another load counts less.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgebench.agent.environment import switch_telemetry_off

__all__ = ["Answers", "answers", "open_session", "paired_times"]

# A turn lasts this long with the float32 network, so that a timer's step and a switch of the caches are lost in it.
_TURN_S = 0.02


@dataclass(frozen=True)
class Answers:
    """`sqnr_db` is that of the worst output, infinite where all are equal. `agrees` has a `1` for each input whose
    class is the same and else a `0`, and of a detector for each place where one of the two finds something. `correct`
    has one for each labelled input, and is None without labels."""

    sqnr_db: float
    agrees: str
    correct: str | None


def open_session(path: Path) -> Any:
    """The file in onnxruntime, with one thread."""
    switch_telemetry_off()
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def answers(sessions: Mapping[str, Any], baseline: str, test: Path) -> dict[str, Answers]:
    """Each session's answers to all inputs of `test` (`x`, and `y` if there is one), against `baseline`'s."""
    data = np.load(test)
    outputs = {name: _run_all(session, data["x"]) for name, session in sessions.items()}
    expected = outputs[baseline]
    found = {}
    for name, given in outputs.items():
        correct = None
        if "y" in data:
            correct = _marks(_classes(given[0]) == data["y"])
        sqnr_db = min(_sqnr_db(a, b) for a, b in zip(expected, given, strict=True))
        found[name] = Answers(sqnr_db, _agrees(expected[0], given[0]), correct)
    return found


def paired_times(sessions: Mapping[str, Any], test: Path, rounds: int) -> dict[str, list[float]]:
    """CPU seconds of each session's turn in each round; the order of turns rotates from round to round."""
    x = np.load(test)["x"][:1]
    feeds = {name: {session.get_inputs()[0].name: x} for name, session in sessions.items()}
    for name, session in sessions.items():
        session.run(None, feeds[name])
    first = next(iter(sessions))
    started = time.process_time()
    for _ in range(5):
        sessions[first].run(None, feeds[first])
    repeats = max(1, math.ceil(_TURN_S / max(1e-6, (time.process_time() - started) / 5)))
    times: dict[str, list[float]] = {name: [] for name in sessions}
    order = list(sessions)
    for _ in range(rounds):
        order = order[1:] + order[:1]
        for name in order:
            session, feed = sessions[name], feeds[name]
            session.run(None, feed)
            started = time.process_time()
            for _ in range(repeats):
                session.run(None, feed)
            times[name].append((time.process_time() - started) / repeats)
    return times


def _run_all(session: Any, x: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    name = session.get_inputs()[0].name
    rows = [session.run(None, {name: x[index : index + 1]}) for index in range(len(x))]
    return [np.concatenate(output) for output in zip(*rows, strict=True)]


def _classes(scores: NDArray[np.float32]) -> NDArray[np.int64]:
    classes: NDArray[np.int64] = scores.argmax(axis=-1)
    return classes


def _agrees(expected: NDArray[np.float32], given: NDArray[np.float32]) -> str:
    wanted, found = _classes(expected), _classes(given)
    # A detector answers `background` nearly everywhere, and there nothing can be learnt from it.
    looked_at = (wanted != 0) | (found != 0) if wanted.ndim > 1 else np.ones(len(wanted), bool)
    return _marks((wanted == found)[looked_at])


def _marks(hits: NDArray[np.bool_]) -> str:
    return "".join("1" if hit else "0" for hit in hits)


def _sqnr_db(expected: NDArray[np.float32], given: NDArray[np.float32]) -> float:
    signal = float(np.sum(expected.astype(np.float64) ** 2))
    noise = float(np.sum((expected.astype(np.float64) - given) ** 2))
    return 10 * math.log10(signal / noise) if noise > 0 else math.inf
