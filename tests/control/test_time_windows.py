"""The loop stays within its window: it starts only what should end in time, and the next session continues."""

from __future__ import annotations

import itertools
from datetime import timedelta

import pytest

from sweeper.config.settings import BudgetSettings
from sweeper.types import TrialState
from tests.control.bench import RUNGS, Bench, check_intact, lose, no_pruning, once
from tests.doubles import FakeClock
from tests.search.toy import preset

WINDOW = {"window": "22:00-07:00", "time_zone": "UTC"}
CHUNK_S = 600.0


def window_bench(folder, clock, *, window_s=None, chunk_s=CHUNK_S, **changes):
    """Return a bench whose chunks advance the clock and whose window closes ``window_s`` after 22:00."""
    budget = changes.pop("budget", BudgetSettings(**WINDOW))
    if window_s is not None:
        hours, minutes = divmod(22 * 60 + int(window_s // 60), 60)
        budget = BudgetSettings(window=f"22:00-{hours:02d}:{minutes:02d}", time_zone="UTC")
    worker = {"device_s": chunk_s, "before": lambda _numbers: clock.pass_s(chunk_s)}
    return Bench(folder, clock=clock, budget=budget, worker=worker, **changes)


def run_sessions(bench, clock, max_sessions=60):
    """Run one session per day until the sweep is done; return the packs of each session."""
    packs = []
    for day in range(1, max_sessions):
        clock.set(f"2026-{1 + day // 28:02d}-{1 + day % 28:02d}T22:00+00:00")
        bench.events.clear()
        bench.run()
        packs.append(bench.chunks())
        if bench.controller.stop_reason is None:
            return packs
    raise AssertionError(f"not done after {max_sessions} sessions: {bench.states()}")


def outcome(bench):
    """Return what must not depend on when a session was interrupted."""
    trials = bench.trials().values()
    stored = [(trial.state, trial.value, trial.intermediate_values) for trial in bench.in_optuna()]
    return [(t.spec, t.state, [(m.chunk, m.metrics) for m in t.measurements]) for t in trials], stored


@pytest.fixture
def clock():
    return FakeClock("2026-01-01T22:00+00:00")


def test_the_last_chunk_ends_before_the_window_closes(tmp_path, clock):
    bench = window_bench(tmp_path, clock, window_s=3.5 * CHUNK_S, search=no_pruning()).run()
    assert len(bench.chunks()) == 3
    assert f"{clock():%H:%M}" == "22:30"
    assert bench.controller.stop_reason == "budget.window=22:00-22:35 closes at 22:35, and a chunk takes 600 s"


def test_trials_interrupted_by_the_end_of_the_window_resume_from_checkpoints_in_the_next(tmp_path, clock):
    bench = window_bench(tmp_path, clock, window_s=3 * CHUNK_S, search=no_pruning()).run()
    cut = {number: trial.chunks_done for number, trial in bench.trials().items()}
    assert cut == {0: 3, 1: 3, 2: 3}
    for number, chunks in cut.items():
        assert bench.store.read_checkpoint("toy", number, chunks)
    clock.set("2026-01-02T22:00+00:00")
    bench.events.clear()
    bench.run()
    assert bench.chunks()[0] == (0, 1, 2)
    assert bench.chunks()[1] == (3, 4, 5)


def test_no_worker_is_started_outside_the_window(tmp_path, clock):
    clock.set("2026-01-01T12:00+00:00")
    bench = window_bench(tmp_path, clock).run()
    assert bench.events == []
    assert bench.controller.stop_reason == "budget.window=22:00-07:00 is closed"


def test_a_first_chunk_that_takes_too_long_is_not_followed_by_another(tmp_path, clock):
    bench = window_bench(tmp_path, clock, window_s=CHUNK_S, chunk_s=CHUNK_S * 0.75, search=no_pruning()).run()
    assert len(bench.chunks()) == 1


def test_the_next_session_predicts_chunks_from_earlier_ones(tmp_path, clock):
    bench = window_bench(tmp_path, clock, window_s=4 * CHUNK_S, search=no_pruning()).run()
    clock.set("2026-01-02T22:15+00:00")
    bench.events.clear()
    bench.run()
    assert bench.chunks() == []
    assert "a chunk takes 1800 s" in bench.controller.stop_reason


def test_a_chunk_that_does_not_end_is_abandoned_soon_after_the_window_closes(tmp_path, clock):
    bench = window_bench(tmp_path, clock, window_s=10 * CHUNK_S, search=no_pruning(), num_workers=2, speeds=(1, 10**9))
    bench.run(on_change=lambda: clock.pass_s(5))
    assert 10 * CHUNK_S < (clock() - bench.controller.forecast._ledger.started_at).total_seconds() < 11 * CHUNK_S
    running = [trial for trial in bench.trials().values() if not trial.state.is_finished]
    assert all(trial.chunks_done == 0 for trial in running)
    assert all(trial.cost.device_s > 0 for trial in running)
    bench.speeds = ()
    run_sessions(bench, clock)
    check_intact(bench)


@pytest.mark.parametrize("sampler", ["tpe", "gp", "cmaes"])
def test_an_interrupted_sweep_has_the_same_trials_and_scores_as_an_uninterrupted_one(tmp_path, clock, sampler):
    settings = preset(sampler, num_startup_trials=3)
    whole = window_bench(tmp_path / "whole", clock, budget=BudgetSettings(), num_trials=12, search=settings).run()
    assert {TrialState.PRUNED, TrialState.COMPLETE} == set(whole.states())
    cut = window_bench(tmp_path / "cut", clock, window_s=7 * CHUNK_S, num_trials=12, search=settings)
    packs = run_sessions(cut, clock)
    assert len(packs) >= 2
    assert list(itertools.chain(*packs)) == whole.chunks()
    assert outcome(cut) == outcome(whole)
    check_intact(cut)


@pytest.mark.parametrize("num_chunks", [1, 4])
def test_it_does_not_matter_after_which_chunk_a_session_is_interrupted(tmp_path, clock, num_chunks):
    whole = window_bench(tmp_path / "whole", clock, budget=BudgetSettings(), num_trials=6).run()
    cut = window_bench(tmp_path / "cut", clock, window_s=num_chunks * CHUNK_S, num_trials=6)
    run_sessions(cut, clock)
    assert outcome(cut) == outcome(whole)


def test_the_search_for_the_cause_of_a_loss_continues_in_the_next_session(tmp_path, clock):
    bench = window_bench(tmp_path, clock, window_s=3.5 * CHUNK_S, search=no_pruning())
    losing = once(lose, at=2)

    def before(numbers):
        clock.pass_s(CHUNK_S)
        losing(numbers)

    bench.worker["before"] = before
    packs = run_sessions(bench, clock)
    assert packs[0] == [(0, 1, 2), (0, 1, 2), (0,)]
    assert {trial.num_retries for trial in bench.trials().values()} == {0}
    check_intact(bench)


def test_several_studies_are_interrupted_like_one(tmp_path, clock):
    studies = ("one", "two")
    whole = window_bench(tmp_path / "whole", clock, budget=BudgetSettings(), studies=studies).run()
    cut = window_bench(tmp_path / "cut", clock, window_s=5 * CHUNK_S, studies=studies)
    run_sessions(cut, clock)
    for study in studies:
        assert cut.configurations(study) == whole.configurations(study)
        assert cut.states(study) == whole.states(study)
        check_intact(cut, study)


def test_a_worker_whose_next_chunk_does_not_fit_trains_another_study_in_the_time_that_is_left(tmp_path, clock):
    bench = window_bench(tmp_path, clock, window_s=1.5 * CHUNK_S, studies=("long", "short"), search=no_pruning())
    durations = iter([CHUNK_S, 100.0])
    bench.worker["before"] = lambda _numbers: clock.pass_s(next(durations))
    bench.run()
    assert {trial.chunks_done for trial in bench.trials("long").values()} == {1}
    assert {trial.chunks_done for trial in bench.trials("short").values()} == {1}
    assert "closes at 22:15" in bench.controller.stop_reason
    assert bench.controller.forecast.is_paused


# Where no session follows, a whole trial must fit.


def test_before_a_deadline_with_a_date_only_trials_that_will_finish_are_started(tmp_path, clock):
    budget = BudgetSettings(deadline="2026-01-01T23:05", time_zone="UTC")
    bench = window_bench(tmp_path, clock, budget=budget, num_trials=50, search=no_pruning()).run()
    assert bench.states() == [TrialState.COMPLETE] * 3
    assert "budget.deadline=2026-01-01T23:05, and a trial takes 2400 s" in bench.controller.stop_reason
    assert clock() <= bench.controller.forecast._stop.at


def test_before_a_deadline_without_a_date_trials_start_and_resume_in_the_next_session(tmp_path, clock):
    budget = BudgetSettings(deadline="23:05", time_zone="UTC")
    bench = window_bench(tmp_path, clock, budget=budget, num_trials=50, search=no_pruning()).run()
    assert bench.states() == [TrialState.COMPLETE] * 3 + [TrialState.RUNNING] * 3
    assert bench.trials()[3].chunks_done == 2


@pytest.mark.parametrize(("hours", "num_trials"), [(12, 3), (14, 3), (16, 4), (23, 5), (24, 6)])
def test_device_hours_are_never_exceeded(tmp_path, hours, num_trials):
    """A chunk costs each trial one device hour; trials have four chunks, packs three lanes."""
    bench = Bench(tmp_path, num_trials=50, budget=BudgetSettings(device_hours=hours), search=no_pruning())
    bench.worker = {"device_s": 3600.0}
    bench.run()
    assert bench.states() == [TrialState.COMPLETE] * num_trials
    assert sum(trial.cost.device_s for trial in bench.trials().values()) <= hours * 3600
    assert "budget.device_hours" in bench.controller.stop_reason


def test_device_hours_that_pruned_trials_save_go_to_others(tmp_path):
    bench = Bench(tmp_path, num_trials=50, budget=BudgetSettings(device_hours=24), search=preset("random"))
    bench.worker = {"device_s": 3600.0}
    bench.run()
    assert TrialState.PRUNED in bench.states()
    assert len(bench.trials()) > 6
    assert 24 - RUNGS[-1] < sum(trial.cost.device_s for trial in bench.trials().values()) / 3600 <= 24


# Predictions.


def test_the_end_is_predicted_from_the_chunks_that_are_left(tmp_path, clock):
    bench = window_bench(tmp_path, clock, search=no_pruning())
    seen = []
    bench.run(on_change=lambda: seen.append(bench.controller.forecast.ends_at(1)))
    assert seen[0] is None
    predicted = [moment for moment in seen if moment is not None]
    # Six trials of four chunks, three chunks done; the fake worker charges 600 device seconds for each.
    assert predicted[0] - FakeClock("2026-01-01T22:10+00:00")() == timedelta(seconds=(6 * 4 - 3) * CHUNK_S)
    assert predicted[-1] == clock()


def test_the_predicted_end_is_no_later_than_the_window(tmp_path, clock):
    bench = window_bench(tmp_path, clock, window_s=3600, num_trials=1000, search=no_pruning())
    seen = []
    bench.run(on_change=lambda: seen.append(bench.controller.forecast.ends_at(1)))
    assert {f"{moment:%H:%M}" for moment in seen if moment} == {"23:00"}
