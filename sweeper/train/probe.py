"""The probe: a logistic regression on the frozen model's features, without fine-tuning.

It is the baseline that the best trial of a search must beat to be worth its adapter. Its strength of regularisation is
chosen by the log loss of training rows that a fit has not seen, never on the rows that score it. With
``train.head_init=probe``, a weak one is the head that a trial starts from (see `initial_head`).

Shapes: N rows, I features, C labels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch.nn import functional as F

__all__ = ["Probe", "fit_probe"]

_STRENGTHS = (0.1, 1.0, 10.0, 100.0)
"""Inverse regularisation, scikit-learn's C for features of unit length; from weak to strong weights."""
_FOLDS = 4
_MOST_ROWS_TO_CHOOSE = 4000
"""Rows that the strength is chosen on; the final fit uses all rows."""
_ITERATIONS = 100


@dataclass(frozen=True, slots=True)
class Probe:
    """A fitted logistic regression, ``features @ weight.T + bias``."""

    weight: torch.Tensor
    """``[C, I]``."""
    bias: torch.Tensor
    """``[C]``, zero if it was fitted without a bias."""
    strength: float

    def predict(self, features_NI: torch.Tensor) -> torch.Tensor:
        """Return the labels of rows, ``[N]`` int64."""
        return (features_NI @ self.weight.T + self.bias).argmax(1)


def fit_probe(
    features_NI: torch.Tensor,
    labels_N: torch.Tensor,
    num_labels: int,
    *,
    has_bias: bool = True,
    strength: float | None = None,
) -> Probe:
    """Fit a logistic regression.

    Args:
        features_NI: Features of the training rows.
        labels_N: Their labels.
        num_labels: C; labels that no row has are allowed.
        has_bias: Whether it has a bias, which is not regularised.
        strength: Inverse regularisation for features of unit length; the best on held-out rows if None.
    """
    # One factor for all rows, so that strengths mean the same for any model and the result is linear in features.
    scale = features_NI.norm(dim=1).mean().clamp_min(1e-12)
    scaled_NI = features_NI / scale
    if strength is None:
        strength = _choose_strength(scaled_NI, labels_N, num_labels, has_bias=has_bias)
    weights = _fit(scaled_NI, labels_N, num_labels, strength, has_bias=has_bias)
    return Probe((weights[:-1] / scale).T.contiguous(), weights[-1], strength)


def _choose_strength(features_NI: torch.Tensor, labels_N: torch.Tensor, num_labels: int, *, has_bias: bool) -> float:
    """Return the strength with the least log loss on held-out rows; the weakest if there are too few rows."""
    losses = dict.fromkeys(_STRENGTHS, 0.0)
    for seen, unseen in _folds(len(labels_N)):
        start = None
        for strength in _STRENGTHS:
            # The weights of one strength are a good start for the next.
            start = _fit(features_NI[seen], labels_N[seen], num_labels, strength, has_bias=has_bias, start=start)
            logits = features_NI[unseen] @ start[:-1] + start[-1]
            losses[strength] += F.cross_entropy(logits, labels_N[unseen], reduction="sum").item()
    return min(losses, key=lambda strength: losses[strength])


def _folds(num_rows: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield rows to fit on and rows to hold out, for each of a few folds."""
    fold = torch.arange(min(num_rows, _MOST_ROWS_TO_CHOOSE)) % _FOLDS
    for held_out in range(_FOLDS if num_rows >= 2 * _FOLDS else 0):
        yield (fold != held_out).nonzero()[:, 0], (fold == held_out).nonzero()[:, 0]


def _fit(
    features_NI: torch.Tensor,
    labels_N: torch.Tensor,
    num_labels: int,
    strength: float,
    *,
    has_bias: bool,
    start: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return weights ``[I + 1, C]``; the last row holds the biases.

    One call of L-BFGS on a convex loss is about twenty times as fast as scikit-learn here (0.08 s against 1.7 s for
    1,000 rows of six labels), which matters because a probe takes 17 fits.
    """
    before = torch.zeros(features_NI.shape[1] + 1, num_labels) if start is None else start
    weights = before.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([weights], max_iter=_ITERATIONS, line_search_fn="strong_wolfe")
    biases = float(has_bias)

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        logits = features_NI @ weights[:-1] + biases * weights[-1]
        value = F.cross_entropy(logits, labels_N, reduction="sum") + weights[:-1].square().sum() / (2 * strength)
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    return weights.detach()
