"""Trials of a search whose true surface is known, to check what the statistics say about it.

Imported by the tests and by `benchmarks.calibration_effects`. A search has the shape of a real one: recipes first, then
points spread over the space, then points around the best ones; scores at four rungs, with the noise of validation rows
and of the seed; and half of the trials that reach a rung are stopped there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray
from scipy.stats import qmc

from sweeper.config.dimensions import parse_space
from sweeper.statistics.observations import ScoredTrial

SPACE = parse_space(
    {
        "lora.r": "tag(log2,interval(1,64))",
        "lora.alpha_ratio": "tag(log,interval(0.25,8))",
        "lora.dropout": "interval(0,0.2)",
        "train.learning_rate": "tag(log,interval(1e-4,1e-2))",
        "train.head_lr_ratio": "tag(log,interval(3,100))",
    }
)
SHARES = (1 / 6, 1 / 3, 2 / 3, 1.0)
NUM_ROWS = 400
SEED_SD = 0.005
Surface = Callable[[Mapping[str, float]], float]
"""The true accuracy at the full length of a configuration, values by dotted key."""


def log_ratio(value: float, center: float) -> float:
    """Return the natural logarithm of a value over a center."""
    return math.log(value / center)


def null_surface(_params: Mapping[str, float]) -> float:
    """Return the same accuracy everywhere."""
    return 0.8


def additive_surface(params: Mapping[str, float]) -> float:
    """Return a surface on which the learning rate matters most, the rank a little, and nothing else."""
    rate = log_ratio(params["train.learning_rate"], 1.5e-3) / math.log(10)
    rank = math.log2(params["lora.r"]) / 6
    return 0.86 - 0.15 * rate**2 + 0.05 * rank


def ridge_surface(exponent: float) -> Surface:
    """Return a surface whose best alpha / r at every rank is 2 (r / 8)^exponent, with the best rate 1e-3."""

    def surface(params: Mapping[str, float]) -> float:
        best = 2 * (params["lora.r"] / 8) ** exponent
        off = log_ratio(params["lora.alpha_ratio"], best)
        rate = log_ratio(params["train.learning_rate"], 1e-3)
        return 0.9 - 0.04 * off**2 - 0.03 * rate**2

    return surface


def simulate(surface: Surface, *, num_trials: int = 24, seed: int = 0, prunes: bool = True) -> list[ScoredTrial]:
    """Return the trials of a search.

    Args:
        surface: The truth.
        num_trials: Trials, three recipes included.
        seed: Seed of points and noise.
        prunes: Whether weak trials are stopped.
    """
    rng = np.random.default_rng(seed)
    spread = qmc.Halton(len(SPACE), seed=seed).random(num_trials)
    trials: list[ScoredTrial] = []
    at_rung: list[list[float]] = [[] for _ in SHARES]
    for number in range(num_trials):
        params = _proposal(number, spread[number], trials, rng)
        scores = _scores(surface(params), rng)
        reached = len(SHARES)
        for rung, score in enumerate(scores):
            at_rung[rung].append(score)
            if prunes and number > 0 and len(at_rung[rung]) > 3 and score < float(np.median(at_rung[rung])):
                reached = rung + 1
                break
        trials.append(
            ScoredTrial(number=number, params=params, shares=SHARES[:reached], values=tuple(scores[:reached]))
        )
    return trials


def _proposal(
    number: int, spread_D: NDArray[np.float64], trials: list[ScoredTrial], rng: np.random.Generator
) -> dict[str, float]:
    recipes = ((8, 1.0, 0.0, 1e-3), (8, 2.0, 0.0, 1e-3), (16, 2.0, 0.05, 1e-3))
    if number < len(recipes):
        return dict(zip(SPACE.keys, (*recipes[number], 30.0), strict=True))
    if number < 11 or rng.random() < 0.3:
        return SPACE.point(tuple(spread_D))  # type: ignore[return-value]
    best = sorted(trials, key=lambda trial: (len(trial.values), trial.values[-1]))[-3:]
    near = best[rng.integers(len(best))].params
    units = [d.unit(near[d.key]) + 0.15 * rng.standard_normal() for d in SPACE.dimensions]
    return SPACE.point(tuple(np.clip(units, 0, 0.999)))  # type: ignore[return-value]


def _scores(final: float, rng: np.random.Generator) -> list[float]:
    """Return the scores at all rungs of a trial with a true final accuracy."""
    final = min(max(final, 0.05), 0.99)
    row_sd = math.sqrt(0.35 * final * (1 - final) / NUM_ROWS)
    common = rng.normal(0, math.hypot(SEED_SD, row_sd / math.sqrt(2)))
    slow = rng.normal(1, 0.15)
    scores = []
    for share in SHARES:
        missing = slow * math.log(1 / share) / math.log(6)
        true = 1 - (1 - final) * math.exp(0.7 * missing)
        scores.append(float(np.clip(true + common + rng.normal(0, row_sd / math.sqrt(2)), 0.02, 1)))
    return scores
