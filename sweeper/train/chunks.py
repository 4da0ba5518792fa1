"""How the training rows of a study divide into chunks and micro-batches.

Loads no torch, because the controller plans with it.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ChunkPlan"]


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
