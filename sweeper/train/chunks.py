"""How long a trial trains, and how the training rows of a study divide into chunks and micro-batches.

Loads no torch, because the controller plans with it.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ChunkPlan", "choose_chunks_per_epoch", "choose_epochs", "chunks_of_size"]

_ROWS_SEEN = 3000
_ROWS_SEEN_PER_LABEL = 25
"""Rows that a trial sees in all, repeats included, where the dataset is small: with more, scores hardly rise
(benchmarks/results/recipes.md)."""
_FEWEST_EPOCHS = 2
_CHUNKS = 12
"""About how many chunks a trial has: enough for early rungs, and a kill costs a twelfth."""


def choose_epochs(num_rows: int, num_labels: int) -> int:
    """Return the epochs of a trial for ``train.epochs=0``: fewer rows need more of them, and so do more labels.

    Args:
        num_rows: Training rows.
        num_labels: Labels, or choices of a completion; 0 if completions are open.
    """
    return max(_FEWEST_EPOCHS, round((_ROWS_SEEN + _ROWS_SEEN_PER_LABEL * num_labels) / num_rows))


def choose_chunks_per_epoch(epochs: int) -> int:
    """Return the chunks of an epoch for ``train.chunks_per_epoch=0``."""
    return max(1, round(_CHUNKS / epochs))


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
        """Chunks of a full trial."""
        return self.chunks_per_epoch * self.epochs
