"""Scores the adapters of a confirmed winner and of the default recipe on the test split, once. `follow_up` owns one.

The results are for the report. No decision reads them: the test rows choose nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from sweeper.control.trial_records import TrialRecords
from sweeper.execute.base import AdaptersScored, ScoreAdapters
from sweeper.types import AdapterFiles, TrialRecord, TrialSpec

__all__ = ["FinalScores"]

log = logging.getLogger(__name__)
_SPLIT = "test"
_MAX_FAILURES = 2
"""Failed requests of a session after which the test rows are not scored."""


class FinalScores:
    """Makes the requests and records the replies.

    Args:
        records: The records of the study's trials.
        file_bytes: Size from which a worker reads an adapter from the disk; smaller ones are part of the request.
    """

    def __init__(self, records: TrialRecords, *, file_bytes: float) -> None:
        self._records, self._file_bytes = records, file_bytes
        self._scored: set[int] = set()
        """Trials that are scored, or cannot be in this session."""
        self._requested: set[int] = set()
        self._num_failures = 0

    def missing(self, trials: Sequence[TrialRecord]) -> list[TrialRecord]:
        """Return the trials that are still to be scored, those in a request included."""
        study = self._records.study
        if not study.num_rows.get(_SPLIT) or self._num_failures >= _MAX_FAILURES:
            return []
        for number in {trial.spec.number for trial in trials} - self._scored:
            if self._records.store.read_test_outcomes(study.name, number) is not None:
                self._scored.add(number)
        return [trial for trial in trials if trial.spec.number not in self._scored]

    def is_due(self, trials: Sequence[TrialRecord]) -> bool:
        """Whether a trial is still to be scored, and in no request."""
        return any(trial.spec.number not in self._requested for trial in self.missing(trials))

    def request(self, trials: Sequence[TrialRecord], *, limit: int) -> ScoreAdapters | None:
        """Return a request for a worker.

        Args:
            trials: The trials to score.
            limit: The most adapters of a request, so that it takes about as long as a chunk.

        Returns:
            None if every adapter is scored or in a request, or cannot be read.
        """
        study = self._records.study.name
        adapters: dict[int, tuple[TrialSpec, AdapterFiles]] = {}
        for trial in self.missing(trials):
            number = trial.spec.number
            if len(adapters) < limit and number not in self._requested:
                files = self._records.store.read_adapter(study, number, file_bytes=self._file_bytes)
                if files:
                    adapters[number] = (trial.spec, files)
                else:
                    log.warning("%s, trial %d: it has no adapter, so it is not scored on test rows", study, number)
                    self._scored.add(number)
        self._requested |= adapters.keys()
        return ScoreAdapters(split=_SPLIT, adapters=adapters) if adapters else None

    def record(self, reply: AdaptersScored) -> None:
        """Write the outcomes that a worker sent."""
        study = self._records.study.name
        for number, content in reply.outcomes.items():
            self._records.store.write_test_outcomes(study, number, content)
        for number, failure in reply.failures.items():
            log.warning("%s, trial %d: it is not scored on test rows: %s", study, number, failure.message)
        self._scored |= reply.outcomes.keys() | reply.failures.keys()
        self._requested -= self._scored

    def failed(self, reason: str) -> None:
        """Note that a worker failed to answer a request, so that it is repeated once.

        Args:
            reason: What happened to the worker.
        """
        self._requested.clear()
        self._num_failures += 1
        if self._num_failures >= _MAX_FAILURES:
            log.error("%s: the test rows are not scored: %s", self._records.study.name, reason)
