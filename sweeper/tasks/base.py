"""The contract of tasks: what a lane's outputs mean, how they are trained and how they are scored.

A task is a module of this package with a class `Task`; ``task.name`` is the module's name. Importing one does not load
torch: the controller asks tasks for metrics and directions.

The engine knows nothing of labels: it hands a task a model and a `Batch`, and takes back one loss a row, or a vector
of outputs a row. Rows of different lanes never mix in what a task returns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    import torch
    from torch import nn

    from sweeper.data.base import TokenisedSplits

__all__ = ["Batch", "Examples", "TaskProtocol"]


class Batch(NamedTuple):
    """Rows as a model takes them; all lanes one after another."""

    ids: torch.Tensor
    """Token ids, ``[rows, T]`` int64."""
    mask: torch.Tensor
    """Attention mask, ``[rows, T]`` int64, 0 where padded."""
    targets: torch.Tensor
    """What the task needs of each row to train and score it, ``[rows, ...]`` int64."""


@dataclass(frozen=True, slots=True)
class Examples:
    """Rows of a split as the engine takes them."""

    ids: Sequence[Sequence[int]]
    """Token ids of each row."""
    targets: Sequence[int | Sequence[int]]
    """What `Batch.targets` is made of: a label, or the number of tokens before the completion and its choice."""
    weights: Sequence[float]
    """What each row counts in a mean loss: 1, or its tokens that bear a loss."""


class TaskProtocol(Protocol):
    """One kind of supervised learning."""

    peft_task_type: str
    """PEFT's name of the task, e.g. ``SEQ_CLS``."""
    metrics: tuple[str, ...]
    """Names of the validation metrics, without the prefix ``validation/``; ``loss`` is always one of them.

    ``accuracy`` is left out for rows without labels or choices.
    """
    has_probe: bool
    """Whether a logistic regression on frozen features can do the task; else the untuned model itself is scored."""
    model_kind: str
    """What `sweeper.models.load` puts on top of the base: ``sequence_classification`` or ``causal_lm``."""

    takes_completions: bool
    """Whether rows are prompts with completions instead of texts with labels."""

    def of(self, tokens: TokenisedSplits) -> TaskProtocol:
        """Return the task for these rows, to train and score with."""
        ...

    def default_metric(self, num_labels: int) -> str:
        """Return the metric that ``task.metric=auto`` stands for.

        Args:
            num_labels: Labels or choices of the dataset; 0 if completions are open.
        """
        ...

    def direction(self, metric: str) -> str:
        """Return ``maximize`` or ``minimize``."""
        ...

    def examples(self, tokens: TokenisedSplits, split: str) -> Examples:
        """Return the rows of a split."""
        ...

    def head_modules(self, model: nn.Module) -> tuple[str, ...]:
        """Return the names of the modules that each lane trains whole, PEFT's ``modules_to_save``."""
        ...

    def check(self, model: nn.Module) -> None:
        """Check that the model, its layers adapted, can be trained for the task.

        Raises:
            ModelError: It cannot.
        """
        ...

    def row_loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Return the loss of each row, summed over what bears one in it, ``[rows]`` float32."""
        ...

    def outputs(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Return what scores each row, ``[rows, F]`` float32."""
        ...

    def score(self, outputs_NF: torch.Tensor, targets_N: torch.Tensor) -> Mapping[str, float]:
        """Return every validation metric of one lane."""
        ...

    def score_labels(self, predicted_N: torch.Tensor, labels_N: torch.Tensor, num_labels: int) -> Mapping[str, float]:
        """Return the metrics that need predicted labels only."""
        ...
