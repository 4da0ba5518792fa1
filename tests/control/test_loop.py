"""A sweep without failures: budgets, refilled lanes, several workers and studies, shutdown."""

from __future__ import annotations

import time

import pytest

from sweeper.config.settings import BudgetSettings
from sweeper.execute.inline import _InlineHandle
from sweeper.store.trials import TrialStore
from sweeper.types import TrialState
from tests.control.bench import RUNGS, Bench, check_intact, no_pruning
from tests.doubles import FakeClock
from tests.search.toy import preset


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


@pytest.mark.parametrize("num_trials", [1, 3, 7])
def test_exactly_as_many_trials_run_as_the_budget_allows(tmp_path, num_trials):
    bench = Bench(tmp_path, num_trials=num_trials).run()
    assert sorted(bench.trials()) == list(range(num_trials))
    check_intact(bench)


def test_a_larger_budget_continues_the_sweep_and_a_spent_one_starts_no_worker(bench):
    bench.run()
    bench.num_trials = 8
    bench.run()
    assert len(bench.trials()) == 8
    bench.events.clear()
    bench.run()
    assert bench.events == []
    check_intact(bench)


def test_a_grid_that_is_smaller_than_the_budget_ends_the_study(tmp_path):
    bench = Bench(tmp_path, num_trials=50, search=preset("grid", grid_points=1, recipes=[])).run()
    assert 1 <= len(bench.trials()) < 50
    check_intact(bench)


def test_the_lane_of_a_pruned_trial_is_refilled_at_once(tmp_path):
    bench = Bench(tmp_path, num_trials=12, search=preset("random")).run()
    assert TrialState.PRUNED in bench.states()
    packs = bench.chunks()
    last_start = next(i for i, pack in enumerate(packs) if 11 in pack)
    assert {len(pack) for pack in packs[: last_start + 1]} == {3}


def test_a_pruned_trial_leaves_the_pack_and_a_complete_one_keeps_its_adapter(tmp_path):
    bench = Bench(tmp_path, num_trials=12, search=preset("random")).run()
    trials = bench.trials()
    for number, trial in trials.items():
        trained = sum(number in pack for pack in bench.chunks())
        assert trained == trial.chunks_done
    pruned = [trial for trial in trials.values() if trial.state is TrialState.PRUNED]
    assert {trial.chunks_done for trial in pruned} == {RUNGS[0]}
    check_intact(bench)


def test_costs_and_details_of_a_trial_add_up(bench):
    bench.search = no_pruning()
    bench.run()
    trial = bench.trials()[0]
    assert (trial.cost.rows, trial.cost.tokens, trial.cost.device_s) == (40, 400, 4.0)
    assert (trial.num_parameters, trial.initial_hash) == (7, "hash-0")
    assert [m.elapsed_s for m in trial.measurements] == [1.0, 2.0, 3.0, 4.0]
    assert trial.started_at.endswith("+00:00")
    assert trial.finished_at.endswith("+00:00")


def test_every_trial_has_the_same_seed_and_all_hyperparameters(bench):
    trials = bench.run().trials().values()
    assert {trial.spec.seed for trial in trials} == {0}
    assert all(trial.spec.by_key()["train.batch_size"] == 16 for trial in trials)
    assert all(trial.spec.by_key()["lora.r"] == trial.spec.params["lora.r"] for trial in trials)


def test_a_clock_that_is_set_back_ends_no_trial_before_its_start(bench):
    clock = bench.clock = FakeClock()
    bench.worker = {"before": lambda _numbers: clock.pass_s(-60)}
    for trial in bench.run().trials().values():
        assert trial.finished_at >= trial.started_at
    assert bench.runs[0].tally.wall_s() >= 0


def test_recipes_come_first(bench):
    origins = [trial.spec.origin for trial in bench.run().trials().values()]
    assert origins == ["recipe:peft_default", "recipe:alpha_2r", "sobol", "sobol", "tpe", "tpe"]


# Several workers, several studies.


def test_no_worker_waits_for_a_slower_one(tmp_path):
    bench = Bench(tmp_path, num_trials=40, num_workers=2, speeds=(1, 5), search=no_pruning()).run()
    chunks = [index for index, what, _ in bench.events if what == "chunk"]
    assert chunks.count(0) >= 4 * chunks.count(1) > 0
    check_intact(bench)


def test_a_trial_is_in_one_pack_at_a_time(tmp_path):
    bench = Bench(tmp_path, num_trials=20, num_workers=2, speeds=(1, 3)).run()
    workers = {}
    for index, what, numbers in bench.events:
        for number in numbers if what == "chunk" else ():
            workers.setdefault(number, set()).add(index)
    assert {len(indices) for indices in workers.values()} == {1}


def test_workers_are_spread_over_the_studies_and_finish_all(tmp_path):
    bench = Bench(tmp_path, studies=("one", "two", "three"), num_workers=2).run()
    for study in bench.studies:
        assert len(bench.trials(study)) == bench.num_trials
        check_intact(bench, study)
    assert len({numbers for _, what, numbers in bench.events if what == "open"}) == 1


def test_the_probe_runs_once_per_study(tmp_path):
    bench = Bench(tmp_path, studies=("one", "two"), num_workers=2).run()
    for study in bench.studies:
        assert bench.store.read_study(study).references == {"frozen_probe": {"validation/accuracy": 0.5}}


# Ending.


def test_spent_device_hours_start_nothing_new_and_let_running_trials_finish(bench):
    bench.budget, bench.search = BudgetSettings(device_hours=5), no_pruning()
    bench.worker = {"device_s": 3600.0}
    bench.run()
    assert bench.states() == [TrialState.COMPLETE] * 3
    assert "budget.device_hours=5 is spent" in bench.controller.stop_reason


def test_spent_device_hours_count_after_a_restart(bench):
    bench.budget, bench.search = BudgetSettings(device_hours=5), no_pruning()
    bench.worker = {"device_s": 3600.0}
    bench.run().run()
    assert len(bench.trials()) == 3


def test_a_spent_budget_of_trials_is_not_reported_as_a_stop_reason(bench):
    assert bench.run().controller.stop_reason is None


def shut_down_after(bench, num_chunks, *, grace_s=60.0):
    def look():
        if len(bench.chunks()) >= num_chunks and not bench.shutdown:
            bench.shutdown.reason = "SIGTERM"
            bench.shutdown.deadline_s = time.monotonic() + grace_s

    return look


def test_a_shutdown_records_running_chunks_and_their_checkpoints(bench):
    bench.run(on_change=shut_down_after(bench, 2))
    running = [trial for trial in bench.trials().values() if not trial.state.is_finished]
    assert running
    for trial in running:
        assert bench.store.read_checkpoint("toy", trial.spec.number, trial.chunks_done)
        assert trial.chunks_done == sum(trial.spec.number in pack for pack in bench.chunks())


def test_a_shutdown_after_its_deadline_does_not_wait_for_running_chunks(bench):
    bench.run(on_change=shut_down_after(bench, 3, grace_s=-1))
    assert len(bench.chunks()) == 3


def test_a_shutdown_starts_no_new_trial(bench):
    bench.shutdown.reason, bench.shutdown.deadline_s = "SIGINT", time.monotonic() + 60
    bench.run()
    assert bench.trials() == {}


def test_a_sweep_resumed_after_a_shutdown_has_the_same_result(bench, tmp_path):
    bench.run(on_change=shut_down_after(bench, 3))
    bench.shutdown.reason = ""
    bench.run()
    whole = Bench(tmp_path / "whole").run()
    assert bench.configurations() == whole.configurations()
    assert bench.states() == whole.states()
    check_intact(bench)


def test_an_unchanged_pack_continues_before_its_records_are_written(bench, monkeypatch):
    order = []
    send, write = _InlineHandle.send, TrialStore.write_trial

    def noted_send(handle, request):
        order.append(type(request).__name__)
        send(handle, request)

    def noted_write(store, record, checkpoint=None):
        order.append(record.chunks_done)
        write(store, record, checkpoint)

    monkeypatch.setattr(_InlineHandle, "send", noted_send)
    monkeypatch.setattr(TrialStore, "write_trial", noted_write)
    bench.num_trials, bench.search = 3, no_pruning()
    bench.run()
    first_rung = order.index(RUNGS[0])
    before_rung = [what for what in order[order.index("ChunkRequest") :][: first_rung + 1] if what != 0]
    assert before_rung[:5] == ["ChunkRequest", "ChunkRequest", 1, 1, 1]  # chunk 2 starts before chunk 1 is written
    writes = order[first_rung : order.index("ChunkRequest", first_rung)]
    assert set(writes) == {2}  # at a rung, every record and decision is written before the next chunk starts
    assert len(writes) >= 3
    check_intact(bench)
