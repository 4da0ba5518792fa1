"""CMA-ES without stored state."""

from __future__ import annotations

import datetime

import optuna

from sweeper.search import cma
from tests.search.toy import SPACE, value_at

START = datetime.datetime(2026, 1, 1)  # naive, as in Optuna


def _trials(order):
    """The trials of the first generation, finished in this order."""
    trials = []
    for number in range(8):
        params, note = cma.draw(SPACE, [], seed=0, number=number, maximize=True)
        trial = optuna.trial.create_trial(
            state=optuna.trial.TrialState.COMPLETE if number in order else optuna.trial.TrialState.RUNNING,
            value=value_at(params, 12) if number in order else None,
            user_attrs={cma.ATTRIBUTE: note},
        )
        trial.number = number
        if number in order:
            trial.datetime_complete = START + datetime.timedelta(seconds=order.index(number))
        trials.append(trial)
    return trials


def test_a_full_generation_starts_the_next_one():
    _, note = cma.draw(SPACE, _trials([1, 2, 3, 4, 5, 6, 7]), seed=0, number=8, maximize=True)
    assert note["generation"] == 1


def test_an_incomplete_generation_continues():
    _, note = cma.draw(SPACE, _trials([1, 2, 3, 4, 5, 6]), seed=0, number=8, maximize=True)
    assert note["generation"] == 0


def test_a_trial_that_finishes_late_does_not_change_later_draws():
    before = cma.draw(SPACE, _trials([1, 2, 3, 4, 5, 6, 7]), seed=0, number=8, maximize=True)
    after = cma.draw(SPACE, _trials([1, 2, 3, 4, 5, 6, 7, 0]), seed=0, number=8, maximize=True)
    assert before == after
