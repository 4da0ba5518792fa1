"""The probe is a logistic regression, with its strength chosen on training rows."""

from __future__ import annotations

import torch
from sklearn.linear_model import LogisticRegression
from torch.nn import functional as F

from sweeper.train import probe as module
from sweeper.train.probe import probe


def rows(num_rows, *, noise, seed=0):
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(3, 12, generator=torch.Generator().manual_seed(99))
    labels = torch.randint(0, 3, (num_rows,), generator=generator)
    return centres[labels] + noise * torch.randn(num_rows, 12, generator=generator), labels


def test_it_is_scikit_learns_logistic_regression():
    features, labels = rows(200, noise=1.5)
    held_out, _ = rows(100, noise=1.5, seed=1)
    for strength in (1.0, 10.0):
        weights = module._fit(F.normalize(features), labels, strength)
        logits = F.normalize(held_out) @ weights[:-1] + weights[-1]
        reference = LogisticRegression(C=strength, max_iter=2000, tol=1e-8)
        expected = reference.fit(F.normalize(features).numpy(), labels.numpy()).predict_proba(F.normalize(held_out))
        torch.testing.assert_close(logits.softmax(1), torch.tensor(expected, dtype=torch.float32), atol=2e-3, rtol=0)


def test_it_learns_what_can_be_learnt():
    features, labels = rows(200, noise=0.5)
    held_out, truth = rows(300, noise=0.5, seed=1)
    assert (probe(features, labels, held_out) == truth).float().mean() > 0.95


def test_the_strength_is_chosen_on_training_rows():
    """On mere noise the weakest weights are as good as any; on clear labels strong ones win."""
    noise = torch.randn(80, 60, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(80) % 2
    right = [module._num_right(F.normalize(noise), labels, strength) for strength in (1.0, 100.0)]
    assert max(right) < 60
    features, labels = rows(200, noise=0.1)
    assert module._num_right(F.normalize(features), labels, 100.0) == 200


def test_few_rows_are_enough():
    features, labels = torch.eye(4)[:3], torch.tensor([0, 1, 1])
    assert probe(features, labels, torch.eye(4)).shape == (4,)
