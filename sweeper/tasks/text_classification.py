"""One label a text: cross-entropy, accuracy and macro-F1."""
# Tensors are named after their shapes.
# ruff: noqa: N803

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from sweeper.errors import ModelError

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["Task"]

_HEADS = ("classifier", "score")


class Task:
    """Text classification with a fresh head on a pretrained encoder or decoder."""

    peft_task_type = "SEQ_CLS"
    metrics = ("accuracy", "macro_f1", "loss")

    def direction(self, metric: str) -> str:
        """Return ``minimize`` for the loss, ``maximize`` otherwise."""
        return "minimize" if metric == "loss" else "maximize"

    def head_modules(self, model: nn.Module) -> tuple[str, ...]:
        """Return the model's classification head.

        Raises:
            ModelError: The model has none under a name that PEFT knows.
        """
        found = tuple(name for name, _ in model.named_children() if name in _HEADS)
        if not found:
            raise ModelError(f"{type(model).__name__} has no classification head called {' or '.join(_HEADS)}")
        return found

    def row_loss(self, logits_KBC: torch.Tensor, labels_KB: torch.Tensor) -> torch.Tensor:
        """Return the cross-entropy of each row, ``[K, B]``."""
        from torch.nn import functional as F

        return F.cross_entropy(logits_KBC.flatten(0, 1), labels_KB.flatten(), reduction="none").view(labels_KB.shape)

    def score(self, logits_NC: torch.Tensor, labels_N: torch.Tensor) -> Mapping[str, float]:
        """Return accuracy, macro-F1 and mean cross-entropy."""
        from torch.nn import functional as F

        loss = F.cross_entropy(logits_NC, labels_N).item()
        return {**self.score_labels(logits_NC.argmax(-1), labels_N, logits_NC.shape[-1]), "loss": loss}

    def score_labels(self, predicted_N: torch.Tensor, labels_N: torch.Tensor, num_labels: int) -> Mapping[str, float]:
        """Return accuracy and macro-F1 (the mean over the labels that occur in ``labels_N`` or ``predicted_N``)."""
        pairs = labels_N * num_labels + predicted_N
        table = pairs.bincount(minlength=num_labels**2).view(num_labels, num_labels).double()
        hits, true, claimed = table.diagonal(), table.sum(1), table.sum(0)
        occurs = (true + claimed) > 0
        f1 = 2 * hits[occurs] / (true + claimed)[occurs]
        return {"accuracy": (hits.sum() / len(labels_N)).item(), "macro_f1": f1.mean().item()}
