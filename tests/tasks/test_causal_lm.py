"""Losses and scores of completions are those that a model gives to each of them alone."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from sweeper.errors import ModelError
from sweeper.models.device_choice import SHORT
from sweeper.models.short_attention import register
from sweeper.tasks import make_task, token_loss
from sweeper.tasks.base import Batch, flat_indices
from sweeper.tasks.causal_lm import Task
from tests.tasks.languages import END, LANGUAGE_MODELS, VOCABULARY, batch_of, language_model, nll_alone, pairs

NO_KERNEL = {("gemma2", "sdpa"), ("gemma2", SHORT)}
CHOICES = ((5, END), (6, 7, END), (6, 8, 9, END), (6, 7, 10, END), (11, END))
"""Of one to three tokens, some beginning alike."""


def test_there_are_language_models():
    assert {"llama", "gpt2", "gpt_neox", "opt", "gemma2", "qwen3"} <= set(LANGUAGE_MODELS)


@pytest.mark.parametrize("kind", LANGUAGE_MODELS)
def test_the_loss_of_a_row_is_that_of_its_completion_alone(kind):
    model, rows = language_model(kind), pairs(7)
    with torch.no_grad():
        found = Task().row_loss(model, batch_of(rows))
    alone = torch.stack([nll_alone(model, prompt, completion) for prompt, completion, _ in rows])
    torch.testing.assert_close(found, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "attention"),
    [(kind, how) for kind in LANGUAGE_MODELS for how in ("eager", "sdpa", SHORT) if (kind, how) not in NO_KERNEL],
)
def test_choices_in_one_sequence_score_as_in_sequences_of_their_own(kind, attention):
    register()
    model, rows = language_model(kind, attention), pairs(7, choices=CHOICES)
    with torch.no_grad():
        scores = Task(CHOICES).outputs(model, batch_of(rows))[:, 2:]
    alone = torch.tensor([[-nll_alone(model, prompt, choice) for choice in CHOICES] for prompt, _, _ in rows])
    torch.testing.assert_close(scores, alone, rtol=1e-4, atol=1e-4)
    assert alone.std(0).min() > 0.1


def test_a_single_token_choice_without_an_end_is_scored_too():
    choices, model = ((5,), (6,)), language_model()
    rows = pairs(4, choices=choices)
    scores = Task(choices).outputs(model, batch_of(rows))[:, 2:]
    alone = torch.tensor([[-nll_alone(model, prompt, choice) for choice in choices] for prompt, _, _ in rows])
    torch.testing.assert_close(scores, alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("choices", [(), CHOICES])
def test_outputs_are_loss_tokens_and_scores(choices):
    model, rows = language_model(), pairs(6, choices=choices)
    batch, task = batch_of(rows), Task(choices)
    found = task.outputs(model, batch)
    assert found.shape == (6, 2 + len(choices))
    torch.testing.assert_close(found[:, 0], task.row_loss(model, batch), rtol=1e-4, atol=1e-4)
    assert found[:, 1].tolist() == [len(completion) for _, completion, _ in rows]


def test_the_end_bears_a_loss_and_padding_with_the_same_token_does_not():
    model = language_model()
    (prompt, completion, label), long = ([4, 5], [6, END], -1), ([9] * 12, [7, END], -1)
    alone = Task().row_loss(model, batch_of([(prompt, completion, label)]))
    padded = Task().row_loss(model, batch_of([(prompt, completion, label), long]))
    torch.testing.assert_close(padded[:1], alone)
    without_end = Task().row_loss(model, batch_of([(prompt, completion[:1], label)]))
    assert (alone - without_end).item() > 0.1


def test_a_row_may_have_several_tokens_with_a_loss_here_and_there():
    model, ((prompt, completion, _),) = language_model(), pairs(1, seed=3)
    row = [*prompt, *completion, *[9, 8, 7, 6]]
    spans = [[(1, 2), (len(row) - 3, len(row) - 1)], [(2, 3)]]
    ids = torch.tensor([row, row])
    batch = Batch(ids, torch.ones_like(ids), torch.tensor([[1, -1], [2, -1]]), flat_indices(spans, len(row)), spans)
    with torch.no_grad():
        likely = model(input_ids=ids[:1]).logits[0].float().log_softmax(-1)
        found = Task().outputs(model, batch)
    expected = [-sum(likely[n - 1, row[n]] for start, end in part for n in range(start, end)) for part in spans]
    torch.testing.assert_close(found[:, 0], torch.stack(expected), rtol=1e-4, atol=1e-5)
    assert found[:, 1].tolist() == [3, 1]


@pytest.mark.parametrize("choices", [(), CHOICES])
def test_training_and_scoring_never_wait_for_the_device(choices):
    # Tensors of the meta device have no values, so whatever asks for one raises.
    batch = batch_of(pairs(6, choices=choices))
    there = Batch(*(tensor.to("meta") for tensor in batch[:4]), batch.spans)
    model = language_model().to("meta")
    assert Task(choices).row_loss(model, there).shape == (6,)
    assert Task(choices).outputs(model, there).shape == (6, 2 + len(choices))


@pytest.mark.parametrize("softcap", [None, 3.0])
def test_the_gradient_of_the_blocks_is_that_of_cross_entropy(softcap, monkeypatch):
    monkeypatch.setattr(token_loss, "BLOCK", 3)
    generator = torch.Generator().manual_seed(0)
    states, weight = torch.randn(8, 16, generator=generator), torch.randn(VOCABULARY, 16, generator=generator)
    bias, tokens = torch.randn(VOCABULARY, generator=generator), torch.randint(0, VOCABULARY, (8,), generator=generator)
    row_weights = torch.rand(8, generator=generator)

    one = states.clone().requires_grad_()
    layer = token_loss.OutputLayer(weight, bias, softcap)
    found = token_loss.TokenLoss.apply(one, tokens, layer)
    (found * row_weights).sum().backward()

    other = states.clone().requires_grad_()
    logits = other @ weight.T + bias
    logits = logits if softcap is None else softcap * torch.tanh(logits / softcap)
    expected = F.cross_entropy(logits, tokens, reduction="none")
    (expected * row_weights).sum().backward()
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(one.grad, other.grad)


def test_a_loss_in_bfloat16_is_never_negative():
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(VOCABULARY, 16, generator=generator).bfloat16()
    states = (9 * weight[:20].float()).bfloat16()  # each all but sure of one token
    found = token_loss.TokenLoss.apply(states, torch.arange(20), token_loss.OutputLayer(weight, None, None))
    assert found.min() >= 0
    assert found.max() < 30


def test_the_loss_of_a_split_is_a_mean_over_tokens_and_not_over_rows():
    scores = Task().score(torch.tensor([[2.0, 1.0], [2.0, 3.0]]), torch.tensor([[3, -1], [3, -1]]))
    assert scores == pytest.approx({"loss": 1.0, "perplexity": math.e})


def test_the_likeliest_choice_counts_as_the_answer():
    outputs = torch.tensor([[1.0, 2.0, -1.0, -3.0], [3.0, 2.0, -1.0, -3.0], [1.0, 2.0, -2.0, -1.0]])
    scores = Task(CHOICES[:2]).score(outputs, torch.tensor([[3, 0], [3, 1], [3, 1]]))
    assert scores["accuracy"] == pytest.approx(2 / 3)
    assert scores["loss"] == pytest.approx(5 / 6)


@pytest.mark.parametrize("choices", [(), CHOICES])
def test_scores_follow_from_row_outcomes(choices):
    batch, task = batch_of(pairs(30, choices=choices)), Task(choices)
    with torch.no_grad():
        outputs = task.outputs(language_model(), batch)
    scores, rows = task.score(outputs, batch.targets), task.row_outcomes(outputs, batch.targets)
    assert rows.loss_N.astype(float).sum() / rows.tokens_N.sum() == pytest.approx(scores["loss"], rel=1e-3)
    if choices:
        assert (rows.predicted_N == rows.target_N).mean() == scores["accuracy"]
        assert 0 < scores["accuracy"] < 1
        assert rows.target_N.tolist() == batch.targets[:, 1].tolist()
    else:
        assert rows.predicted_N is rows.target_N is None


@pytest.mark.parametrize("loss", [math.inf, math.nan, 1e6])
def test_a_loss_that_overflows_still_has_a_perplexity(loss):
    scores = Task().score(torch.tensor([[loss, 1.0]]), torch.tensor([[3, -1]]))
    assert not scores["perplexity"] < 1e300


def test_metrics_defaults_and_directions():
    task = make_task("causal_lm")
    assert (task.default_metric(6), task.default_metric(0)) == ("accuracy", "loss")
    assert [task.direction(metric) for metric in task.metrics] == ["maximize", "minimize", "minimize"]
    classification = make_task("text_classification")
    assert classification.default_metric(3) == "accuracy"


def test_a_model_whose_logits_are_scaled_is_refused():
    model = language_model()
    model.config.logits_scaling = 8.0
    with pytest.raises(ModelError, match="scales its logits by logits_scaling"):
        token_loss.output_layer(model)


def test_an_adapted_output_layer_is_refused():
    model = language_model()
    model.lm_head = torch.nn.Sequential(model.lm_head)
    with pytest.raises(ModelError, match=r"Sequential as output layer.*model\.target_modules"):
        token_loss.output_layer(model)


def test_the_majority_score_is_the_share_of_the_commonest_choice():
    assert Task(CHOICES).majority_score("accuracy", [1, 5, 2], 3) == 5 / 8
    assert Task(CHOICES).majority_score("accuracy", [1, 2, 5], 2) == 2 / 8  # rows with the last cannot be right
    assert Task(CHOICES).majority_score("loss", [1, 5, 2], 3) is None
    assert Task().majority_score("perplexity", [], 0) is None
