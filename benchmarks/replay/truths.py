"""Synthetic responses whose best configuration is known, and one where all configurations are equal.

They have the space, the length, the costs and the noise of the recorded trials, so a search that was tuned to the
tables alone is found out here.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from sweeper.config.dimensions import parse_space
from sweeper.config.space import SearchSpace
from sweeper.config.values import ParamValue
from sweeper.search.sobol import unit_point
from sweeper.simulate.base import Curve

__all__ = ["TRUTHS", "Truth"]

_SPACE = {
    "lora.r": "tag(log2,interval(1,64))",
    "lora.alpha_ratio": "tag(log,interval(0.25,8))",
    "lora.dropout": "interval(0,0.2)",
    "train.learning_rate": "tag(log,interval(1e-4,1e-2))",
    "train.head_lr_ratio": "tag(log,interval(3,100))",
}
_NUM_POINTS = 1024
"""Sobol points over which the good zone is taken."""
_GOOD_SHARE = 0.4
_NUM_ROWS = 400
_BEST, _WORST = 0.95, 0.45
_CHUNK_S, _SCORE_S = 0.48, 0.37
"""Seconds of a chunk and of a score on the table trec."""

Params = Mapping[str, ParamValue]


@dataclass(kw_only=True)
class Truth:
    """A response made of a surface and a learning curve.

    Args:
        name: Its name in the results.
        quality: Quality of a configuration, from 0 to 1; 1 is reached by the best.
        progress: Share of the final quality that a configuration of that quality has after a share of its length.
        majority: Score of always predicting the commonest label, below which no score falls; NaN without such.
        half_majority: The same on half of the rows, which are like the others.
        noise: Standard deviation of a configuration's scores over seeds.
    """

    name: str
    quality: Callable[[Params], float]
    progress: Callable[[Params, float], float]
    majority: float = math.nan
    half_majority: float = math.nan
    noise: float = 0.006
    maximize: bool = True
    num_chunks: int = 12
    num_rows: int = _NUM_ROWS
    best_mean: float = _BEST
    space: SearchSpace = field(default_factory=lambda: parse_space(_SPACE))
    fixed: Params = field(default_factory=dict)

    def __post_init__(self) -> None:
        points = (self.space.point(unit_point(len(self.space), 0, index)) for index in range(_NUM_POINTS))
        self._good_from = float(np.quantile([self.mean_score(params) for params in points], 1 - _GOOD_SHARE))

    def curve(self, params: Params, seed: int) -> Curve:
        """Return the curve of a configuration: its surface, an error of the seed, and one of each chunk's rows."""
        text = "/".join([self.name, *(f"{params[key]:.6g}" for key in self.space.keys), str(seed)])
        random = np.random.default_rng(int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big"))
        means = np.array([self._mean(params, chunk / self.num_chunks) for chunk in range(1, self.num_chunks + 1)])
        values = means + random.normal(0, self.noise)
        first, second = (np.clip(values + random.normal(0, self.noise, len(values)), 0, 1) for _ in range(2))
        half, other = (np.round(score * self.num_rows / 2) / (self.num_rows / 2) for score in (first, second))
        floor = -math.inf if math.isnan(self.majority) else self.majority
        half, score = np.maximum(half, floor), np.maximum((half + other) / 2, floor)
        loss = 1.6 * (1 - values) + random.normal(0, self.noise, len(values))
        train_s = _CHUNK_S * (1 + 0.3 * float(params["lora.r"]) / 64)
        return Curve(
            score=tuple(score.tolist()),
            loss=tuple(loss.tolist()),
            half_score=tuple(half.tolist()),
            half_loss=tuple(loss.tolist()),
            train_s=(train_s,) * self.num_chunks,
            score_s=_SCORE_S,
        )

    def mean_score(self, params: Params) -> float:
        """Return a configuration's mean score at the full length."""
        mean = self._mean(params, 1.0)
        return mean if math.isnan(self.majority) else max(mean, self.majority)

    def is_good(self, params: Params) -> bool:
        """Whether a configuration lies in the best 40 % of the space."""
        return self.mean_score(params) >= self._good_from

    def _mean(self, params: Params, share: float) -> float:
        # What has not been learnt yet is missing from the final quality, whatever that is.
        return _WORST + (_BEST - _WORST) * self.quality(params) * self.progress(params, share)


def _step(params: Params) -> float:
    """Return the natural logarithm of the step of the adapter, which decides most of a trial's score."""
    rate, ratio, r = (float(params[key]) for key in ("train.learning_rate", "lora.alpha_ratio", "lora.r"))
    return math.log(rate * ratio * math.sqrt(r))


_BEST_STEP = math.log(3e-3 * 2 * math.sqrt(16))
_BEST_HEAD = math.log(20.0)


def _head(params: Params) -> float:
    return math.log(float(params["train.head_lr_ratio"])) - _BEST_HEAD


def _ridge(params: Params) -> float:
    """Quality along one direction that mixes three keys, which a model of single keys does not see."""
    step = _step(params) - _BEST_STEP
    width = 2.5 if step < 0 else 1.2  # too large a step fails sooner than too small a one
    return math.exp(-((step / width) ** 2)) * math.exp(-((_head(params) / 4) ** 2)) * (1 - 0.1 * _dropout(params))


def _dropout(params: Params) -> float:
    return float(params["lora.dropout"]) / 0.2


def _needle(params: Params) -> float:
    """Quality on a nearly level plain with one narrow peak, which few uniform draws hit."""
    step, head = _step(params) - _BEST_STEP, _head(params)
    peak = math.exp(-((step / 0.35) ** 2) - (head / 0.5) ** 2)
    return max(peak, 0.5 + 0.05 * _ridge(params))


def _rugged(params: Params) -> float:
    """Quality on the ridge with many local maxima; the best one is where every wave is at its height."""
    waves = [_step(params) - _BEST_STEP, _head(params), 4 * _dropout(params)]
    return _ridge(params) * (1 - 0.08 * sum(1 - math.cos(5 * wave) for wave in waves) / 2)


def _steady(params: Params, share: float) -> float:  # noqa: ARG001  like the others
    return 1 - math.exp(-5 * share) if share < 1 else 1.0


def _crossing(params: Params, share: float) -> float:
    """Progress that is slower for smaller steps, so that large ones lead early and are overtaken."""
    rate = 6 * math.exp(0.5 * (_step(params) - _BEST_STEP))
    return 1 - math.exp(-max(1.0, min(rate, 12.0)) * share) if share < 1 else 1.0


def _late(params: Params, share: float) -> float:
    """Progress that shows only after a plateau, which is longer for small steps."""
    plateau = min(0.6, max(0.0, 0.15 * (_BEST_STEP - _step(params))))
    return 0.0 if share < plateau else _steady(params, share)


TRUTHS: Mapping[str, Truth] = {
    truth.name: truth
    for truth in (
        Truth(name="ridge", quality=_ridge, progress=_steady),
        Truth(name="needle", quality=_needle, progress=_steady),
        Truth(name="rugged", quality=_rugged, progress=_steady),
        Truth(name="crossing", quality=_ridge, progress=_crossing),
        # More than half of the space scores no better than the majority share for a while, or for ever.
        Truth(name="ties", quality=_ridge, progress=_late, majority=0.7, half_majority=0.7),
        Truth(name="null", quality=lambda _: 1.0, progress=_steady),
    )
}
