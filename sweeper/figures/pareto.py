"""Score against cost: which trials no other one beats in both, and the order of trials when both count.

The cost is a second objective, which is always minimised (`search.cost`). The search's pruner, best.json and the report
use these definitions. The best trial of a study is still that of `ranking`: the cost chooses nothing there.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sweeper.figures.ranking import finite_value, rank_trials
from sweeper.types import StudyRecord, TrialRecord

__all__ = [
    "COST_LABELS",
    "Point",
    "dominates",
    "nondominated_ranks",
    "pareto_keys",
    "pareto_trials",
    "recorded_cost",
    "rung_costs",
]

COST_LABELS = {"parameters": "trainable parameters", "device_s": "device seconds"}
"""What a cost is called, by its name in ``search.cost``."""

Point = tuple[float, float]
"""Two objectives, both to be minimised: the loss (or the negative score), and the cost."""


def rung_costs(trial: TrialRecord) -> dict[str, float]:
    """Return every cost of a trial at its latest rung, by its name in ``search.cost``; before the first, no seconds."""
    rung = trial.last_rung
    return {"parameters": float(trial.num_parameters), "device_s": rung.elapsed_s if rung else 0.0}


def recorded_cost(sweep: Mapping[str, Any]) -> str:
    """Return the cost that a sweep's scores are compared with: its ``search.cost``, or ``parameters`` without one.

    Args:
        sweep: Content of sweep.json; may be empty.
    """
    cost = str(((sweep.get("settings") or {}).get("search") or {}).get("cost") or "none")
    return "parameters" if cost == "none" else cost


def dominates(one: Point, other: Point) -> bool:
    """Whether ``one`` is at least as good as ``other`` in both objectives, and better in one."""
    return one != other and one[0] <= other[0] and one[1] <= other[1]


def pareto_trials(study: StudyRecord, trials: Iterable[TrialRecord], cost: str) -> list[TrialRecord]:
    """Return the complete trials that no other one dominates, best score first; of equal ones, the first by number.

    Args:
        study: The study; defines which objective is better.
        trials: Its trials, in any state and order.
        cost: Name of the cost.
    """
    sign = -1.0 if study.direction == "maximize" else 1.0
    front: list[tuple[Point, TrialRecord]] = []
    for trial in rank_trials(study, trials):
        value = finite_value(study, trial)
        point = (sign * value if value is not None else math.inf, rung_costs(trial)[cost])
        # Ranked by score: only a trial before this one can dominate it, and of these the last of the front is cheapest.
        if not front or point[1] < front[-1][0][1]:
            # Of trials with the same score, which are ranked by parameters, a later one may take fewer seconds.
            if front and front[-1][0][0] == point[0]:
                front.pop()
            front.append((point, trial))
    return [trial for _, trial in front]


def nondominated_ranks(points: Sequence[Point]) -> list[int]:
    """Return for each point the front that it lies in: 0 for those that none dominates, 1 for those that only these do.

    Sorting for two objectives in O(n log n) (Jensen 2003, doi:10.1109/TEVC.2003.817234).
    """
    cheapest: list[float] = []
    """The lowest cost in each front so far; ascending, since a point joins the first front without a cheaper one."""
    ranks: dict[Point, int] = {}
    for point in sorted(set(points)):
        rank = bisect.bisect_right(cheapest, point[1])
        cheapest[rank : rank + 1] = [point[1]]
        ranks[point] = rank
    return [ranks[point] for point in points]


def pareto_keys(points: Sequence[Point]) -> list[tuple[int, float, float]]:
    """Return a sort key for each point, lowest first: its front, how crowded it is there, its first objective.

    The order of NSGA-II (Deb et al. 2002, doi:10.1109/4235.996017). It prefers both ends of a front, and points with
    distant neighbours, so that cheap trials are kept beside good ones. Equal points have equal keys.
    """
    ranks = dict(zip(points, nondominated_ranks(points), strict=True))
    fronts: dict[int, list[Point]] = {}
    for point in sorted(ranks):
        fronts.setdefault(ranks[point], []).append(point)
    distances: dict[Point, float] = {}
    for front in fronts.values():
        distances |= _crowding_distances(front)
    return [(ranks[point], -distances[point], point[0]) for point in points]


def _crowding_distances(front: Sequence[Point]) -> dict[Point, float]:
    """Return how far apart the neighbours of each point are, as shares of the front's width; infinite at its ends.

    Args:
        front: Points that do not dominate one another, by the first objective; so they are in order of both.
    """
    found = dict.fromkeys(front, math.inf)
    for position in range(1, len(front) - 1):
        before, after = front[position - 1], front[position + 1]
        found[front[position]] = sum((after[k] - before[k]) / (front[-1][k] - front[0][k]) for k in range(2))
    return found
