"""A second objective: what is pruned, what is drawn, and what the database and the sampler see of it."""

from __future__ import annotations

import math
import random

import optuna
import pytest

from sweeper.config.settings import SearchSettings
from sweeper.errors import SweepMismatch
from sweeper.figures.pareto import dominates, nondominated_ranks
from sweeper.search import tpe
from sweeper.search.mirror import StudyMirror
from sweeper.search.pruning import make_pruner
from sweeper.search.rung_view import compared_at_one_rung
from sweeper.types import Decision, TrialState
from tests.search.toy import SPACE, Driver, open_toy, preset, stored_trials, value_of


def costs(parameters, device_s=1.0):
    return {"parameters": parameters, "device_s": device_s}


def make_cost_pruner(*, maximize=True, **changes):
    settings = SearchSettings(cost="parameters", **changes)
    return make_pruner(settings, study="sweep/toy", rungs=(3, 6, 12), maximize=maximize)


def decisions(points, **changes):
    """Record points at a rung, and decide about each with all of them known."""
    pruner = make_cost_pruner(**changes)
    for number, (value, cost) in enumerate(points):
        pruner.record(number, 3, value, cost=cost)
    return [pruner.should_prune(number, 3) for number in range(len(points))]


def test_a_dominated_trial_is_pruned_and_a_cheap_one_is_not():
    # Score and parameters: the best is large, the cheapest is weak; the others are worse than both in one of the two.
    points = [(0.9, 90.0), (0.5, 10.0), (0.8, 95.0), (0.45, 12.0)]
    assert decisions(points) == [False, False, True, True]
    assert decisions([(1 - value, cost) for value, cost in points], maximize=False) == [False, False, True, True]


def test_of_a_front_the_ends_and_the_points_with_distant_neighbours_stay():
    points = [(1.0, 10.0), (0.9, 9.0), (0.8, 8.0), (0.4, 4.0), (0.0, 0.0), (0.0, 11.0)]
    assert decisions(points) == [False, True, True, False, False, True]


def test_the_first_trials_at_a_rung_are_not_pruned():
    assert decisions([(0.9, 1.0), (0.8, 2.0), (0.7, 3.0)]) == [False, False, False]


@pytest.mark.parametrize("seed", range(5))
def test_a_decision_depends_on_the_values_at_the_rung_and_not_on_their_order(seed):
    rng = random.Random(seed)  # noqa: S311 - no secret
    points = [(rng.random(), float(rng.choice([1, 2, 4, 8]))) for _ in range(30)]
    found = decisions(points)
    order = rng.sample(range(30), 30)
    again = decisions([points[index] for index in order])
    assert [again[order.index(index)] for index in range(30)] == found
    assert 12 <= sum(found) <= 15
    ranks = nondominated_ranks([(-value, cost) for value, cost in points])
    assert max(rank for rank, pruned in zip(ranks, found, strict=True) if not pruned) <= min(
        rank for rank, pruned in zip(ranks, found, strict=True) if pruned
    )


def test_a_factor_of_three_keeps_a_third():
    points = [(1 - n / 10, float(n)) for n in range(9)]
    assert sum(not pruned for pruned in decisions(points, reduction_factor=3)) == 3


def test_without_a_pruner_nothing_is_pruned():
    assert not any(decisions([(1 - n / 10, float(n)) for n in range(9)], pruner="none"))


def test_the_search_prunes_by_score_and_cost_but_never_the_default_recipe(tmp_path):
    with open_toy(tmp_path, preset("tpe", cost="parameters")) as search:
        numbers = [search.ask().number for _ in range(6)]
        for number in numbers[1:]:
            search.report(number, chunk=3, value=0.9 - number / 100, costs=costs(100 - number))
        assert search.report(numbers[0], chunk=3, value=0.1, costs=costs(1000)) is Decision.CONTINUE
        worst = search.ask().number
        assert search.report(worst, chunk=3, value=0.1, costs=costs(1000)) is Decision.STOP
        assert search.report(worst, chunk=3, value=0.1, costs=costs(1000)) is Decision.STOP


def test_the_cost_is_the_one_that_the_settings_name(tmp_path):
    with open_toy(tmp_path, preset("random", cost="device_s", recipes=[])) as search:
        number = search.ask().number
        search.report(number, chunk=12, value=0.5, costs=costs(7.0, device_s=3.5))
        search.tell(number, state=TrialState.COMPLETE, value=0.5)
    (trial,) = stored_trials(tmp_path)
    assert trial.values == [0.5, 3.5]
    assert trial.user_attrs["rung 12"] == [0.5, 3.5]
    assert trial.intermediate_values == {}


def test_the_database_is_a_study_of_two_objectives_that_optuna_reads(tmp_path):
    driver = Driver()
    with open_toy(tmp_path, preset("tpe", cost="parameters")) as search:
        driver.run(search, 16)
    storage = optuna.storages.RDBStorage(f"sqlite:///{tmp_path}/optuna.db")
    study = optuna.load_study(study_name="sweep/toy", storage=storage)
    assert [direction.name for direction in study.directions] == ["MAXIMIZE", "MINIMIZE"]
    points = {
        number: (-value_of(record), float(record.num_parameters))
        for number, record in driver.records.items()
        if record.state is TrialState.COMPLETE
    }
    front = {n for n, point in points.items() if not any(dominates(other, point) for other in points.values())}
    assert {trial.number for trial in study.best_trials} == front
    storage.remove_session()
    storage.engine.dispose()


@pytest.mark.parametrize(("first", "second"), [("none", "parameters"), ("parameters", "none")])
def test_a_study_is_not_continued_with_another_number_of_objectives(tmp_path, first, second):
    open_toy(tmp_path, preset("random", cost=first)).close()
    with pytest.raises(SweepMismatch, match=r"direction=maximize.* was started with direction=maximize.*sweep name"):
        open_toy(tmp_path, preset("random", cost=second))


def test_the_automatic_sampler_uses_tpe_with_a_cost(tmp_path):
    driver = Driver(lanes=1)
    with open_toy(tmp_path, preset("auto", cost="parameters")) as search:
        driver.run(search, 8)
    assert driver.proposals[-1][1] == "tpe"


def make_mirror(*, num_trials, seed=0):
    """Trials whose score grows with the rank, and so does the cost; half of them are pruned at the first rung."""
    rng = random.Random(seed)  # noqa: S311 - no secret
    mirror = StudyMirror(SPACE, maximize=True, has_cost=True)
    for number in range(num_trials):
        params = SPACE.point((rng.random(), rng.random(), rng.random()))
        mirror.start(params, {"origin": "tpe"})
        score = 0.5 + rng.random() / 10 + 0.05 * math.log2(params["lora.r"])
        mirror.score(number, 3, score - 0.2, 1.0 * params["lora.r"])
        if number % 2:
            mirror.finish(number, TrialState.PRUNED, None)
        else:
            mirror.score(number, 12, score, 4.0 * params["lora.r"])
            mirror.finish(number, TrialState.COMPLETE, score)
    return mirror


def compared(mirror):
    return compared_at_one_rung(mirror.trials, SPACE, maximize=True, has_cost=True)


def test_a_pruned_trial_counts_with_the_score_and_the_cost_that_it_was_expected_to_reach():
    mirror = make_mirror(num_trials=8)
    pruned = mirror.trials[1]
    seen = compared(mirror)[1]
    assert (pruned.state.name, seen.state.name) == ("PRUNED", "COMPLETE")
    assert seen.values == pytest.approx([pruned.values[0] + 0.2, 4 * pruned.values[1]])


def test_a_trial_that_runs_counts_with_its_score_and_cost():
    mirror = make_mirror(num_trials=8)
    mirror.start(SPACE.point((0.5, 0.5, 0.5)), {})
    mirror.score(8, 3, 0.4, 5.0)
    assert compared(mirror)[8].values == pytest.approx([0.6, 20.0])
    mirror.score(8, 12, 0.5, 6.0)
    assert compared(mirror)[8].values == [0.5, 6.0]


def test_a_pruned_trial_that_was_never_scored_stays_pruned():
    mirror = make_mirror(num_trials=8)
    mirror.start(SPACE.point((0.5, 0.5, 0.5)), {})
    mirror.finish(8, TrialState.PRUNED, None)
    assert compared(mirror)[8] is mirror.trials[8]
    assert SPACE.contains(tpe.draw(SPACE, mirror.trials, seed=0, number=9, maximize=True, has_cost=True))


def test_an_infeasible_trial_has_the_worst_score_and_cost_so_far():
    mirror = make_mirror(num_trials=8)
    mirror.start(SPACE.point((0.5, 0.5, 0.5)), {})
    mirror.finish(8, TrialState.INFEASIBLE, None)
    scored = mirror.trials[:8]
    worst_score = min(min(t.intermediate_values.values()) for t in scored)
    assert mirror.trials[8].values == [worst_score, max(t.values[1] for t in scored)]


def test_with_many_trials_the_model_still_sees_the_front():
    mirror = make_mirror(num_trials=1500)
    points = {t.number: (-t.values[0], t.values[1]) for t in mirror.trials if t.state.name == "COMPLETE"}
    front = {n for n, point in points.items() if not any(dominates(other, point) for other in points.values())}
    assert len(front) > 3
    assert front <= {trial.number for trial in mirror.for_model(300)}


def test_the_sampler_draws_cheap_configurations_only_if_they_count():
    def mean_rank(**options):
        mirror = make_mirror(num_trials=200)
        if not options:
            for trial in mirror.trials:
                trial.values = trial.values[:1]
        drawn = [tpe.draw(SPACE, mirror.trials, seed=s, number=200, maximize=True, **options) for s in range(30)]
        return sum(math.log2(params["lora.r"]) for params in drawn) / len(drawn)

    assert mean_rank(has_cost=True) < mean_rank() - 1
