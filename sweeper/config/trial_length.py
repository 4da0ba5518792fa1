"""How many chunks a trial has, and after which of them it is scored: the one place that everything else asks.

All trials of a study have the same length unless `train.epochs` is searched. A chunk is the same work in every trial,
so that the lanes of a pack stay in step; trials differ only in how many they have. Depends on the configuration alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from sweeper.config.space import EPOCHS, SearchSpace

__all__ = [
    "FullLength",
    "StudyLength",
    "longest_epochs",
    "mean_epochs",
    "nearest_epochs",
    "shortest_epochs",
    "trial_chunks",
    "trial_epochs",
    "trial_rungs",
]


_NUM_DRAWS = 1000
"""Evenly spaced draws whose mean is that of a space."""


class StudyLength(Protocol):
    """What a study says about the length of its trials; `StudyRecord` and `ChunkPlan` have it."""

    @property
    def num_chunks(self) -> int:
        """Chunks of the longest trial of the search."""
        ...

    @property
    def epochs(self) -> int:
        """Epochs of the longest trial of the search."""
        ...

    @property
    def chunks_per_epoch(self) -> int:
        """Chunks of an epoch of any trial."""
        ...


@dataclass(frozen=True, slots=True)
class FullLength:
    """The length of a study whose rows do not matter."""

    num_chunks: int
    epochs: int = 1

    @property
    def chunks_per_epoch(self) -> int:
        """Chunks of an epoch of any trial."""
        return self.num_chunks // self.epochs


def trial_epochs(study: StudyLength, epochs: int) -> int:
    """Return the epochs of a trial.

    Args:
        study: Its study.
        epochs: ``train.epochs`` of its spec; 0 for as many as the study has.
    """
    return epochs or study.epochs


def trial_chunks(study: StudyLength, epochs: int) -> int:
    """Return the chunks of a trial that is not pruned.

    Args:
        study: Its study.
        epochs: ``train.epochs`` of its spec; 0 for as many as the study has.
    """
    return epochs * study.chunks_per_epoch if epochs else study.num_chunks


def trial_rungs(rungs: Sequence[int], num_chunks: int) -> tuple[int, ...]:
    """Return the chunks after which a trial is scored: the study's rungs below its last chunk, and that one.

    Args:
        rungs: Rungs of the study; a study that scores nothing has none.
        num_chunks: What `trial_chunks` returned.
    """
    return (*(rung for rung in rungs if rung < num_chunks), num_chunks) if rungs else ()


def longest_epochs(space: SearchSpace) -> int:
    """Return the most epochs of a space; 0 if they are not searched."""
    dimension = space.dimension(EPOCHS)
    return 0 if dimension is None else round(dimension.highest)


def shortest_epochs(space: SearchSpace) -> int:
    """Return the fewest epochs of a space; 0 if they are not searched."""
    dimension = space.dimension(EPOCHS)
    return 0 if dimension is None else round(dimension.lowest)


def mean_epochs(space: SearchSpace) -> float:
    """Return the mean number of epochs over a space; 0 if they are not searched."""
    dimension = space.dimension(EPOCHS)
    if dimension is None:
        return 0.0
    return sum(float(dimension.at((draw + 0.5) / _NUM_DRAWS)) for draw in range(_NUM_DRAWS)) / _NUM_DRAWS


def nearest_epochs(space: SearchSpace, epochs: int) -> int:
    """Return the number of epochs in a space that is nearest to ``epochs``; that itself if they are not searched."""
    dimension = space.dimension(EPOCHS)
    if dimension is None:
        return epochs
    low, high = round(dimension.lowest), round(dimension.highest)
    return min((n for n in range(low, high + 1) if dimension.contains(n)), key=lambda n: (abs(n - epochs), n))
