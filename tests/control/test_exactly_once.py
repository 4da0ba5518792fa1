"""A controller that is killed between any two writes exceeds no budget and leaves no partial files."""

from __future__ import annotations

import json

import pytest

from sweeper.config.space import EPOCHS, Dimension, Scale, SearchSpace
from sweeper.store.trials import TrialStore
from sweeper.types import TrialState
from tests.control.bench import Bench, Killed, check_intact, no_pruning
from tests.search.toy import SPACE, preset

TWO_LENGTHS = SearchSpace(
    (*SPACE.dimensions, Dimension(key=EPOCHS, scale=Scale.ORDERED, choices=(1, 2), text="choice(1,2)"))
)


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path, search=no_pruning())


def kill_at_write(monkeypatch, name, number):
    """Kill the controller right after its n-th call of a method of the store."""
    calls = []
    method = getattr(TrialStore, name)

    def write(*args, **kwargs):
        result = method(*args, **kwargs)
        calls.append(args)
        if len(calls) == number:
            raise Killed
        return result

    monkeypatch.setattr(TrialStore, name, write)


def device_s(bench):
    return json.loads((bench.folder / "ledger.json").read_text())["cost"]["device_s"]


@pytest.mark.parametrize("number", [5, 9, 14])
def test_the_ledger_never_has_less_than_the_cost_of_the_trials(bench, monkeypatch, number):
    kill_at_write(monkeypatch, "write_trial", number)
    with pytest.raises(Killed):
        bench.run()
    assert device_s(bench) >= sum(trial.cost.device_s for trial in bench.trials().values()) > 0


@pytest.mark.parametrize("number", [2, 5, 9, 14, 20])
def test_a_restart_adds_no_trial_to_the_budget_and_charges_repeated_chunks(bench, monkeypatch, number):
    whole = Bench(bench.folder / "whole", search=no_pruning())
    whole.folder.mkdir()
    whole.run()
    with monkeypatch.context() as patch:
        kill_at_write(patch, "write_trial", number)
        with pytest.raises(Killed):
            bench.run()
    bench.run().run()
    check_intact(bench)
    assert bench.configurations() == whole.configurations()
    assert len(bench.trials()) == bench.num_trials
    assert device_s(bench) >= device_s(whole)


def test_a_restart_deletes_partial_writes(bench):
    bench.run()
    folder = bench.store.paths.trial("toy", 0).folder
    (folder / ".trial.json.tmp").write_text("{")
    (folder / ".adapter.0a1b2c3d.tmp").mkdir()
    (folder / ".adapter.0a1b2c3d.tmp" / "adapter_config.json").write_text("{")
    (folder / "checkpoint-2.safetensors").write_bytes(b"old")
    bench.run()
    outcomes = ["outcomes-2.safetensors", "outcomes-4.safetensors"]
    assert sorted(path.name for path in folder.iterdir()) == ["adapter", *outcomes, "trial.json"]


def test_only_the_adapters_of_the_best_trials_and_of_recipes_are_kept(bench):
    bench.keep_adapters = 2
    bench.run()
    trials = sorted(bench.trials().values(), key=lambda trial: -trial.last_rung.metrics["validation/accuracy"])
    best = {trial.spec.number for trial in trials[:2]}
    recipes = {trial.spec.number for trial in trials if trial.spec.is_recipe}
    assert bench.store.adapters("toy") == best | recipes < {trial.spec.number for trial in trials}


def test_a_smaller_number_of_adapters_takes_effect_at_the_next_start(bench):
    bench.run()
    assert len(bench.store.adapters("toy")) == 6
    bench.keep_adapters = 1
    bench.run()
    assert len(bench.store.adapters("toy")) < 6


@pytest.mark.parametrize("number", [5, 11, 17])
def test_trials_of_different_lengths_end_at_their_own_last_chunk_whenever_the_controller_is_killed(
    tmp_path, monkeypatch, number
):
    whole, killed = (
        Bench(tmp_path / name, search=no_pruning(), space=TWO_LENGTHS, num_trials=8) for name in ("whole", "killed")
    )
    for bench in (whole, killed):
        bench.folder.mkdir()
    whole.run()
    with monkeypatch.context() as patch:
        kill_at_write(patch, "write_trial", number)
        with pytest.raises(Killed):
            killed.run()
    killed.run().run()
    check_intact(killed)
    assert killed.configurations() == whole.configurations()
    ends = {n: trial.chunks_done for n, trial in killed.trials().items()}
    assert ends == {n: 2 * params[EPOCHS] for n, params in whole.configurations().items()}
    assert set(ends.values()) == {2, 4}


def test_a_trial_that_has_ended_is_no_rival_of_a_longer_one_at_its_last_chunk(tmp_path):
    """The short ones score best there, as they do with an annealed learning rate; nothing else is at that rung."""
    bench = Bench(tmp_path, search=preset("random"), space=TWO_LENGTHS, num_trials=8, lanes=1)
    bench.run()
    check_intact(bench)
    long = [trial for trial in bench.trials().values() if trial.spec.train.epochs == 2]
    rivals = []
    for trial in long:
        own = trial.measurements[1].metrics["validation/accuracy"]
        rivals.append(own)
        survives = len(rivals) < 4 or sorted(rivals, reverse=True).index(own) < len(rivals) // 2
        assert trial.spec.origin == "recipe:peft_default" or survives == (trial.state is TrialState.COMPLETE)
    assert TrialState.PRUNED in {trial.state for trial in long}
