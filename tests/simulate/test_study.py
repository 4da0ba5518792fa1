"""Simulated studies: the real controller and search, device time by hand, and what is reported when."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import pytest

from sweeper.config.dimensions import parse_space
from sweeper.search.proposals import fit_recipes, sobol_point
from sweeper.simulate.response import TableResponse
from sweeper.simulate.study import SimulatedStudy, SimulatedTrial, simulate_study
from sweeper.simulate.table import Table
from sweeper.types import TrialState
from tests.search.toy import preset
from tests.simulate.recorded import MAJORITY, NUM_CHUNKS, SPACE, FormulaResponse, truth, write_table

RUNGS = (2, 4, 8, 12)


def simulate(search=None, **changes):
    options = {"seed": 0, "num_trials": 16, "lanes": 4, **changes}
    return simulate_study(options.pop("response", FormulaResponse()), search or preset("tpe"), **options)


def seconds_of(chunks):
    """Return the device seconds of a trial, by hand: training, and scoring half of the rows up to chunk 6."""
    training = sum(0.5 + 0.1 * chunk for chunk in range(chunks))
    return training + sum(0.2 if rung <= 6 else 0.4 for rung in RUNGS if rung <= chunks)


def test_every_trial_ends_and_pruned_ones_end_at_a_rung():
    study = simulate()
    assert study.rungs == RUNGS
    assert [trial.number for trial in study.trials] == list(range(16))
    states = {trial.state for trial in study.trials}
    assert states == {TrialState.COMPLETE, TrialState.PRUNED}
    for trial in study.trials:
        if trial.state is TrialState.COMPLETE:
            assert trial.chunks == NUM_CHUNKS
        else:
            assert trial.chunks in RUNGS[:-1]
        assert list(trial.scores) == [rung for rung in RUNGS if rung <= trial.chunks]


def test_the_pruner_of_the_settings_decides():
    assert simulate(preset("tpe", pruner="none")).saved_share == 0
    assert simulate().saved_share > 0.3


def test_a_trial_costs_its_chunks_and_its_scores():
    study = simulate()
    for trial in study.trials:
        assert trial.device_s == pytest.approx(seconds_of(trial.chunks))
    assert study.device_s == pytest.approx(sum(seconds_of(trial.chunks) for trial in study.trials))


def test_on_one_worker_time_is_device_time():
    study = simulate()
    assert study.wall_s == pytest.approx(study.device_s)
    assert max(trial.ended_s for trial in study.trials) == pytest.approx(study.wall_s)


def test_lanes_share_the_device():
    study = simulate(preset("random", pruner="none", recipes=[], num_startup_trials=0), num_trials=4)
    assert [trial.started_s for trial in study.trials] == [0.0] * 4
    assert [trial.ended_s for trial in study.trials] == pytest.approx([4 * seconds_of(NUM_CHUNKS)] * 4)
    assert study.trials[0].scored_s[2] == pytest.approx(4 * seconds_of(2))


def test_two_workers_take_half_the_time():
    search = preset("random", pruner="none")
    one, two = (simulate(search, workers=workers) for workers in (1, 2))
    assert two.device_s == pytest.approx(one.device_s)
    assert two.wall_s == pytest.approx(one.wall_s / 2)


def test_early_rungs_have_the_score_of_half_of_the_rows_if_these_are_enough():
    trial = simulate().trials[0]
    final = truth(trial.params)
    assert trial.scores[4] == pytest.approx(final * 4 / NUM_CHUNKS - 0.1)
    assert trial.scores[8] == pytest.approx(final * 8 / NUM_CHUNKS)
    few = simulate(response=FormulaResponse(num_rows=398)).trials[0]
    assert few.scores[4] == pytest.approx(final * 4 / NUM_CHUNKS)


def test_the_search_is_the_real_one():
    study = simulate(preset("tpe", num_startup_trials=4), seed=3)
    recipes = fit_recipes(preset("tpe").recipes, SPACE, {"lora.dropout": 0.0})
    assert [dict(trial.params) for trial in study.trials[: len(recipes)]] == [params for _, params in recipes]
    assert dict(study.trials[len(recipes)].params) == sobol_point(SPACE, 3, 0)
    assert {trial.origin for trial in study.trials[len(recipes) + 4 :]} == {"tpe"}


def test_all_trials_are_trained_with_the_seed_of_the_study():
    response = FormulaResponse()
    study = simulate(response=response, seed=5)
    assert response.asked == [(dict(trial.params), 5) for trial in study.trials]


def test_the_same_seed_gives_the_same_study_and_another_one_a_different_one():
    first, second, other = simulate(seed=1), simulate(seed=1), simulate(seed=2)
    assert first.trials == second.trials
    assert [trial.params for trial in first.trials] != [trial.params for trial in other.trials]


def test_several_workers_are_deterministic_too():
    assert simulate(workers=3).trials == simulate(workers=3).trials


def test_no_trial_starts_that_exceeds_the_device_seconds():
    budget_s = 10 * seconds_of(NUM_CHUNKS)
    study = simulate(num_trials=1000, device_s=budget_s)
    assert all(trial.state.is_finished for trial in study.trials)
    assert 0.7 * budget_s < study.device_s <= 1.1 * budget_s


def test_a_simulation_can_be_broken_off():
    whole, part = simulate(), simulate(stop_s=20.0)
    assert part.wall_s == 20.0
    assert part.device_s <= 20.0
    running = [trial for trial in part.trials if not trial.state.is_finished]
    assert running
    assert all(trial.ended_s == math.inf for trial in running)
    known = {trial.number: trial for trial in whole.trials}
    for trial in part.trials:
        assert trial.params == known[trial.number].params
        assert set(trial.scores.items()) <= set(known[trial.number].scores.items())
        assert all(moment <= 20.0 for moment in trial.scored_s.values())
    assert part.incumbent_at().number == whole.incumbent_at(20.0).number


def trial(number, scores, *, at, state=TrialState.PRUNED, origin="tpe", good=False):
    chunks = max(scores, default=0)
    return SimulatedTrial(
        number=number,
        params={"lora.r": 1, "lora.alpha_ratio": 1.0, "train.learning_rate": 3e-3 if good else 1e-2},
        origin=origin,
        state=state,
        chunks=chunks,
        started_s=0.0,
        ended_s=math.inf,
        scores=scores,
        scored_s=dict(zip(scores, at, strict=True)),
        device_s=float(chunks),
        is_good=good,
    )


def study_of(*trials, response=None):
    return SimulatedStudy(response=response or FormulaResponse(), rungs=RUNGS, trials=trials, wall_s=99.0)


def test_the_incumbent_is_the_best_complete_trial_of_those_that_have_ended():
    study = study_of(
        trial(0, {2: 0.9, 4: 0.9, 8: 0.95}, at=(1, 2, 3)),
        trial(1, {2: 0.3, 4: 0.5, 8: 0.6, 12: 0.7}, at=(1, 4, 5, 6), state=TrialState.COMPLETE),
        trial(2, {2: 0.3, 4: 0.5, 8: 0.6, 12: 0.8}, at=(1, 4, 5, 7), state=TrialState.COMPLETE),
    )
    assert study.incumbent_at(0.5) is None
    assert study.regret_at(0.5) == math.inf
    assert [study.incumbent_at(moment).number for moment in (1, 2, 3, 5, 6, 7)] == [0, 0, 0, 0, 1, 2]


def test_the_incumbent_of_a_loss_is_the_lowest():
    response = FormulaResponse(maximize=False, best_mean=0.2)
    study = study_of(trial(0, {2: 0.9}, at=(1,)), trial(1, {2: 0.4}, at=(1,), good=True), response=response)
    assert study.incumbent_at().number == 1
    assert study.regret_at() == pytest.approx(0.9 - 0.2)


def test_regret_counts_the_mean_score_not_the_recorded_one():
    study = study_of(trial(0, {12: 0.99}, at=(1,), state=TrialState.COMPLETE, good=True))
    assert study.regret_at() == pytest.approx(0.0)


def test_the_good_share_is_that_of_the_samplers_own_draws():
    study = study_of(
        trial(0, {}, at=(), origin="recipe:r16", good=True),
        trial(1, {}, at=(), origin="sobol", good=True),
        trial(2, {}, at=(), good=True),
        trial(3, {}, at=()),
    )
    assert study.good_share == 0.5
    assert math.isnan(study_of(trial(0, {}, at=(), origin="sobol")).good_share)


def test_the_majority_share_reaches_the_search():
    from sweeper.simulate.study import _record

    half = FormulaResponse.half_majority
    assert _record(FormulaResponse(), RUNGS).majority == (half, half, MAJORITY, MAJORITY)
    assert _record(FormulaResponse(majority=math.nan), RUNGS).majority == ()


@dataclass
class LongerAndShorter(FormulaResponse):
    """The response with trials of 3, 6 and 12 chunks; after a chunk, all have learnt as much."""

    space: object = field(default_factory=lambda: parse_space({**SPACE.texts, "train.epochs": "choice(1,2,4)"}))

    def curve(self, params, seed):
        whole = super().curve(params, seed)
        names = ("score", "loss", "half_score", "half_loss", "train_s")
        return replace(whole, **{name: getattr(whole, name)[: 3 * params["train.epochs"]] for name in names})


def test_trials_of_different_lengths_end_at_their_own_last_chunk():
    study = simulate(response=LongerAndShorter(), num_trials=24)
    complete = [trial for trial in study.trials if trial.state is TrialState.COMPLETE]
    assert {trial.chunks for trial in complete} == {3, 6, 12}
    assert all(trial.chunks == 3 * trial.params["train.epochs"] for trial in complete)
    for trial in complete:
        assert list(trial.scores) == [rung for rung in RUNGS[:-1] if rung < trial.chunks] + [trial.chunks]
        assert trial.scores[trial.chunks] == pytest.approx(truth(trial.params) * trial.chunks / NUM_CHUNKS)
    pruned = [trial for trial in study.trials if trial.state is TrialState.PRUNED]
    assert pruned
    assert all(trial.chunks in RUNGS and trial.chunks < 3 * trial.params["train.epochs"] for trial in pruned)
    whole = sum(3 * trial.params["train.epochs"] for trial in study.trials)
    assert study.saved_share == pytest.approx(1 - sum(trial.chunks for trial in study.trials) / whole)


def test_the_response_of_a_table_with_epochs_has_curves_of_each_length(tmp_path):
    """Recorded at 3, 6 and 12 chunks, of which each takes half a second."""
    table = Table.read(write_table(tmp_path / "toy.parquet", epochs=(1, 2, 4)))
    response = TableResponse(table)
    params = dict(table.trials[0].params)
    for epochs in (1, 2, 4):
        curve = response.curve({**params, "train.epochs": epochs}, 0)
        assert {len(curve.score), len(curve.loss), len(curve.train_s)} == {3 * epochs}
        assert sum(curve.train_s) == pytest.approx(0.5 * 3 * epochs, rel=0.1)
    assert math.isfinite(response.agreement(2).ties)
    assert simulate(response=response, num_trials=8, search=preset("random")).device_s > 0
