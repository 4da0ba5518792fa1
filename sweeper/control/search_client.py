"""Calls the search for a study. Once its database is down, the search is not called again, and nothing is lost.

The store has everything: the next session builds the search from it and requests the missing decisions. `study_run`
owns one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TypeVar

from sweeper.errors import DiskError, StorageDown
from sweeper.figures.pareto import rung_costs
from sweeper.search.base import ProposalProtocol, SearchProtocol
from sweeper.types import Decision, Measurement, Phase, StudyRecord, TrialRecord, TrialState

__all__ = ["SearchClient"]

T = TypeVar("T")


class SearchClient:
    """Gets proposals and pruning decisions for one study.

    Args:
        search: Proposes and prunes.
        study: The record of the study.
    """

    def __init__(self, search: SearchProtocol, study: StudyRecord) -> None:
        self._search, self._study = search, study
        self.error: StorageDown | DiskError | None = None
        """The error after which the search is no longer called; None if there was none."""

    def synchronize(self, trials: Sequence[TrialRecord]) -> None:
        """Build the search from the trials in the store."""
        self._search.sync(trials, self._study.value)

    def publish(self) -> None:
        """Let the database show what the search was told; the store must have it."""
        self._search.publish()

    @property
    def num_recipes(self) -> int:
        """Number of recipes in the space, which are the first proposals."""
        return self._search.num_recipes

    @property
    def is_exhausted(self) -> bool:
        """Whether there is no configuration left to try, or the search is down."""
        return self._ask(lambda: self._search.is_exhausted) is not False

    def propose(self) -> ProposalProtocol | None:
        """Return a configuration to try; None if the search is down."""
        return self._ask(self._search.ask)

    def decide(self, trial: TrialRecord) -> Decision | None:
        """Return whether a trial continues after its latest chunk.

        Returns:
            None if nothing is to be decided: the chunk is not a rung, the trial is a reference, the decision was made
            before, or the search is down.
        """
        rung = trial.measurements[-1] if trial.measurements else None
        if rung is None or not rung.is_rung or trial.spec.phase is not Phase.SEARCH:
            return None
        # A decided rung is trained again if a checkpoint is damaged; the search needs its score, for other trials.
        decision = self._ask(lambda: self._report(trial, rung))
        return decision if rung.chunk > trial.decided_chunk else None

    def tell(self, trial: TrialRecord) -> None:
        """Report the final state of a trial to the search."""
        if trial.spec.phase is Phase.SEARCH:
            self._ask(lambda: self._tell(trial))

    def _tell(self, trial: TrialRecord) -> None:
        rung, value = trial.last_rung, self._study.value(trial)
        if trial.state is TrialState.COMPLETE and rung is not None and value is not None:
            self._report(trial, rung)
        finished_at = datetime.fromisoformat(trial.finished_at)
        self._search.tell(trial.spec.number, state=trial.state, value=value, finished_at=finished_at)

    def _report(self, trial: TrialRecord, rung: Measurement) -> Decision:
        return self._search.report(
            trial.spec.number,
            chunk=rung.chunk,
            value=rung.metrics[self._study.metric],
            loss=rung.validation_loss,
            costs=rung_costs(trial),
        )

    def _ask(self, call: Callable[[], T]) -> T | None:
        if self.error is None:
            try:
                return call()
            except (StorageDown, DiskError) as error:
                self.error = error
        return None
