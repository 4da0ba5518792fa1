"""The frozen-features probe: what a logistic regression makes of the base model's embeddings, with no fine-tuning.

A search whose best trial does not clear this line is not worth its adapters. So the line is drawn fairly: the
regularisation is chosen by cross-validation on the training rows, never on the rows that score.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

__all__ = ["probe"]

_STRENGTHS = (1.0, 10.0, 100.0)
"""Weight of the data against the squared weights, scikit-learn's C; on 1,000 rows sentiment wants 1, topics want 10."""
_FOLDS = 4
_ITERATIONS = 200


def probe(features_NI: torch.Tensor, labels_N: torch.Tensor, held_out_MI: torch.Tensor) -> torch.Tensor:
    """Fit on training features and return the labels predicted for held-out ones, ``[M]`` int64.

    Features are scaled to unit length, as sentence embeddings are compared.
    """
    features_NI, held_out_MI = F.normalize(features_NI), F.normalize(held_out_MI)
    best = max(_STRENGTHS, key=lambda strength: _num_right(features_NI, labels_N, strength))
    return _predict(held_out_MI, _fit(features_NI, labels_N, best))


def _num_right(features_NI: torch.Tensor, labels_N: torch.Tensor, strength: float) -> int:
    """Return how many rows are predicted right by fits that did not see them."""
    fold_N = torch.arange(len(labels_N)) % _FOLDS
    right = 0
    for fold in range(min(_FOLDS, len(labels_N))):
        seen, unseen = fold_N != fold, fold_N == fold
        weights = _fit(features_NI[seen], labels_N[seen], strength, num_labels=int(labels_N.max()) + 1)
        right += int((_predict(features_NI[unseen], weights) == labels_N[unseen]).sum())
    return right


def _fit(
    features_NI: torch.Tensor, labels_N: torch.Tensor, strength: float, num_labels: int | None = None
) -> torch.Tensor:
    """Return weights ``[I + 1, C]``, the last row being the biases, which are not regularised.

    The whole fit is one call of L-BFGS on a convex loss: some twenty times as fast as scikit-learn's here (0.08
    against 1.7 s for 1,000 rows of six labels), and 13 of them are wanted before the first trial starts.
    """
    num_classes = num_labels or int(labels_N.max()) + 1
    weights = torch.zeros(features_NI.shape[1] + 1, num_classes, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=_ITERATIONS, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        logits = features_NI @ weights[:-1] + weights[-1]
        value = F.cross_entropy(logits, labels_N, reduction="sum") + weights[:-1].square().sum() / (2 * strength)
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    return weights.detach()


def _predict(features_NI: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    return (features_NI @ weights[:-1] + weights[-1]).argmax(1)
