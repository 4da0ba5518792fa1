"""The pruning rules a second time, as the docstrings of `sweeper.search.pruning` state them, for `history_check`.

Deliberately simple: each decision looks at all values again. Shares no code with the product.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Scores"]

_MEDIAN_STARTUP = 4


@dataclass
class Scores:
    """What a search has seen of one study, and the decisions that follow from it.

    Attributes:
        search: The event ``search`` of the study: pruner, factor, cost, rungs, majority, direction, default recipe.
        points: Value, loss and cost by rung and trial.
        ended: Final states of the trials.
        decided: The decisions so far by trial and rung: the same rung gets the same answer.
    """

    search: Mapping[str, Any]
    points: dict[int, dict[int, tuple[float, float, float]]] = field(default_factory=dict)
    ended: dict[int, str] = field(default_factory=dict)
    decided: dict[tuple[int, int], str] = field(default_factory=dict)
    origins: dict[int, str] = field(default_factory=dict)

    def add(self, trial: int, chunk: int, value: float, loss: float, costs: Mapping[str, float]) -> None:
        """Add the value of a trial at a rung; the first one counts, and one that is not finite does not."""
        known = self.points.setdefault(chunk, {})
        if math.isfinite(value) and trial not in known and trial not in self.ended:
            cost = self.search["cost"]
            known[trial] = (value, loss, 0.0 if cost == "none" else costs[cost])

    def end(self, trial: int, state: str) -> None:
        """Add how a trial ended; the first time counts."""
        self.ended.setdefault(trial, state)

    def decide(self, trial: int, chunk: int, value: float) -> str:
        """Return ``stop`` or ``continue`` for a trial whose value at a rung was added."""
        if (trial, chunk) not in self.decided:
            if trial in self.ended or chunk >= self.search["rungs"][-1]:
                return "continue"
            is_default = self.origins.get(trial) == self.search["default"]
            prunes = not math.isfinite(value) or (not is_default and self._prunes(trial, chunk))
            self.decided[trial, chunk] = "stop" if prunes else "continue"
        return self.decided[trial, chunk]

    def _prunes(self, trial: int, chunk: int) -> bool:
        pruner = self.search["pruner"]
        if pruner == "none" or len(self.search["rungs"]) == 1:
            return False
        if pruner == "median":
            return self._is_below_median(trial, chunk)
        if self.search["cost"] != "none":
            return self._is_dominated(trial, chunk)
        return self._is_halved(trial, chunk)

    def _order(self, trial: int, chunk: int) -> tuple[float, float, int]:
        """What is compared: score, then validation loss, then number; lower comes first."""
        value, loss, _ = self.points[chunk][trial]
        return (self._signed(value), loss if math.isfinite(loss) else math.inf, trial)

    def _signed(self, value: float) -> float:
        return -value if self.search["maximize"] else value

    def _is_spared(self, trial: int, chunk: int, num_scored: int, enough: int) -> bool:
        """Before enough are scored, all continue but those that score no more than the commonest label."""
        majority = dict(zip(self.search["rungs"], self.search["majority"], strict=False)).get(chunk)
        has_learnt = majority is None or self._order(trial, chunk)[0] < self._signed(majority)
        return num_scored < enough and has_learnt

    def _is_halved(self, trial: int, chunk: int) -> bool:
        """ASHA: a trial continues if it is among the best 1/factor of its bracket, with 2 * factor scored in all."""
        factor, scored = self.search["factor"], self.points[chunk]
        bracket = self._bracket(trial)
        num_earlier = sum(rung < chunk for rung in self.search["rungs"])
        if self._is_spared(trial, chunk, len(scored), 2 * factor) or num_earlier < bracket:
            return False
        ranked = sorted(self._order(each, chunk) for each in scored if self._bracket(each) == bracket)
        return self._order(trial, chunk) not in ranked[: max(1, len(ranked) // factor)]

    def _bracket(self, trial: int) -> int:
        rungs, factor = self.search["rungs"], self.search["factor"]
        num = math.floor(math.log(rungs[-1] / rungs[0], factor)) + 1 if self.search["pruner"] == "hyperband" else 1
        shares = [math.ceil(num * factor**s / (s + 1)) for s in range(num - 1, -1, -1)]
        position = zlib.crc32(f"{self.search['name']}_{trial}".encode()) % sum(shares)
        return next(bracket for bracket in range(num) if position < sum(shares[: bracket + 1]))

    def _is_below_median(self, trial: int, chunk: int) -> bool:
        """A trial stops if more than half of the trials that ran to their end beat its best value so far."""
        ended = {each for each, state in self.ended.items() if state in ("complete", "infeasible")}
        peers = [self._order(each, chunk) for each in self.points[chunk] if each in ended]
        if self._is_spared(trial, chunk, len(ended), _MEDIAN_STARTUP):
            return False
        best = min(self._order(trial, rung) for rung, known in self.points.items() if rung <= chunk and trial in known)
        return sum(peer < best for peer in peers) > len(peers) / 2

    def _is_dominated(self, trial: int, chunk: int) -> bool:
        """With a cost: a trial continues if it is among the first 1/factor in the order of NSGA-II, then by loss."""
        points = {each: (self._signed(value), cost) for each, (value, _, cost) in self.points[chunk].items()}
        factor = self.search["factor"]
        if self._is_spared(trial, chunk, len(points), 2 * factor):
            return False
        keys = _nsga_keys(sorted(set(points.values())))
        ranked = sorted(points, key=lambda each: (keys[points[each]], self._order(each, chunk)[1:]))
        return trial not in ranked[: max(1, len(points) // factor)]


def _nsga_keys(left: Sequence[tuple[float, float]]) -> dict[tuple[float, float], tuple[int, float, float]]:
    """Return front, negative crowding distance and first objective of each point; these are different and sorted."""
    keys, rank = {}, 0
    while left:
        front = [p for p in left if not any(q[0] <= p[0] and q[1] <= p[1] and q != p for q in left)]
        for index, point in enumerate(front):
            distance = math.inf
            if 0 < index < len(front) - 1:
                before, after = front[index - 1], front[index + 1]
                distance = sum((after[k] - before[k]) / (front[-1][k] - front[0][k]) for k in range(2))
            keys[point] = (rank, -distance, point[0])
        left, rank = [point for point in left if point not in front], rank + 1
    return keys
