"""The trials of a study that follow its search: the references, then the confirmation. `study_run` owns one.

A study without a search has final trainings instead (`sweeper train`).

They are outside the budget, never pruned, and unknown to the search.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence

from sweeper.config.settings import Recipe
from sweeper.control.confirmation import Confirmation
from sweeper.control.final_scores import FinalScores
from sweeper.control.trial_records import TrialRecords
from sweeper.execute.base import AdaptersScored, ScoreAdapters
from sweeper.figures.confirmation import ConfirmationRecord, ConfirmationState
from sweeper.figures.recipes import FIRST_CONFIRMATION_NUMBER, candidate_name, confirmation_origin, recipe_origin
from sweeper.types import Phase, TrialRecord, TrialSpec, TrialState, TrialTemplate

__all__ = ["FollowUp"]


class FollowUp:
    """Chooses the trials that follow a search.

    Args:
        records: The records of the study's trials.
        template: Makes the specs of the references.
        references: Recipes that are trained for comparison, by trial number.
        confirmation: Trains the best candidates again; None to end with the references.
        finals: Final trainings, which are scored on the test split.
        file_bytes: Size from which a worker reads an adapter that it scores from the disk.
    """

    def __init__(
        self,
        records: TrialRecords,
        template: TrialTemplate,
        *,
        references: Mapping[int, Recipe],
        confirmation: Confirmation | None,
        finals: Sequence[TrialSpec] = (),
        file_bytes: float = math.inf,
    ) -> None:
        self._records, self._template, self._finals = records, template, finals
        self.references, self._confirmation = references, confirmation
        self._scores = FinalScores(records, file_bytes=file_bytes)
        self.record: ConfirmationRecord | None = None
        """How far the confirmation is; None before the search has ended, and without a confirmation."""

    @property
    def num_references_to_start(self) -> int:
        """References and final trainings that have not started yet."""
        numbers = [*(spec.number for spec in self._finals), *self.references]
        return sum(number not in self._records.trials for number in numbers)

    @property
    def num_due(self) -> int:
        """Trials that can start now, given that the search starts no more."""
        return self.num_references_to_start + self._num_confirmations_due

    @property
    def is_confirmed(self) -> bool:
        """Whether nothing is left to confirm after this search; also true without a confirmation."""
        return self._confirmation is None or (self.record is not None and self.record.state.is_over)

    def num_confirmations_expected(self, num_to_start: int) -> int:
        """Return the expected number of trials of the confirmation that have not started yet.

        Args:
            num_to_start: Trials of the search that have not started yet.
        """
        if self._confirmation is None or self.record is not None:
            return self._num_confirmations_due
        tally, settings = self._records.tally, self._confirmation.settings
        length = tally.mean_length
        allowed = settings.max_share * tally.expected_chunks(length) * (tally.num_searched + num_to_start) / length
        return min(settings.max_candidates * settings.seeds, int(allowed))

    def update(self) -> None:
        """Decide how the confirmation goes on, once the references are finished too; called when the search is over."""
        records = self._records
        trials = [records.trials.get(number) for number in self.references]
        if self._confirmation is None or not all(trial and trial.state.is_finished for trial in trials):
            return
        record = self._confirmation.update(records.study, records.trials)
        if self._scores.missing(self._to_score):
            record = dataclasses.replace(record, state=ConfirmationState.RUNNING)
        if record != self.record:
            self.record = record
            records.store.write_confirmation(records.study.name, record)

    def next_spec(self) -> TrialSpec | None:
        """Return the spec of the next trial to start; None if there is none."""
        for spec in self._finals:
            if spec.number not in self._records.trials:
                return spec
        for number, recipe in self.references.items():
            if number not in self._records.trials:
                spec = self._template.spec(number, recipe.params, recipe_origin(recipe.name))
                return dataclasses.replace(spec, phase=Phase.REFERENCE)
        if self._confirmation is None or not self._confirmation.due:
            return None
        trial = self._confirmation.due.pop(0)
        return dataclasses.replace(
            self._records.trials[trial.candidate.trial].spec,
            # A trial that replaces a lost one gets its number, so the order of numbers is still that of the seeds.
            number=next(n for n in itertools.count(FIRST_CONFIRMATION_NUMBER) if n not in self._records.trials),
            seed=trial.seed,
            origin=confirmation_origin(trial.candidate.name),
            phase=Phase.CONFIRMATION,
        )

    @property
    def has_scores_due(self) -> bool:
        """Whether a worker could score adapters of the confirmation on the test split now."""
        return self._scores.is_due(self._to_score)

    def score_request(self, *, limit: int) -> ScoreAdapters | None:
        """Return a request to score adapters on the test split; None if there are none.

        Args:
            limit: The most adapters of a request.
        """
        request = self._scores.request(self._to_score, limit=limit)
        if request is None and self.record is not None:  # adapters may have turned out to be unreadable
            self.update()
        return request

    def record_scores(self, reply: AdaptersScored) -> None:
        """Write the outcomes of test rows that a worker sent."""
        self._scores.record(reply)
        self.update()

    def scores_failed(self, reason: str) -> None:
        """Note that a worker could not score adapters."""
        self._scores.failed(reason)
        self.update()

    @property
    def _num_confirmations_due(self) -> int:
        return len(self._confirmation.due) if self._confirmation is not None else 0

    @property
    def _to_score(self) -> list[TrialRecord]:
        """The complete trials to score on the test split.

        Those of the confirmed winner and of the default recipe, once there is a winner; and final trainings.
        """
        complete = [trial for trial in self._records.trials.values() if trial.state is TrialState.COMPLETE]
        confirmation, finals = self._confirmation, {spec.number for spec in self._finals}
        if confirmation is None:
            return [trial for trial in complete if trial.spec.number in finals]
        return [trial for trial in complete if confirmation.is_scored_on_test(candidate_name(trial.spec))]
