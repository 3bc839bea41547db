"""Accuracy control: the smallest set of products out of int8 with which the model is within a budget.

The products are ranked by `sensitivity`. Prefixes of that ranking are tried, each twice as long, until one meets the
budget on held-out inputs; bisection shortens it, and then whatever can be put back into int8 is put back. A set is
tried as the very file that would be shipped. One node alone often changes nothing, since the noise of its neighbours
stays: that is why sets grow by doubling and not one by one.
"""

from __future__ import annotations

import math
import shutil
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from edgebench.quantize.placement import MATRIX_PRODUCTS, key_of
from edgebench.quantize.sensitivity import sensitivities
from edgebench.quantize.static import Quantizer
from edgebench.trade_off import Budget, Score, TradeOff, Trial

__all__ = ["keep_within"]

_RANKED_FEEDS = 16
# Of the time there is, what ranking may take.
_RANKING_SHARE = 0.5
_TURNS = 15


class _Spent(Exception):
    """The search has used up what it was given."""


def keep_within(
    quantizer: Quantizer,
    budget: Budget,
    score: Callable[[Path], Score],
    feeds: Callable[[], Iterable[Mapping[str, Any]]],
    out: Path,
    *,
    data: str,
) -> TradeOff:
    """Write the file that meets `budget` with the fewest products out of int8, else the best one there was, to `out`.

    `score` tells the worth of a file on inputs that did not calibrate it, which `data` names; `feeds` gives the
    calibration inputs.
    """
    return _Search(quantizer, budget, score, list(islice(feeds(), _RANKED_FEEDS)), out, data).run()


class _Search:
    def __init__(
        self,
        quantizer: Quantizer,
        budget: Budget,
        score: Callable[[Path], Score],
        feeds: Sequence[Mapping[str, Any]],
        out: Path,
        data: str,
    ) -> None:
        self._quantizer, self._budget, self._score, self._feeds = quantizer, budget, score, feeds
        self._out, self._data = out, data
        self._started = time.monotonic()
        self._trials: list[Trial] = []
        self._chosen = 0
        self._products = [
            key_of(node)
            for node in quantizer.graph.nodes
            if node.op_type in MATRIX_PRODUCTS and key_of(node) in quantizer.placement.int8
        ]

    def run(self) -> TradeOff:
        stopped = None
        try:
            if not self._try(()).met:
                self._search()
        except _Spent as error:
            stopped = str(error)
        return TradeOff(
            budget=self._budget,
            data=self._data,
            trials=tuple(self._trials),
            chosen=self._chosen,
            seconds=round(time.monotonic() - self._started, 1),
            stopped=stopped,
        )

    def _search(self) -> None:
        deadline = self._started + _RANKING_SHARE * self._budget.seconds
        ranked = list(sensitivities(self._quantizer, self._feeds, deadline=deadline))
        # Those that there was no time for come last, in the graph's order.
        ranked += [key for key in self._products if key not in ranked]
        within = self._shortest_prefix(ranked)
        if within is not None:
            self._put_back(ranked[:within])

    def _shortest_prefix(self, ranked: Sequence[str]) -> int | None:
        """How many of the most sensitive are enough; None where no number is."""
        failing, size = 0, min(1, len(ranked))
        # All of them in float are within any budget, and nothing is won: not worth a trial.
        while size < len(ranked) and not self._try(ranked[:size]).met:
            failing, size = size, min(2 * size, len(ranked))
        while size - failing > 1:
            middle = (size + failing) // 2
            if self._try(ranked[:middle]).met:
                size = middle
            else:
                failing = middle
        if size == len(ranked):
            return None
        return size

    def _put_back(self, kept: Sequence[str]) -> None:
        """Give int8 what it can have of `kept`, in parts that halve, the least sensitive ones first."""
        current = list(kept)
        part = max(1, len(current) // 2)
        while len(current) > 1:
            for start in range(len(current) - part, -1, -part):
                fewer = current[:start] + current[start + part :]
                if fewer and self._try(fewer).met:
                    current = fewer
            if part == 1:
                return
            part = max(1, part // 2)

    def _try(self, kept: Sequence[str]) -> Trial:
        chosen = tuple(kept)
        for trial in self._trials:
            if set(trial.kept) == set(chosen):
                return trial
        budget = self._budget
        if len(self._trials) >= budget.evaluations:
            raise _Spent(f"all {budget.evaluations} evaluations were used")
        if self._trials and time.monotonic() - self._started > budget.seconds:
            raise _Spent(f"the {budget.seconds:.0f} s were used up")
        path = self._quantizer.scratch / "trial.onnx"
        taken = frozenset(chosen)
        wide = budget.keep == "int16"
        places = self._quantizer.write(path, kept=frozenset() if wide else taken, wide=taken if wide else frozenset())
        narrow = (places.int8 - taken).intersection(self._products)
        score = self._score(path)
        trial = Trial(
            kept=chosen,
            int8_products=len(narrow),
            products=len(self._products),
            score=score,
            latency_ratio=_latency_ratio(path, self._quantizer.source, self._feeds[0]),
            met=bool(narrow) and budget.holds(score),
        )
        self._trials.append(trial)
        if len(self._trials) == 1 or self._is_better(trial, self._trials[self._chosen]):
            self._chosen = len(self._trials) - 1
            shutil.copyfile(path, self._out)
        return trial

    def _is_better(self, one: Trial, other: Trial) -> bool:
        if one.met or other.met:
            return one.met and (not other.met or one.int8_products > other.int8_products)
        if not one.int8_products:
            return False
        return self._loss(one.score) < self._loss(other.score)

    def _loss(self, score: Score) -> float:
        if self._budget.max_drop is not None and score.drop_points is not None:
            return score.drop_points
        return -math.inf if score.sqnr_db is None else -score.sqnr_db


def _latency_ratio(path: Path, reference: Path, feed: Mapping[str, Any]) -> float:
    """How many times as long as `reference` an inference takes: the median over turns in which both run."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    sessions = [
        onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        for file in (path, reference)
    ]

    def seconds(session: Any) -> float:
        started = time.perf_counter()
        session.run(None, dict(feed))
        return time.perf_counter() - started

    for session in sessions:
        seconds(session)
    return statistics.median(seconds(sessions[0]) / seconds(sessions[1]) for _ in range(_TURNS))
