"""The search as a study sees it: once its database is down, it is not asked again, and nothing is lost by that.

The store has everything; the next session tells the search what it missed and asks for the decisions that are open.
`study_run` owns one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from sweeper.errors import StorageDown
from sweeper.search.base import ProposalProtocol, SearchProtocol
from sweeper.types import Decision, Phase, StudyRecord, TrialRecord, TrialState

__all__ = ["SearchClient"]

T = TypeVar("T")


class SearchClient:
    """Asks a search about the trials of a study.

    Args:
        search: Proposes and prunes.
        study: What the trials share.
    """

    def __init__(self, search: SearchProtocol, study: StudyRecord) -> None:
        self._search, self._study = search, study
        self.error: StorageDown | None = None
        """Why the search is not asked any more."""

    def synchronize(self, trials: Sequence[TrialRecord]) -> Sequence[ProposalProtocol]:
        """Bring the search in line with the store; return proposals that never reached the store."""
        self._search.sync(trials, self._study.value)
        return self._search.pending()

    @property
    def is_exhausted(self) -> bool:
        """Whether there is no further configuration to try."""
        return self._ask(lambda: self._search.is_exhausted) is not False

    def propose(self) -> ProposalProtocol | None:
        """Return a configuration to try; None if the search is down."""
        return self._ask(self._search.ask)

    def decide(self, trial: TrialRecord) -> Decision | None:
        """Return whether a trial that stands at a rung continues.

        Returns:
            None where there is nothing to decide: no rung, a reference, a decision that was made before, or a search
            that is down.
        """
        rung = trial.measurements[-1] if trial.measurements else None
        is_open = rung is not None and rung.is_rung and rung.chunk > trial.decided_chunk
        if rung is None or not is_open or trial.spec.phase is not Phase.SEARCH:
            return None
        value = rung.metrics[self._study.metric]
        return self._ask(lambda: self._search.report(trial.spec.number, chunk=rung.chunk, value=value))

    def tell(self, trial: TrialRecord) -> None:
        """Tell the search how a trial ended."""
        if trial.spec.phase is Phase.SEARCH:
            self._ask(lambda: self._tell(trial))

    def _tell(self, trial: TrialRecord) -> None:
        number, value = trial.spec.number, self._study.value(trial)
        if trial.state is TrialState.COMPLETE and value is not None:
            self._search.report(number, chunk=trial.chunks_done, value=value)
        self._search.tell(number, state=trial.state, value=value)

    def _ask(self, call: Callable[[], T]) -> T | None:
        if self.error is None:
            try:
                return call()
            except StorageDown as error:
                self.error = error
        return None
