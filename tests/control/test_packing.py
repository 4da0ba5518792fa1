"""Which trials share a pack: recipes first, at most a part of the budget in flight, equal shares, references last."""

from __future__ import annotations

import pytest

from sweeper.config.settings import BudgetSettings, ExecutorSettings, Recipe, SweepSettings
from sweeper.control.lane_limits import LaneLimits, choose_limits
from sweeper.figures.recipes import FIRST_REFERENCE_NUMBER
from sweeper.types import Failure, FailureKind, Phase, TrialState
from tests.control.bench import RUNGS, Bench, Killed, check_intact, lose, no_pruning, once
from tests.search.toy import preset

REFERENCES = {
    FIRST_REFERENCE_NUMBER: Recipe(name="odd", params={"lora.r": 3, "train.learning_rate": 1e-9}),
    FIRST_REFERENCE_NUMBER + 2: Recipe(name="third", params={"lora.r": 5, "train.learning_rate": 1e-4}),
}


def bench_of(tmp_path, **changes):
    """Return a sweep of 24 trials with the limits of a CPU; the toy space has two recipes."""
    options = {"num_trials": 24, "lanes": 4, "in_flight": 8, "recipe_lanes": 2, "search": no_pruning()}
    return Bench(tmp_path, **{**options, **changes})


def packs_of(bench, worker):
    return [numbers for index, what, numbers in bench.events if (index, what) == (worker, "chunk")]


def in_flight(bench):
    """Return the largest number of trials that were in all packs together."""
    packs, most = {}, 0
    for index, what, numbers in bench.events:
        if what == "chunk":
            packs[index] = numbers
            most = max(most, len({number for pack in packs.values() for number in pack}))
    return most


# Limits.


@pytest.mark.parametrize(
    ("trials", "device", "limits"),
    [
        (24, "cpu", LaneLimits(lanes=4, in_flight=8, recipe_lanes=2)),
        (6, "cpu", LaneLimits(lanes=2, in_flight=2, recipe_lanes=2)),
        (2, "cpu", LaneLimits(lanes=1, in_flight=1, recipe_lanes=2)),
        (24, "cuda", LaneLimits(lanes=8, in_flight=8, is_measured=True)),
        (600, "cuda", LaneLimits(lanes=64, in_flight=200, is_measured=True)),
    ],
)
def test_at_most_a_third_of_the_budget_is_in_flight_by_default(trials, device, limits):
    assert choose_limits(SweepSettings(budget=BudgetSettings(trials=trials)), device) == limits


def test_a_number_of_lanes_given_by_the_user_is_used_whatever_the_budget():
    settings = SweepSettings(budget=BudgetSettings(trials=6), executor=ExecutorSettings(lanes=16))
    assert choose_limits(settings, "cpu") == LaneLimits(lanes=16, recipe_lanes=2)


# Trials in flight.


@pytest.mark.parametrize("num_workers", [1, 2, 3])
def test_workers_share_the_trials_that_may_be_in_flight(tmp_path, num_workers):
    bench = bench_of(tmp_path, num_workers=num_workers).run()
    assert in_flight(bench) == min(8, 4 * num_workers)
    check_intact(bench)


def test_without_a_limit_every_worker_fills_its_pack(tmp_path):
    bench = bench_of(tmp_path, num_workers=3, in_flight=0).run()
    assert in_flight(bench) == 12


def test_every_worker_has_a_trial_even_if_the_limit_is_lower_than_their_number(tmp_path):
    bench = bench_of(tmp_path, num_workers=3, in_flight=1).run()
    assert in_flight(bench) == 3
    assert all(packs_of(bench, worker) for worker in range(3))


def test_a_worker_that_joins_a_study_gets_its_share_of_the_trials_in_flight(tmp_path):
    bench = bench_of(tmp_path, num_workers=2, studies=("long", "short"), lanes=8, recipe_lanes=0)
    _limit_trials(bench, {"short": 1})
    bench.run()
    joined = [(index, what, numbers) for index, what, numbers in bench.events if what == "chunk"]
    first = next(i for i, (index, _, _) in enumerate(joined) if index == 1 and len(joined[i][2]) > 1)
    assert {len(numbers) for index, _, numbers in joined[:first] if index == 0} >= {8}
    around = {index: numbers for index, _, numbers in joined[: first + 3]}
    assert (len(around[0]), len(around[1])) == (4, 4)
    assert not set(around[0]) & set(around[1])
    before = {number for index, _, numbers in joined[:first] if index == 0 for number in numbers}
    assert set(joined[first][2]) <= before  # taken over from their checkpoints, not started anew
    for study, num_trials in (("long", 24), ("short", 1)):
        assert len(bench.trials(study)) == num_trials
        check_intact(bench, study)


def _limit_trials(bench, num_trials):
    """Give some studies of a bench a smaller budget."""
    make = bench._study_run

    def limited(name, stack):
        default, bench.num_trials = bench.num_trials, num_trials.get(name, bench.num_trials)
        try:
            return make(name, stack)
        finally:
            bench.num_trials = default

    bench._study_run = limited


def test_trials_that_wait_for_a_retry_leave_their_lanes_to_others(tmp_path):
    bench = bench_of(tmp_path, num_trials=9, in_flight=3)
    bench.executor.retry_s = 1000.0
    bench.worker = {"before": once(lose, at=9)}
    bench.run()
    assert bench.states() == [TrialState.COMPLETE] * 9


# Recipes first.


def test_a_worker_trains_the_recipes_alone_before_anything_else(tmp_path):
    bench = bench_of(tmp_path).run()
    packs = bench.chunks()
    assert packs[: 2 * RUNGS[-1]] == [(0,)] * RUNGS[-1] + [(1,)] * RUNGS[-1]
    assert packs[2 * RUNGS[-1]] == (2, 3, 4, 5)
    check_intact(bench)


FOUR = [Recipe(name=f"lr{number}", params={"train.learning_rate": number * 1e-3}) for number in (1, 2, 3, 4)]


def test_the_first_recipe_trains_alone_and_the_others_in_narrow_packs(tmp_path):
    bench = bench_of(tmp_path, search=no_pruning(recipes=FOUR)).run()
    assert list(dict.fromkeys(bench.chunks()))[:2] == [(0,), (1, 2)]


def test_the_other_workers_share_the_other_recipes(tmp_path):
    bench = bench_of(tmp_path, num_workers=2, search=no_pruning(recipes=FOUR)).run()
    assert packs_of(bench, 0)[: RUNGS[-1] + 1] == [(0,)] * RUNGS[-1] + [(3, 4, 5, 6)]
    assert packs_of(bench, 1)[: RUNGS[-1]] == [(1, 2)] * RUNGS[-1]


def test_at_most_three_recipes_delay_other_trials(tmp_path):
    rest = {"lora.r": 8, "lora.alpha_ratio": 1.0}
    recipes = [Recipe(name=f"rate {n}", params={**rest, "train.learning_rate": n * 1e-3}) for n in (1, 2, 3, 4, 5)]
    bench = bench_of(tmp_path, search=no_pruning(recipes=recipes)).run()
    first = bench.chunks()[: 2 * RUNGS[-1]]
    assert {number for pack in first for number in pack} == {0, 1, 2}
    assert bench.chunks()[2 * RUNGS[-1]] == (3, 4, 5, 6)


def test_nothing_is_proposed_before_the_recipes_of_a_single_worker_are_finished(tmp_path):
    bench = bench_of(tmp_path)
    with pytest.raises(Killed):
        bench.run(replies=2 + 2 * RUNGS[-1] - 1)
    assert sorted(bench.trials()) == [0, 1]


def test_a_narrow_pack_trains_the_default_recipe_first(tmp_path):
    bench = bench_of(tmp_path, recipe_lanes=1).run()
    assert bench.chunks()[: 2 * RUNGS[-1]] == [(0,)] * RUNGS[-1] + [(1,)] * RUNGS[-1]


def test_two_workers_share_the_recipes(tmp_path):
    bench = bench_of(tmp_path, num_workers=2).run()
    for worker in (0, 1):
        assert packs_of(bench, worker)[: RUNGS[-1]] == [(worker,)] * RUNGS[-1]
        assert len(packs_of(bench, worker)[RUNGS[-1]]) == bench.lanes
    check_intact(bench)


def test_a_worker_that_has_finished_its_recipes_does_not_wait_for_the_others(tmp_path):
    fails = {1: Failure(kind=FailureKind.NON_FINITE, message="loss became NaN")}
    bench = bench_of(tmp_path, num_workers=2)
    bench.worker = {"fails": lambda spec, _chunk: fails.get(spec.number)}
    bench.run()
    assert packs_of(bench, 0)[: RUNGS[-1]] == [(0,)] * RUNGS[-1]
    assert packs_of(bench, 1)[:2] == [(1,), (2, 3, 4, 5)]


def test_a_worker_without_recipes_fills_its_pack_at_once(tmp_path):
    bench = bench_of(tmp_path, num_workers=3).run()
    packs = [packs_of(bench, worker)[0] for worker in range(3)]
    assert packs == [(0,), (1,), (2, 3, 4)]


@pytest.mark.parametrize("num_workers", [1, 2])
def test_without_narrow_packs_recipes_share_a_pack_with_others(tmp_path, num_workers):
    bench = bench_of(tmp_path, num_workers=num_workers, recipe_lanes=0).run()
    assert bench.chunks()[0] == (0, 1, 2, 3)


def test_a_grid_has_no_recipes_to_wait_for(tmp_path):
    bench = bench_of(tmp_path, search=preset("grid", grid_points=2)).run()
    assert len(bench.chunks()[0]) == 4


@pytest.mark.parametrize("replies", [2, 4, 5, 7, 9])
def test_a_resumed_session_packs_as_an_uninterrupted_one(tmp_path, replies):
    whole = bench_of(tmp_path / "whole", num_trials=9, in_flight=3, references=REFERENCES).run()
    bench = bench_of(tmp_path / "resumed", num_trials=9, in_flight=3, references=REFERENCES)
    with pytest.raises(Killed):
        bench.run(replies=replies)
    bench.run()
    assert bench.configurations() == whole.configurations()
    # The chunk that the kill interrupted is trained again.
    repeated = [pack for pack in dict.fromkeys(bench.chunks()) if pack]
    assert repeated == [pack for pack in dict.fromkeys(whole.chunks()) if pack]
    check_intact(bench)


def test_the_trials_of_a_lost_recipe_pack_continue(tmp_path):
    bench = bench_of(tmp_path, num_trials=9, worker={"before": once(lose, at=2)}).run()
    assert bench.states() == [TrialState.COMPLETE] * 9
    check_intact(bench)


# References last.


def test_references_start_when_nothing_else_is_left_to_start(tmp_path):
    bench = bench_of(tmp_path, num_trials=6, in_flight=3, references=REFERENCES).run()
    trials, packs = bench.trials(), bench.chunks()
    first = next(i for i, pack in enumerate(packs) if set(pack) & set(REFERENCES))
    assert {number for pack in packs[: first + 1] for number in pack} >= set(range(6))
    for number, recipe in REFERENCES.items():
        spec = trials.pop(number).spec
        assert (spec.phase, spec.origin) == (Phase.REFERENCE, f"recipe:{recipe.name}")
        assert {key: spec.by_key()[key] for key in recipe.params} == recipe.params
    assert sorted(trials) == list(range(6))
    assert set(bench.states()) == {TrialState.COMPLETE}
    check_intact(bench)


def test_a_reference_is_never_pruned(tmp_path):
    bench = bench_of(tmp_path, search=preset("random"), references=REFERENCES).run()
    trials = bench.trials()
    assert TrialState.PRUNED in bench.states()
    assert trials[FIRST_REFERENCE_NUMBER].state is TrialState.COMPLETE
    check_intact(bench)


def test_a_sweep_that_was_killed_before_its_references_started_trains_them_later(tmp_path):
    bench = bench_of(tmp_path, num_trials=2).run()
    assert sorted(bench.trials()) == [0, 1]
    bench.references = REFERENCES
    bench.run().run()
    assert sorted(bench.trials()) == [0, 1, *REFERENCES]
    check_intact(bench)


def test_a_reference_counts_as_time_that_is_left(tmp_path):
    bench = bench_of(tmp_path, num_trials=2, references=REFERENCES)
    bench.worker = {"before": once(lambda: ends.append(bench.controller.forecast.ends_at(1)), at=4)}
    ends = []
    bench.run()
    left_s = (ends[0] - bench.controller.forecast._ledger.started_at).total_seconds()
    assert left_s >= 2 * RUNGS[-1]


def test_an_aborted_study_trains_no_reference(tmp_path):
    bench = bench_of(tmp_path, references=REFERENCES)
    bench.executor.abort_after_failures = 2
    bench.worker = {"fails": lambda _spec, _chunk: _out_of_memory()}
    bench.run()
    assert not set(bench.trials()) & set(REFERENCES)


def _out_of_memory():
    return Failure(kind=FailureKind.OUT_OF_MEMORY, message="no memory")
