"""Scores and losses against hand-computed ones and scikit-learn's."""

from __future__ import annotations

import math
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef
from torch import nn

from sweeper.config.modules import choices_of
from sweeper.errors import ConfigError, ModelError
from sweeper.statistics.outcomes import CandidateOutcomes, metric_values
from sweeper.tasks import make_task
from sweeper.tasks.base import Batch

LABELS = torch.tensor([0, 0, 1, 2, 2, 2])
PREDICTED = torch.tensor([0, 1, 1, 2, 2, 0])


@pytest.fixture
def task():
    return make_task("text_classification")


def test_a_task_is_found_by_its_name():
    with pytest.raises(ConfigError, match=r"task\.name=.*one of causal_lm, .*Did you mean 'text_classification'"):
        make_task("text_clasification")


@pytest.mark.parametrize("name", choices_of("sweeper.tasks", ["Task"]))
def test_every_metric_of_every_task_has_a_direction(name):
    task = make_task(name)
    assert {task.direction(metric) for metric in task.metrics} <= {"maximize", "minimize"}


def test_scores_agree_with_scikit_learn(task):
    scores = task.score_labels(PREDICTED, LABELS, 3)
    assert scores["accuracy"] == pytest.approx(accuracy_score(LABELS, PREDICTED))
    assert scores["macro_f1"] == pytest.approx(f1_score(LABELS, PREDICTED, average="macro"))
    assert scores["mcc"] == pytest.approx(matthews_corrcoef(LABELS, PREDICTED))


@pytest.mark.parametrize(("labels", "predicted"), [([0, 0, 1], [1, 1, 1]), ([1, 1, 1], [1, 1, 1]), ([0, 0], [1, 1])])
def test_the_matthews_correlation_of_a_constant_is_zero(task, labels, predicted):
    assert task.score_labels(torch.tensor(predicted), torch.tensor(labels), 2)["mcc"] == 0


def test_scores_follow_from_row_outcomes(task):
    generator = torch.Generator().manual_seed(0)
    logits, labels = 3 * torch.randn(200, 5, generator=generator), torch.randint(5, (200,), generator=generator)
    scores, rows = task.score(logits, labels), task.row_outcomes(logits, labels)
    assert (rows.predicted_N == rows.target_N).mean() == scores["accuracy"]
    assert f1_score(rows.target_N, rows.predicted_N, average="macro") == pytest.approx(scores["macro_f1"])
    assert matthews_corrcoef(rows.target_N, rows.predicted_N) == pytest.approx(scores["mcc"])
    assert rows.loss_N.astype(float).mean() == pytest.approx(scores["loss"], rel=1e-3)
    assert rows.target_N.tolist() == labels.tolist()
    assert rows.tokens_N is None


def test_a_label_that_is_neither_true_nor_predicted_is_left_out_of_macro_f1(task):
    assert task.score_labels(PREDICTED, LABELS, 7) == task.score_labels(PREDICTED, LABELS, 3)


def test_a_lane_is_scored_on_every_metric(task):
    logits_NC = torch.tensor([[2.0, 0.0], [0.0, 2.0]])
    scores = task.score(logits_NC, torch.tensor([0, 0]))
    miss, hit = math.log(1 + math.exp(2)), math.log(1 + math.exp(-2))
    assert set(scores) == set(task.metrics)
    assert scores["accuracy"] == 0.5
    assert scores["loss"] == pytest.approx((miss + hit) / 2)


class Fixed(nn.Module):
    """A model whose logits are known."""

    def __init__(self, logits):
        super().__init__()
        self.logits = logits

    def forward(self, input_ids, attention_mask):
        assert input_ids.shape == attention_mask.shape
        return SimpleNamespace(logits=self.logits)


def test_each_row_has_its_own_loss_in_single_precision(task):
    logits = torch.tensor([[2.0, 0.0], [0.0, 2.0], [0.0, 0.0]], dtype=torch.bfloat16)
    ids = torch.ones(3, 4, dtype=torch.long)
    losses = task.row_loss(Fixed(logits), Batch(ids, ids, torch.tensor([0, 0, 1])))
    assert losses.dtype is torch.float32
    assert losses.tolist() == pytest.approx([math.log(1 + math.exp(-2)), math.log(1 + math.exp(2)), math.log(2)])


def test_the_head_is_found_under_the_names_that_peft_knows(task):
    model = nn.ModuleDict({"encoder": nn.Linear(2, 2), "score": nn.Linear(2, 2)})
    assert task.head_modules(model) == ("score",)


def test_a_model_without_a_head_is_refused(task):
    with pytest.raises(ModelError, match="classification head"):
        task.head_modules(nn.ModuleDict({"encoder": nn.Linear(2, 2)}))


def test_a_task_loads_no_torch():
    code = "import sys; from sweeper.tasks import make_task; make_task('causal_lm'); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_row_whose_label_no_training_row_has_counts_as_an_error(task):
    generator = torch.Generator().manual_seed(0)
    logits, labels = 3 * torch.randn(60, 3, generator=generator), torch.randint(3, (60,), generator=generator)
    known = task.row_outcomes(logits, labels)
    labels[:4] = torch.tensor([3, 3, 4, 3])
    scores, rows = task.score(logits, labels), task.row_outcomes(logits, labels)
    predicted = logits.argmax(-1)
    assert scores["accuracy"] == pytest.approx(accuracy_score(labels, predicted))
    assert scores["accuracy"] == pytest.approx((known.predicted_N == known.target_N)[4:].sum() / 60)
    assert scores["macro_f1"] == pytest.approx(f1_score(labels, predicted, average="macro"))
    assert scores["mcc"] == pytest.approx(matthews_corrcoef(labels, predicted))
    assert rows.loss_N[:4].tolist() == pytest.approx([math.log(3)] * 4, rel=1e-3)
    assert rows.loss_N[4:].tolist() == known.loss_N[4:].tolist()
    assert scores["loss"] == pytest.approx(rows.loss_N.astype(float).mean(), rel=1e-3)


def test_statistics_of_such_rows_agree_with_the_scores(task):
    generator = torch.Generator().manual_seed(1)
    logits, labels = 3 * torch.randn(60, 3, generator=generator), torch.randint(3, (60,), generator=generator)
    labels[:4] = torch.tensor([3, 3, 4, 3])
    scores, rows = task.score(logits, labels), task.row_outcomes(logits, labels)
    outcomes = CandidateOutcomes(
        name="one", seeds=(0,), loss_SN=rows.loss_N[None], predicted_SN=rows.predicted_N[None], target_N=rows.target_N
    )
    for metric in task.metrics:
        assert metric_values(outcomes, metric)[0] == pytest.approx(scores[metric], rel=1e-3), metric


@pytest.mark.parametrize("labels", [[0, 1, 1, 2, 2, 2], [1, 1, 1], [3, 3, 3, 0, 0], [0, 0, 2, 2, 2, 1, 1]])
def test_the_majority_score_is_that_of_the_best_constant(task, labels):
    """Label 3 is that of scored rows only, so no row can be predicted as it."""
    targets = torch.tensor(labels)
    constants = [task.score_labels(torch.full_like(targets, label), targets, 3) for label in range(3)]
    counts = targets.bincount(minlength=3).tolist()
    for metric in ("accuracy", "macro_f1", "mcc"):
        assert task.majority_score(metric, counts, 3) == max(scores[metric] for scores in constants)
    assert task.majority_score("loss", counts, 3) is None
