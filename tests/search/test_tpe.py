"""TPE draws what Optuna would draw from the trials as they are compared at one rung."""

from __future__ import annotations

import optuna

from sweeper.config.space import EPOCHS
from sweeper.search.distributions import distributions, from_drawn
from sweeper.search.mirror import StudyMirror
from sweeper.search.proposals import trial_seed
from sweeper.search.rung_view import compared_at_one_rung
from sweeper.search.tpe import draw
from sweeper.types import TrialState
from tests.search.test_mirror import LIMIT, make_mirror
from tests.search.toy import FIXED, LENGTHS, RUNGS, SPACE, Driver, open_toy, preset


def drawn_by_optuna(trials, *, number, seed):
    """Return what a study with these trials proposes; each trial is copied into it."""
    sampler = optuna.samplers.TPESampler(
        seed=trial_seed(seed, number), multivariate=True, constant_liar=True, n_startup_trials=1
    )
    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.add_trials(compared_at_one_rung(trials, SPACE, maximize=True))
    return from_drawn(SPACE, study.ask(distributions(SPACE)).params)


def test_below_the_limit_the_draw_is_that_of_all_trials():
    mirror = make_mirror(120)
    found = draw(SPACE, mirror.for_model(LIMIT), seed=5, number=len(mirror), maximize=True)
    assert found == drawn_by_optuna(mirror.trials, number=len(mirror), seed=5)


def test_the_draw_reads_no_other_trials():
    mirror = make_mirror(2_000)
    trials = mirror.for_model(LIMIT)
    found = draw(SPACE, trials, seed=5, number=len(mirror), maximize=True)
    assert found == drawn_by_optuna(trials, number=len(mirror), seed=5)


def test_the_first_trial_is_read_too():
    """The trial that Optuna draws has number 0 in an empty study, and TPE ignores that number."""
    mirror = make_mirror(30)
    without = [trial for trial in mirror.trials if trial.number]

    def draws(trials):
        return [draw(SPACE, trials, seed=seed, number=33, maximize=True) for seed in range(20)]

    assert draws(mirror.trials) != draws(without)


def test_draws_are_near_the_survivors_while_they_run():
    """Optuna itself takes trials that run for bad ones, and those that were stopped for good ones."""
    mirror = StudyMirror(SPACE, maximize=True)
    for number in range(16):
        is_good = number % 2 == 0
        rate = 0.8 if is_good else 0.2
        mirror.start(SPACE.point((0.5, 0.06 * number, rate + 0.01 * number)), {})
        mirror.score(number, 3, (0.8 if is_good else 0.3) + number / 1000)
        if not is_good:
            mirror.finish(number, TrialState.PRUNED, None)
    rates = [
        draw(SPACE, mirror.trials, seed=seed, number=16, maximize=True)["train.learning_rate"] for seed in range(20)
    ]
    assert sum(rate > 1e-3 for rate in rates) >= 17


def test_trials_of_different_lengths_are_compared_at_the_rungs_of_the_longest(tmp_path, monkeypatch):
    seen = []

    def spy(trials, space, **options):
        seen.append(options["rungs"])
        return compared_at_one_rung(trials, space, **options)

    monkeypatch.setattr("sweeper.search.tpe.compared_at_one_rung", spy)
    settings = preset("tpe", num_startup_trials=2)
    with open_toy(tmp_path, settings, space=LENGTHS, fixed={**FIXED, EPOCHS: 2}) as search:
        Driver().run(search, 8)
    assert seen
    assert set(seen) == {RUNGS}
