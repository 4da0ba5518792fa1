"""Lanes of one padded rank, copied side by side for the duration of a chunk. Only `pack` uses it.

A chunk trains copies on the device and writes them back at its end, in place, into the vectors of the lanes, which are
in the memory of the host. So a failure midway leaves no lane half-trained. A trainable value takes 20 bytes on the
device: parameter, two moments and gradient in float32, and, if adapters are multiplied in bfloat16, the copy that is
multiplied and its gradient of one pass; in float32, the copy alone. On a CPU the lanes' own 12 bytes are in the same
memory (`tests/train/test_lane_memory.py` counts them).

Shapes: k lanes of the bucket, P values of a padded lane, H of them in the head, M micro-batches of a chunk.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

import torch

from sweeper.config.trial_length import trial_chunks
from sweeper.train.chunks import ChunkPlan
from sweeper.train.dropout import keep_share
from sweeper.train.lane import Lane, lora_scale
from sweeper.train.layout import Layout, bucket_rank
from sweeper.train.loss_scale import LaneScales
from sweeper.train.optim import LaneOptimizer, OptimSettings
from sweeper.train.packed import HeadSegment, LoraSegment

__all__ = ["Bucket"]


class Bucket:
    """Lanes of one padded rank: their vectors stacked to matrices, and the copy that the layers multiply with.

    Args:
        lanes: Lanes whose ranks are padded to the same rank.
        shape: Layout of the layers, at any rank.
        dtype: Type in which adapters are multiplied.
        device: Where they are multiplied.
        plan: How the training rows divide; None for evaluation.
    """

    def __init__(
        self,
        lanes: Sequence[Lane],
        shape: Layout,
        dtype: torch.dtype,
        device: torch.device,
        plan: ChunkPlan | None = None,
    ) -> None:
        self.lanes, self._device = lanes, device
        self._layout = shape.with_rank(max(bucket_rank(lane.layout.rank) for lane in lanes))
        # The optimizer updates float32 values, because bfloat16 would round small updates away. The layers use
        # a copy in the type of the frozen weights, and heads one in float32.
        num_lora = self._layout.size_lora
        self._compute = torch.empty(len(lanes), num_lora, dtype=dtype, device=device)
        self._head = torch.empty(len(lanes), self._layout.size - num_lora, device=device)
        self._scale_k1 = self._lora_scales(training=plan is not None)
        # bfloat16 has the exponents of float32, so nothing overflows or vanishes in it.
        self._settled = [lane.loss_scale for lane in lanes]
        self._scales = LaneScales(self._settled, device) if dtype is torch.float16 else None
        if plan is not None:
            self._prepare_training(plan)
            return
        for index, lane in enumerate(lanes):  # one by one: nothing else is kept of them
            self._refresh(slice(index, index + 1), self._layout.pad([(lane.layout.rank, lane.parameters)], device))

    def _refresh(self, rows: slice, parameters_kP: torch.Tensor) -> None:
        """Copy parameters to the types that are multiplied, with the lanes' scales folded into A."""
        num_a, num_lora = self._layout.size_a, self._layout.size_lora
        torch.mul(parameters_kP[:, :num_a], self._scale_k1[rows], out=self._compute[rows, :num_a])
        self._compute[rows, num_a:].copy_(parameters_kP[:, num_a:num_lora])
        self._head[rows].copy_(parameters_kP[:, num_lora:])

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

    def add_gradients(self) -> None:
        """Add the adapters' gradients of a pass to those of the optimizer step, which are float32."""
        if self._of_pass.dtype is not torch.float32:
            self._gradients[:, : self._layout.size_lora] += self._of_pass
            self._of_pass.zero_()

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
            self._refresh(slice(None), self._parameters)

    @property
    def loss_scale_k(self) -> torch.Tensor | None:
        """By how much the loss of each lane is multiplied now; None if losses are not scaled."""
        return None if self._scales is None else self._scales.scale_k

    def settle(self) -> list[int]:
        """Wait for the end of the chunk, and return the steps that each lane has skipped in it."""
        if self._scales is not None:
            self._settled = self._scales.states()
        before = [lane.loss_scale.skipped_steps for lane in self.lanes]
        return [state.skipped_steps - skipped for state, skipped in zip(self._settled, before, strict=True)]

    def write_back(self) -> None:
        """Copy the result of the chunk to the lanes, and count the chunk; `settle` comes first.

        Allocates nothing, so that it cannot fail halfway.
        """
        for row, lane in enumerate(self.lanes):
            trained = (self._parameters, self._moment1, self._moment2)
            for flat, matrix in zip((lane.parameters, lane.moment1, lane.moment2), trained, strict=True):
                self._layout.unpad_(flat, matrix[row], lane.layout.rank)
            lane.step, lane.loss_scale = self._optimizer.steps[row], self._settled[row]
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
            for segment, (grad_a, grad_b) in zip(segments, self._views(self._of_pass, sizes), strict=True):
                segment.grad_A_kSI, segment.grad_B_kRO = grad_a, grad_b
        return segments

    def _views(self, flat_kP: torch.Tensor, sizes: Sequence[int]) -> list[tuple[torch.Tensor, list[torch.Tensor]]]:
        layers = iter(self._layout.views_b(flat_kP))
        by_group = [list(islice(layers, size)) for size in sizes]
        return list(zip(self._layout.views_a_of_groups(flat_kP, sizes), by_group, strict=True))

    def head_segments(self, first: int, last: int, *, training: bool) -> list[HeadSegment]:
        """Return this bucket's part of every head layer, in float32."""
        views = self._layout.views_of_head_part(self._head)
        segments = [HeadSegment(first, last, weight, bias) for weight, bias in views]
        if training:
            for segment, (weight, bias) in zip(segments, self._layout.views_head(self._gradients), strict=True):
                segment.grad_weight_kOI, segment.grad_bias_kO = weight, bias
        return segments

    def _prepare_training(self, plan: ChunkPlan) -> None:
        lanes = self.lanes
        self._micro_batches = plan.micro_batches
        self._parameters = self._pad([lane.parameters for lane in lanes])
        self._moment1 = self._pad([lane.moment1 for lane in lanes])
        self._moment2 = self._pad([lane.moment2 for lane in lanes])
        self._gradients = torch.zeros_like(self._parameters)
        is_float32 = self._compute.dtype is torch.float32
        self._of_pass = self._gradients[:, : self._layout.size_lora] if is_float32 else torch.zeros_like(self._compute)
        self._refresh(slice(None), self._parameters)
        # Optimizer steps do not cross chunks: the last one of a chunk takes the micro-batches that are left.
        self._accumulation = [max(1, lane.spec.train.batch_size // plan.micro_batch) for lane in lanes]
        # Each schedule ends with its own trial.
        chunks = [trial_chunks(plan, lane.spec.train.epochs) for lane in lanes]
        steps = [n * -(-plan.micro_batches // window) for n, window in zip(chunks, self._accumulation, strict=True)]
        self._optimizer = LaneOptimizer(
            [OptimSettings.of(lane.spec.train, total_steps=n) for lane, n in zip(lanes, steps, strict=True)],
            [lane.step for lane in lanes],
            num_adapter=self._layout.size_lora,
            decay_mask=self._layout.decay_mask().to(self._device, non_blocking=True),
            moment1=self._moment1,
            moment2=self._moment2,
            scales=self._scales,
        )

    def _lora_scales(self, *, training: bool) -> torch.Tensor:
        # Dropout only zeroes values; dividing s by the probability of being kept makes up for the smaller sum.
        loras = [lane.spec.lora for lane in self.lanes]
        scales = [lora_scale(lora) / (keep_share(lora.dropout) if training else 1.0) for lora in loras]
        return torch.tensor(scales)[:, None].to(self._device, non_blocking=True)

    def _pad(self, flats: Sequence[torch.Tensor]) -> torch.Tensor:
        ranks = [lane.layout.rank for lane in self.lanes]
        return self._layout.pad(list(zip(ranks, flats, strict=True)), self._device)
