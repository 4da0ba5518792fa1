"""The frozen-features probe: what a logistic regression makes of the base model's embeddings, with no fine-tuning.

A search whose best trial does not clear this line is not worth its adapters.
"""

from __future__ import annotations

import warnings

import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch import nn

__all__ = ["probe"]


def probe(features_NI: torch.Tensor, labels_N: torch.Tensor, held_out_MI: torch.Tensor) -> torch.Tensor:
    """Fit on training features and return the labels predicted for held-out ones, ``[M]`` int64.

    Features are scaled to unit length, as sentence embeddings are compared, and to unit mean variance.
    """
    train, held_out = _unit(features_NI), _unit(held_out_MI)
    deviation = train.std()
    with warnings.catch_warnings():
        # a probe that stops a little early is still a probe
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = LogisticRegression(max_iter=500).fit((train / deviation).numpy(), labels_N.numpy())
    return torch.from_numpy(model.predict((held_out / deviation).numpy())).long()


def _unit(features: torch.Tensor) -> torch.Tensor:
    return nn.functional.normalize(features)
