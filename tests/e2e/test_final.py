"""`sweeper train`: the chosen configuration of a finished sweep, trained once more on all rows."""

from __future__ import annotations

import json

import pytest
from rich.console import Console

import sweeper
from sweeper.errors import SweeperError
from sweeper.store.paths import SweepPaths
from sweeper.store.trials import TrialStore
from sweeper.sweep.final import FinalOptions, train_final
from sweeper.sweep.run import run_sweep
from sweeper.types import Phase, TrialState
from tests.doubles import write_rows

STUDY = "tiny-tinybert-lora"
ALL = f"{STUDY}-all-rows"


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "outputs" / "tiny"


@pytest.fixture
def finals(folder):
    return TrialStore(SweepPaths(folder).final)


def train(folder, target="tiny", **options):
    return train_final(target, FinalOptions(**options), outputs=folder.parent, console=Console())


def test_the_best_configuration_is_trained_on_all_rows(tiny, folder, finals, capsys):
    run_sweep(tiny)
    store = TrialStore(folder)
    source = store.read_study(STUDY)
    assert train(folder, f"tiny/{STUDY}") == 0
    record, (trial,) = finals.read_study(ALL), finals.trials(ALL)
    print(record.num_rows, record.num_available, source.num_rows, source.num_available)
    assert record.num_rows["train"] == source.num_available > source.num_rows["train"]
    best = json.loads(store.paths.best.read_text())["studies"][0]
    assert trial.state is TrialState.COMPLETE
    assert trial.spec.phase is Phase.FINAL
    assert trial.spec.params == store.read_trial(STUDY, best["best"]["trial"]).spec.params
