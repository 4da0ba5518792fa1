"""When trials are scored."""

from __future__ import annotations

import random
from collections import Counter

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


RUNGS = (3, 6, 12, 24)
NAMES = find_key("search.pruner").choices


def optuna_pruner(name):
    """Optuna's own pruner with the same settings."""
    return {
        "none": optuna.pruners.NopPruner(),
        "median": optuna.pruners.MedianPruner(n_startup_trials=4),
        "successive_halving": optuna.pruners.SuccessiveHalvingPruner(min_resource=3, reduction_factor=2),
        "hyperband": optuna.pruners.HyperbandPruner(min_resource=3, max_resource=24, reduction_factor=2),
    }[name]


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
@pytest.mark.parametrize("name", NAMES)
def test_decisions_are_those_of_optuna(name, direction):
    rng = random.Random(f"{name}/{direction}")  # noqa: S311 - no secret
    study = optuna.create_study(study_name="sweep/toy", direction=direction, pruner=optuna_pruner(name))
    settings = SearchSettings(pruner=name, reduction_factor=2)
    pruner = make_pruner(settings, study="sweep/toy", rungs=RUNGS, maximize=direction == "maximize")
    lanes, decisions, peers = [], [], Counter()
    for _ in range(600):
        if len(lanes) < 8:
            lanes.append((study.ask(), {}))
        position = rng.randrange(len(lanes))
        trial, scores = lanes[position]
        rung = RUNGS[len(scores)]
        scores[rung] = round(rng.gauss(0.5, 0.1), 2)  # rounded, so that there are ties
        trial.report(scores[rung], rung)
        pruner.record(trial.number, rung, scores[rung])
        has_peers = name in ("none", "median") or peers[rung] >= 4
        peers[rung] += 1
        if rung == RUNGS[-1]:
            study.tell(trial, scores[rung])
            pruner.complete(scores)
            del lanes[position]
            continue
        # Optuna must be asked in any case: it notes in the trial that the rung was reached.
        expected = trial.should_prune() and has_peers
        assert pruner.should_prune(trial.number, rung, scores) == expected
        decisions.append(expected)
        if expected:
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
            del lanes[position]
    assert name == "none" or 20 < sum(decisions) < len(decisions) - 20
