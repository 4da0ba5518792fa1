"""Which scores without an adapter a study has, and whether its best trial clearly beats them."""

from __future__ import annotations

import math

import pytest

from sweeper.figures.baselines import (
    baseline_descriptions,
    baseline_warning,
    baselines,
    beats_baselines,
    best_baseline,
    reference_label,
)
from sweeper.types import TrialState
from tests.builders import make_study, make_trial


def study_with(metric="validation/accuracy", direction="maximize", **values):
    references = {name: {metric: value} for name, value in values.items()}
    return make_study("sms_spam", metric=metric, direction=direction, references=references)


def test_baselines_are_ordered_from_the_best():
    names = [baseline.kind.name for baseline in baselines(study_with(frozen_probe=0.7, frozen_probe_head=0.8))]
    assert names == ["frozen_probe_head", "frozen_probe"]


def test_the_best_baseline_has_the_lowest_value_where_less_is_better():
    study = study_with("validation/loss", "minimize", untuned=2.0, frozen_probe=3.0)
    assert (best_baseline(study).kind.name, best_baseline(study).value) == ("untuned", 2.0)


def test_of_two_equal_probes_the_plain_one_is_the_best():
    assert best_baseline(study_with(frozen_probe_head=0.8, frozen_probe=0.8)).kind.name == "frozen_probe"


def test_a_baseline_is_read_with_the_metric_of_the_study():
    assert best_baseline(make_study()).value == 0.82
    assert best_baseline(make_study(metric="validation/macro_f1")).value == 0.8
    assert best_baseline(make_study(references={"untuned": {"accuracy": 0.3}})).value == 0.3


@pytest.mark.parametrize("references", [{}, {"frozen_probe": {"validation/accuracy": math.nan}}, {"other": {"x": 1.0}}])
def test_a_study_without_a_finite_baseline_has_no_answer(references):
    study = make_study(references=references)
    assert best_baseline(study) is None
    assert beats_baselines(study, make_trial(0, 0.9)) is None
    assert baseline_warning(study, make_trial(0, 0.9)) == ""


@pytest.mark.parametrize(("value", "beats"), [(0.95, True), (0.83, False), (0.82, False), (0.5, False)])
def test_only_a_gain_above_noise_beats_the_baseline(value, beats):
    assert beats_baselines(make_study(), make_trial(0, value)) is beats
    assert (baseline_warning(make_study(), make_trial(0, value)) == "") is beats


def test_the_best_of_all_baselines_must_be_beaten():
    assert beats_baselines(study_with(frozen_probe=0.5), make_trial(0, 0.7))
    assert not beats_baselines(study_with(frozen_probe=0.5, frozen_probe_head=0.69), make_trial(0, 0.7))


@pytest.mark.parametrize(("value", "beats"), [(1.9, True), (2.0, False), (2.1, False)])
def test_without_a_known_error_any_gain_counts(value, beats):
    study = study_with("validation/loss", "minimize", untuned=2.0)
    assert beats_baselines(study, make_trial(0, value, study=study)) is beats


def test_no_complete_trial_beats_no_baseline_and_needs_no_sentence():
    assert beats_baselines(make_study(), None) is False
    assert baseline_warning(make_study(), None) == ""


def test_a_complete_trial_without_a_score_beats_nothing():
    assert beats_baselines(make_study(), make_trial(0, math.nan, state=TrialState.COMPLETE)) is False


def test_a_lead_within_noise_is_put_into_a_sentence():
    assert baseline_warning(study_with(frozen_probe=0.98), make_trial(0, 0.983)) == (
        "sms_spam: no adapter is clearly better than the probe (0.983 vs. 0.980 ± 0.007): a logistic regression on "
        "frozen features does as well."
    )


def test_an_adapter_below_the_probe_is_put_into_a_sentence():
    assert baseline_warning(study_with(frozen_probe=0.5, frozen_probe_head=0.647), make_trial(0, 0.623)) == (
        "sms_spam: no adapter is better than the probe on the head's input (0.623 vs. 0.647 ± 0.024): the probe on the "
        "head's input scores higher; use it."
    )


def test_a_metric_without_an_error_is_shown_without_one():
    study = study_with("validation/loss", "minimize", untuned=2.0)
    assert baseline_warning(study, make_trial(0, 2.0, study=study)) == (
        "sms_spam: no adapter is clearly better than the untuned model (2.000 vs. 2.000): the base model without any "
        "adapter does as well."
    )


def test_names_and_notes_for_people():
    assert reference_label("frozen_probe_head") == "probe on the head's input"
    assert reference_label("of_a_later_version") == "of_a_later_version"
    assert baseline_descriptions({"untuned"}) == ["Untuned: the base model without any adapter."]
    assert len(baseline_descriptions(["frozen_probe_head", "frozen_probe"])) == 2
