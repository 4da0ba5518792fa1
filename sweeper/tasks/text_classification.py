"""One label per text: cross-entropy, accuracy, macro-F1 and Matthews correlation.

A scored row may have a label that no training row has. Its target is C or above, so no prediction is right, and its
cross-entropy, which would be infinite, is that of a uniform guess, ln C: the same for every trial.

Shapes: N rows, C labels, F = C outputs of a row.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from sweeper.errors import ModelError
from sweeper.tasks.base import Batch, Examples

if TYPE_CHECKING:
    import torch
    from torch import nn

    from sweeper.data.base import TokenisedSplits
    from sweeper.store.outcomes import RowOutcomes

__all__ = ["Task"]

_HEADS = ("classifier", "score")


class Task:
    """Text classification with a new head on a pretrained encoder or decoder."""

    peft_task_type = "SEQ_CLS"
    metrics = ("accuracy", "macro_f1", "mcc", "loss")
    has_probe = True
    has_head = True
    model_kind = "sequence_classification"
    takes_completions = False

    def of(self, tokens: TokenisedSplits) -> Task:  # noqa: ARG002  part of the contract
        """Return the task itself, which is the same for all rows."""
        return self

    def default_metric(self, num_labels: int) -> str:  # noqa: ARG002  part of the contract
        """Return the accuracy."""
        return "accuracy"

    def direction(self, metric: str) -> str:
        """Return ``minimize`` for the loss, ``maximize`` otherwise."""
        return "minimize" if metric == "loss" else "maximize"

    def head_modules(self, model: nn.Module) -> tuple[str, ...]:
        """Return the model's classification head.

        Raises:
            ModelError: The model has no head with a name that PEFT knows.
        """
        found = tuple(name for name, _ in model.named_children() if name in _HEADS)
        if not found:
            raise ModelError(
                f"{type(model).__name__} has no classification head called {' or '.join(_HEADS)}. Choose another model."
            )
        return found

    def check(self, model: nn.Module) -> None:
        """Accept every model; `head_modules` has checked the head."""

    def examples(self, tokens: TokenisedSplits, split: str) -> Examples:
        """Return rows whose target is the index of the label, all with weight 1."""
        rows = getattr(tokens, split)
        return Examples(list(rows["input_ids"]), list(rows["label"]), [1.0] * len(rows))

    def row_loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Return the cross-entropy of each row."""
        from torch.nn import functional as F

        return F.cross_entropy(self.outputs(model, batch), batch.targets, reduction="none")

    def outputs(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Return the logits of each row, ``[rows, C]``."""
        logits: torch.Tensor = model(input_ids=batch.ids, attention_mask=batch.mask).logits
        return logits.float()

    def score(self, outputs_NF: torch.Tensor, targets_N: torch.Tensor) -> Mapping[str, float]:
        """Return the metrics of `score_labels` and the mean cross-entropy."""
        loss = _row_losses(outputs_NF, targets_N).mean().item()
        return {**self.score_labels(outputs_NF.argmax(-1), targets_N, outputs_NF.shape[-1]), "loss": loss}

    def row_outcomes(self, outputs_NF: torch.Tensor, targets_N: torch.Tensor) -> RowOutcomes:
        """Return the likeliest label of each row, and its cross-entropy."""
        from sweeper.store.outcomes import RowOutcomes

        return RowOutcomes.of(
            _row_losses(outputs_NF, targets_N).numpy(),
            predicted_N=outputs_NF.argmax(-1).numpy(),
            target_N=targets_N.numpy(),
            num_labels=outputs_NF.shape[-1],
        )

    def majority_score(self, metric: str, counts: Sequence[int], num_labels: int) -> float | None:
        """Return the score of always predicting the commonest label; None for the loss."""
        hits, num_rows = max(counts[:num_labels]), sum(counts)
        scores = {
            "accuracy": hits / num_rows,
            "macro_f1": 2 * hits / (num_rows + hits) / sum(count > 0 for count in counts),
            "mcc": 0.0,
        }
        return scores.get(metric)

    def score_labels(self, predicted_N: torch.Tensor, labels_N: torch.Tensor, num_labels: int) -> Mapping[str, float]:
        """Return accuracy, macro-F1 (the mean over the labels that occur in ``labels_N`` or ``predicted_N``) and MCC.

        MCC is the Matthews correlation for any number of labels (Gorodkin 2004, equation 8): 0 if all rows have one
        label or one prediction.
        """
        # Diagonal, row sums and column sums of the confusion matrix.
        width = max(num_labels, int(labels_N.max()) + 1)
        hits, true, predicted = (
            labels.bincount(minlength=width).double()
            for labels in (labels_N[labels_N == predicted_N], labels_N, predicted_N)
        )
        occurs = (true + predicted) > 0
        f1 = 2 * hits[occurs] / (true + predicted)[occurs]
        num_rows = len(labels_N)
        covariance = hits.sum() * num_rows - (true * predicted).sum()
        variances = (num_rows**2 - predicted.square().sum()) * (num_rows**2 - true.square().sum())
        return {
            "accuracy": (hits.sum() / num_rows).item(),
            "macro_f1": f1.mean().item(),
            "mcc": (covariance / variances.sqrt()).item() if variances > 0 else 0.0,
        }


def _row_losses(outputs_NF: torch.Tensor, targets_N: torch.Tensor) -> torch.Tensor:
    """Return the cross-entropy of each row, ``[N]``; ln C where no training row has the label."""
    from torch.nn import functional as F

    num_labels = outputs_NF.shape[-1]
    known_N = targets_N < num_labels
    loss_N = F.cross_entropy(outputs_NF, targets_N.clamp(max=num_labels - 1), reduction="none")
    return loss_N.where(known_N, math.log(num_labels))
