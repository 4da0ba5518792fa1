"""What a trial looks like, before anything is sent."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from markdown_it import MarkdownIt

from sweeper.track.mlflow_view import (
    CHUNKS,
    axis_params,
    experiment_note,
    millis,
    points_after,
    run_name,
    run_params,
    run_status,
    run_tags,
    summary,
)
from sweeper.types import Failure, FailureKind, TrialState
from tests.builders import make_history, make_measurement, make_spec
from tests.track.builders import complete, study, trial


def test_a_run_is_named_by_number_and_the_hyperparameters():
    assert run_name(trial()) == "0007 r=8 alpha=16 dropout=0 lr=0.001"


def test_a_recipe_is_named():
    spec = replace(trial().spec, origin="recipe:peft_default")
    assert run_name(replace(trial(), spec=spec)).startswith("0007 peft_default r=8")


def test_a_learning_rate_between_powers_of_ten_keeps_three_digits():
    spec = make_spec(params={"lora.r": 8, "train.learning_rate": 3.4567e-4})
    assert run_name(trial(spec=spec)).endswith("lr=0.000346")


def test_searched_params_come_first():
    assert list(run_params(study(), trial()))[:2] == ["lora.r", "train.learning_rate"]


def test_alpha_is_the_rank_times_its_ratio():
    assert run_params(study(), trial())["lora.alpha"] == "16"


def test_params_on_a_logarithmic_scale_also_come_as_logarithms():
    params = run_params(study(), trial())
    assert (params["log2.lora.r"], params["log10.train.learning_rate"]) == ("3", "-3")


def test_axes_are_the_dimensions_on_their_scale():
    space = {"lora.r": "tag(log2,interval(1,64))", "lora.dropout": "interval(0,0.2)"}
    assert axis_params(study(space=space)) == ["log2.lora.r", "lora.dropout"]


def test_the_number_of_parameters_waits_until_it_is_known():
    assert "num_parameters" not in run_params(study(), trial(num_parameters=0))
    assert run_params(study(), trial())["num_parameters"] == "1234"


def test_tags_show_state_origin_and_data():
    tags = run_tags(study(), complete(), "s1")
    expected = {"state": "complete", "origin": "tpe", "seed": "5", "sweep": "s1", "dataset_fingerprint": "c0ffee" * 10}
    assert expected.items() <= tags.items()


def test_a_tag_names_the_best_rung_if_an_earlier_one_scored_higher():
    assert run_tags(study(epochs=3), complete(), "s1")["best_rung"] == "best after epoch 2 of 3"
    rising = complete(measurements=make_history(6, (0.6, 0.7, 0.8)))
    assert "best_rung" not in run_tags(study(), rising, "s1")
    assert "best_rung" not in run_tags(study(), replace(complete(), state=TrialState.PRUNED), "s1")


def test_a_failure_is_shown_in_tags_and_in_the_description():
    failure = Failure(kind=FailureKind.NON_FINITE, message="loss became NaN" + "!" * 9000)
    tags = run_tags(study(), trial(state=TrialState.INFEASIBLE, failure=failure), "s1")
    assert tags["sweeper.failure.kind"] == "non_finite"
    assert "loss became NaN" in tags["mlflow.note.content"]
    assert max(map(len, tags.values())) < 8000  # MLflow's limit


@pytest.mark.parametrize(
    ("state", "status"),
    [
        ("running", "RUNNING"),
        ("complete", "FINISHED"),
        ("pruned", "FINISHED"),
        ("infeasible", "FAILED"),
        ("failed", "FAILED"),
    ],
)
def test_status_of_each_state(state, status):
    assert run_status(TrialState(state)) == status


def test_points_start_after_the_chunk_already_shown():
    points = points_after(trial(chunks=4), 2)
    assert [(point.key, point.step) for point in points] == [
        ("train/loss", 3),
        (CHUNKS, 3),
        ("train/loss", 4),
        ("validation/accuracy", 4),
        (CHUNKS, 4),
    ]


def test_points_lie_at_the_device_time_of_the_trial():
    points = points_after(trial(chunks=3), 2)
    assert points[0].millis == millis("2026-11-22T05:00:01.500+00:00")


def test_a_value_that_is_not_finite_is_left_out():
    broken = make_measurement(1, loss=math.nan)
    assert [point.key for point in points_after(trial(measurements=(broken,)), 0)] == [CHUNKS]


def test_the_summary_has_best_and_final_scores():
    values = {point.key: point.value for point in summary(study(), complete())}
    assert (values["best/accuracy"], values["final/accuracy"]) == (0.8, 0.7)


def test_the_best_scores_of_tied_rungs_are_those_of_the_later():
    metrics = [{"validation/accuracy": value, "validation/loss": loss} for value, loss in ((0.8, 0.5), (0.8, 0.25))]
    tied = complete(measurements=tuple(make_measurement(n, metrics=each) for n, each in enumerate(metrics, start=1)))
    assert {point.key: point.value for point in summary(study(), tied)}["best/loss"] == 0.25


def test_the_best_score_of_a_loss_is_the_lowest():
    values = {p.key: p.value for p in summary(study(direction="minimize"), complete())}
    assert values["best/accuracy"] == 0.6


def test_the_summary_has_the_cost_even_without_a_score():
    values = {point.key: point.value for point in summary(study(), trial(chunks=1, state=TrialState.FAILED))}
    assert values == {"cost/device_s": 0.5, "cost/rows": 250.0, "cost/tokens": 3000.0}


def test_the_note_describes_objective_space_references_and_where_the_view_is():
    note = experiment_note(study(references={"frozen_probe": {"accuracy": 0.65}}), "s1", "#/here")
    for part in ("validation/accuracy", "tag(log2,interval(1,64))", "**probe**", "0.6500", "(#/here)", "1000 train"):
        assert part in note


def test_a_failure_cannot_end_the_code_of_its_note():
    failure = Failure(kind=FailureKind.DATA, message="before\n```\n<script>alert(1)</script>")
    tags = run_tags(study(), trial(state=TrialState.FAILED, failure=failure), "s1")
    block = MarkdownIt("commonmark").parse(tags["mlflow.note.content"])[-1]
    assert (block.type, block.content) == ("fence", f"{failure.message}\n")


def test_names_and_spaces_are_escaped_in_the_note():
    nasty = "<script>alert(1)</script> | `x`"
    note = experiment_note(study(dataset=nasty, model=nasty, space={"lora.r": nasty}), nasty, "#/here")
    tokens = MarkdownIt("commonmark").enable("table").parse(note)
    inline = [child for token in tokens for child in token.children or ()]
    assert not [token.content for token in (*tokens, *inline) if token.type.startswith("html")]
    assert sum(token.type == "td_open" for token in tokens) == 2
    # Dataset, model, sweep, its report, and the space, each unchanged.
    assert sum(nasty in child.content for child in inline) == 5
