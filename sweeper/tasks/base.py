"""The contract of tasks: what a lane's outputs mean, how they are trained and how they are scored.

A task is a module of this package with a class `Task`; ``task.name`` is the module's name. Importing one does not load
torch: the controller asks tasks for metrics and directions.
"""
# Tensors are named after their shapes.
# ruff: noqa: N803

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["TaskProtocol"]


class TaskProtocol(Protocol):
    """One kind of supervised learning."""

    peft_task_type: str
    """PEFT's name of the task, e.g. ``SEQ_CLS``."""
    metrics: tuple[str, ...]
    """Names of the validation metrics, without the prefix ``validation/``."""

    def direction(self, metric: str) -> str:
        """Return ``maximize`` or ``minimize``."""
        ...

    def head_modules(self, model: nn.Module) -> tuple[str, ...]:
        """Return the names of the modules that each lane trains whole, PEFT's ``modules_to_save``."""
        ...

    def row_loss(self, logits_KBC: torch.Tensor, labels_KB: torch.Tensor) -> torch.Tensor:
        """Return the loss of each row, ``[K, B]`` float32."""
        ...

    def score(self, logits_NC: torch.Tensor, labels_N: torch.Tensor) -> Mapping[str, float]:
        """Return every validation metric of one lane."""
        ...

    def score_labels(self, predicted_N: torch.Tensor, labels_N: torch.Tensor, num_labels: int) -> Mapping[str, float]:
        """Return the metrics that need predicted labels only."""
        ...
