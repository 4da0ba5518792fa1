"""The pack: trials that train side by side on one frozen base model.

`Pack` swaps the target layers of a model for packed ones once. Then `train_chunk` and `predict` take any lanes: they
lay the lanes' vectors side by side, run, and only at the end write the lanes back, so that whatever fails in between
leaves them as they were. Lanes never see each other's rows, generators, losses or gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import nn

from sweeper.errors import ModelError
from sweeper.models.linear import is_linear
from sweeper.tasks.base import Batch
from sweeper.train.batches import EvaluationBatches, TrainingRows
from sweeper.train.chunks import ChunkPlan
from sweeper.train.dropout import LaneDropout, keep_share
from sweeper.train.lane import Lane, derived_seed, lora_scale
from sweeper.train.layout import HeadShape, Layout, LoraShape, bucket_rank
from sweeper.train.optim import LaneOptimizer, OptimSettings
from sweeper.train.packed import HeadSegment, LoraSegment, PackedHead, PackedLora, PackState

__all__ = ["ChunkOutcome", "Pack", "RowFunction", "sort_lanes"]

Packed = TypeVar("Packed", PackedLora, PackedHead)

RowFunction = Callable[[nn.Module, Batch], torch.Tensor]
"""Returns the loss of each row, ``[rows]``, or what scores it, ``[rows, F]``; see `sweeper.tasks.base`."""


@dataclass(frozen=True, slots=True)
class ChunkOutcome:
    """What a chunk brought one lane."""

    loss: float
    """Mean over the chunk's rows."""
    num_rows: int
    num_tokens: int


class Pack:
    """Trains and evaluates lanes on a model.

    Args:
        model: The frozen model; its target and head layers are replaced.
        targets: Names of the linear layers that get adapters.
        head: Names of the linear layers that each lane trains whole.
        dtype: Type in which adapters are multiplied, that of the frozen weights.
    """

    def __init__(self, model: nn.Module, *, targets: Sequence[str], head: Sequence[str], dtype: torch.dtype) -> None:
        self._model = model
        self.dtype = dtype
        self.device = next(model.parameters()).device
        self._state = PackState(torch.zeros((), device=self.device, requires_grad=True))
        self._lora = [_replace(model, name, PackedLora, self._state) for name in targets]
        self._heads = [_replace(model, name, PackedHead, self._state) for name in head]
        self.shape = Layout(
            1,
            tuple(LoraShape(n, m.weight.shape[1], m.weight.shape[0]) for n, m in zip(targets, self._lora, strict=True)),
            tuple(
                HeadShape(n, m.in_features, m.out_features, m.has_bias) for n, m in zip(head, self._heads, strict=True)
            ),
        )

    def train_chunk(
        self, lanes: Sequence[Lane], rows: TrainingRows, row_loss: RowFunction, *, parts: int = 1
    ) -> list[ChunkOutcome]:
        """Train every lane on its next chunk; `sort_lanes` gives the order in which lanes must come.

        A lane's loss is the mean over the weights of the rows of its optimizer step. Losses of lanes are summed, never
        averaged over their union.

        Args:
            lanes: What to train; as they were if this raises.
            rows: The training split.
            row_loss: The task's loss.
            parts: Passes in which each micro-batch is trained, to need less memory.

        Returns:
            One outcome a lane; a loss that is not finite is the caller's to judge.
        """
        plan = rows.plan
        buckets = [_Bucket(self, group, plan) for group in _groups(lanes)]
        for bucket in buckets:
            bucket.refresh(training=True)
        self._attach(buckets, len(lanes), training=True)
        self._state.dropout = self._dropout(lanes)
        order_KMB = np.stack([rows.chunk(lane.chunks_done) for lane in lanes])
        weights_KM = rows.weights(order_KMB).sum(2)
        shares_KM = torch.cat([bucket.shares(part) for bucket, part in _split(buckets, weights_KM)]).to(self.device)
        losses_K = torch.zeros(len(lanes), device=self.device)
        for index in range(plan.micro_batches):
            for part, picked_KB in enumerate(np.array_split(order_KMB[:, index], parts, axis=1)):
                if self._state.dropout is not None:
                    self._state.dropout.begin(part, parts)
                batch = rows.batch(index, picked_KB.ravel())
                loss_K = row_loss(self._model, batch).view(len(lanes), -1).sum(1)
                (loss_K * shares_KM[:, index]).sum().backward()  # type: ignore[no-untyped-call]
                losses_K += loss_K.detach()
            for bucket in buckets:
                bucket.step(index)
        for bucket, updated in [(bucket, bucket.updated()) for bucket in buckets]:
            bucket.write_back(updated)
        means = (losses_K.cpu() / weights_KM.sum(1)).tolist()
        tokens = [rows.num_tokens(chunk) for chunk in order_KMB]
        return [ChunkOutcome(m, plan.rows_per_chunk, t) for m, t in zip(means, tokens, strict=True)]

    @torch.no_grad()
    def predict(
        self, lanes: Sequence[Lane], split: EvaluationBatches, outputs: RowFunction, *, parts: int = 1
    ) -> torch.Tensor:
        """Return the outputs of every lane for all rows of a split, ``[K, rows, F]`` float32 on the CPU."""
        buckets = [_Bucket(self, group) for group in _groups(lanes)]
        for bucket in buckets:
            bucket.refresh(training=False)
        self._attach(buckets, len(lanes), training=False)
        self._state.dropout = None
        return self._gather(split, len(lanes), outputs, parts)

    @torch.no_grad()
    def features(self, split: EvaluationBatches) -> torch.Tensor:
        """Return mean-pooled last hidden states of the frozen model, ``[rows, I]`` float32 on the CPU."""
        base = getattr(self._model, str(self._model.base_model_prefix))

        def pooled(_: nn.Module, batch: Batch) -> torch.Tensor:
            states = base(input_ids=batch.ids, attention_mask=batch.mask).last_hidden_state.float()
            means: torch.Tensor = (states * batch.mask[..., None]).sum(1) / batch.mask.sum(1, keepdim=True)
            return means

        return self.frozen(split, pooled)

    @torch.no_grad()
    def frozen(self, split: EvaluationBatches, outputs: RowFunction) -> torch.Tensor:
        """Return outputs of the model without any adapter, ``[rows, F]`` float32 on the CPU; it must have no head."""
        for layer in self._lora:
            layer.segments = ()
        return self._gather(split, 1, outputs, 1)[0]

    def _gather(self, split: EvaluationBatches, num_lanes: int, outputs: RowFunction, parts: int) -> torch.Tensor:
        gathered = None
        for picked, batch in split.batches:
            for rows in np.array_split(np.arange(len(picked)), min(parts, len(picked))):
                chosen = slice(int(rows[0]), int(rows[-1]) + 1)
                repeated = Batch(*(tensor[chosen].repeat(num_lanes, *(1,) * (tensor.dim() - 1)) for tensor in batch))
                part_NF = outputs(self._model, repeated).float().cpu()
                if gathered is None:
                    gathered = torch.empty(num_lanes, split.num_rows, part_NF.shape[-1])
                gathered[:, picked[chosen]] = part_NF.view(num_lanes, -1, part_NF.shape[-1])
        if gathered is None:
            raise ValueError("the split has no rows")
        return gathered

    def _dropout(self, lanes: Sequence[Lane]) -> LaneDropout | None:
        probabilities = [float(lane.spec.settings["lora.dropout"]) for lane in lanes]
        if not any(probabilities):
            return None
        seeds = [derived_seed(lane.spec.seed, "dropout", lane.chunks_done) for lane in lanes]
        return LaneDropout(probabilities, seeds, self.device)

    def _attach(self, buckets: Sequence[_Bucket], num_lanes: int, *, training: bool) -> None:
        self._state.num_lanes = num_lanes
        first = 0
        lora: list[list[LoraSegment]] = [[] for _ in self._lora]
        heads: list[list[HeadSegment]] = [[] for _ in self._heads]
        for bucket in buckets:
            last = first + len(bucket.lanes)
            for found, segment in zip(lora, bucket.lora_segments(first, last, training=training), strict=True):
                found.append(segment)
            for found_head, head in zip(heads, bucket.head_segments(first, last, training=training), strict=True):
                found_head.append(head)
            first = last
        for layer, segments in zip(self._lora, lora, strict=True):
            layer.segments = segments
        for head_layer, head_segments in zip(self._heads, heads, strict=True):
            head_layer.segments = head_segments


class _Bucket:
    """Lanes of one padded rank: their vectors as matrices, and the copy that the layers multiply with."""

    def __init__(self, pack: Pack, lanes: Sequence[Lane], plan: ChunkPlan | None = None) -> None:
        self.lanes = lanes
        self._layout = pack.shape.with_rank(bucket_rank(lanes[0].layout.rank))
        self._parameters = self._pad([lane.parameters for lane in lanes])
        self._compute = torch.empty_like(self._parameters, dtype=pack.dtype)
        if plan is not None:
            self._prepare_training(plan)

    def refresh(self, *, training: bool) -> None:
        """Bring the multiplied copy up to date, with the lanes' scales folded into A."""
        size = self._layout.size_a
        scale = self._scale_k1 if training else self._scales(training=False)
        torch.mul(self._parameters[:, :size], scale, out=self._compute[:, :size])
        self._compute[:, size:].copy_(self._parameters[:, size:])

    def shares(self, weights_kM: torch.Tensor) -> torch.Tensor:
        """Return the factor of each micro-batch's summed loss in the mean of its optimizer step, ``[k, M]``.

        Args:
            weights_kM: Summed weights of the rows of each micro-batch.
        """
        shares = torch.empty_like(weights_kM)
        for row, window in enumerate(self._accumulation):
            sums = [group.sum().clamp_(min=1e-12).expand(len(group)) for group in torch.split(weights_kM[row], window)]
            shares[row] = 1 / torch.cat(sums)
        return shares

    def step(self, index: int) -> None:
        """Update the lanes whose batch is complete after micro-batch ``index``."""
        last = index + 1 == self._micro_batches
        due = [last or (index + 1) % window == 0 for window in self._accumulation]
        if any(due):
            rows = slice(None) if all(due) else torch.tensor(due, device=self._gradients.device).nonzero()[:, 0]
            size = self._layout.size_a
            self._gradients[rows, :size] *= self._scale_k1[rows]
            self._optimizer.step(self._parameters, self._gradients, due)
            self.refresh(training=True)

    def updated(self) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Return parameters and moments of every lane at its own rank; may run out of memory, so changes nothing."""
        matrices = (self._parameters, self._moment1, self._moment2)
        ranks = [lane.layout.rank for lane in self.lanes]
        unpadded = [[self._layout.unpad(row, rank) for row, rank in zip(m, ranks, strict=True)] for m in matrices]
        return list(zip(*unpadded, strict=True))

    def write_back(self, updated: Sequence[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]) -> None:
        """Hand the results to the lanes."""
        for row, (lane, (parameters, moment1, moment2)) in enumerate(zip(self.lanes, updated, strict=True)):
            lane.parameters, lane.moment1, lane.moment2 = parameters, moment1, moment2
            lane.step = self._optimizer.steps[row]
            lane.chunks_done += 1

    def lora_segments(self, first: int, last: int, *, training: bool) -> list[LoraSegment]:
        """Return this bucket's part of every adapted layer."""
        layout = self._layout
        pairs = zip(layout.views_a(self._compute), layout.views_b(self._compute), strict=True)
        segments = [LoraSegment(first, last, a, b) for a, b in pairs]
        if training:
            grads = zip(layout.views_a(self._gradients), layout.views_b(self._gradients), strict=True)
            for segment, (grad_a, grad_b) in zip(segments, grads, strict=True):
                segment.grad_A_kRI, segment.grad_B_kRO = grad_a, grad_b
        return segments

    def head_segments(self, first: int, last: int, *, training: bool) -> list[HeadSegment]:
        """Return this bucket's part of every head layer; heads are multiplied in float32."""
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
        self._accumulation = [max(1, int(s["train.batch_size"]) // plan.micro_batch) for s in self._settings]
        steps = [plan.num_chunks * -(-plan.micro_batches // window) for window in self._accumulation]
        self._optimizer = LaneOptimizer(
            [OptimSettings.of(s, total_steps=n) for s, n in zip(self._settings, steps, strict=True)],
            [lane.step for lane in lanes],
            decay_mask=self._layout.decay_mask().to(device),
            moment1=self._moment1,
            moment2=self._moment2,
        )

    @property
    def _settings(self) -> list[Mapping[str, bool | int | float | str]]:
        return [lane.spec.settings for lane in self.lanes]

    def _scales(self, *, training: bool) -> torch.Tensor:
        scales = [lora_scale(s) / (keep_share(float(s["lora.dropout"])) if training else 1.0) for s in self._settings]
        return torch.tensor(scales, device=self._parameters.device)[:, None]

    def _pad(self, flats: Sequence[torch.Tensor]) -> torch.Tensor:
        return self._layout.pad([(lane.layout.rank, flat) for lane, flat in zip(self.lanes, flats, strict=True)])


def sort_lanes(lanes: Sequence[Lane]) -> list[Lane]:
    """Return lanes with those of one bucket side by side, in a stable order."""
    return sorted(lanes, key=lambda lane: (bucket_rank(lane.layout.rank), lane.spec.number))


def _split(buckets: Sequence[_Bucket], per_lane: torch.Tensor) -> list[tuple[_Bucket, torch.Tensor]]:
    """Return each bucket with its lanes' part of a tensor over all lanes."""
    return list(zip(buckets, torch.split(per_lane, [len(bucket.lanes) for bucket in buckets]), strict=True))


def _groups(lanes: Sequence[Lane]) -> list[list[Lane]]:
    groups: list[list[Lane]] = []
    for lane in lanes:
        if groups and bucket_rank(groups[-1][0].layout.rank) == bucket_rank(lane.layout.rank):
            groups[-1].append(lane)
        else:
            groups.append([lane])
    return groups


def _replace(model: nn.Module, name: str, kind: type[Packed], state: PackState) -> Packed:
    parent_name, _, child = name.rpartition(".")
    parent = model.get_submodule(parent_name)
    base = parent.get_submodule(child)
    if not isinstance(base, nn.Linear) and not (kind is PackedLora and is_linear(base)):
        raise ModelError(
            f"{name} is a {type(base).__name__}: only linear layers can be packed; set model.target_modules to others"
        )
    packed = kind(base, state)
    setattr(parent, child, packed)
    return packed
