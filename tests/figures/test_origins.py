"""Where the trials of a search came from."""

from __future__ import annotations

import dataclasses

from sweeper.figures.origins import count_origins
from sweeper.types import Phase, TrialState
from tests.builders import make_study, make_trial


def seen(study, trials):
    return [dataclasses.astuple(count) for count in count_origins(study, trials)]


def test_origins_come_in_the_order_of_their_first_trial_and_recipes_are_one():
    trials = [
        make_trial(4, 0.95, origin="gp"),
        make_trial(0, 0.8, origin="recipe:default"),
        make_trial(1, 0.97, origin="recipe:other", state=TrialState.PRUNED),
        make_trial(2, 0.9, origin="portfolio:minilm"),
        make_trial(3, origin="sobol", state=TrialState.INFEASIBLE, chunks=0),
        make_trial(5, 0.85, origin="gp"),
        make_trial(7, 0.99, origin="recipe:default", phase=Phase.CONFIRMATION),
    ]
    assert seen(make_study(), trials) == [
        ("recipes", 2, 1, 1, 0.8),
        ("portfolio:minilm", 1, 1, 0, 0.9),
        ("sobol", 1, 0, 0, None),
        ("gp", 2, 2, 0, 0.95),
    ]


def test_the_best_is_the_lowest_where_the_search_minimises():
    study = make_study(metric="validation/loss", direction="minimize")
    trials = [make_trial(number, loss, study=study, origin="gp") for number, loss in ((0, 0.5), (1, 0.3))]
    assert seen(study, trials) == [("gp", 2, 2, 0, 0.3)]
