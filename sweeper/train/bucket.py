"""Lanes of one padded rank, copied side by side for the duration of a chunk. Only `pack` uses it.

Shapes: k lanes of the bucket, P values of a padded lane, M micro-batches of a chunk.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

import torch

from sweeper.train.chunks import ChunkPlan
from sweeper.train.dropout import keep_share
from sweeper.train.lane import Lane, lora_scale
from sweeper.train.layout import Layout, bucket_rank
from sweeper.train.optim import LaneOptimizer, OptimSettings
from sweeper.train.packed import HeadSegment, LoraSegment

__all__ = ["Bucket"]


class Bucket:
    """Lanes of one padded rank: their vectors stacked to matrices, and the copy that the layers multiply with.

    Args:
        lanes: Lanes whose ranks are padded to the same rank.
        shape: Layout of the layers, at any rank.
        dtype: Type in which adapters are multiplied.
        plan: How the training rows divide; None for evaluation.
    """

    def __init__(self, lanes: Sequence[Lane], shape: Layout, dtype: torch.dtype, plan: ChunkPlan | None = None) -> None:
        self.lanes = lanes
        self._layout = shape.with_rank(bucket_rank(lanes[0].layout.rank))
        # The optimizer updates float32 values, because bfloat16 would round small updates away. The layers use
        # a copy in the type of the frozen weights.
        self._parameters = self._pad([lane.parameters for lane in lanes])
        self._compute = torch.empty_like(self._parameters, dtype=dtype)
        if plan is not None:
            self._prepare_training(plan)

    def refresh(self, *, training: bool) -> None:
        """Copy the parameters to the type that is multiplied, with the lanes' scales folded into A."""
        size = self._layout.size_a
        scale = self._scale_k1 if training else self._scales(training=False)
        torch.mul(self._parameters[:, :size], scale, out=self._compute[:, :size])
        self._compute[:, size:].copy_(self._parameters[:, size:])

    def shares(self, weights_kM: torch.Tensor) -> torch.Tensor:
        """Return the factor of each micro-batch's summed loss in the mean of its optimizer step, ``[k, M]``.

        Args:
            weights_kM: Summed weights of the rows of each micro-batch.
        """
        # The micro-batches of an optimizer step share one mean, weighted by their rows. The last step of a chunk may
        # have fewer of them. A step without any weight must not divide by zero.
        shares = torch.empty_like(weights_kM)
        for row, window in enumerate(self._accumulation):
            sums = [group.sum().clamp_(min=1e-12).expand(len(group)) for group in torch.split(weights_kM[row], window)]
            shares[row] = 1 / torch.cat(sums)
        return shares

    def step(self, index: int) -> None:
        """Update the lanes whose optimizer step is complete after micro-batch ``index``."""
        last = index + 1 == self._micro_batches
        due = [last or (index + 1) % window == 0 for window in self._accumulation]
        if any(due):
            # The layers multiply with s·A and leave the gradient of s·A; the gradient of A is s times that. Lanes are
            # picked by slices: a list of indices would be copied to the device, and the host would wait for that.
            size = self._layout.size_a
            picked = [slice(None)] if all(due) else [slice(row, row + 1) for row, is_due in enumerate(due) if is_due]
            for rows in picked:
                self._gradients[rows, :size] *= self._scale_k1[rows]
            self._optimizer.step(self._parameters, self._gradients, due)
            self.refresh(training=True)

    def updated(self) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Return parameters and moments of every lane at its own rank, without changing the lanes."""
        matrices = (self._parameters, self._moment1, self._moment2)
        ranks = [lane.layout.rank for lane in self.lanes]
        unpadded = [[self._layout.unpad(row, rank) for row, rank in zip(m, ranks, strict=True)] for m in matrices]
        return list(zip(*unpadded, strict=True))

    def write_back(self, updated: Sequence[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]) -> None:
        """Store the result of `updated` in the lanes, and count the chunk."""
        for row, (lane, (parameters, moment1, moment2)) in enumerate(zip(self.lanes, updated, strict=True)):
            lane.parameters, lane.moment1, lane.moment2 = parameters, moment1, moment2
            lane.step = self._optimizer.steps[row]
            lane.chunks_done += 1

    def lora_segments(self, first: int, last: int, sizes: Sequence[int], *, training: bool) -> list[LoraSegment]:
        """Return this bucket's part of every group of adapted layers.

        Args:
            first: Index of the bucket's first lane in the pack.
            last: Index after its last lane.
            sizes: Number of layers of each group.
            training: Whether the segments get gradients.
        """
        views = self._views(self._compute, sizes)
        segments = [LoraSegment(first, last, a, b) for a, b in views]
        if training:
            for segment, (grad_a, grad_b) in zip(segments, self._views(self._gradients, sizes), strict=True):
                segment.grad_A_kSI, segment.grad_B_kRO = grad_a, grad_b
        return segments

    def _views(self, flat_kP: torch.Tensor, sizes: Sequence[int]) -> list[tuple[torch.Tensor, list[torch.Tensor]]]:
        layers = iter(self._layout.views_b(flat_kP))
        by_group = [list(islice(layers, size)) for size in sizes]
        return list(zip(self._layout.views_a_of_groups(flat_kP, sizes), by_group, strict=True))

    def head_segments(self, first: int, last: int, *, training: bool) -> list[HeadSegment]:
        """Return this bucket's part of every head layer, in float32."""
        views = self._layout.views_head(self._parameters)
        segments = [HeadSegment(first, last, weight, bias) for weight, bias in views]
        if training:
            for segment, (weight, bias) in zip(segments, self._layout.views_head(self._gradients), strict=True):
                segment.grad_weight_kOI, segment.grad_bias_kO = weight, bias
        return segments

    def _prepare_training(self, plan: ChunkPlan) -> None:
        lanes, device = self.lanes, self._parameters.device
        self._micro_batches = plan.micro_batches
        self._moment1 = self._pad([lane.moment1 for lane in lanes])
        self._moment2 = self._pad([lane.moment2 for lane in lanes])
        self._gradients = torch.zeros_like(self._parameters)
        self._scale_k1 = self._scales(training=True)
        # Optimizer steps do not cross chunks: the last one of a chunk takes the micro-batches that are left.
        self._accumulation = [max(1, lane.spec.train.batch_size // plan.micro_batch) for lane in lanes]
        steps = [plan.num_chunks * -(-plan.micro_batches // window) for window in self._accumulation]
        self._optimizer = LaneOptimizer(
            [OptimSettings.of(lane.spec.train, total_steps=n) for lane, n in zip(lanes, steps, strict=True)],
            [lane.step for lane in lanes],
            num_adapter=self._layout.size_lora,
            decay_mask=self._layout.decay_mask().to(device, non_blocking=True),
            moment1=self._moment1,
            moment2=self._moment2,
        )

    def _scales(self, *, training: bool) -> torch.Tensor:
        # Dropout only zeroes values; dividing s by the probability of being kept makes up for the smaller sum.
        loras = [lane.spec.lora for lane in self.lanes]
        scales = [lora_scale(lora) / (keep_share(lora.dropout) if training else 1.0) for lora in loras]
        return torch.tensor(scales)[:, None].to(self._parameters.device, non_blocking=True)

    def _pad(self, flats: Sequence[torch.Tensor]) -> torch.Tensor:
        return self._layout.pad([(lane.layout.rank, flat) for lane, flat in zip(self.lanes, flats, strict=True)])
