"""Which configurations are confirmed, and with how many seeds."""

from __future__ import annotations

import pytest

from sweeper.config.settings import ConfirmSettings
from sweeper.figures.confirmation import (
    ConfirmationRecord,
    ConfirmationState,
    choose_candidates,
    plan_confirmation,
    progress_text,
)
from sweeper.types import Phase, TrialState
from tests.builders import DEFAULT_PARAMS, make_default, make_infeasible, make_study, make_trial

DOUBLE = {**DEFAULT_PARAMS, "lora.alpha_ratio": 2.0}


def recipe(name, number, value, *, chunks=12, **params):
    state = TrialState.COMPLETE if chunks == 12 else TrialState.PRUNED
    values = {**DEFAULT_PARAMS, **params}
    return make_trial(number, value, origin=f"recipe:{name}", params=values, chunks=chunks, state=state)


def rate(name, number, value, learning_rate, **changes):
    return recipe(name, number, value, **{"train.learning_rate": learning_rate}, **changes)


def names(trials, probabilities, study=None):
    found = choose_candidates(study or make_study(), trials, default="peft_default", probabilities=probabilities)
    return [candidate.name for candidate in found]


def test_the_default_comes_first_then_the_most_probable_configurations_of_the_search():
    trials = [make_default(0.8, 0), *(make_trial(n, 0.8, params={"lora.r": n}) for n in (1, 2, 3, 4))]
    assert names(trials, {0: 0.0, 1: 0.06, 2: 0.5, 3: 0.05, 4: 0.2}) == [
        "peft_default",
        "trial 2",
        "trial 4",
        "trial 1",
    ]


def test_alpha_twice_the_rank_is_always_a_candidate_and_other_recipes_are_not():
    trials = [
        make_default(0.8, 0),
        recipe("alpha_2r", 1, 0.1, **{"lora.alpha_ratio": 2.0}),
        recipe("alpha_4r", 2, 0.9, **{"lora.alpha_ratio": 4.0}),
        recipe("r16", 3, 0.9, **{"lora.alpha_ratio": 2.0, "lora.r": 16}),
    ]
    assert names(trials, {}) == ["peft_default", "alpha_2r"]
    assert names(trials, {3: 0.4}) == ["peft_default", "r16", "alpha_2r"]


def test_the_best_of_the_learning_rates_is_a_candidate():
    trials = [make_default(0.8, 0), rate("low", 1, 0.82, 3e-4), rate("high", 2, 0.85, 3e-3)]
    assert names(trials, {}) == ["peft_default", "high"]
    # A pruned one was worse than others at its last rung, whatever it scored there.
    pruned = rate("high", 2, 0.95, 3e-3, chunks=6)
    assert names([*trials[:2], pruned], {}) == ["peft_default", "low"]
    # The best of them may be the default itself.
    assert names([make_default(0.9, 0), *trials[1:]], {}) == ["peft_default"]
    losses = make_study(metric="validation/loss", direction="minimize")
    lower = [
        make_trial(t.spec.number, value, study=losses, origin=t.spec.origin, params=dict(t.spec.params))
        for t, value in zip(trials, (0.5, 0.4, 0.6), strict=True)
    ]
    assert names(lower, {}, losses) == ["peft_default", "low"]


def test_equal_configurations_are_one_candidate_whose_probabilities_add_up():
    trials = [make_default(0.8, 0), *(make_trial(n, 0.8) for n in (4, 7)), make_trial(8, 0.8, params=DOUBLE)]
    trials.append(recipe("alpha_2r", 1, 0.8, **{"lora.alpha_ratio": 2.0}))
    found = choose_candidates(
        make_study(), trials, default="peft_default", probabilities={4: 0.03, 7: 0.03, 8: 0.2, 1: 0.2}
    )
    assert [(c.name, c.trial, c.probability) for c in found] == [
        ("peft_default", 0, 0.0),
        ("alpha_2r", 1, pytest.approx(0.4)),
        ("trial 4", 4, pytest.approx(0.06)),
    ]


def test_trials_without_a_score_and_those_of_the_confirmation_are_no_candidates():
    trials = [
        make_default(0.8, 0),
        make_infeasible(1),
        make_trial(2, float("nan")),
        make_trial(2_000_000, 0.9, phase=Phase.CONFIRMATION, origin="confirm:trial 2"),
    ]
    assert names(trials, dict.fromkeys((1, 2, 2_000_000), 0.5)) == ["peft_default"]
    assert names(trials[1:], {}) == []


def test_the_default_may_be_a_reference():
    trials = [make_trial(0, 0.8), make_default(0.8, 1_000_000, phase=Phase.REFERENCE)]
    assert names(trials, {0: 0.9}) == ["peft_default", "trial 0"]


def plan(share, num_trials=12, **settings):
    trials = [make_default(0.8, 0), *(make_trial(n, 0.8, params={"lora.r": n}) for n in range(1, num_trials))]
    return plan_confirmation(
        make_study(),
        trials,
        default="peft_default",
        settings=ConfirmSettings(max_share=share, **settings),
        probabilities=dict.fromkeys(range(num_trials), 0.06),
    )


@pytest.mark.parametrize(
    ("share", "num_candidates", "num_seeds", "max_seeds"),
    [(2.0, 6, 3, 6), (1.0, 4, 3, 3), (0.9, 3, 3, 3), (0.5, 2, 3, 3), (0.45, 2, 2, 2), (10.0, 6, 3, 12)],
)
def test_the_share_of_the_chunks_limits_candidates_then_seeds(share, num_candidates, num_seeds, max_seeds):
    found = plan(share)
    assert (len(found.candidates), found.num_seeds, found.max_seeds) == (num_candidates, num_seeds, max_seeds)
    assert found.candidates[0].name == "peft_default"


def test_the_share_counts_the_chunks_of_the_search_alone():
    pruned = [make_trial(n, 0.8, params={"lora.r": n}, chunks=3, state=TrialState.PRUNED) for n in range(1, 5)]
    confirmed = make_trial(2_000_000, 0.9, phase=Phase.CONFIRMATION, origin="confirm:peft_default")
    found = plan_confirmation(
        make_study(),
        [make_default(0.8, 0), *pruned, confirmed],
        default="peft_default",
        settings=ConfirmSettings(max_share=2.5),
        probabilities={1: 0.5},
    )
    assert found.max_trials == 5  # 2.5 times 24 chunks, 12 for each trial


def test_nothing_is_confirmed_without_a_default_or_another_candidate():
    arguments = {"settings": ConfirmSettings(max_share=9.0), "probabilities": {}}
    alone = plan_confirmation(make_study(), [make_default(0.8)], default="peft_default", **arguments)
    assert alone.reason == "no configuration is likely to be better than the default recipe"
    none = plan_confirmation(make_study(), [make_trial(1, 0.8)], default="", **arguments)
    assert none.reason == "search.recipes has no default recipe to compare with"


def test_the_progress_is_a_few_words():
    candidates = plan(2.0).candidates
    running = {"num_searched": 12, "settings": ConfirmSettings(), "candidates": candidates}
    record = ConfirmationRecord(state=ConfirmationState.RUNNING, seed=2, num_seeds=3, **running)
    assert progress_text(record) == "confirming 6 candidates, seed 2 of 3"
    scoring = ConfirmationRecord(state=ConfirmationState.RUNNING, num_seeds=3, winner="trial 1", **running)
    assert progress_text(scoring) == "scoring the test rows"
    assert progress_text(ConfirmationRecord(state=ConfirmationState.COMPLETE, **running)) == ""
    assert progress_text(None) == ""


def plan_of(share, *, default, other, **settings):
    """Plan the confirmation of twelve trials of 4 chunks, two candidates among them, with so many epochs each."""
    trials = [make_default(0.8, 0, chunks=4 * default, fixed={"train.epochs": default})]
    trials += [
        make_trial(n, 0.8, params={"lora.r": n}, chunks=4 * other, fixed={"train.epochs": other}) for n in range(1, 12)
    ]
    return plan_confirmation(
        make_study(),
        trials,
        default="peft_default",
        settings=ConfirmSettings(max_share=share, **settings),
        probabilities={1: 0.9},
    )


def test_a_trial_of_a_candidate_counts_the_chunks_of_its_own_epochs():
    """12 trials of 4 chunks and a share of 1: 48 chunks, of which each of the two candidates takes 4 a seed."""
    found = plan_of(1.0, default=1, other=1, seeds=4)
    assert (found.num_seeds, found.max_seeds) == (4, 6)
    # The default takes 12 a seed: 16 for both, so 3 seeds.
    assert plan_of(1.0, default=3, other=1, seeds=4).num_seeds == 3
    assert plan_of(1.0, default=3, other=1, seeds=4).used({"peft_default": 3, "trial 1": 3}) == pytest.approx(4)


def test_the_share_that_two_candidates_need_follows_from_their_lengths():
    found = plan_of(0.1, default=1, other=1)
    assert found.reason == "confirm.max_share=0.1 is too small: two candidates with 2 seeds each need 0.34"
    assert plan_of(0.34, default=1, other=1).num_seeds == 2
