"""What people say about LoRA's settings, each supported, refuted or undecided by the trials of a study, and of several.

Two kinds of claims:

- A rule ("alpha = 2r", "low rank suffices") costs something: the best achievable score without it, minus the best
  achievable one with it, all other keys free. Supported if the cost is shown to be below `MARGIN`, refuted if it is
  shown to be above. Alternatives are many, so the band is simultaneous over them (the largest of the standardized
  posterior deviations, as in max-T tests), and the best alternative is chosen by its mean, not in each draw.
- An exponent ("the best alpha grows with the root of r") is that of the straight line in logarithms along which the
  mean score over the ranks is highest, in each posterior draw: the ridge, weighted by how steep its sides are. The
  learning rate is held at its best value, since with a free one any alpha has its rate. The interval has the central
  95 % of the draws, and every exponent whose line is not shown to score less than the best line: on a flat surface,
  which has no ridge, these are all. Refuted if the interval excludes the claimed exponent, supported if it is within
  `EXPONENT_MARGIN` of it.

Without a surrogate of sufficient quality everything is undecided. Over studies, estimates are combined by a
random-effects model (`combine`): studies may differ, and the interval is that of their mean.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from sweeper.statistics.effects import interval_json
from sweeper.statistics.landscape import Landscape, interval_of
from sweeper.statistics.observations import RANK, RATE, RATIO, ScoredTrial
from sweeper.statistics.results import Interval
from sweeper.statistics.surrogate import Surrogate, fit_surrogate

__all__ = ["EXPONENT_MARGIN", "MARGIN", "SMALL_DATA", "Claim", "claim_json", "combine", "study_claims"]

Array = NDArray[np.float64]

MARGIN = 0.01
"""A rule that costs less than this does not matter; in units of the metric."""
EXPONENT_MARGIN = 0.25
"""Exponents this near count as equal: the published ones are 0, -1/2 and -1."""
SMALL_DATA = 500
"""A data set with at most this many training rows is small."""
_LOW_RANK = 8
_GAP_MARGIN = 0.01
"""Growth of the train-validation gap per doubling of alpha that counts, in units of the loss."""
_MAX_GAP = 2.0
"""A gap beyond this is that of a trial that diverged."""
_EXPONENTS = np.linspace(-2.0, 1.0, 25)
_NUM_LINES = 17
_NUM_OTHERS = 4
DROPOUT = "lora.dropout"


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """A claim and what is known about it."""

    name: str
    statement: str
    unit: str
    supported: tuple[float, float]
    """The estimates for which the claim is right, both ends included."""
    refuted: tuple[float, float]
    """The claim is refuted if the interval has nothing in common with this range.

    For a cost it is the same as ``supported``, for an exponent it is the claimed exponent alone.
    """
    estimate: Interval | None
    """None if nothing can be said."""
    detail: str = ""

    @property
    def verdict(self) -> str:
        """``supported``, ``refuted`` or ``undecided``."""
        found = self.estimate
        if found is None:
            return "undecided"
        if found.low >= self.supported[0] and found.high <= self.supported[1]:
            return "supported"
        if found.high < self.refuted[0] or found.low > self.refuted[1]:
            return "refuted"
        return "undecided"


def claim_json(claim: Claim) -> dict[str, Any]:
    """Return a claim as JSON-able values."""
    return {
        "claim": claim.name,
        "statement": claim.statement,
        "estimate": interval_json(claim.estimate) if claim.estimate else None,
        "unit": claim.unit,
        "verdict": claim.verdict,
        "detail": claim.detail,
    }


def study_claims(
    surrogate: Surrogate,
    *,
    num_train_rows: int,
    landscape: Landscape | None = None,
) -> list[Claim]:
    """Return all claims about a study, in a fixed order.

    Args:
        surrogate: Its surrogate.
        num_train_rows: Rows that a trial trains on.
        landscape: A landscape of the surrogate to use; made if None.
    """
    if not surrogate.quality.is_sufficient:
        reason = "The surrogate does not predict trials that it has not seen."
        return [_claim(name, None, reason) for name in _CLAIMS]
    land = landscape or Landscape(surrogate)
    ratio, rate = _exponent(land, RATIO), _exponent(land, RATE)
    found = {
        "alpha = 2r": _cost_of_ratio(land),
        **dict.fromkeys(("alpha = c r", "alpha grows with sqrt(r)", "constant alpha"), ratio),
        "learning rate independent of rank": rate,
        "low rank suffices": _cost_of_low_rank(land),
        "dropout does not matter": _cost_of_dropout(land),
        "r = 8, alpha = 16": _cost_of_start(land),
        "high alpha overfits small data": _gap_per_doubling(land, num_train_rows),
    }
    details = {
        "dropout does not matter": f"{num_train_rows} training rows.",
        "high alpha overfits small data": ""
        if num_train_rows <= SMALL_DATA
        else f"Not small: {num_train_rows} training rows, more than {SMALL_DATA}.",
    }
    claims = []
    for name, estimate in found.items():
        missing = "" if estimate else "Not in the search space, or not enough is known."
        claims.append(_claim(name, estimate, details.get(name, "") or missing))
    return claims


def combine(studies: Sequence[Sequence[Claim]]) -> list[Claim]:
    """Return the claims over several studies.

    The mean of a random-effects model (DerSimonian and Laird 1986) with the interval of Knapp and Hartung (2003), whose
    variance is not allowed below that of a fixed effect (Roever et al. 2015). For one study, its own interval.

    Exponents of studies whose interval reaches an end of the exponents looked at are left out: such a study shows no
    ridge, and its estimate is that of the prior.

    Args:
        studies: Claims of each study, as `study_claims` returns them.
    """
    combined = []
    for claims in zip(*studies, strict=True):
        known = [claim.estimate for claim in claims if claim.estimate is not None and _is_informative(claim)]
        counts = {
            verdict: sum(claim.verdict == verdict for claim in claims)
            for verdict in ("supported", "refuted", "undecided")
        }
        each = ", ".join(f"{number} {verdict}" for verdict, number in counts.items())
        detail = f"From {len(known)} of {len(claims)} studies; one by one: {each}."
        combined.append(_claim(claims[0].name, _random_effects(known), detail))
    return combined


_COST = (-math.inf, MARGIN)
_CLAIMS: dict[str, tuple[str, str, tuple[float, float], tuple[float, float]]] = {
    "alpha = 2r": (
        "The best score with alpha = 2r is within 0.01 of the best with any other alpha, all else tuned.",
        "score lost",
        _COST,
        _COST,
    ),
    "alpha = c r": (
        "At a given learning rate, the best alpha is proportional to r: the exponent of the best alpha/r in r is 0.",
        "exponent of alpha/r in r",
        (-EXPONENT_MARGIN, EXPONENT_MARGIN),
        (0.0, 0.0),
    ),
    "alpha grows with sqrt(r)": (
        "At a given learning rate, the best alpha grows with the root of r, as in rsLoRA: the exponent of the best "
        "alpha/r in r is -1/2.",
        "exponent of alpha/r in r",
        (-0.5 - EXPONENT_MARGIN, -0.5 + EXPONENT_MARGIN),
        (-0.5, -0.5),
    ),
    "constant alpha": (
        "At a given learning rate, the best alpha is the same for every r: the exponent of alpha/r in r is -1.",
        "exponent of alpha/r in r",
        (-1 - EXPONENT_MARGIN, -1 + EXPONENT_MARGIN),
        (-1.0, -1.0),
    ),
    "learning rate independent of rank": (
        "At a given alpha/r, the best learning rate does not depend on the rank: its exponent in r is 0.",
        "exponent of the learning rate in r",
        (-EXPONENT_MARGIN, EXPONENT_MARGIN),
        (0.0, 0.0),
    ),
    "low rank suffices": (
        f"The best score with a rank of at most {_LOW_RANK} is within 0.01 of the best with a higher rank.",
        "score lost",
        _COST,
        _COST,
    ),
    "dropout does not matter": (
        "The best score with any dropout in the space is within 0.01 of the best with any other.",
        "largest difference in score",
        _COST,
        _COST,
    ),
    "r = 8, alpha = 16": (
        "The best score with r = 8 and alpha = 16 is within 0.01 of the best in the space.",
        "score lost",
        _COST,
        _COST,
    ),
    "high alpha overfits small data": (
        f"With at most {SMALL_DATA} training rows, the gap between validation and training loss grows by more than "
        f"{_GAP_MARGIN} with each doubling of alpha, near the best configuration.",
        "growth of the gap per doubling",
        (_GAP_MARGIN, math.inf),
        (_GAP_MARGIN, math.inf),
    ),
}
"""Statement, unit, and the ranges of `Claim` for each name."""


def _claim(name: str, estimate: Interval | None, detail: str) -> Claim:
    statement, unit, supported, refuted = _CLAIMS[name]
    return Claim(
        name=name,
        statement=statement,
        unit=unit,
        supported=supported,
        refuted=refuted,
        estimate=estimate,
        detail=detail,
    )


def _cost_of_ratio(land: Landscape) -> Interval | None:
    index = land.index(RATIO)
    if index is None:
        return None
    values = [value for value in land.grid(index) if abs(math.log2(float(value) / 2)) > 0.3]  # noqa: PLR2004
    return _cost(land, land.at([{RATIO: 2.0}]), land.at([{RATIO: value} for value in values]))


def _cost_of_low_rank(land: Landscape) -> Interval | None:
    index = land.index(RANK)
    ranks = [] if index is None else land.grid(index)
    low = [{RANK: rank} for rank in ranks if float(rank) <= _LOW_RANK]
    high = [{RANK: rank} for rank in ranks if float(rank) > _LOW_RANK]
    if not low or not high:
        return None
    rule = land.at(low)
    return _cost(land, rule.reshape(1, -1, rule.shape[2]), land.at(high))


def _cost_of_start(land: Landscape) -> Interval | None:
    rank, ratio = land.index(RANK), land.index(RATIO)
    if rank is None or ratio is None:
        return None
    others = [{RANK: r, RATIO: a} for r in land.grid(rank, 7) for a in land.grid(ratio, 7)]
    return _cost(land, land.at([{RANK: 8, RATIO: 2.0}]), land.at(others))


def _cost_of_dropout(land: Landscape) -> Interval | None:
    """Return the largest difference between two values of dropout."""
    index = land.index(DROPOUT)
    if index is None:
        return None
    values = [{DROPOUT: value} for value in land.grid(index, 6)]
    scores = land.surrogate.values(land.best_scores(land.at(values)))
    pairs = [scores[:, i] - scores[:, j] for i in range(len(values)) for j in range(len(values)) if i != j]
    return _largest(np.stack(pairs, axis=1), maximize=land.surrogate.maximize)


def _cost(land: Landscape, rule_1KC: Array, others_GKC: Array) -> Interval:
    rule = land.surrogate.values(land.best_scores(rule_1KC))
    others = land.surrogate.values(land.best_scores(others_GKC))
    return _largest(others - rule, maximize=land.surrogate.maximize)


def _largest(gains_SG: Array, *, maximize: bool, confidence: float = 0.95) -> Interval:
    """Return the largest of several gains with an interval that is simultaneous over them.

    Args:
        gains_SG: Posterior draws of the gains, in units of the metric.
        maximize: Whether a higher metric is a gain.
        confidence: Probability that all gains are within their bands.
    """
    gains = gains_SG if maximize else -gains_SG
    mean, deviation = gains.mean(axis=0), np.maximum(gains.std(axis=0), 1e-9)
    width = float(np.quantile((np.abs(gains - mean) / deviation).max(axis=1), confidence))
    return Interval(
        estimate=float(mean.max()),
        low=float((mean - width * deviation).max()),
        high=float((mean + width * deviation).max()),
    )


def _exponent(land: Landscape, key: str) -> Interval | None:
    """Return the exponent in the rank of the line of values of a key that scores best on average over the ranks.

    The other one of learning rate and ratio is held at its best value; every line passes through the space, and where
    it leaves the range of the key, the nearest value is used. A few sets of the remaining keys compete at each point.
    """
    rank, index = land.index(RANK), land.index(key)
    other = RATE if key == RATIO else RATIO
    if rank is None or index is None:
        return None
    ranks = np.array([float(value) for value in land.grid(rank, 7)])
    columns = np.linspace(0, 1, _NUM_LINES)
    points = _ridge_points(land, (rank, index), list(ranks), columns, held=other)
    draws = land.draws(points.reshape(-1, points.shape[-1]))
    surface = draws.reshape(len(draws), len(ranks), _NUM_LINES, -1).max(axis=3)
    logs = np.log(land.encoder.number_of(index, columns))
    steps = np.log(ranks / np.exp(np.log(ranks).mean()))
    # Every line: its value at the geometric mean of the ranks, and its exponent.
    starts = np.linspace(logs[0], logs[-1], 2 * _NUM_LINES)
    means = np.zeros((len(draws), len(_EXPONENTS), len(starts)))
    for number, step in enumerate(steps):
        wanted = np.clip(starts[None, :] + _EXPONENTS[:, None] * step, logs[0], logs[-1])
        position = (wanted - logs[0]) / (logs[-1] - logs[0]) * (_NUM_LINES - 1)
        low = np.minimum(position.astype(int), _NUM_LINES - 2)
        weight = position - low
        means += surface[:, number, low] * (1 - weight) + surface[:, number, low + 1] * weight
    lines_SE = means.max(axis=2)
    drawn = interval_of(_EXPONENTS[lines_SE.argmax(axis=1)])
    best = int(lines_SE.mean(axis=0).argmax())
    losses = np.quantile(lines_SE[:, [best]] - lines_SE, 0.025, axis=0)
    possible = _EXPONENTS[losses <= 0]
    low, high = min(drawn.low, float(possible.min())), max(drawn.high, float(possible.max()))
    return Interval(estimate=drawn.estimate, low=low, high=high)


def _ridge_points(
    land: Landscape, indices: tuple[int, int], ranks: Sequence[float], columns: Array, *, held: str
) -> Array:
    """Return points (ranks x values x sets of the other keys x columns) on which a ridge is looked for."""
    order = np.argsort(-land.surrogate.likely_scores(land.pool_KC))[:_NUM_OTHERS]
    others = land.pool_KC[order].copy()
    held_index = land.index(held)
    if held_index is not None:
        held_columns = land.encoder.columns_of(held_index)
        others[:, held_columns] = land.best_C[held_columns]
    points = np.tile(others, (len(ranks), len(columns), 1, 1))
    for number, rank in enumerate(ranks):
        points[number, :, :, land.encoder.columns_of(indices[0])] = land.encoder.column_values(indices[0], rank)[0]
    points[:, :, :, int(land.encoder.columns_of(indices[1])[0])] = columns[None, :, None]
    return points


def _gap_per_doubling(land: Landscape, num_train_rows: int) -> Interval | None:
    """Return the growth of the gap between validation and training loss per doubling of alpha near the best point.

    A surrogate of its own is fitted to the gaps. Nothing is said if the data are not small or it is not good enough.
    """
    index = land.index(RATIO)
    if index is None or num_train_rows > SMALL_DATA:
        return None
    gaps = [gap for trial in land.surrogate.trials if (gap := _gaps(trial)) is not None]
    surrogate = fit_surrogate(land.surrogate.space, gaps, maximize=False)
    if not surrogate.quality.is_sufficient:
        return None
    column = int(land.encoder.columns_of(index)[0])
    at = np.clip(land.best_C[column] + np.array([-0.2, 0.2]), 0, 1)
    points = np.repeat(land.best_C[None], 2, axis=0)
    points[:, column] = at
    low, high = land.encoder.number_of(index, at)
    draws = surrogate.values(surrogate.draw_scores(points, num_draws=400, seed=0))
    return interval_of((draws[:, 1] - draws[:, 0]) / math.log2(high / low))


def _gaps(trial: ScoredTrial) -> ScoredTrial | None:
    """Return a trial with its gaps as values; None if it has no losses."""
    pairs = zip(trial.shares, trial.train_losses, trial.validation_losses, strict=False)
    found = [(share, min(v - t, _MAX_GAP)) for share, t, v in pairs if math.isfinite(v - t)]
    if not found:
        return None
    shares, values = zip(*found, strict=True)
    return ScoredTrial(number=trial.number, params=trial.params, shares=shares, values=values)


def _is_informative(claim: Claim) -> bool:
    """Whether a study's estimate counts over studies."""
    if claim.estimate is None or "exponent" not in claim.unit:
        return claim.estimate is not None
    return claim.estimate.low > float(_EXPONENTS[0]) and claim.estimate.high < float(_EXPONENTS[-1])


def _random_effects(known: Sequence[Interval], confidence: float = 0.95) -> Interval | None:
    if len(known) <= 1:
        return known[0] if known else None
    estimates = np.array([found.estimate for found in known])
    # Posteriors are taken for normal ones: a 95 % interval has a width of 2 x 1.96 standard deviations.
    variances = np.maximum(np.array([(found.high - found.low) / 3.92 for found in known]), 1e-6) ** 2
    weights = 1 / variances
    mean = float((weights * estimates).sum() / weights.sum())
    spread = float((weights * (estimates - mean) ** 2).sum())
    degrees = len(known) - 1
    between = max(0.0, (spread - degrees) / float(weights.sum() - (weights**2).sum() / weights.sum()))
    weights = 1 / (variances + between)
    mean = float((weights * estimates).sum() / weights.sum())
    scale = max(1.0, float((weights * (estimates - mean) ** 2).sum()) / degrees)
    width = float(student.ppf((1 + confidence) / 2, degrees)) * math.sqrt(scale / float(weights.sum()))
    return Interval(estimate=mean, low=mean - width, high=mean + width)
