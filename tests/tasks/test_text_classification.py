"""Scores and losses against hand-computed ones and scikit-learn's."""

from __future__ import annotations

import math

import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score
from torch import nn

from sweeper.errors import ConfigError, ModelError
from sweeper.tasks import make_task, task_names

LABELS = torch.tensor([0, 0, 1, 2, 2, 2])
PREDICTED = torch.tensor([0, 1, 1, 2, 2, 0])


@pytest.fixture
def task():
    return make_task("text_classification")


def test_a_task_is_found_by_its_name():
    assert "text_classification" in task_names()
    with pytest.raises(ConfigError, match="Did you mean 'text_classification'"):
        make_task("text_clasification")


@pytest.mark.parametrize("name", task_names())
def test_every_metric_of_every_task_has_a_direction(name):
    task = make_task(name)
    assert {task.direction(metric) for metric in task.metrics} <= {"maximize", "minimize"}


def test_scores_agree_with_scikit_learn(task):
    scores = task.score_labels(PREDICTED, LABELS, 3)
    assert scores["accuracy"] == pytest.approx(accuracy_score(LABELS, PREDICTED))
    assert scores["macro_f1"] == pytest.approx(f1_score(LABELS, PREDICTED, average="macro"))


def test_a_label_that_nobody_has_or_claims_is_left_out_of_macro_f1(task):
    assert task.score_labels(PREDICTED, LABELS, 7) == task.score_labels(PREDICTED, LABELS, 3)


def test_a_lane_is_scored_on_every_metric(task):
    logits_NC = torch.tensor([[2.0, 0.0], [0.0, 2.0]])
    scores = task.score(logits_NC, torch.tensor([0, 0]))
    miss, hit = math.log(1 + math.exp(2)), math.log(1 + math.exp(-2))
    assert set(scores) == set(task.metrics)
    assert scores["accuracy"] == 0.5
    assert scores["loss"] == pytest.approx((miss + hit) / 2)


def test_each_row_of_each_lane_has_its_own_loss(task):
    logits_KBC = torch.randn(3, 2, 4, generator=torch.Generator().manual_seed(0))
    labels_KB = torch.tensor([[0, 1], [2, 3], [1, 1]])
    losses_KB = task.row_loss(logits_KBC, labels_KB)
    assert losses_KB.shape == (3, 2)
    expected = -logits_KBC[1, 0].log_softmax(-1)[2]
    assert losses_KB[1, 0].item() == pytest.approx(expected.item())


def test_the_head_is_found_under_the_names_that_peft_knows(task):
    model = nn.ModuleDict({"encoder": nn.Linear(2, 2), "score": nn.Linear(2, 2)})
    assert task.head_modules(model) == ("score",)


def test_a_model_without_a_head_is_refused(task):
    with pytest.raises(ModelError, match="classification head"):
        task.head_modules(nn.ModuleDict({"encoder": nn.Linear(2, 2)}))
