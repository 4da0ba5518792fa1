"""What the trials with fresh seeds of one study show: candidates, their row outcomes, and the comparison of them.

`confirmation` makes a block of best.json of it, `conclusions` the sentences.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

from sweeper.errors import StoreError
from sweeper.figures.confirmation import MIN_SEEDS, ConfirmationRecord, confirmation_trials
from sweeper.statistics.comparison import compare_candidates
from sweeper.statistics.outcomes import CandidateOutcomes
from sweeper.statistics.results import CandidateResult, Verdict
from sweeper.store.candidate_outcomes import read_candidate_outcomes
from sweeper.store.trials import TrialStore
from sweeper.types import StudyRecord, TrialRecord, TrialState

__all__ = ["PREFIX", "Findings", "row_metrics"]

PREFIX = "validation/"


class Findings:
    """The confirmation of one study, finished or not.

    Args:
        store: The sweep.
        study: The study.
        trials: Its trials.
        record: How far the confirmation is, and its candidates.
        default: Name of the default recipe.
    """

    def __init__(
        self,
        store: TrialStore,
        study: StudyRecord,
        trials: Sequence[TrialRecord],
        *,
        record: ConfirmationRecord,
        default: str,
    ) -> None:
        self.store, self.study, self.trials, self.record = store, study, trials, record
        # The number of seeds that the looks at the data share the error level over.
        self.settings = dataclasses.replace(record.settings, max_seeds=record.max_seeds or record.settings.max_seeds)
        self.metric = study.metric.removeprefix(PREFIX)
        self.maximize = study.direction == "maximize"
        by_number = {trial.spec.number: trial for trial in trials}
        self.origins = {candidate.name: by_number[candidate.trial] for candidate in record.candidates}
        """The trial of the search, or the reference, that had each candidate's configuration."""
        self.complete = self._complete_trials()
        """The trials of each candidate up to the first that is not complete, in the order of the fresh seeds."""
        self.outcomes = self._outcomes()
        """Row outcomes of the candidates that have enough seeds to be compared."""
        self.results = self._results(default)
        """The same candidates compared with each other."""
        self.default = default if default in self.results else None
        self.best = next((name for name, result in self.results.items() if result.against_best is None), None)
        """The candidate with the highest mean over fresh seeds."""

    @property
    def recommended(self) -> str | None:
        """The candidate to use: the best of those that are better than the default recipe, otherwise the default.

        The best of many was chosen for its score, so a lead that may be chance is no reason to leave the default. And
        repeated sweeps agree where no configuration is better.
        """
        if self.default is None:
            return self.best
        better = [name for name in self.results if self.is_better(name)]
        return max(better, key=self.score, default=self.default)

    @property
    def num_rows(self) -> int:
        """Rows that candidates are compared on."""
        return next((found.num_rows for found in self.outcomes.values()), 0)

    @property
    def has_fresh_rows(self) -> bool:
        """Whether the search used none of these rows; otherwise they are the validation rows."""
        return self.study.num_rows.get("confirmation", 0) > 0

    def is_better(self, name: str) -> bool:
        """Whether a candidate was shown to be better than the default recipe."""
        found = self.results[name].against_default
        return found is not None and found.verdict is Verdict.BETTER

    def score(self, name: str) -> float:
        """Return a candidate's mean over fresh seeds, negative if lower values are better."""
        return (1 if self.maximize else -1) * self.results[name].metrics[self.study.metric].estimate

    def gain(self, one: float, other: float) -> float:
        """Return by how much one value of the study's metric is better than another."""
        return one - other if self.maximize else other - one

    def num_parameters(self, name: str) -> int:
        """Return a candidate's trainable parameters."""
        return max(trial.num_parameters for trial in self.complete[name])

    def device_s(self, name: str) -> float:
        """Return the mean device time of a candidate's trials, in seconds."""
        complete = self.complete[name]
        return sum(trial.cost.device_s for trial in complete) / len(complete)

    def test_outcomes(self, name: str) -> CandidateOutcomes | None:
        """Return what a candidate's adapters made of the test rows; None if they were not scored there."""
        return self._read(name, "test") if name in self.outcomes else None

    def compare(self, candidates: Sequence[CandidateOutcomes], *, default: str | None) -> list[CandidateResult]:
        """Compare candidates in every metric of the task."""
        return compare_candidates(
            candidates,
            default=default,
            metric=self.metric,
            maximize=self.maximize,
            settings=self.settings,
            other_metrics=[name for name in row_metrics(candidates[0]) if name != self.metric],
        )

    def _complete_trials(self) -> dict[str, list[TrialRecord]]:
        trained = confirmation_trials(self.trials)
        return {
            name: list(itertools.takewhile(lambda t: t.state is TrialState.COMPLETE, trained.get(name, {}).values()))
            for name in self.origins
        }

    def _outcomes(self) -> dict[str, CandidateOutcomes]:
        found = {name: self._read(name, "validation") for name in self.origins}
        return {name: rows for name, rows in found.items() if rows is not None}

    def _read(self, name: str, split: str) -> CandidateOutcomes | None:
        if len(self.complete[name]) < MIN_SEEDS:
            return None
        try:
            return read_candidate_outcomes(self.store, name, self.complete[name], split=split)
        except StoreError:
            return None  # not scored, or damaged, which `sweeper reconcile` repairs

    def _results(self, default: str) -> dict[str, CandidateResult]:
        if not self.outcomes:
            return {}
        found = self.compare(list(self.outcomes.values()), default=default if default in self.outcomes else None)
        return {result.name: result for result in found}


def row_metrics(outcomes: CandidateOutcomes) -> list[str]:
    """Return the metrics that follow from row outcomes."""
    if outcomes.predicted_SN is None:
        return ["loss"]
    return ["accuracy", "loss"] if outcomes.tokens_N is not None else ["accuracy", "macro_f1", "mcc", "loss"]
