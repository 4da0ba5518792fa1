"""The pack: trials that train side by side on one frozen base model.

`Pack` swaps the target layers of a model for packed ones once. Then `train_chunk` and `predict` take any lanes: they
lay the lanes' vectors side by side, run, and only at the end write the lanes back, so that whatever fails in between
leaves them as they were. Lanes never see each other's rows, generators, losses or gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import nn

from sweeper.errors import ModelError
from sweeper.models.linear import is_linear
from sweeper.tasks.base import Batch
from sweeper.train.batches import EvaluationBatches, TrainingRows
from sweeper.train.bucket import Bucket
from sweeper.train.dropout import LaneDropout
from sweeper.train.lane import Lane, derived_seed
from sweeper.train.layout import HeadShape, Layout, LoraShape, bucket_rank
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
        buckets = [Bucket(group, self.shape, self.dtype, plan) for group in _groups(lanes)]
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
        buckets = [Bucket(group, self.shape, self.dtype) for group in _groups(lanes)]
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

    def _attach(self, buckets: Sequence[Bucket], num_lanes: int, *, training: bool) -> None:
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


def sort_lanes(lanes: Sequence[Lane]) -> list[Lane]:
    """Return lanes with those of one bucket side by side, in a stable order."""
    return sorted(lanes, key=lambda lane: (bucket_rank(lane.layout.rank), lane.spec.number))


def _split(buckets: Sequence[Bucket], per_lane: torch.Tensor) -> list[tuple[Bucket, torch.Tensor]]:
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
