"""How long a trial trains, and how the training rows of a study divide into chunks and micro-batches.

Loads no torch, because the controller plans with it.
"""

from __future__ import annotations

from dataclasses import dataclass

from sweeper.config.checks import micro_batch
from sweeper.config.settings import SweepSettings
from sweeper.config.space import EPOCHS, SearchSpace
from sweeper.config.trial_length import longest_epochs, nearest_epochs, shortest_epochs
from sweeper.errors import ConfigError
from sweeper.figures.text import plural

__all__ = [
    "ChunkPlan",
    "check_shortest_trial",
    "choose_chunks_per_epoch",
    "choose_epochs",
    "chunks_of_size",
    "plan_chunks",
    "usual_epochs",
]

_ROWS_SEEN = 3000
_ROWS_SEEN_PER_LABEL = 25
"""Rows that a trial sees in all, repeats included, where the dataset is small: with more, scores hardly rise
(benchmarks/results/recipes.md)."""
_FEWEST_EPOCHS = 2
_CHUNKS = 12
"""About how many chunks the longest trial has: enough for early rungs, and a kill costs a twelfth."""


def choose_epochs(num_rows: int, num_labels: int) -> int:
    """Return the epochs of a trial for ``train.epochs=0``: fewer rows need more of them, and so do more labels.

    Args:
        num_rows: Training rows.
        num_labels: Labels, or choices of a completion; 0 if completions are open.
    """
    return max(_FEWEST_EPOCHS, round((_ROWS_SEEN + _ROWS_SEEN_PER_LABEL * num_labels) / num_rows))


def choose_chunks_per_epoch(epochs: int, *, shortest: int = 0, min_chunks: int = 0) -> int:
    """Return the chunks of an epoch for ``train.chunks_per_epoch=0``.

    Args:
        epochs: Epochs of the longest trial.
        shortest: Epochs of the shortest trial, which has ``min_chunks`` chunks if these are no more than a trial
            usually has in all; 0 if all trials are as long.
        min_chunks: Chunks before the first rung.
    """
    usual = max(1, round(_CHUNKS / epochs))
    return max(usual, -(-min(min_chunks, _CHUNKS) // shortest)) if shortest else usual


def usual_epochs(settings: SweepSettings, space: SearchSpace, *, num_rows: int, num_labels: int) -> int:
    """Return the epochs of a trial whose configuration names none, e.g. of most recipes.

    These are ``train.epochs``, or the number that is chosen for 0. If epochs are searched, it is the nearest to this
    in the space.

    Args:
        settings: The settings.
        space: The search space.
        num_rows: Training rows.
        num_labels: Labels, or choices of a completion; 0 if completions are open.
    """
    return nearest_epochs(space, settings.train.epochs or choose_epochs(num_rows, num_labels))


def plan_chunks(settings: SweepSettings, space: SearchSpace, *, num_rows: int, num_labels: int) -> ChunkPlan:
    """Return how the training rows of a search divide.

    Args:
        settings: The settings.
        space: The search space.
        num_rows: Training rows.
        num_labels: Labels, or choices of a completion; 0 if completions are open.

    Raises:
        ConfigError: The shortest trial would end before the first rung.
    """
    epochs = longest_epochs(space) or usual_epochs(settings, space, num_rows=num_rows, num_labels=num_labels)
    plan = ChunkPlan.of(
        num_rows,
        micro_batch=micro_batch(settings, space),
        chunks_per_epoch=_chunks_per_epoch(settings, space, epochs),
        epochs=epochs,
    )
    _check_shortest(settings, space, plan.chunks_per_epoch)
    return plan


def check_shortest_trial(settings: SweepSettings, space: SearchSpace) -> None:
    """Check that the shortest trial of a search reaches the first rung, as far as that does not depend on the rows.

    Raises:
        ConfigError: It would end before.
    """
    if EPOCHS in space.keys:
        _check_shortest(settings, space, _chunks_per_epoch(settings, space, longest_epochs(space)))


def _chunks_per_epoch(settings: SweepSettings, space: SearchSpace, epochs: int) -> int:
    shortest, min_chunks = shortest_epochs(space), settings.search.min_chunks
    chosen = choose_chunks_per_epoch(epochs, shortest=shortest, min_chunks=min_chunks)
    return settings.train.chunks_per_epoch or chosen


def _check_shortest(settings: SweepSettings, space: SearchSpace, chunks_per_epoch: int) -> None:
    dimension, wanted = space.dimension(EPOCHS), settings.search.min_chunks
    shortest = shortest_epochs(space)
    num_chunks = shortest * chunks_per_epoch
    if dimension is None or wanted <= num_chunks:
        return
    rule = (
        f"the shortest trial of {EPOCHS}={dimension.text} has {plural(shortest, 'epoch')} of "
        f"{plural(chunks_per_epoch, 'chunk')}, so it would end before its first rung"
    )
    remedy = (
        f"Set it to at most {num_chunks}, start {EPOCHS} at {-(-wanted // chunks_per_epoch)}, or raise "
        f"train.chunks_per_epoch to {-(-wanted // shortest)}, as far as there are rows for so many chunks."
    )
    raise ConfigError("search.min_chunks", wanted, rule, remedy)


def chunks_of_size(num_rows: int, *, micro_batch: int, rows_per_chunk: int) -> int:
    """Return the chunks of an epoch whose chunks have about as many rows as those of another study.

    Chunks between half and twice that size will do: of these numbers, it is the one with which an epoch leaves out the
    fewest rows.
    """
    near = max(1, round(num_rows / rows_per_chunk))
    most = max(1, num_rows // micro_batch)
    numbers = range(min((near + 1) // 2, most), min(2 * near, most) + 1)

    def left_out(number: int) -> int:
        return num_rows - number * micro_batch * (num_rows // (micro_batch * number))

    return min(numbers, key=lambda number: (left_out(number), abs(number - near), number))


@dataclass(frozen=True, slots=True)
class ChunkPlan:
    """How the training rows of a study divide into chunks and micro-batches.

    Rows that do not fill a micro-batch of every length class are left out; each epoch leaves out different ones.
    """

    num_rows: int
    micro_batch: int
    chunks_per_epoch: int
    epochs: int

    @classmethod
    def of(cls, num_rows: int, *, micro_batch: int, chunks_per_epoch: int, epochs: int) -> ChunkPlan:
        """Return the plan for a number of rows; a small dataset gets fewer chunks or a smaller micro-batch."""
        micro_batch = min(micro_batch, num_rows)
        chunks = max(1, min(chunks_per_epoch, num_rows // micro_batch))
        return cls(num_rows, micro_batch, chunks, epochs)

    @property
    def micro_batches(self) -> int:
        """Micro-batches of a chunk."""
        return self.num_rows // (self.micro_batch * self.chunks_per_epoch)

    @property
    def rows_per_chunk(self) -> int:
        """Rows that a lane trains on in a chunk."""
        return self.micro_batches * self.micro_batch

    @property
    def num_chunks(self) -> int:
        """Chunks of the longest trial."""
        return self.chunks_per_epoch * self.epochs
