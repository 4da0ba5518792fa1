"""When trials are scored."""

from __future__ import annotations

import optuna
import pytest

from sweeper.config.keys import find_key
from sweeper.config.settings import SearchSettings
from sweeper.search.pruning import make_pruner, rung_chunks


@pytest.mark.parametrize(
    ("num_chunks", "min_chunks", "factor", "rungs"),
    [
        (12, 3, 2, (3, 6, 12)),
        (12, 1, 3, (1, 3, 12)),
        (10, 3, 2, (3, 6, 10)),
        (13, 3, 2, (3, 6, 13)),
        (4, 3, 2, (4,)),
        (1, 3, 2, (1,)),
    ],
)
def test_rungs_are_geometric_and_end_at_the_last_chunk(num_chunks, min_chunks, factor, rungs):
    assert rung_chunks(num_chunks, min_chunks=min_chunks, reduction_factor=factor) == rungs


@pytest.mark.parametrize("name", find_key("search.pruner").choices)
def test_every_pruner_can_be_made(name):
    pruner = make_pruner(SearchSettings(pruner=name), rungs=(3, 6, 12), num_chunks=12)
    assert isinstance(pruner, optuna.pruners.BasePruner)


def test_successive_halving_decides_exactly_at_the_rungs():
    study = optuna.create_study(pruner=make_pruner(SearchSettings(), rungs=(3, 6, 12), num_chunks=12))
    for value in (0.1, 0.2, 0.3):
        trial = study.ask()
        for step in range(1, 13):
            trial.report(value, step)
            trial.should_prune()
    worst = study.ask()
    decisions = []
    for step in range(1, 13):
        worst.report(9.0, step)
        decisions.append(worst.should_prune())
    assert [step for step, stop in enumerate(decisions, start=1) if stop] == [3, 6, 12]
