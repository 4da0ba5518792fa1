"""Which trials are pruned, and after which chunks that is decided.

Asynchronous: a decision uses the values reported so far; no trial waits for another. The decisions are those of
Optuna's pruners of the same names, which a test compares; studies with a cost have a rule of their own. But Optuna
reads all trials for each decision; here, the values of each rung are kept in order. Called by `study`; `rung_chunks`
also by the code that plans a study. Does not use Optuna.
"""

from __future__ import annotations

import bisect
import math
import zlib
from collections import defaultdict
from collections.abc import Mapping

from sweeper.config.settings import SearchSettings
from sweeper.figures.pareto import Point, pareto_keys

__all__ = ["Pruner", "make_pruner", "rung_chunks"]

_MEDIAN_STARTUP = 4
"""Complete trials before the median prunes anything; Optuna's 5 would be a fifth of the default budget of 24."""


def rung_chunks(num_chunks: int, *, min_chunks: int, reduction_factor: int) -> tuple[int, ...]:
    """Return the chunks after which trials are scored: a geometric series from ``min_chunks``, then ``num_chunks``.

    There is no rung where pruning would save less than a third of a trial.

    Args:
        num_chunks: Chunks of a full trial.
        min_chunks: Chunks before the first rung.
        reduction_factor: Ratio of successive rungs.

    Returns:
        Ascending chunk counts, e.g. ``(3, 6, 12)`` for 12 chunks, at least 3 of them, and a factor of 2.
    """
    rungs, rung = [], min_chunks
    while 3 * rung <= 2 * num_chunks:
        rungs.append(rung)
        rung *= reduction_factor
    return (*rungs, num_chunks)


class Pruner:
    """Prunes nothing; the base class of the others."""

    def record(self, number: int, chunk: int, value: float, cost: float = 0.0) -> None:
        """Record the value of a trial at a rung, once.

        Args:
            number: The trial.
            chunk: The rung.
            value: Its objective, finite.
            cost: Its cost so far; only read if the study has one.
        """

    def complete(self, scores: Mapping[int, float]) -> None:
        """Record that a trial ran to its end; an infeasible one counts, as in Optuna.

        Args:
            scores: Its values by rung.
        """

    def should_prune(self, number: int, chunk: int, scores: Mapping[int, float]) -> bool:  # noqa: ARG002
        """Return whether a trial is pruned at a rung at which its value was recorded.

        Args:
            number: The trial.
            chunk: The rung; not the last one.
            scores: Its values by rung, this one included.
        """
        return False


class _SuccessiveHalving(Pruner):
    """A trial continues if it is among the best 1/factor of those scored at the rung (ASHA, arXiv:1810.05934).

    Hyperband (arXiv:1603.06560) divides the trials into brackets, which compete apart and start to prune at different
    rungs.

    Args:
        study: Name of the study. A trial's bracket is a hash of it and of the trial's number, so it is the same after a
            resume.
        rungs: What `rung_chunks` returned.
        factor: The reduction factor.
        num_brackets: 1 for successive halving.
        maximize: Whether higher values are better.
    """

    def __init__(self, study: str, rungs: tuple[int, ...], *, factor: int, num_brackets: int, maximize: bool) -> None:
        self._study, self._rungs, self._factor, self._maximize = study, rungs, factor, maximize
        # Each bracket's share of the trials, as in Optuna: ceil(n * factor^s / (s + 1)) for s = n - 1, ..., 0.
        self._shares = [math.ceil(num_brackets * factor**s / (s + 1)) for s in reversed(range(num_brackets))]
        self._num_scored: dict[int, int] = defaultdict(int)
        self._values: dict[tuple[int, int], list[float]] = defaultdict(list)
        """Values of the competing trials by bracket and rung, ascending."""

    def record(self, number: int, chunk: int, value: float, cost: float = 0.0) -> None:  # noqa: ARG002
        self._num_scored[chunk] += 1
        bisect.insort(self._values[self._bracket(number), chunk], value)

    def should_prune(self, number: int, chunk: int, scores: Mapping[int, float]) -> bool:
        bracket = self._bracket(number)
        # Optuna's rule keeps only the best of the first three, so an average early trial survives with probability 1/n
        # rather than 1/factor. Its `bootstrap_count` makes it worse: it *prunes* the first ones. Twice the reduction
        # factor is the first number of trials of which two pass.
        has_peers = self._num_scored[chunk] >= 2 * self._factor
        if not has_peers or sum(rung < chunk for rung in self._rungs) < bracket:
            return False
        values = self._values[bracket, chunk]
        num_promoted = max(1, len(values) // self._factor)
        worst_promoted = values[-num_promoted] if self._maximize else values[num_promoted - 1]
        return scores[chunk] < worst_promoted if self._maximize else scores[chunk] > worst_promoted

    def _bracket(self, number: int) -> int:
        position = zlib.crc32(f"{self._study}_{number}".encode()) % sum(self._shares)
        for bracket, share in enumerate(self._shares):
            position -= share
            if position < 0:
                return bracket
        raise AssertionError("the shares add up to the modulus")


class _ParetoHalving(Pruner):
    """A trial continues if it is among the first 1/factor of those scored at the rung, in the order of `pareto_keys`.

    So it is pruned if too many others are better in score and cost, or as good but in more crowded places. Optuna
    prunes nothing if there are two objectives. A decision depends on the values at the rung alone, and takes
    O(n log n): 30 ms with 10,000 of them.

    Args:
        factor: The reduction factor.
        maximize: Whether higher values are better.
    """

    def __init__(self, *, factor: int, maximize: bool) -> None:
        self._factor, self._sign = factor, -1.0 if maximize else 1.0
        self._points: dict[int, dict[int, Point]] = defaultdict(dict)
        """By rung and trial."""

    def record(self, number: int, chunk: int, value: float, cost: float = 0.0) -> None:
        self._points[chunk][number] = (self._sign * value, cost)

    def should_prune(self, number: int, chunk: int, scores: Mapping[int, float]) -> bool:  # noqa: ARG002
        points = self._points[chunk]
        if len(points) < 2 * self._factor:  # as in successive halving
            return False
        keys = dict(zip(points, pareto_keys(list(points.values())), strict=True))
        num_promoted = len(points) // self._factor
        return sum(key < keys[number] for key in keys.values()) >= num_promoted


class _Median(Pruner):
    """A trial continues if its best value so far reaches the median of the complete trials at the rung.

    Args:
        maximize: Whether higher values are better.
    """

    def __init__(self, *, maximize: bool) -> None:
        self._maximize = maximize
        self._num_complete = 0
        self._values: dict[int, list[float]] = defaultdict(list)
        """Values of the complete trials by rung, ascending."""

    def complete(self, scores: Mapping[int, float]) -> None:
        self._num_complete += 1
        for chunk, value in scores.items():
            bisect.insort(self._values[chunk], value)

    def should_prune(self, number: int, chunk: int, scores: Mapping[int, float]) -> bool:  # noqa: ARG002
        values = self._values[chunk]
        if self._num_complete < _MEDIAN_STARTUP or not values:
            return False
        low, high = values[(len(values) - 1) // 2], values[len(values) // 2]
        median = high - (high - low) * 0.5  # rounded like numpy.percentile, which Optuna uses
        return max(scores.values()) < median if self._maximize else min(scores.values()) > median


def make_pruner(settings: SearchSettings, *, study: str, rungs: tuple[int, ...], maximize: bool) -> Pruner:
    """Return the configured pruner.

    Args:
        settings: Name of the pruner and its reduction factor.
        study: Name of the study.
        rungs: What `rung_chunks` returned. The pruner decides at all of them but the last.
        maximize: Whether higher values are better.
    """
    if settings.pruner == "none" or len(rungs) == 1:
        return Pruner()
    if settings.pruner == "median":
        return _Median(maximize=maximize)
    factor = settings.reduction_factor
    if settings.cost != "none":
        return _ParetoHalving(factor=factor, maximize=maximize)
    is_hyperband = settings.pruner == "hyperband"
    num_brackets = math.floor(math.log(rungs[-1] / rungs[0], factor)) + 1 if is_hyperband else 1
    return _SuccessiveHalving(study, rungs, factor=factor, num_brackets=num_brackets, maximize=maximize)
