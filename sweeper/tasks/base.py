"""The contract of tasks: what the outputs of a model mean, how it is trained and how it is scored.

A task is a module of this package with a class `Task`; ``task.name`` is the module's name. Importing one loads no
torch, because the controller asks tasks for metrics and directions.

The engine knows nothing about labels: it gives a task a model and a `Batch`, and gets one loss per row, or a vector of
outputs per row. A task must not mix rows, since they belong to different lanes.

Which tokens have a loss is known when rows are tokenised, so `Batch` names them: a task that looked for them on the
device would have to wait for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    import torch
    from torch import nn

    from sweeper.data.base import TokenisedSplits
    from sweeper.store.outcomes import RowOutcomes

__all__ = ["Batch", "Examples", "Spans", "TaskProtocol", "flat_indices", "to_device"]

Spans = Sequence[tuple[int, int]]
"""Ranges of a row's tokens that have a loss, each ``[start, end)``, ascending; none begins with the first token."""


class Batch(NamedTuple):
    """Rows as a model takes them, lane after lane."""

    ids: torch.Tensor
    """Token ids, ``[rows, T]`` int64."""
    mask: torch.Tensor
    """Attention mask, ``[rows, T]`` int64, 0 where padded."""
    targets: torch.Tensor
    """What the task needs to train and score each row, ``[rows, ...]`` int64."""
    predicted: torch.Tensor | None = None
    """Tokens with a loss, as ascending indices into the flattened ``ids``, ``[N]`` int64; None if tokens have none.

    The token before each of them predicts it.
    """
    spans: Sequence[Spans] = ()
    """The same tokens of each row, on the host; empty if tokens have no loss."""

    def repeated(self, rows: slice, times: int) -> Batch:
        """Return some of the rows, so many times: lane after lane.

        Args:
            rows: A slice with a start and a stop.
            times: Number of lanes.
        """
        ids, mask, targets = (
            tensor[rows].repeat(times, *(1,) * (tensor.dim() - 1)) for tensor in (self.ids, self.mask, self.targets)
        )
        if self.predicted is None:
            return Batch(ids, mask, targets)
        spans = list(self.spans[rows]) * times
        predicted = to_device(flat_indices(spans, ids.shape[1]), ids.device)
        return Batch(ids, mask, targets, predicted, spans)


@dataclass(frozen=True, slots=True)
class Examples:
    """Rows of a split, as the engine takes them."""

    ids: Sequence[Sequence[int]]
    """Token ids of each row."""
    targets: Sequence[int | Sequence[int]]
    """`Batch.targets` of each row: a label, or the number of tokens before the completion and its choice."""
    weights: Sequence[float]
    """Weight of each row in a mean loss: 1, or the number of tokens that have a loss."""
    spans: Sequence[Spans] = ()
    """Tokens of each row that have a loss; empty if the row as a whole has one."""

    @classmethod
    def joined(cls, parts: Sequence[Examples]) -> Examples:
        """Return the rows of all parts, one after the other; either all of them have spans, or none."""
        return cls(
            [row for part in parts for row in part.ids],
            [target for part in parts for target in part.targets],
            [weight for part in parts for weight in part.weights],
            [spans for part in parts for spans in part.spans],
        )

    def first(self, num_rows: int) -> Examples:
        """Return the first rows."""
        return self.take(range(min(num_rows, len(self.ids))))

    def take(self, rows: Sequence[int]) -> Examples:
        """Return the rows with these indices."""
        return Examples(
            [self.ids[row] for row in rows],
            [self.targets[row] for row in rows],
            [self.weights[row] for row in rows],
            [self.spans[row] for row in rows] if self.spans else (),
        )


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy a tensor from the host to a device, without waiting for what the device does."""
    # From memory that is not pinned, CUDA may wait for its stream before it copies more than 64 kB. torch keeps pinned
    # memory until the copy is done, and uses it again.
    return (tensor.pin_memory() if device.type == "cuda" else tensor).to(device, non_blocking=True)


def flat_indices(spans: Sequence[Spans], length: int) -> torch.Tensor:
    """Return `Batch.predicted` of rows that are padded to ``length`` tokens, on the host."""
    import numpy as np
    import torch

    ranges = [(row * length + start, row * length + end) for row, found in enumerate(spans) for start, end in found]
    indices = [np.arange(start, end) for start, end in ranges]
    return torch.from_numpy(np.concatenate(indices) if indices else np.empty(0, np.int64))


class TaskProtocol(Protocol):
    """One kind of supervised learning."""

    peft_task_type: str
    """PEFT's name of the task, e.g. ``SEQ_CLS``."""
    metrics: tuple[str, ...]
    """Names of the validation metrics, without the prefix ``validation/``; ``loss`` is always one of them.

    Rows without labels or choices have no ``accuracy``.
    """
    has_probe: bool
    """Whether a logistic regression on frozen features can do the task; if not, the untuned model is the baseline."""
    has_head: bool
    """Whether the model gets a new head, which each lane trains in full."""
    model_kind: str
    """Head of the model for `sweeper.models.load`: ``sequence_classification`` or ``causal_lm``."""
    takes_completions: bool
    """Whether rows are prompts with completions instead of texts with labels."""

    def of(self, tokens: TokenisedSplits) -> TaskProtocol:
        """Return the task that trains and scores these rows."""
        ...

    def default_metric(self, num_labels: int) -> str:
        """Return the metric that ``task.metric=auto`` stands for.

        Args:
            num_labels: Number of labels or choices of the dataset; 0 if completions are open.
        """
        ...

    def direction(self, metric: str) -> str:
        """Return ``maximize`` or ``minimize``."""
        ...

    def examples(self, tokens: TokenisedSplits, split: str) -> Examples:
        """Return the rows of a split."""
        ...

    def head_modules(self, model: nn.Module) -> tuple[str, ...]:
        """Return the names of the modules that each lane trains in full, PEFT's ``modules_to_save``."""
        ...

    def check(self, model: nn.Module) -> None:
        """Check that a model can be trained for the task; called when its layers have been replaced by packed ones.

        Raises:
            ModelError: It cannot.
        """
        ...

    def row_loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Return the loss of each row, summed over its tokens if each has a loss, ``[rows]`` float32."""
        ...

    def outputs(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Return the outputs that score each row, ``[rows, F]`` float32."""
        ...

    def score(self, outputs_NF: torch.Tensor, targets_N: torch.Tensor) -> Mapping[str, float]:
        """Return every validation metric of one lane."""
        ...

    def row_outcomes(self, outputs_NF: torch.Tensor, targets_N: torch.Tensor) -> RowOutcomes:
        """Return prediction and loss of each row of one lane, from which `score` could be computed."""
        ...

    def majority_score(self, metric: str, counts: Sequence[int], num_labels: int) -> float | None:
        """Return the score of always predicting the commonest label.

        Args:
            metric: One of `metrics`.
            counts: Rows of each label, by its index; empty if completions are open.
            num_labels: Labels that can be predicted, the first ones; scored rows may have others.

        Returns:
            None if that has no meaning for the metric.
        """
        ...

    def score_labels(self, predicted_N: torch.Tensor, labels_N: torch.Tensor, num_labels: int) -> Mapping[str, float]:
        """Return the metrics that depend on predicted labels only."""
        ...
