"""Compares candidates, each trained with the same fresh seeds and scored on the same rows.

All differences are of pairs: the same seed (initial adapter, data order) and the same row. `crossed` has the error
model. Intervals are simultaneous over candidates (max-T), and hold although further seeds are added only where a
comparison is undecided (`error_level`). docs/statistics.md explains all of it, `benchmarks/calibration.py` measures it.
"""

from __future__ import annotations

import bisect
import dataclasses
import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from sweeper.config.settings import ConfirmSettings
from sweeper.statistics.crossed import Crossed, Floats, MaxStatistic, SeedVariance
from sweeper.statistics.looks import error_level
from sweeper.statistics.outcomes import LABEL_METRICS, CandidateOutcomes, is_minimised, row_contributions
from sweeper.statistics.results import CandidateResult, Difference, Interval, Verdict

__all__ = ["compare_candidates", "compare_with_baseline"]

_MOST_SEEDS = 1_000
_MOST_ROWS = 1_000_000
"""More than anyone would train or label."""


def compare_candidates(
    candidates: Sequence[CandidateOutcomes],
    *,
    default: str | None,
    metric: str,
    maximize: bool,
    settings: ConfirmSettings,
    other_metrics: Iterable[str] = (),
    seed: int = 0,
) -> list[CandidateResult]:
    """Compare candidates with the default, and with the best of them.

    Args:
        candidates: Each with at least two seeds, the first ones of one list, and with the same rows.
        default: Name of the default; None if it is not among them.
        metric: The study's metric, e.g. ``accuracy``.
        maximize: Whether higher values of it are better.
        settings: ``margin``, ``confidence`` and ``max_seeds``. A comparison of fewer seeds than ``max_seeds`` is an
            interim look, with a wider interval. So if no more will be trained, it must be the most that one has.
        other_metrics: Metrics that get intervals, too.
        seed: Of the random draws for simultaneous intervals.

    Returns:
        Results in the order of the candidates. The best is the one with the highest mean over fresh seeds.

    Raises:
        ValueError: If a candidate has one seed only, or seeds or rows do not fit those of the others.
    """
    _check(candidates)
    main = _Scores(candidates, metric, maximize=maximize, settings=settings, seed=seed)
    others = [
        _Scores(candidates, name, maximize=not is_minimised(name), settings=settings, seed=seed)
        for name in other_metrics
        if name != metric
    ]
    # The best was chosen on the same data. Intervals for all pairs hold for those with the best, too, whichever it is.
    against_best = main.differences_from(main.best, selected=True)
    against_default = main.differences_from(default, selected=False)
    gains = {scores.metric: scores.differences_from(default, selected=False) for scores in others}
    return [
        CandidateResult(
            name=candidate.name,
            num_seeds=len(candidate.seeds),
            metrics={f"validation/{scores.metric}": scores.mean(candidate.name) for scores in (main, *others)},
            against_default=against_default.get(candidate.name),
            against_best=against_best.get(candidate.name),
            differences={
                f"validation/{name}": found[candidate.name].gain
                for name, found in gains.items()
                if candidate.name in found
            },
        )
        for candidate in candidates
    ]


def compare_with_baseline(
    candidates: Sequence[CandidateOutcomes],
    name: str,
    baseline: CandidateOutcomes | float,
    *,
    metric: str,
    maximize: bool,
    settings: ConfirmSettings,
    seed: int = 0,
) -> Difference:
    """Compare a candidate with a fixed predictor, such as a frozen probe: is it clearly better?

    Args:
        candidates: As for `compare_candidates`. Intervals hold for all at once, so the one may be the best of them.
        name: The candidate.
        baseline: Outcomes of the predictor on the same rows, as one seed. If nothing but its score is known, that:
            intervals are then as wide as if it had been scored on other rows.
        metric: The study's metric.
        maximize: Whether higher values of it are better.
        settings: ``confidence`` and ``max_seeds``, as for `compare_candidates`.
        seed: Of the random draws.

    Returns:
        Candidate minus baseline. Each end of the interval is a one-sided bound with ``confidence``. Never equivalent.
    """
    _check(candidates)
    return _Scores(candidates, metric, maximize=maximize, settings=settings, seed=seed).against_fixed(name, baseline)


def _check(candidates: Sequence[CandidateOutcomes]) -> None:
    if not candidates:
        return
    longest = max((candidate.seeds for candidate in candidates), key=len)
    for candidate in candidates:
        if len(candidate.seeds) < 2:  # noqa: PLR2004  a variance needs two values
            raise ValueError(f"candidate {candidate.name!r} has {len(candidate.seeds)} seeds; at least 2 are needed")
        if candidate.seeds != longest[: len(candidate.seeds)] or len(candidate.loss_SN) != len(candidate.seeds):
            raise ValueError(f"candidate {candidate.name!r} has seeds {candidate.seeds}, not the first of {longest}")
        if candidate.num_rows != candidates[0].num_rows:
            raise ValueError(
                f"candidate {candidate.name!r} has {candidate.num_rows} rows, {candidates[0].name!r} has "
                f"{candidates[0].num_rows}"
            )


@dataclass(frozen=True, kw_only=True)
class _Pair:
    """A candidate minus another, on the seeds of both."""

    values_N: Floats
    """Means over seeds."""
    crossed: Crossed

    @staticmethod
    def of(values_SN: Floats, other_SN: Floats, step: float) -> _Pair:
        num_seeds = min(len(values_SN), len(other_SN))
        difference_SN = values_SN[:num_seeds] - other_SN[:num_seeds]
        return _Pair(values_N=difference_SN.mean(axis=0), crossed=Crossed.of(difference_SN, step))

    def __neg__(self) -> _Pair:
        return _Pair(values_N=-self.values_N, crossed=dataclasses.replace(self.crossed, mean=-self.crossed.mean))


class _Scores:
    """All candidates in one metric, its sign turned so that higher is better."""

    def __init__(
        self,
        candidates: Sequence[CandidateOutcomes],
        metric: str,
        *,
        maximize: bool,
        settings: ConfirmSettings,
        seed: int,
    ) -> None:
        self.metric = metric
        self._sign = 1.0 if maximize else -1.0
        self._settings = settings
        self._random_seed = seed
        self._step = 1.0 if metric in LABEL_METRICS else 0.0
        self._values = {c.name: self._sign * row_contributions(c, metric) for c in candidates}
        self._own = {name: Crossed.of(values_SN, self._step) for name, values_SN in self._values.items()}
        self._pairs = {
            (name, other): _Pair.of(self._values[name], self._values[other], self._step)
            for name, other in itertools.combinations(self._values, 2)
        }
        counts = [len(values_SN) for values_SN in self._values.values()]
        # Candidates by seeds is a two-way layout, too; these are the degrees of freedom of its interaction.
        degrees = sum(counts) - len(counts) - max(counts, default=0) + 1
        self._seeds = SeedVariance.pooled([pair.crossed for pair in self._pairs.values()], degrees)
        self._own_seeds = SeedVariance.pooled(list(self._own.values()), sum(counts) - len(counts))

    @property
    def best(self) -> str | None:
        """Return the candidate with the highest mean."""
        return max(self._own, key=lambda name: self._own[name].mean, default=None)

    def mean(self, name: str) -> Interval:
        """Return the metric of a candidate, its sign as it was; its interval is not simultaneous."""
        found = self._own[name]
        half = found.error(self._own_seeds).half_width(1 - self._settings.confidence)
        return Interval.around(self._sign * found.mean, half)

    def differences_from(self, reference: str | None, *, selected: bool) -> dict[str, Difference]:
        """Return each other candidate minus a reference.

        Args:
            reference: Name of a candidate; there are no differences if it has no outcomes.
            selected: Whether the reference was chosen for its score, so that intervals must hold for all pairs.
        """
        if reference not in self._values:
            return {}
        pairs = {name: self._pair(name, reference) for name in self._values if name != reference}
        if not pairs:
            return {}
        family = list(self._pairs.values()) if selected else list(pairs.values())
        largest = MaxStatistic(np.stack([pair.values_N for pair in family]), self._random_seed)
        return {name: self._difference(pair.crossed, largest) for name, pair in pairs.items()}

    def against_fixed(self, name: str, baseline: CandidateOutcomes | float) -> Difference:
        """Return a candidate minus a fixed predictor."""
        pairs = {other: self._minus_fixed(other, baseline) for other in self._values}
        largest = MaxStatistic(np.stack([pair.values_N for pair in pairs.values()]), self._random_seed)
        found = pairs[name].crossed
        level = largest.level(2 * error_level(self._settings, found.num_seeds))
        gain = Interval.around(found.mean, found.error(self._own_seeds).half_width(level))
        return Difference(gain=gain, verdict=_sign_of(gain))

    def _pair(self, name: str, other: str) -> _Pair:
        return self._pairs[name, other] if (name, other) in self._pairs else -self._pairs[other, name]

    def _minus_fixed(self, name: str, baseline: CandidateOutcomes | float) -> _Pair:
        values_SN, own = self._values[name], self._own[name]
        if isinstance(baseline, CandidateOutcomes):
            fixed_SN = np.broadcast_to(self._sign * row_contributions(baseline, self.metric), values_SN.shape)
            return _Pair.of(values_SN, fixed_SN, self._step)
        # A row's variance for an accuracy is binomial. That of another metric is taken from the candidate.
        row = baseline * (1 - baseline) if self.metric == "accuracy" else own.row + own.residual
        crossed = dataclasses.replace(own, mean=own.mean - self._sign * baseline, row=own.row + row)
        return _Pair(values_N=values_SN.mean(axis=0), crossed=crossed)

    def _difference(self, found: Crossed, largest: MaxStatistic) -> Difference:
        level = error_level(self._settings, found.num_seeds)
        verdict, gain = self._verdict(found, largest, level)
        if verdict is not Verdict.UNDECIDED:
            return Difference(gain=gain, verdict=verdict)
        last = 1 - self._settings.confidence

        def settles(num_seeds: int, num_rows: int) -> bool:
            return self._verdict(found, largest, last, num_seeds, num_rows)[0] is not Verdict.UNDECIDED

        return Difference(
            gain=gain,
            verdict=verdict,
            seeds_needed=_first(range(found.num_seeds + 1, _MOST_SEEDS), lambda s: settles(s, found.num_rows)),
            rows_needed=_first(range(found.num_rows + 1, _MOST_ROWS), lambda n: settles(found.num_seeds, n)),
        )

    def _verdict(
        self,
        found: Crossed,
        largest: MaxStatistic,
        level: float,
        num_seeds: int | None = None,
        num_rows: int | None = None,
    ) -> tuple[Verdict, Interval]:
        error = found.error(self._seeds, num_seeds=num_seeds, num_rows=num_rows)
        # Two one-sided tests (Schuirmann 1987): each may err with `level`, so the interval leaves out twice that.
        gain = Interval.around(found.mean, error.half_width(largest.level(level)))
        if abs(found.mean) + error.half_width(largest.level(2 * level)) < self._settings.margin:
            return Verdict.EQUIVALENT, gain
        return _sign_of(gain), gain


def _sign_of(gain: Interval) -> Verdict:
    if gain.low > 0:
        return Verdict.BETTER
    return Verdict.WORSE if gain.high < 0 else Verdict.UNDECIDED


def _first(numbers: range, holds: Callable[[int], bool]) -> int | None:
    """Return the first number for which something holds that holds for all larger ones, too; None if there is none."""
    index = bisect.bisect_left(numbers, True, key=holds)
    return numbers[index] if index < len(numbers) else None
