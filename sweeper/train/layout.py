"""Positions of adapter matrices and head weights in a lane's flat parameter vector.

All trainable values of a lane form one vector: every A, then every B (transposed), then the task head. A bucket of
lanes with the same padded rank R is a matrix ``[k, P]``, so that optimizer, clipping and casts take a few operations
for the whole bucket, however many layers there are. A and B are both padded with zeros: then the gradients of both pads
are zero, and they stay exactly zero under AdamW. A pad of A with other values would leak gradient into B.

Shapes: k lanes of a bucket, P values of a padded lane, r a lane's own rank, R the bucket's rank, I and O a layer's
input and output width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from sweeper.figures.model_shapes import HeadShape, LoraShape, bucket_rank, trainable_parameters

__all__ = ["HeadShape", "Layout", "LoraShape", "bucket_rank"]


@dataclass(frozen=True, slots=True)
class Layout:
    """Layout of the flat parameter vector at one rank, a lane's own or a padded one."""

    rank: int
    lora: tuple[LoraShape, ...]
    head: tuple[HeadShape, ...]

    @property
    def size_a(self) -> int:
        """Number of values in all A matrices, which come first."""
        return self.rank * sum(shape.num_in for shape in self.lora)

    @property
    def size_lora(self) -> int:
        """Number of values in all A and B matrices."""
        return self.rank * sum(shape.num_in + shape.num_out for shape in self.lora)

    @property
    def size(self) -> int:
        """Number of all values: the trainable parameters, if the rank is a lane's own."""
        return trainable_parameters(self.lora, self.head, self.rank)

    def with_rank(self, rank: int) -> Layout:
        """Return the layout of the same layers at another rank."""
        return Layout(rank, self.lora, self.head)

    def views_a(self, flat_kP: torch.Tensor) -> list[torch.Tensor]:
        """Return each layer's A as ``[k, R, I]``, sharing memory with ``flat_kP``."""
        widths = [shape.num_in for shape in self.lora]
        return self._views(flat_kP, widths, 0)

    def views_a_of_groups(self, flat_kP: torch.Tensor, sizes: Sequence[int]) -> list[torch.Tensor]:
        """Return the A of neighbouring layers with the same input, stacked as ``[k, layers * R, I]``, sharing memory.

        Args:
            flat_kP: Vectors of lanes.
            sizes: Number of layers of each group, in the order of the layers.
        """
        # The A of neighbours follow one another in the vector, so a stack of them is a view, not a copy.
        views, first, offset = [], 0, 0
        for size in sizes:
            rows, width = size * self.rank, self.lora[first].num_in
            views.append(flat_kP[:, offset : offset + rows * width].view(len(flat_kP), rows, width))
            first, offset = first + size, offset + rows * width
        return views

    def views_b(self, flat_kP: torch.Tensor) -> list[torch.Tensor]:
        """Return each layer's transposed B as ``[k, R, O]``, sharing memory with ``flat_kP``."""
        widths = [shape.num_out for shape in self.lora]
        return self._views(flat_kP, widths, self.size_a)

    def views_head(self, flat_kP: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor | None]]:
        """Return each head layer's weight ``[k, O, I]`` and bias ``[k, O]`` or None, sharing memory."""
        return self.views_of_head_part(flat_kP[:, self.size_lora :])

    def views_of_head_part(self, part_kH: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor | None]]:
        """Return what `views_head` does, from the last part of the vectors, which starts after the adapter."""
        # Unlike adapters, a head keeps torch's order of dimensions, [O, I].
        views = []
        lanes, offset = len(part_kH), 0
        for shape in self.head:
            size = shape.num_out * shape.num_in
            weight = part_kH[:, offset : offset + size].view(lanes, shape.num_out, shape.num_in)
            offset += size
            bias = part_kH[:, offset : offset + shape.num_out] if shape.has_bias else None
            offset += shape.num_out * shape.has_bias
            views.append((weight, bias))
        return views

    def decay_mask(self) -> torch.Tensor:
        """Return 1 for values of the head that weight decay applies to and 0 for biases, ``[H]`` float32."""
        mask = torch.ones(1, self.size - self.size_lora)
        for _, bias in self.views_of_head_part(mask):
            if bias is not None:
                bias.zero_()
        return mask[0]

    def pad(self, flats: Sequence[tuple[int, torch.Tensor]], device: torch.device | None = None) -> torch.Tensor:
        """Stack vectors of lanes at their own ranks into ``[k, P]`` at this layout's rank, with zeros as padding.

        Args:
            flats: Rank r <= R and vector of each lane.
            device: Where the result is; where the vectors are if None.
        """
        stacked = torch.zeros(len(flats), self.size, device=device or flats[0][1].device)
        for row, (rank, flat) in zip(stacked, flats, strict=True):
            for target, source in self._pairs(row, flat, rank):
                target.copy_(source)
        return stacked

    def unpad_(self, flat: torch.Tensor, row: torch.Tensor, rank: int) -> None:
        """Copy a row of the result of `pad` to a lane's vector at its own rank; allocates nothing."""
        for source, target in self._pairs(row, flat, rank):
            target.copy_(source)

    def _views(self, flat_kP: torch.Tensor, widths: Sequence[int], offset: int) -> list[torch.Tensor]:
        views = []
        for width in widths:
            size = self.rank * width
            views.append(flat_kP[:, offset : offset + size].view(len(flat_kP), self.rank, width))
            offset += size
        return views

    def _pairs(self, row: torch.Tensor, flat: torch.Tensor, rank: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield each part of a padded row with the part of the unpadded vector that belongs there."""
        if rank == self.rank:  # most lanes; the parts below are two for each layer
            yield row, flat
            return
        # Padding adds rows to A and B, so a lane's values are not contiguous in the padded row; a head has no rank.
        own = self.with_rank(rank)
        wide, narrow = row[None], flat[None]
        padded = self.views_a(wide) + self.views_b(wide)
        exact = own.views_a(narrow) + own.views_b(narrow)
        for one, other in zip(padded, exact, strict=True):
            yield one[:, :rank], other
        yield row[self.size_lora :], flat[own.size_lora :]
