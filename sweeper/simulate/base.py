"""What a search is replayed on: a response, which answers a configuration and a seed with a learning curve."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from sweeper.config.space import SearchSpace
from sweeper.config.values import ParamValue

__all__ = ["Curve", "ResponseProtocol"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """What a trial would have measured, by chunk; the first entry is that after chunk 1."""

    score: tuple[float, ...]
    """Objective on all validation rows."""
    loss: tuple[float, ...]
    """Mean validation loss on all rows."""
    half_score: tuple[float, ...]
    """The same on the first half of the rows, which is all that an early rung scores."""
    half_loss: tuple[float, ...]
    train_s: tuple[float, ...]
    """Device seconds of each chunk's training."""
    score_s: float
    """Device seconds to score all validation rows once."""


class ResponseProtocol(Protocol):
    """Answers configurations; the same question always has the same answer."""

    name: str
    space: SearchSpace
    fixed: Mapping[str, ParamValue]
    """Values of the keys outside the space."""
    num_chunks: int
    """Of the longest trial."""
    num_rows: int
    """Validation rows; an early rung may score half of them."""
    maximize: bool
    majority: float
    """Score of always predicting the commonest label; nan if that has no meaning."""
    half_majority: float
    """The same on the first half of the rows."""
    best_mean: float
    """The best mean score of any configuration, from which regret is counted."""

    def curve(self, params: Mapping[str, ParamValue], seed: int) -> Curve:
        """Return the curve of a configuration, trained with a seed."""
        ...

    def mean_score(self, params: Mapping[str, ParamValue]) -> float:
        """Return a configuration's mean score at the full length, over all seeds."""
        ...

    def is_good(self, params: Mapping[str, ParamValue]) -> bool:
        """Whether a configuration lies in the good zone: the best 40 % of the space, by mean score."""
        ...
