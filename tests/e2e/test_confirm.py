"""Complete sweeps of a tiny model, from the search to the scores on test rows."""

from __future__ import annotations

import json

import pytest
from rich.console import Console

from sweeper.errors import SweeperError
from sweeper.figures.confirmation import ConfirmationState, confirmation_trials
from sweeper.store.candidate_outcomes import read_candidate_outcomes
from sweeper.store.trials import TrialStore
from sweeper.sweep.confirm import confirm_sweep
from sweeper.sweep.reproduce import reproduce_trial
from sweeper.sweep.run import run_sweep
from sweeper.types import Phase, TrialState

STUDY = "tiny-tinybert-lora"
ENOUGH = ["confirm.max_share=3", "confirm.seeds=2", "confirm.max_seeds=2"]


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "outputs" / "tiny"


def check_confirmed(store):
    """Check that every candidate has its two seeds, and that winner and default were scored on the test rows."""
    record = store.read_confirmation(STUDY)
    assert record.state is ConfirmationState.COMPLETE
    assert record.candidates[0].name == "peft_default"
    found = confirmation_trials(store.trials(STUDY))
    assert set(found) == {candidate.name for candidate in record.candidates}
    seeds = {tuple(trials) for trials in found.values()}
    assert len(seeds) == 1
    for name, trials in found.items():
        assert {trial.state for trial in trials.values()} == {TrialState.COMPLETE}
        assert read_candidate_outcomes(store, name, list(trials.values())).num_rows == 26
        scored = [store.read_test_outcomes(STUDY, trial.spec.number) for trial in trials.values()]
        assert all(outcomes is not None for outcomes in scored) == (name in (record.winner, "peft_default"))
    # Equal seeds start from equal adapters, and different ones do not.
    starts = {(trial.spec.lora.r, seed): trial.initial_hash for t in found.values() for seed, trial in t.items()}
    assert len(set(starts.values())) == len(starts)


def test_a_sweep_confirms_its_best_configuration_at_its_end(tiny, folder, capsys):
    run_sweep([*tiny, *ENOUGH])
    store = TrialStore(folder)
    check_confirmed(store)
    before = {path: path.read_bytes() for path in folder.glob("studies/**/*.*") if path.is_file()}
    run_sweep([*tiny, *ENOUGH])
    assert "is done" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in before} == before
    study = json.loads((folder / "best.json").read_text())["studies"][0]
    assert (study["num_trials"], study["num_references"]) == (5, 0)
    assert study["best"]["phase"] == "search"
    last = store.trials(STUDY)[-1]
    assert last.spec.phase is Phase.CONFIRMATION
    trial = f"tiny/{STUDY}/{last.spec.number}"
    assert reproduce_trial(trial, outputs=folder.parent, console=Console())


def test_a_finished_sweep_is_confirmed_later_by_its_name(tiny, folder, capsys):
    run_sweep(tiny)
    store = TrialStore(folder)
    assert store.read_confirmation(STUDY) is None
    confirm_sweep("tiny", ENOUGH, outputs=folder.parent, console=Console())
    check_confirmed(store)
    capsys.readouterr()
    confirm_sweep("tiny", ENOUGH, outputs=folder.parent, console=Console())
    assert "its candidates are confirmed" in capsys.readouterr().out


def test_an_unfinished_search_is_confirmed_as_it_is(tiny, folder):
    run_sweep([*tiny, "budget.trials=4"])
    text = (folder / "sweep.json").read_text()
    assert '"trials": 4' in text
    (folder / "sweep.json").write_text(text.replace('"trials": 4', '"trials": 99'))
    confirm_sweep("tiny", ENOUGH, outputs=folder.parent, console=Console())
    store = TrialStore(folder)
    check_confirmed(store)
    assert sum(trial.spec.phase is Phase.SEARCH for trial in store.trials(STUDY)) == 4


def test_the_search_of_a_sweep_cannot_be_changed_by_its_confirmation(tiny, folder):
    run_sweep(tiny)
    with pytest.raises(SweeperError, match="lora is part of the sweep, so `sweeper confirm` cannot change it"):
        confirm_sweep("tiny", ["lora.r=4"], outputs=folder.parent, console=Console())


def test_a_single_key_of_a_confirmation_leaves_the_others_as_the_sweep_was_started_with(tiny, folder):
    run_sweep([*tiny, "confirm.margin=0.02", "confirm.confidence=0.9"])
    confirm_sweep("tiny", ["confirm.max_share=4", "confirm.seeds=2"], outputs=folder.parent, console=Console())
    found = TrialStore(folder).read_confirmation(STUDY).settings
    assert (found.max_share, found.seeds, found.margin, found.confidence) == (4, 2, 0.02, 0.9)


def test_a_wrong_key_of_a_confirmation_is_an_error_before_anything_runs(tiny, folder):
    run_sweep(tiny)
    with pytest.raises(SweeperError, match=r"confirm\.max_seeds=2: must be at least confirm\.seeds=3"):
        confirm_sweep("tiny", ["confirm.max_seeds=2"], outputs=folder.parent, console=Console())
    assert TrialStore(folder).read_confirmation(STUDY) is None
