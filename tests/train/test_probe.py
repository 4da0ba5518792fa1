"""The probe is a logistic regression, with its strength and temperature chosen on training rows."""

from __future__ import annotations

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch.nn import functional as F

from sweeper.train import probe as module
from sweeper.train.probe import fit_probe


def rows(num_rows, *, noise, seed=0):
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(3, 12, generator=torch.Generator().manual_seed(99))
    labels = torch.randint(0, 3, (num_rows,), generator=generator)
    return centres[labels] + noise * torch.randn(num_rows, 12, generator=generator), labels


@pytest.mark.parametrize("has_bias", [True, False])
def test_it_is_scikit_learns_logistic_regression(has_bias):
    features, labels = rows(200, noise=1.5)
    features = F.normalize(features)
    held_out, _ = rows(100, noise=1.5, seed=1)
    for strength in (1.0, 10.0):
        weights = module._fit(features, labels, 3, strength, has_bias=has_bias)
        logits = held_out @ weights[:-1] + weights[-1]
        reference = LogisticRegression(C=strength, max_iter=2000, tol=1e-8, fit_intercept=has_bias)
        expected = reference.fit(features.numpy(), labels.numpy()).predict_proba(held_out)
        torch.testing.assert_close(logits.softmax(1), torch.tensor(expected, dtype=torch.float32), atol=3e-3, rtol=0)


def test_weights_apply_to_features_as_they_are():
    """The fit scales features, whatever their size; the result must undo that."""
    features, labels = rows(200, noise=0.5)
    held_out, truth = rows(300, noise=0.5, seed=1)
    for factor in (1e-3, 1.0, 1e3):
        found = fit_probe(features * factor, labels, 3)
        assert (found.predict(held_out * factor) == truth).float().mean() > 0.95
        loss = F.cross_entropy(held_out * factor @ found.weight.T + found.bias, truth)
        assert loss < 0.2


def test_the_strength_is_what_held_out_rows_say():
    """On mere noise the weakest weights are best; on clear labels strong ones win."""
    generator = torch.Generator().manual_seed(0)
    noise, labels = torch.randn(120, 60, generator=generator), torch.arange(120) % 2
    assert fit_probe(noise, labels, 2).strength == module._STRENGTHS[0]
    features, clear = rows(200, noise=0.1)
    assert fit_probe(features, clear, 3).strength == module._STRENGTHS[-1]
    assert fit_probe(features, clear, 3, strength=0.5).strength == 0.5


def test_the_choice_does_not_read_the_rows_it_is_scored_on():
    """Each held-out fold is predicted by weights that have not seen it."""
    for num_rows in (8, 41):
        folds = list(module._folds(num_rows))
        assert sorted(torch.cat([unseen for _, unseen in folds]).tolist()) == list(range(num_rows))
        for seen, unseen in folds:
            assert not set(seen.tolist()) & set(unseen.tolist())
            assert len(seen) + len(unseen) == num_rows


def test_many_rows_are_chosen_on_a_part_of_them():
    assert sum(len(unseen) for _, unseen in module._folds(50_000)) == module._MOST_ROWS_TO_CHOOSE


def test_few_rows_and_absent_labels_are_enough():
    found = fit_probe(torch.eye(4)[:3], torch.tensor([0, 1, 1]), 5)
    assert found.weight.shape == (5, 4)
    assert found.predict(torch.eye(4)).shape == (4,)
