"""Counts and sums that are kept up to date equal those of all trials."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from sweeper.control.forecast import chunks_left
from sweeper.figures.ranking import best_trial
from sweeper.figures.study_time import study_wall_s
from sweeper.figures.tally import TrialTally
from sweeper.types import Phase, TrialState
from tests.builders import make_default, make_study, make_trial

FINAL = [TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAILED, TrialState.INFEASIBLE]


def history(seed):
    """Yield records in the order in which a controller writes them: some trials several times."""
    rng = random.Random(seed)  # noqa: S311 - no secret
    unfinished = []
    for number in range(60):
        phase = Phase.REFERENCE if number == 5 else Phase.SEARCH
        make = make_default if number == 2 else make_trial
        unfinished.append(make(number=number, value=0.5, state=TrialState.RUNNING, chunks=1, phase=phase))
        yield unfinished[-1]
        if len(unfinished) > 4:
            trial = unfinished.pop(rng.randrange(len(unfinished)))
            values = {"state": rng.choice(FINAL), "chunks": rng.randint(1, 12), "phase": trial.spec.phase}
            done = make_trial(trial.spec.number, round(rng.random(), 1), **values)
            yield replace(done, spec=trial.spec)


@pytest.mark.parametrize("seed", range(3))
def test_a_tally_equals_one_made_of_all_trials(seed):
    study, trials, tally = make_study(), {}, TrialTally(make_study())
    for trial in history(seed):
        trials[trial.spec.number] = trial
        tally.put(trial)
    known = list(trials.values())
    searched = [trial for trial in known if trial.spec.phase is Phase.SEARCH]
    assert tally.counts == {state: sum(trial.state is state for trial in searched) for state in TrialState}
    assert tally.num_searched == len(searched) == 59
    assert set(tally.running) == {trial.spec.number for trial in known if not trial.state.is_finished}
    assert tally.best == best_trial(study, known)
    assert tally.chunks_done == sum(trial.chunks_done for trial in known)
    assert tally.cost.rows == sum(trial.cost.rows for trial in known)
    assert tally.default("peft_default") == trials[2]
    assert tally.default("other") is None
    assert tally.wall_s() == pytest.approx(study_wall_s(known))
    again = TrialTally(study, known)
    assert (again.counts, again.num_finished, again.finished_chunks) == (
        tally.counts,
        tally.num_finished,
        tally.finished_chunks,
    )


def test_expected_chunks_follow_from_the_share_that_finished_trials_trained_of_their_own_length():
    study = make_study()
    tally = TrialTally(study)
    assert (tally.mean_length, tally.expected_chunks(12)) == (12, 12)
    tally.put(make_trial(0, 0.5, chunks=4, fixed={"train.epochs": 1}))
    tally.put(make_trial(1, 0.5, chunks=3, fixed={"train.epochs": 3}, state=TrialState.PRUNED))
    tally.put(make_trial(2, 0.5, chunks=2, fixed={"train.epochs": 2}, state=TrialState.RUNNING))
    assert tally.mean_length == pytest.approx((4 + 12 + 8) / 3)
    assert tally.expected_chunks(8) == pytest.approx(8 * 7 / 16)


def test_the_chunks_that_are_left_are_those_of_each_trials_own_length():
    tally = TrialTally(make_study())
    tally.put(make_trial(0, 0.5, chunks=4, fixed={"train.epochs": 1}))
    tally.put(make_trial(1, 0.5, chunks=6, fixed={"train.epochs": 3}, state=TrialState.PRUNED))
    tally.put(make_trial(2, 0.5, chunks=3, fixed={"train.epochs": 1}, state=TrialState.RUNNING))
    tally.put(make_trial(3, 0.5, chunks=3, fixed={"train.epochs": 3}, state=TrialState.RUNNING))
    # 10 of 16 chunks are trained on average; trial 2 is beyond that, and trial 3 has 12 chunks.
    assert chunks_left(make_study(), tally, num_to_start=0) == pytest.approx((4 - 3) + (12 * 10 / 16 - 3))
    assert chunks_left(make_study(), tally, num_to_start=2, num_unpruned=1) == pytest.approx(
        (4 - 3) + (12 * 10 / 16 - 3) + 2 * 8 * 10 / 16 + 8
    )
