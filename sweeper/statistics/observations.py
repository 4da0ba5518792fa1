"""The scored trials of a study as the surrogate sees them: configurations as points, scores by share of training.

`surrogate` fits them; `control` and `sweeper.analysis.effects` make them from the store's records.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sweeper.config.space import Dimension, Scale, SearchSpace
from sweeper.config.trial_length import trial_chunks
from sweeper.config.values import ParamValue
from sweeper.types import StudyRecord, TrialRecord

__all__ = ["RANK", "RATE", "RATIO", "Encoder", "Score", "ScoredTrial", "effective_rates", "scored_trials"]

Array = NDArray[np.float64]

RANK, RATIO, RATE = "lora.r", "lora.alpha_ratio", "train.learning_rate"

_CEILING = 1.02
"""Above every accuracy, so that the logarithm of the distance to it is finite."""
_MAX_LEVELS = 100
_SAME_ROWS = 0.35
"""Variance of a score beside others on the same validation rows, as a share of the binomial variance: the error of
differences was measured to be 1.7 times smaller than for independent rows, and 1 / 1.7^2 = 0.35."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoredTrial:
    """One trial with at least one finite score."""

    number: int
    params: Mapping[str, ParamValue]
    """Values of the space's keys; they may lie outside of the space."""
    shares: tuple[float, ...]
    """Share of its own training done at each rung, ascending; 1 is the whole."""
    values: tuple[float, ...]
    """The study's metric at each of these rungs."""
    train_losses: tuple[float, ...] = ()
    """Training loss at each of these rungs, NaN where unknown; may be empty."""
    validation_losses: tuple[float, ...] = ()
    """Validation loss at each of these rungs, NaN where unknown; may be empty."""

    @property
    def is_complete(self) -> bool:
        """Whether it was scored at the full length."""
        return self.shares[-1] >= 1


def scored_trials(study: StudyRecord, trials: Iterable[TrialRecord], space: SearchSpace) -> list[ScoredTrial]:
    """Return the trials that a surrogate of a study can learn from, by number.

    Trials of every phase and state count. Left out are those without a finite score, and those that differ from most
    trials in a key that is not searched, e.g. a recipe with another ``train.head_init``: they have no place in the
    space.

    Args:
        study: The study.
        trials: Its trials.
        space: Its search space.
    """
    scored = [trial for trial in trials if any(_is_scored(study, m.metrics) for m in trial.measurements)]
    fixed = [_fixed(trial, space) for trial in scored]
    usual = Counter(fixed).most_common(1)[0][0] if fixed else ()
    found = [_scored(study, t, space) for t, values in zip(scored, fixed, strict=True) if values == usual]
    return sorted(found, key=lambda trial: trial.number)


def _is_scored(study: StudyRecord, metrics: Mapping[str, float]) -> bool:
    return math.isfinite(metrics.get(study.metric, math.nan))


def _fixed(trial: TrialRecord, space: SearchSpace) -> tuple[tuple[str, ParamValue], ...]:
    return tuple(sorted((key, value) for key, value in trial.spec.by_key().items() if key not in space.keys))


def _scored(study: StudyRecord, trial: TrialRecord, space: SearchSpace) -> ScoredTrial:
    values = trial.spec.by_key()
    rungs = [m for m in trial.measurements if _is_scored(study, m.metrics)]
    return ScoredTrial(
        number=trial.spec.number,
        params={key: values[key] for key in space.keys},
        shares=tuple(min(1.0, m.chunk / trial_chunks(study, trial.spec.train.epochs)) for m in rungs),
        values=tuple(m.metrics[study.metric] for m in rungs),
        train_losses=tuple(m.metrics.get("train/loss", math.nan) for m in rungs),
        validation_losses=tuple(m.validation_loss for m in rungs),
    )


def effective_rates(rank_M: Array, ratio_M: Array, rate_M: Array) -> Array:
    """Return learning rate x alpha / r x sqrt(r), the size of an adapter's first steps."""
    return np.asarray(rate_M * ratio_M * np.sqrt(rank_M))


class Encoder:
    """Configurations as points: a column for each numeric dimension, and one for each category.

    A numeric value is its position between the bounds on the dimension's own scale, 0 to 1; below 0 or above 1 outside
    of the space. Two categories of a dimension are at distance 1.

    Args:
        space: The search space.
    """

    def __init__(self, space: SearchSpace) -> None:
        self.space = space
        sizes = [len(d.choices) if d.scale is Scale.CATEGORICAL else 1 for d in space.dimensions]
        self.dimension_of_column = np.repeat(np.arange(len(sizes)), sizes)
        """Index of the dimension that each column belongs to."""
        numeric = [d.scale is not Scale.CATEGORICAL for d in space.dimensions]
        self.is_numeric_column = np.repeat(numeric, sizes)

    def encode(self, configurations: Sequence[Mapping[str, ParamValue]]) -> Array:
        """Return the points of configurations, one row each."""
        rows = [[c for d in self.space.dimensions for c in _columns(d, params[d.key])] for params in configurations]
        return np.array(rows, dtype=np.float64).reshape(len(rows), len(self.dimension_of_column))

    def encode_units(self, units_MD: Array) -> Array:
        """Return the points at positions of the unit cube, as `SearchSpace.point` maps them to values.

        Args:
            units_MD: Positions in [0, 1), one column for each dimension; discrete values have equal shares.
        """
        columns = [self._column(index, units_MD[:, index]) for index in range(units_MD.shape[1])]
        return np.concatenate(columns, axis=1)

    def levels(self, index: int) -> list[ParamValue] | None:
        """Return the values of a discrete dimension; None if it is continuous or has more than a hundred."""
        dimension = self.space.dimensions[index]
        if dimension.num_values is None or dimension.num_values > _MAX_LEVELS:
            return None
        return [dimension.at((level + 0.5) / dimension.num_values) for level in range(dimension.num_values)]

    def columns_of(self, index: int) -> NDArray[np.int64]:
        """Return the columns that belong to a dimension."""
        return np.flatnonzero(self.dimension_of_column == index)

    def column_values(self, index: int, value: ParamValue) -> list[float]:
        """Return the entries of a dimension's columns for a value."""
        return _columns(self.space.dimensions[index], value)

    def number_of(self, index: int, column_M: Array) -> Array:
        """Return the numbers that the entries of a numeric dimension's column stand for."""
        dimension = self.space.dimensions[index]
        if dimension.choices:
            known = [float(choice) for choice in dimension.choices]
            return np.asarray(np.interp(column_M, _positions(dimension), known))
        if not dimension.is_ratio_scaled:
            return dimension.low + column_M * (dimension.high - dimension.low)
        return np.asarray(dimension.low * (dimension.high / dimension.low) ** column_M)

    def _column(self, index: int, unit_M: Array) -> Array:
        levels = self.levels(index)
        if levels is None:
            dimension = self.space.dimensions[index]
            if dimension.is_ratio_scaled and dimension.scale is Scale.LINEAR:
                return np.array([[dimension.unit(dimension.at(float(unit)))] for unit in unit_M])
            return unit_M[:, None]
        table = np.array([self.column_values(index, level) for level in levels])
        return np.asarray(table[np.minimum((unit_M * len(levels)).astype(int), len(levels) - 1)])


def _columns(dimension: Dimension, value: ParamValue) -> list[float]:
    if dimension.scale is Scale.CATEGORICAL:
        return [float(value == choice) / math.sqrt(2) for choice in dimension.choices]
    if not dimension.choices or value in dimension.choices:
        return [dimension.unit(value)]
    # Not one of an ordered list, e.g. a recipe's value: between its neighbours, or at the nearer end.
    known = [float(choice) for choice in dimension.choices]
    return [float(np.interp(float(value), known, _positions(dimension)))]


def _positions(dimension: Dimension) -> Array:
    """Return the entries that the values of an ordered list have in their column."""
    if dimension.is_ratio_scaled:
        return np.array([dimension.unit(choice) for choice in dimension.choices])
    return np.linspace(0, 1, len(dimension.choices))


@dataclass(frozen=True, slots=True)
class Score:
    """The scale on which scores are modelled: higher is better, and the best of them are spread out.

    A metric that is maximized within [0, 1] becomes -log(1.02 - value), one that is minimized and positive becomes
    -log(value): half the errors, or half the loss, is the same step everywhere. Other metrics are only turned round
    where they are minimized.
    """

    maximize: bool
    is_logarithmic: bool

    @classmethod
    def of(cls, values: Array, *, maximize: bool) -> Score:
        """Return the scale for some values of a metric."""
        fits = bool(np.all((values >= 0) & (values <= 1))) if maximize else bool(np.all(values > 0))
        return cls(maximize, fits)

    def transform(self, values: Array) -> Array:
        """Return values of the metric on this scale."""
        if not self.is_logarithmic:
            return values if self.maximize else -values
        return -np.log(_CEILING - values) if self.maximize else -np.log(values)

    def restore(self, scores: Array) -> Array:
        """Return the values of the metric that have these scores."""
        if not self.is_logarithmic:
            return scores if self.maximize else -scores
        errors = np.exp(-scores)
        return np.clip(_CEILING - errors, 0.0, 1.0) if self.maximize else errors

    def row_variance(self, values: Array, num_rows: int) -> Array:
        """Return the variance of scores due to the validation rows, beside other scores on the same rows.

        The binomial variance of an accuracy by the delta method, at the value of Agresti and Coull (two rows more are
        right and two wrong), so that a perfect score is not taken for an exact one.

        Args:
            values: Accuracies.
            num_rows: Rows that each is measured on.
        """
        shares = (values * num_rows + 2) / (num_rows + 4)
        slopes = 1 / (_CEILING - shares) if self.is_logarithmic else np.ones_like(shares)
        return np.asarray(_SAME_ROWS * shares * (1 - shares) / num_rows * slopes**2)
