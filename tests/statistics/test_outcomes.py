"""Metrics of recorded outcomes, and what each row contributes."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import f1_score, matthews_corrcoef

from sweeper.statistics.outcomes import METRICS, CandidateOutcomes, is_minimised, metric_values, row_contributions

RANDOM = np.random.default_rng(0)
TARGET = RANDOM.integers(0, 5, 80)
PREDICTED = np.where(RANDOM.random((3, 80)) < 0.7, TARGET, RANDOM.integers(0, 6, (3, 80)))
LOSS = RANDOM.gamma(0.5, 1.0, (3, 80))


def outcomes(rows=slice(None), **fields):
    values = {"loss_SN": LOSS[:, rows], "predicted_SN": PREDICTED[:, rows], "target_N": TARGET[rows]}
    return CandidateOutcomes(name="trial 9", seeds=(1, 2, 3), **(values | fields))


def test_accuracy_is_the_share_of_rows_that_are_right():
    assert metric_values(outcomes(), "accuracy") == pytest.approx((PREDICTED == TARGET).mean(axis=1))


def test_macro_f1_and_mcc_agree_with_scikit_learn():
    assert metric_values(outcomes(), "macro_f1") == pytest.approx(
        [f1_score(TARGET, row, average="macro") for row in PREDICTED]
    )
    assert metric_values(outcomes(), "mcc") == pytest.approx([matthews_corrcoef(TARGET, row) for row in PREDICTED])


def test_macro_f1_leaves_out_labels_that_do_not_occur():
    labels = np.array([0, 0, 3, 3])
    found = outcomes(slice(0, 4), predicted_SN=np.array([[0, 0, 3, 0]] * 3), target_N=labels)
    assert metric_values(found, "macro_f1") == pytest.approx([(0.8 + 2 / 3) / 2] * 3)


def test_mcc_of_one_predicted_label_is_zero():
    assert (metric_values(outcomes(predicted_SN=np.zeros_like(PREDICTED)), "mcc") == 0).all()


def test_loss_and_perplexity_of_labels_are_per_row():
    assert metric_values(outcomes(), "loss") == pytest.approx(LOSS.mean(axis=1))
    assert metric_values(outcomes(), "perplexity") == pytest.approx(np.exp(LOSS.mean(axis=1)))


def test_loss_and_perplexity_of_completions_are_per_token():
    found = CandidateOutcomes(
        name="a", seeds=(1,), loss_SN=np.array([[2.0, 1.0]], dtype=np.float16), tokens_N=np.array([4, 1])
    )
    assert metric_values(found, "loss") == pytest.approx([3 / 5])
    assert metric_values(found, "perplexity") == pytest.approx([math.exp(3 / 5)])


@pytest.mark.parametrize("tokens", [None, RANDOM.integers(1, 9, 80)])
@pytest.mark.parametrize("metric", METRICS)
def test_a_row_contributes_the_change_that_more_of_it_makes(metric, tokens):
    """The derivative of the metric with respect to the row's weight, by one more copy of it among 200 of all rows."""
    copies, row = 200, 7
    more = np.append(np.tile(np.arange(80), copies), row)
    repeated = outcomes(more, tokens_N=None if tokens is None else tokens[more])
    found = outcomes(tokens_N=tokens)
    values_S = metric_values(found, metric)
    slope_S = (metric_values(repeated, metric) - values_S) * (80 * copies + 1)
    assert row_contributions(found, metric)[:, row] - values_S == pytest.approx(slope_S, rel=0.02, abs=1e-6)


def test_an_unknown_metric_names_the_known_ones():
    with pytest.raises(ValueError, match="metric='bleu' is unknown; it must be one of accuracy, macro_f1"):
        metric_values(outcomes(), "bleu")


def test_open_completions_have_no_accuracy():
    with pytest.raises(ValueError, match="candidate 'trial 9' has no predicted labels"):
        metric_values(outcomes(predicted_SN=None, target_N=None), "accuracy")


def test_lower_is_better_for_loss_and_perplexity_only():
    assert [name for name in METRICS if is_minimised(name)] == ["loss", "perplexity"]
