"""The pack: trials that train side by side on one frozen base model.

`Pack` replaces the target layers of a model once. After that, `train_chunk` and `predict` take any lanes: they copy the
lanes' vectors side by side to the device, run, and write the lanes back only at the end, so a failure in between leaves
them unchanged. Lanes never see each other's rows, generators, losses or gradients.

Shapes: K lanes of the pack, k lanes of a bucket, M micro-batches of a chunk, B rows of a micro-batch, N rows of a
split, F outputs of a row.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import psutil
import torch
from torch import nn

from sweeper.errors import ModelError
from sweeper.figures.memory import TRAINING_BYTES
from sweeper.models.first_token import all_tokens, narrow_layers
from sweeper.models.hidden_dropout import hidden_dropouts, no_dropout_layers
from sweeper.models.linear import check_linear, may_reorder, weight_of
from sweeper.models.targets import group_targets
from sweeper.tasks.base import Batch
from sweeper.train.batches import EvaluationBatches, TrainingRows
from sweeper.train.bucket import Bucket
from sweeper.train.dropout import LaneDropout, keep_share, lane_dropout
from sweeper.train.lane import Lane, derived_seed
from sweeper.train.layout import HeadShape, Layout, LoraShape, bucket_rank
from sweeper.train.packed import LoraGroup, PackedDropout, PackedHead, PackedLora, PackState

__all__ = ["ChunkOutcome", "Features", "Pack", "RowFunction", "sort_lanes"]

_MOST_PADDING_BYTES = 2**31
"""Most memory that padding may cost so that lanes of different ranks share their kernels on a GPU."""
_MOST_PASSES = 1 << 16
"""More passes than a micro-batch ever has."""
RowFunction = Callable[[nn.Module, Batch], torch.Tensor]
"""Returns the loss of each row, ``[rows]``, or the outputs that score it, ``[rows, F]``; see `sweeper.tasks.base`."""


@dataclass(frozen=True, slots=True)
class ChunkOutcome:
    """Result of a chunk for one lane."""

    loss: float
    """Weighted mean over the chunk's rows."""
    num_rows: int
    num_tokens: int
    skipped_steps: int = 0
    """Optimizer steps whose gradient overflowed in float16."""


@dataclass(frozen=True, slots=True)
class Features:
    """Features of the frozen model, without an adapter, float32 on the CPU."""

    pooled: torch.Tensor
    """The last hidden states, averaged over the tokens of a row, ``[N, I]``."""
    head_inputs: torch.Tensor
    """What the last layer of the head reads, e.g. BERT's pooled first token, ``[N, I]``."""


class Pack:
    """Trains and evaluates lanes on a model.

    Args:
        model: The frozen model; its target and head layers are replaced.
        targets: Names of the linear layers that get adapters.
        head: Names of the linear layers that each lane trains in full.
        dtype: Type in which adapters are multiplied, the same as that of the frozen weights.
        base_dropout: Dropout of the frozen model's hidden states in training.

    Raises:
        ModelError: A layer cannot be replaced, or ``base_dropout`` is set and the model has no dropout layers.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        targets: Sequence[str],
        head: Sequence[str],
        dtype: torch.dtype,
        base_dropout: float = 0.0,
    ) -> None:
        self._model = model
        self.dtype = dtype
        self.device = next(model.parameters()).device
        self._state = PackState(torch.zeros((), device=self.device, requires_grad=True))
        # No weight may be held here: those of layers that are multiplied as one are copied side by side, and the first
        # copies would stay, which are nine of the 16 GB of an 8B model.
        lora, num_bytes = _lora_shapes(model, targets)
        groups = group_targets(targets, alone=narrow_layers(model))
        self._sizes = [len(group) for group in groups]
        reorder = may_reorder(num_bytes, psutil.virtual_memory().available)
        self._lora = [_replace_group(model, g, self._state, site, reorder=reorder) for site, g in enumerate(groups)]
        self._base_dropout = base_dropout
        if base_dropout:
            _replace_dropout(model, self._state, base_dropout)
        self._heads = [_replace_head(model, name, self._state) for name in head]
        # Rank 1 is a placeholder: lanes and buckets take this layout at their own rank.
        self.shape = Layout(
            1,
            lora,
            tuple(
                HeadShape(n, m.in_features, m.out_features, m.has_bias) for n, m in zip(head, self._heads, strict=True)
            ),
        )

    def train_chunk(
        self, lanes: Sequence[Lane], rows: TrainingRows, row_loss: RowFunction, *, tokens_per_pass: int = 0
    ) -> list[ChunkOutcome]:
        """Train every lane on its next chunk.

        A lane's loss is the weighted mean over the rows of its optimizer step. Losses of lanes are summed, never
        averaged over their union.

        Args:
            lanes: The lanes, in the order of `sort_lanes`; unchanged if this raises.
            rows: The training split.
            row_loss: The task's loss.
            tokens_per_pass: Most tokens of a pass over all lanes, padding included; 0 for no limit.

        Returns:
            One outcome per lane; the caller checks that the losses are finite.
        """
        plan = rows.plan
        buckets = [Bucket(group, self.shape, self.dtype, self.device, plan) for group in self._groups(lanes)]
        # Lanes may be at different chunks; their micro-batches have the same lengths all the same (see `batches`).
        order_KMB = np.stack([rows.chunk(lane.chunks_done, lane.spec.seed) for lane in lanes])
        # Gradients accumulate over the micro-batches of an optimizer step. Each lane has its own number of these, so
        # the factor that turns its sum of losses into a mean is set per lane and micro-batch, before the first one.
        weights_KM = rows.weights(order_KMB).sum(2)
        of_buckets = torch.split(weights_KM, [len(bucket.lanes) for bucket in buckets])
        shares_kM = [bucket.shares(weights_kM) for bucket, weights_kM in zip(buckets, of_buckets, strict=True)]
        shares_KM = torch.cat(shares_kM).to(self.device, non_blocking=True)
        losses_K = torch.zeros(len(lanes), device=self.device)
        with self._attached(buckets, training=True):
            own = [lane.spec.lora.dropout for lane in lanes]
            self._state.dropout = self._dropout(lanes, "dropout", own)
            self._state.base_dropout = self._dropout(lanes, "base dropout", [self._base_dropout] * len(lanes))
            for index in range(plan.micro_batches):
                factor_K = _scaled(shares_KM[:, index], buckets)
                for batch in self._batches(rows, index, order_KMB[:, index], tokens_per_pass):
                    loss_K = row_loss(self._model, batch).view(len(lanes), -1).sum(1)
                    # Lanes share no trainable value, so the gradient of the sum is that of each lane's own loss.
                    (loss_K * factor_K).sum().backward()  # type: ignore[no-untyped-call]
                    losses_K += loss_K.detach()
                    for bucket in buckets:
                        bucket.add_gradients()
                for bucket in buckets:
                    bucket.step(index)
        means = (losses_K.cpu() / weights_KM.sum(1)).tolist()
        tokens = [rows.num_tokens(chunk) for chunk in order_KMB]
        skipped = [steps for bucket in buckets for steps in bucket.settle()]
        # Last of all, because a failure must not leave some of the lanes updated.
        for bucket in buckets:
            bucket.write_back()
        return [ChunkOutcome(m, plan.rows_per_chunk, t, s) for m, t, s in zip(means, tokens, skipped, strict=True)]

    def _batches(self, rows: TrainingRows, index: int, order_KB: np.ndarray, tokens_per_pass: int) -> Iterator[Batch]:
        """Yield the passes of micro-batch ``index``, each in as many parts as the budget needs."""
        for number, one in enumerate(rows.passes(index)):
            per_pass, first_row = rows.num_parts(one, len(order_KB), tokens_per_pass), 0
            for picked_KB in np.array_split(order_KB[:, one.rows], per_pass, axis=1):
                num_rows = picked_KB.shape[1]
                for dropout in (self._state.dropout, self._state.base_dropout):
                    if dropout is not None:
                        dropout.start(index * _MOST_PASSES + number, first_row, num_rows)
                first_row += num_rows
                yield rows.batch(picked_KB.ravel(), one.length)

    @torch.no_grad()
    def predict(
        self, lanes: Sequence[Lane], split: EvaluationBatches, outputs: RowFunction, *, tokens_per_pass: int = 0
    ) -> torch.Tensor:
        """Return the outputs of every lane for all rows of a split, ``[K, rows, F]`` float32 on the CPU."""
        buckets = [Bucket(group, self.shape, self.dtype, self.device) for group in self._groups(lanes)]
        with self._attached(buckets, training=False):
            return self._gather(split, len(lanes), outputs, tokens_per_pass)

    def features(self, lane: Lane, split: EvaluationBatches, *, tokens_per_pass: int = 0) -> Features:
        """Return the features of a classifier's rows: its pooled hidden states and the inputs of its head.

        Args:
            lane: A lane that has not trained yet, so that its adapter changes nothing. Only heads of several layers
                depend on it: their last layer reads what the first ones make.
            split: The rows.
            tokens_per_pass: Most tokens of a pass, padding included; 0 for no limit.
        """
        base = getattr(self._model, str(self._model.base_model_prefix))
        states: list[torch.Tensor] = []
        inputs: list[torch.Tensor] = []

        def both(model: nn.Module, batch: Batch) -> torch.Tensor:
            states.clear()
            inputs.clear()
            model(input_ids=batch.ids, attention_mask=batch.mask)
            hidden, read = states[0].float(), inputs[0].float()
            mean = (hidden * batch.mask[..., None]).sum(1) / batch.mask.sum(1, keepdim=True)
            if read.dim() > mean.dim():  # a decoder's head reads every token, and the last one is the answer
                read = read[torch.arange(len(read), device=read.device), batch.mask.sum(1) - 1]
            return torch.cat([mean, read], 1)

        hooks = [
            base.register_forward_hook(lambda _, __, result: states.append(result[0])),
            self._heads[-1].register_forward_pre_hook(lambda _, args: inputs.append(args[0])),
        ]
        try:
            with all_tokens(self._model):
                found = self.predict([lane], split, both, tokens_per_pass=tokens_per_pass)[0]
        finally:
            for hook in hooks:
                hook.remove()
        width = self._heads[-1].in_features
        return Features(found[:, :-width], found[:, -width:])

    @torch.no_grad()
    def frozen(self, split: EvaluationBatches, outputs: RowFunction, *, tokens_per_pass: int = 0) -> torch.Tensor:
        """Return outputs of the model without adapters, ``[rows, F]`` float32 on the CPU; must not use the head."""
        with self._attached([], training=False):
            return self._gather(split, 1, outputs, tokens_per_pass)[0]

    def _gather(
        self, split: EvaluationBatches, num_lanes: int, outputs: RowFunction, tokens_per_pass: int
    ) -> torch.Tensor:
        found = []
        for picked, batch in split.batches:
            for rows in np.array_split(np.arange(len(picked)), split.num_parts(batch, num_lanes, tokens_per_pass)):
                # Every lane is scored on the same rows, so the batch is repeated for each of them.
                chosen = slice(int(rows[0]), int(rows[-1]) + 1)
                part_NF = outputs(self._model, batch.repeated(chosen, num_lanes)).float()
                found.append(part_NF.view(num_lanes, -1, part_NF.shape[-1]))
        if not found:
            raise ValueError("the split has no rows")
        # Copied once: every copy to the host waits until the device is done.
        in_batches = torch.cat(found, 1).cpu()
        gathered = torch.empty_like(in_batches)
        gathered[:, torch.cat([picked for picked, _ in split.batches])] = in_batches
        return gathered

    def _groups(self, lanes: Sequence[Lane]) -> list[list[Lane]]:
        """Return neighbours that are multiplied together: those of one padded rank, on a GPU those of similar ones."""
        groups = [list(group) for _, group in itertools.groupby(lanes, key=lambda lane: bucket_rank(lane.layout.rank))]
        if self.device.type == "cpu":
            return groups
        # Each group asks for its own kernels. A GPU that trains a small model waits for the host, which asks for them;
        # one that trains a large model does not, and padding costs it more memory.
        joined = groups[:1]
        for group in groups[1:]:
            both = [*joined[-1], *group]
            rank = bucket_rank(both[-1].layout.rank)
            padding = sum(rank - bucket_rank(lane.layout.rank) for lane in both) * self.shape.size_lora
            if padding * TRAINING_BYTES <= _MOST_PADDING_BYTES:
                joined[-1] = both
            else:
                joined.append(group)
        return joined

    def _dropout(self, lanes: Sequence[Lane], purpose: str, probabilities: Sequence[float]) -> LaneDropout | None:
        if not any(probabilities):
            return None
        # Seeded by chunk, so a trial that is resumed continues with the same masks and saves no generator.
        seeds = [derived_seed(lane.spec.seed, purpose, lane.chunks_done) for lane in lanes]
        return lane_dropout(probabilities, seeds, self.device)

    @contextmanager
    def _attached(self, buckets: Sequence[Bucket], *, training: bool) -> Iterator[None]:
        """Let the packed layers multiply with the buckets' adapters and heads, and release these afterwards."""
        self._state.num_lanes = sum(len(bucket.lanes) for bucket in buckets)
        first = 0
        try:
            for bucket in buckets:
                last = first + len(bucket.lanes)
                adapters = bucket.lora_segments(first, last, self._sizes, training=training)
                for group, adapter in zip(self._lora, adapters, strict=True):
                    group.segments = [*group.segments, adapter]
                heads = bucket.head_segments(first, last, training=training)
                for layer, head in zip(self._heads, heads, strict=True):
                    layer.segments = [*layer.segments, head]
                first = last
            yield
        finally:
            # After a failure, outputs that siblings have not taken would keep their activations in memory.
            for group in self._lora:
                group.detach()
            for layer in self._heads:
                layer.segments = ()
            self._state.dropout = self._state.base_dropout = None


def _scaled(shares_K: torch.Tensor, buckets: Sequence[Bucket]) -> torch.Tensor:
    """Return the factor of each lane's loss, times its present loss scale."""
    scales = [bucket.loss_scale_k for bucket in buckets]
    found = [scale_k for scale_k in scales if scale_k is not None]
    return shares_K * torch.cat(found) if found else shares_K


def sort_lanes(lanes: Sequence[Lane]) -> list[Lane]:
    """Return lanes ordered by padded rank, then by trial number, so that those of a bucket are neighbours."""
    return sorted(lanes, key=lambda lane: (bucket_rank(lane.layout.rank), lane.spec.number))


def _lora_shapes(model: nn.Module, targets: Sequence[str]) -> tuple[tuple[LoraShape, ...], int]:
    """Return the shapes of the layers that get adapters, and the bytes of their weights."""
    weights = [weight_of(_linear(model, name)) for name in targets]
    shapes = tuple(LoraShape(n, w.shape[1], w.shape[0]) for n, w in zip(targets, weights, strict=True))
    return shapes, sum(weight.nbytes for weight in weights)


def _replace_group(model: nn.Module, names: Sequence[str], state: PackState, site: int, *, reorder: bool) -> LoraGroup:
    group = LoraGroup([_linear(model, name) for name in names], state, site, reorder=reorder)
    for index, name in enumerate(names):
        model.set_submodule(name, PackedLora(group, index))
    return group


def _replace_dropout(model: nn.Module, state: PackState, probability: float) -> None:
    sites = hidden_dropouts(model)
    if not sites:
        raise no_dropout_layers(type(model).__name__, probability)
    for name, site in sites.items():
        model.set_submodule(name, PackedDropout(state, 1 / keep_share(probability), site))


def _replace_head(model: nn.Module, name: str, state: PackState) -> PackedHead:
    base = _linear(model, name)
    if not isinstance(base, nn.Linear):
        raise ModelError(
            f"the head layer {name} is a {type(base).__name__}: only an nn.Linear can be trained in full. Choose "
            f"another model."
        )
    packed = PackedHead(base, state)
    model.set_submodule(name, packed)
    return packed


def _linear(model: nn.Module, name: str) -> nn.Module:
    base = model.get_submodule(name)
    check_linear(base, name)
    return base
