"""Reads what the statistics of a confirmation need from the store: scores of the search, row outcomes of candidates.

`confirmation` decides with the results. Fits and comparisons depend only on the trials: the same after every restart.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from sweeper.config.dimensions import parse_space
from sweeper.config.settings import ConfirmSettings
from sweeper.figures.ranking import finite_value
from sweeper.statistics.comparison import compare_candidates
from sweeper.statistics.results import CandidateResult
from sweeper.statistics.surrogate import fit_study, probability_best
from sweeper.store.candidate_outcomes import read_candidate_outcomes
from sweeper.store.trials import TrialStore
from sweeper.types import StudyRecord, TrialRecord, TrialState

__all__ = ["OutcomeComparison", "probabilities_of_being_best"]


def probabilities_of_being_best(study: StudyRecord, trials: Sequence[TrialRecord]) -> Mapping[int, float]:
    """Return for each scored trial of a search, by number, the posterior probability that its configuration is best.

    Args:
        study: The study.
        trials: The finished trials of its search. Those with the same configuration share the probability.
    """
    space = parse_space(study.space)
    states = (TrialState.COMPLETE, TrialState.PRUNED)
    scored = [trial for trial in trials if trial.state in states and finite_value(study, trial) is not None]
    if not scored:
        return {}
    configurations = [{key: trial.spec.by_key()[key] for key in space.keys} for trial in scored]
    found = probability_best(fit_study(study, trials, space), configurations)
    return {trial.spec.number: probability for trial, probability in zip(scored, found, strict=True)}


class OutcomeComparison:
    """Compares candidates by the outcomes of the validation rows, in the study's metric.

    Args:
        store: The sweep.
        settings: Margin and confidence.
    """

    def __init__(self, store: TrialStore, settings: ConfirmSettings) -> None:
        self._store, self._settings = store, settings

    def __call__(
        self, study: StudyRecord, candidates: Mapping[str, Sequence[TrialRecord]], *, default: str, max_seeds: int
    ) -> Sequence[CandidateResult]:
        """Return a result for each candidate; see `confirmation.CompareCandidates`.

        Raises:
            StoreError: Row outcomes are damaged or missing.
        """
        return compare_candidates(
            [read_candidate_outcomes(self._store, name, trials) for name, trials in candidates.items()],
            default=default,
            metric=study.metric.rpartition("/")[2],
            maximize=study.direction == "maximize",
            settings=dataclasses.replace(self._settings, max_seeds=max_seeds),
        )
