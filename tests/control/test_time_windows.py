"""The loop keeps to its window: it begins what is predicted to end in time, and the next night goes on."""

from __future__ import annotations

import itertools
from datetime import timedelta

import pytest

from sweeper.config.settings import BudgetSettings
from sweeper.types import TrialState
from tests.control.bench import RUNGS, Bench, check_whole, lose, no_pruning, once
from tests.doubles import FakeClock
from tests.search.toy import preset

NIGHT = {"window": "22:00-07:00", "time_zone": "UTC"}
CHUNK_S = 600.0


def night_bench(folder, clock, *, window_s=None, chunk_s=CHUNK_S, **changes):
    """A bench whose chunks take time on the clock; the window closes ``window_s`` after 22:00."""
    budget = changes.pop("budget", BudgetSettings(**NIGHT))
    if window_s is not None:
        hours, minutes = divmod(22 * 60 + int(window_s // 60), 60)
        budget = BudgetSettings(window=f"22:00-{hours:02d}:{minutes:02d}", time_zone="UTC")
    worker = {"device_s": chunk_s, "before": lambda _numbers: clock.pass_s(chunk_s)}
    return Bench(folder, clock=clock, budget=budget, worker=worker, **changes)


def nights(bench, clock, most=60):
    """Run night after night until the sweep is done; return what each night's packs were."""
    packs = []
    for day in range(1, most):
        clock.set(f"2026-{1 + day // 28:02d}-{1 + day % 28:02d}T22:00+00:00")
        bench.events.clear()
        bench.run()
        packs.append(bench.chunks())
        if bench.controller.stop_reason is None:
            return packs
    raise AssertionError(f"not done after {most} nights: {bench.states()}")


def outcome(bench):
    """What must not depend on where a night was cut."""
    trials = bench.trials().values()
    told = [(trial.state, trial.value, trial.intermediate_values) for trial in bench.in_optuna()]
    return [(t.spec, t.state, [(m.chunk, m.metrics) for m in t.measurements]) for t in trials], told


@pytest.fixture
def clock():
    return FakeClock("2026-01-01T22:00+00:00")


def test_the_last_chunk_ends_before_the_window_closes(tmp_path, clock):
    bench = night_bench(tmp_path, clock, window_s=3.5 * CHUNK_S, search=no_pruning()).run()
    assert len(bench.chunks()) == 3
    assert f"{clock():%H:%M}" == "22:30"
    assert bench.controller.stop_reason == "budget.window=22:00-22:35 closes at 22:35, and a chunk takes 600 s"


def test_what_a_closed_window_cuts_is_checkpointed_and_goes_on_in_the_next(tmp_path, clock):
    bench = night_bench(tmp_path, clock, window_s=3 * CHUNK_S, search=no_pruning()).run()
    cut = {number: trial.chunks_done for number, trial in bench.trials().items()}
    assert cut == {0: 3, 1: 3, 2: 3}
    for number, chunks in cut.items():
        assert bench.store.read_checkpoint("toy", number, chunks)
    clock.set("2026-01-02T22:00+00:00")
    bench.events.clear()
    bench.run()
    assert bench.chunks()[0] == (0, 1, 2)
    assert bench.chunks()[1] == (3, 4, 5)


def test_a_window_that_is_closed_starts_no_worker(tmp_path, clock):
    clock.set("2026-01-01T12:00+00:00")
    bench = night_bench(tmp_path, clock).run()
    assert bench.events == []
    assert bench.controller.stop_reason == "budget.window=22:00-07:00 is closed"


def test_a_first_chunk_that_takes_too_long_is_not_followed_by_another(tmp_path, clock):
    bench = night_bench(tmp_path, clock, window_s=CHUNK_S, chunk_s=CHUNK_S * 0.75, search=no_pruning()).run()
    assert len(bench.chunks()) == 1


def test_the_next_night_knows_how_long_a_chunk_takes(tmp_path, clock):
    bench = night_bench(tmp_path, clock, window_s=4 * CHUNK_S, search=no_pruning()).run()
    clock.set("2026-01-02T22:15+00:00")
    bench.events.clear()
    bench.run()
    assert bench.chunks() == []
    assert "a chunk takes 1800 s" in bench.controller.stop_reason


def test_a_chunk_that_does_not_end_is_given_up_soon_after_the_close(tmp_path, clock):
    bench = night_bench(tmp_path, clock, window_s=10 * CHUNK_S, search=no_pruning(), num_workers=2, speeds=(1, 10**9))
    bench.run(on_change=lambda: clock.pass_s(5))
    assert 10 * CHUNK_S < (clock() - bench.controller.forecast._ledger.begun_at).total_seconds() < 11 * CHUNK_S
    running = [trial for trial in bench.trials().values() if not trial.state.is_finished]
    assert all(trial.chunks_done == 0 for trial in running)
    assert all(trial.cost.device_s > 0 for trial in running)
    bench.speeds = ()
    nights(bench, clock)
    check_whole(bench)


@pytest.mark.parametrize("sampler", ["tpe", "gp", "cmaes"])
def test_a_night_that_is_cut_has_the_same_trials_and_scores_as_an_uncut_one(tmp_path, clock, sampler):
    settings = preset(sampler, num_startup_trials=3)
    whole = night_bench(tmp_path / "whole", clock, budget=BudgetSettings(), num_trials=12, search=settings).run()
    assert {TrialState.PRUNED, TrialState.COMPLETE} == set(whole.states())
    cut = night_bench(tmp_path / "cut", clock, window_s=7 * CHUNK_S, num_trials=12, search=settings)
    packs = nights(cut, clock)
    assert len(packs) >= 2
    assert list(itertools.chain(*packs)) == whole.chunks()
    assert outcome(cut) == outcome(whole)
    check_whole(cut)


@pytest.mark.parametrize("num_chunks", [1, 4])
def test_it_does_not_matter_after_which_chunk_a_night_is_cut(tmp_path, clock, num_chunks):
    whole = night_bench(tmp_path / "whole", clock, budget=BudgetSettings(), num_trials=6).run()
    cut = night_bench(tmp_path / "cut", clock, window_s=num_chunks * CHUNK_S, num_trials=6)
    nights(cut, clock)
    assert outcome(cut) == outcome(whole)


def test_a_night_that_is_cut_while_a_culprit_is_looked_for_goes_on_in_the_next(tmp_path, clock):
    bench = night_bench(tmp_path, clock, window_s=3.5 * CHUNK_S, search=no_pruning())
    losing = once(lose, at=2)

    def before(numbers):
        clock.pass_s(CHUNK_S)
        losing(numbers)

    bench.worker["before"] = before
    packs = nights(bench, clock)
    assert packs[0] == [(0, 1, 2), (0, 1, 2), (0,)]
    assert {trial.num_retries for trial in bench.trials().values()} == {0}
    check_whole(bench)


def test_several_studies_are_cut_like_one(tmp_path, clock):
    studies = ("one", "two")
    whole = night_bench(tmp_path / "whole", clock, budget=BudgetSettings(), studies=studies).run()
    cut = night_bench(tmp_path / "cut", clock, window_s=5 * CHUNK_S, studies=studies)
    nights(cut, clock)
    for study in studies:
        assert cut.settings(study) == whole.settings(study)
        assert cut.states(study) == whole.states(study)
        check_whole(cut, study)


# Where nothing goes on afterwards, a whole trial must fit.


def test_before_a_deadline_with_a_date_no_trial_begins_that_would_not_end(tmp_path, clock):
    budget = BudgetSettings(deadline="2026-01-01T23:05", time_zone="UTC")
    bench = night_bench(tmp_path, clock, budget=budget, num_trials=50, search=no_pruning()).run()
    assert bench.states() == [TrialState.COMPLETE] * 3
    assert "budget.deadline=2026-01-01T23:05, and a whole trial takes 2400 s" in bench.controller.stop_reason
    assert clock() <= bench.controller.forecast._stop.at


def test_before_a_deadline_without_a_date_trials_begin_and_go_on_after_the_next_start(tmp_path, clock):
    budget = BudgetSettings(deadline="23:05", time_zone="UTC")
    bench = night_bench(tmp_path, clock, budget=budget, num_trials=50, search=no_pruning()).run()
    assert bench.states() == [TrialState.COMPLETE] * 3 + [TrialState.RUNNING] * 3
    assert bench.trials()[3].chunks_done == 2


@pytest.mark.parametrize(("hours", "num_trials"), [(12, 3), (14, 3), (16, 4), (23, 5), (24, 6)])
def test_device_hours_are_kept_whatever_is_under_way(tmp_path, hours, num_trials):
    """Chunks cost an hour a trial, trials have four chunks and three lanes."""
    bench = Bench(tmp_path, num_trials=50, budget=BudgetSettings(device_hours=hours), search=no_pruning())
    bench.worker = {"device_s": 3600.0}
    bench.run()
    assert bench.states() == [TrialState.COMPLETE] * num_trials
    assert sum(trial.cost.device_s for trial in bench.trials().values()) <= hours * 3600
    assert "budget.device_hours" in bench.controller.stop_reason


def test_trials_that_are_stopped_early_leave_their_device_hours_to_others(tmp_path):
    bench = Bench(tmp_path, num_trials=50, budget=BudgetSettings(device_hours=24), search=preset("random"))
    bench.worker = {"device_s": 3600.0}
    bench.run()
    assert TrialState.PRUNED in bench.states()
    assert len(bench.trials()) > 6
    assert 24 - RUNGS[-1] < sum(trial.cost.device_s for trial in bench.trials().values()) / 3600 <= 24


# Predictions.


def test_the_end_is_predicted_from_the_chunks_that_are_left(tmp_path, clock):
    bench = night_bench(tmp_path, clock, search=no_pruning())
    seen = []
    bench.run(on_change=lambda: seen.append(bench.controller.forecast.ends_at(1)))
    assert seen[0] is None
    predicted = [moment for moment in seen if moment is not None]
    # Six trials of four chunks, of which three are done; each costs 600 s of the device, as the double has it.
    assert predicted[0] - FakeClock("2026-01-01T22:10+00:00")() == timedelta(seconds=(6 * 4 - 3) * CHUNK_S)
    assert predicted[-1] == clock()


def test_the_predicted_end_is_no_later_than_the_window(tmp_path, clock):
    bench = night_bench(tmp_path, clock, window_s=3600, num_trials=1000, search=no_pruning())
    seen = []
    bench.run(on_change=lambda: seen.append(bench.controller.forecast.ends_at(1)))
    assert {f"{moment:%H:%M}" for moment in seen if moment} == {"23:00"}
