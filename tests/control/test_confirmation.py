"""The confirmation as part of a session: fresh seeds for all candidates, then for undecided ones, whatever happens."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sweeper.config.settings import BudgetSettings, ConfirmSettings, Recipe
from sweeper.control.confirmation import Confirmation
from sweeper.execute.base import ScoreAdapters, WorkerFailed
from sweeper.figures.confirmation import ConfirmationState, confirmation_trials
from sweeper.figures.recipes import FIRST_CONFIRMATION_NUMBER, FIRST_REFERENCE_NUMBER
from sweeper.search.proposals import trial_seed
from sweeper.types import Failure, FailureKind, Phase, TrialState
from tests.control.bench import (
    Bench,
    Comparison,
    Killed,
    check_intact,
    lose,
    no_pruning,
    once,
    probability_best,
    record,
)
from tests.doubles import FakeClock, FakeWorker, outcomes_of
from tests.search.toy import preset

NUM_TRIALS = 6
SEEDS = [trial_seed(0, FIRST_CONFIRMATION_NUMBER + index) for index in range(12)]
ENOUGH = ConfirmSettings(max_share=2.0)
"""Twelve trials after six that are not pruned."""


def confirming(folder, settings=ENOUGH, compare=None, **changes):
    compare = compare or Comparison()

    def make(_store):
        return Confirmation(
            settings, seed=0, default="peft_default", probability_best=probability_best, compare=compare
        )

    search = changes.pop("search", no_pruning())
    return Bench(folder, search=search, confirmation=make, num_trials=changes.pop("num_trials", NUM_TRIALS), **changes)


def seeds_of(bench):
    """Return the positions of each candidate's seeds in the list of fresh seeds."""
    found = confirmation_trials(bench.trials().values())
    return {name: [SEEDS.index(seed) for seed in trials] for name, trials in found.items()}


def results_of(bench):
    return {
        number: (trial.spec, trial.state, [(m.chunk, m.metrics) for m in trial.measurements])
        for number, trial in bench.trials().items()
    }


def record_of(bench):
    return bench.store.read_confirmation("toy")


def test_the_candidates_are_trained_with_the_same_fresh_seeds_after_the_search(tmp_path):
    bench = confirming(tmp_path).run()
    check_intact(bench)
    found = seeds_of(bench)
    assert next(iter(found)) == "peft_default"
    assert len(found) > 2
    assert set(map(tuple, found.values())) == {(0, 1, 2)}
    first = next(i for i, pack in enumerate(bench.chunks()) if max(pack) >= FIRST_CONFIRMATION_NUMBER)
    assert all(min(pack) >= FIRST_CONFIRMATION_NUMBER for pack in bench.chunks()[first:])
    assert record_of(bench).state is ConfirmationState.COMPLETE


def test_a_trial_of_the_confirmation_has_the_configuration_of_its_candidate(tmp_path):
    bench = confirming(tmp_path).run()
    trials = bench.trials()
    for candidate in record_of(bench).candidates:
        original = trials[candidate.trial].spec
        for again in confirmation_trials(trials.values())[candidate.name].values():
            assert again.spec.origin == f"confirm:{candidate.name}"
            assert again.spec.phase is Phase.CONFIRMATION
            same = {"number": original.number, "seed": original.seed, "origin": original.origin, "phase": Phase.SEARCH}
            assert replace(again.spec, **same) == original


def test_the_confirmation_is_not_told_to_the_search_never_pruned_and_not_in_the_budget(tmp_path):
    bench = confirming(tmp_path, ConfirmSettings(max_share=4.0), search=preset("random"))
    bench.run()
    check_intact(bench)
    trials = [trial for trial in bench.trials().values() if trial.spec.phase is Phase.CONFIRMATION]
    assert trials
    assert {trial.state for trial in trials} == {TrialState.COMPLETE}
    assert bench.runs[0].tally.num_searched == NUM_TRIALS
    assert bench.runs[0].tally.best.spec.phase is Phase.SEARCH


def test_only_undecided_candidates_the_default_and_the_best_get_further_seeds(tmp_path):
    first = confirming(tmp_path / "first").run()
    winner = record_of(first).winner
    other = next(name for name in seeds_of(first) if name not in (winner, "peft_default"))
    compare = Comparison(**{other.replace(" ", "_"): 5})
    bench = confirming(tmp_path / "second", ConfirmSettings(max_share=10.0), compare).run()
    numbers = {name: len(seeds) for name, seeds in seeds_of(bench).items()}
    # After 3 seeds comes the look at 6, which is enough to decide.
    assert numbers == {name: 6 if name in (other, winner, "peft_default") else 3 for name in numbers}
    assert len(set(numbers.values())) == 2
    assert (record_of(bench).state, record_of(bench).num_seeds) == (ConfirmationState.COMPLETE, 6)
    # Nothing is compared before all candidates have all seeds.
    assert [max(counts.values()) for counts, _ in compare.calls] == [3, 6]


def test_the_confirmation_stops_early_when_its_share_or_its_seeds_are_used_up(tmp_path):
    never = Comparison(alpha_2r=99)
    bench = confirming(tmp_path / "share", ENOUGH, never).run()
    record = record_of(bench)
    assert record.state is ConfirmationState.STOPPED_EARLY
    num_trials = sum(map(len, seeds_of(bench).values()))
    assert record.reason == f"confirm.max_share=2 allows 12 trials, and {num_trials} are trained"
    assert num_trials <= 12
    # The last look is the last of as many as were made.
    assert never.calls[-1][1] == record.max_seeds == record.num_seeds
    seeds = confirming(tmp_path / "seeds", ConfirmSettings(max_share=50.0, max_seeds=4), Comparison(alpha_2r=99)).run()
    assert record_of(seeds).reason == "all seeds of confirm.max_seeds=4 are trained"
    assert len(seeds_of(seeds)["alpha_2r"]) == 4


def test_a_comparison_that_no_number_of_seeds_would_decide_gets_none(tmp_path, monkeypatch):
    monkeypatch.setattr(Comparison, "_result", lambda *args: replace_seeds_needed(RESULT(*args)))
    bench = confirming(tmp_path, ConfirmSettings(max_share=10.0), Comparison(alpha_2r=99)).run()
    assert {len(seeds) for seeds in seeds_of(bench).values()} == {3}
    assert record_of(bench).state is ConfirmationState.COMPLETE


RESULT = Comparison._result


def replace_seeds_needed(result):
    if result.against_default is None:
        return result
    return replace(result, against_default=replace(result.against_default, seeds_needed=None), against_best=None)


@pytest.mark.parametrize(
    ("share", "num_candidates", "num_seeds"), [(2.0, 4, 3), (1.5, 3, 3), (1.0, 2, 3), (0.84, 2, 2), (0.67, 2, 2)]
)
def test_a_small_share_first_drops_candidates_then_seeds(tmp_path, share, num_candidates, num_seeds):
    bench = confirming(tmp_path, ConfirmSettings(max_share=share)).run()
    found = seeds_of(bench)
    assert "peft_default" in found
    assert len(found) <= num_candidates
    assert {len(seeds) for seeds in found.values()} == {num_seeds}
    assert (len(found) + 1) * num_seeds > share * NUM_TRIALS or len(found) == 4  # all there are


def test_a_share_for_less_than_two_candidates_skips_the_confirmation_with_a_reason(tmp_path):
    bench = confirming(tmp_path, ConfirmSettings(max_share=0.5)).run()
    assert seeds_of(bench) == {}
    record = record_of(bench)
    assert record.state is ConfirmationState.SKIPPED
    assert record.reason == ("confirm.max_share=0.5 is too small: two candidates with 2 seeds each need 0.67")
    assert bench.runs[0].follow_up.is_confirmed
    assert bench.controller.stop_reason is None


@pytest.mark.parametrize("replies", [1, 4])
def test_a_controller_killed_at_every_chunk_trains_the_same(tmp_path, replies):
    def make(folder):
        return confirming(folder, ConfirmSettings(max_share=10.0), Comparison(alpha_2r=5))

    whole = make(tmp_path / "whole").run()
    bench = make(tmp_path / "killed")
    for _ in range(400):
        try:
            # The first reply only starts the worker, the second opens the study.
            bench.run(replies=2 + replies)
            break
        except Killed:
            bench.runs[0]._search_client._search.close()
    check_intact(bench)
    assert results_of(bench) == results_of(whole)
    assert record_of(bench) == record_of(whole)


def test_two_workers_train_the_same_as_one(tmp_path):
    one = confirming(tmp_path / "one").run()
    two = confirming(tmp_path / "two", num_workers=2, speeds=(1, 2)).run()
    check_intact(two)
    assert results_of(one) == results_of(two)
    workers = {index for index, what, pack in two.events if what == "chunk" and max(pack) >= FIRST_CONFIRMATION_NUMBER}
    assert workers == {0, 1}


def test_the_confirmation_goes_on_in_the_next_window(tmp_path):
    clock = FakeClock("2026-01-01T22:00+00:00")
    budget = BudgetSettings(window="22:00-22:50", time_zone="UTC")
    worker = {"device_s": 600.0, "before": lambda _numbers: clock.pass_s(600.0)}
    bench = confirming(tmp_path / "cut", clock=clock, budget=budget, worker=worker)
    for day in range(1, 28):
        clock.set(f"2026-01-{day:02d}T22:00+00:00")
        bench.run()
        assert bench.controller.forecast.is_paused is (bench.controller.stop_reason is not None)
        if bench.controller.stop_reason is None:
            break
    assert day > 3
    assert results_of(bench) == results_of(confirming(tmp_path / "whole").run())
    assert record_of(bench).state is ConfirmationState.COMPLETE


def test_device_hours_are_left_for_the_confirmation(tmp_path):
    budget = BudgetSettings(device_hours=100.0)
    bench = confirming(
        tmp_path, ConfirmSettings(max_share=0.5), num_trials=100, budget=budget, worker={"device_s": 3600.0}
    )
    bench.run()
    num_searched = bench.runs[0].tally.num_searched
    assert 14 <= num_searched < 20
    assert record_of(bench).state is ConfirmationState.COMPLETE
    assert seeds_of(bench)
    assert sum(trial.cost.device_s for trial in bench.trials().values()) <= 100 * 3600


def test_the_forecast_includes_the_confirmation_before_it_is_planned(tmp_path):
    seen = []

    def look():
        if bench.chunks():
            seen.append(bench.runs[0].num_confirmations_to_start)

    bench = confirming(tmp_path, ConfirmSettings(max_share=1.0))
    bench.run(on_change=look)
    assert seen[0] == 6
    assert seen[-1] == 0


def test_references_are_trained_before_the_confirmation_and_can_be_its_default(tmp_path):
    recipe = no_pruning().recipes[0]
    references = {FIRST_REFERENCE_NUMBER: recipe}
    bench = confirming(tmp_path, search=no_pruning(recipes=no_pruning().recipes[1:2]), references=references).run()
    found = confirmation_trials(bench.trials().values())
    assert bench.trials()[FIRST_REFERENCE_NUMBER].state is TrialState.COMPLETE
    assert {trial.spec.params["lora.alpha_ratio"] for trial in found[recipe.name].values()} == {1.0}


def test_a_larger_budget_plans_again_and_counts_what_was_trained(tmp_path):
    bench = confirming(tmp_path).run()
    before = {number: trial for number, trial in bench.trials().items() if trial.spec.phase is Phase.CONFIRMATION}
    first = record_of(bench)
    bench.num_trials = 12
    bench.run()
    check_intact(bench)
    after = bench.trials()
    assert all(after[number] == trial for number, trial in before.items())
    record = record_of(bench)
    assert (first.num_searched, record.num_searched) == (6, 12)
    assert {len(seeds) for name, seeds in seeds_of(bench).items()} == {3}
    assert {candidate.name for candidate in record.candidates} <= set(seeds_of(bench))


def test_a_finished_confirmation_starts_no_worker(tmp_path):
    bench = confirming(tmp_path).run()
    bench.events.clear()
    bench.run()
    assert bench.events == []
    assert bench.runs[0].follow_up.is_confirmed


def test_a_candidate_that_fails_with_a_fresh_seed_is_left_out_and_gets_no_further_seed(tmp_path):
    def fails(spec, _chunk):
        broken = spec.origin == "confirm:alpha_2r" and spec.seed == SEEDS[1]
        return Failure(kind=FailureKind.EXPLODED, message="loss 1e9") if broken else None

    compare = Comparison(alpha_2r=99)
    bench = confirming(tmp_path, ConfirmSettings(max_share=10.0), compare, worker={"fails": fails}).run()
    assert all("alpha_2r" not in counts for counts, _ in compare.calls)
    assert len(seeds_of(bench)["alpha_2r"]) == 3
    assert record_of(bench).state is ConfirmationState.COMPLETE


def test_without_its_default_the_confirmation_stops(tmp_path):
    def fails(spec, _chunk):
        broken = spec.origin == "confirm:peft_default"
        return Failure(kind=FailureKind.EXPLODED, message="loss 1e9") if broken else None

    record = record_of(confirming(tmp_path, worker={"fails": fails}).run())
    assert record.state is ConfirmationState.STOPPED_EARLY
    assert record.reason == "fewer than two candidates could be trained again, or the default recipe could not"


def test_a_lost_worker_repeats_the_chunk_of_the_confirmation(tmp_path):
    whole = confirming(tmp_path / "whole").run()
    at = 1 + next(i for i, pack in enumerate(whole.chunks()) if max(pack) >= FIRST_CONFIRMATION_NUMBER)
    bench = confirming(tmp_path / "lost", worker={"before": once(lose, at=at + 1)}).run()
    check_intact(bench)
    assert results_of(bench) == results_of(whole)


def test_the_adapters_of_the_confirmation_are_kept(tmp_path):
    bench = confirming(tmp_path, keep_adapters=1).run()
    confirmed = {number for number in bench.trials() if number >= FIRST_CONFIRMATION_NUMBER}
    assert confirmed < bench.store.adapters("toy")
    assert len(bench.store.adapters("toy")) < len(bench.trials())


def test_without_recipes_there_is_nothing_to_compare_with(tmp_path):
    bench = confirming(tmp_path, search=no_pruning(recipes=[Recipe(name="other", params={"lora.r": 8})])).run()
    assert record_of(bench).reason == "the default recipe peft_default has no score to compare with"


# The test split.


def with_test_rows(bench):
    """Record the study with test rows, as a planned one has."""
    bench.store.write_study(replace(record("toy"), num_rows={"train": 40, "test": 100}))
    return bench


def scored_on_test(bench):
    """Return the seeds of each candidate whose adapters were scored on the test rows."""
    found = {}
    for number, trial in bench.trials().items():
        if bench.store.read_test_outcomes("toy", number) is not None:
            found.setdefault(trial.spec.origin, []).append(SEEDS.index(trial.spec.seed))
    return found


def test_winner_and_default_are_scored_on_the_test_rows_once(tmp_path):
    bench = with_test_rows(confirming(tmp_path)).run()
    check_intact(bench)
    winner = record_of(bench).winner
    assert winner != "peft_default"
    assert scored_on_test(bench) == {"confirm:peft_default": [0, 1, 2], f"confirm:{winner}": [0, 1, 2]}
    # Three lanes, so two requests, after everything else.
    assert [what for _, what, _ in bench.events][-2:] == ["score", "score"]
    assert [what for _, what, _ in bench.events].count("score") == 2
    assert record_of(bench).state is ConfirmationState.COMPLETE
    bench.events.clear()
    bench.run()
    assert bench.events == []


def test_the_test_rows_are_scored_after_a_kill(tmp_path):
    whole = with_test_rows(confirming(tmp_path / "whole")).run()
    bench = with_test_rows(confirming(tmp_path / "killed"))
    with pytest.raises(Killed):
        bench.run(replies=len(whole.events) - 1)
    bench.runs[0]._search_client._search.close()
    assert sum(map(len, scored_on_test(bench).values())) == 3  # the first of two requests
    assert record_of(bench).state is ConfirmationState.RUNNING
    bench.run()
    assert scored_on_test(bench) == scored_on_test(whole)
    assert record_of(bench) == record_of(whole)


def test_a_worker_that_is_lost_while_it_scores_is_asked_once_more(tmp_path, monkeypatch):
    answer, failures = FakeWorker.answer, []

    def fail(worker, request):
        if isinstance(request, ScoreAdapters):
            failures.append(request)
            return WorkerFailed(message="no memory", traceback="")
        return answer(worker, request)

    monkeypatch.setattr(FakeWorker, "answer", fail)
    bench = with_test_rows(confirming(tmp_path)).run()
    assert len(failures) == 2
    assert scored_on_test(bench) == {}
    assert record_of(bench).state is ConfirmationState.COMPLETE
    assert bench.controller.stop_reason is None


def test_an_adapter_that_cannot_be_scored_does_not_stop_the_others(tmp_path, monkeypatch):
    score = FakeWorker._score

    def fail_one(worker, request):
        reply = score(worker, request)
        number = min(reply.outcomes)
        failure = Failure(kind=FailureKind.ERROR, message="damaged")
        outcomes = {other: content for other, content in reply.outcomes.items() if other != number}
        return replace(reply, outcomes=outcomes, failures={number: failure})

    monkeypatch.setattr(FakeWorker, "_score", fail_one)
    bench = with_test_rows(confirming(tmp_path)).run()
    assert sum(map(len, scored_on_test(bench).values())) == 4
    assert record_of(bench).state is ConfirmationState.COMPLETE


def test_the_test_rows_choose_nothing(tmp_path, monkeypatch):
    honest = with_test_rows(confirming(tmp_path / "honest")).run()
    zero = outcomes_of(0.0).to_bytes()
    score = FakeWorker._score

    def opposite(worker, request):
        reply = score(worker, request)
        return replace(reply, outcomes=dict.fromkeys(reply.outcomes, zero))

    monkeypatch.setattr(FakeWorker, "_score", opposite)
    other = with_test_rows(confirming(tmp_path / "other")).run().run()
    assert results_of(other) == results_of(honest)
    assert record_of(other) == record_of(honest)
