"""Predicts from measured chunks whether another chunk or trial fits into the time and device hours that are left.

Before a window closes, only a chunk must fit, because every chunk is checkpointed: the next session resumes each trial
where the window interrupted it, and the search proposes the same configurations as without the interruption. If no
session follows (a deadline with a date, the last device hours), a complete trial must fit.

The controller asks before it starts anything. `ledger` provides what was spent and the time.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict, deque
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Protocol

from sweeper.config.settings import BudgetSettings
from sweeper.config.time_limit import find_time_limit
from sweeper.config.trial_length import trial_chunks
from sweeper.execute.base import StudyOpened
from sweeper.figures.tally import TrialTally
from sweeper.store.ledger import Ledger
from sweeper.types import ChunkReport, StudyRecord

__all__ = ["Forecast", "ForecastStudy", "chunks_left"]

_RECENT = 8
"""Number of latest chunks that a prediction uses. A trial has 12 by default, so some of them include scoring."""
_GRACE_S = 15.0
"""How long a chunk may run past the session's end. Then it is abandoned, and its trials resume in the next session."""


class ForecastStudy(Protocol):
    """The part of a study that a forecast needs; `sweeper.control.study_run.StudyRun` has it."""

    @property
    def record(self) -> StudyRecord:
        """The record of the study."""
        ...

    @property
    def tally(self) -> TrialTally:
        """Counts and sums over its trials."""
        ...

    @property
    def num_to_start(self) -> int:
        """Trials that the budget still allows to start."""
        ...

    @property
    def num_references_to_start(self) -> int:
        """References, outside the budget, that have not started yet."""
        ...

    @property
    def num_confirmations_to_start(self) -> int:
        """Trials of the confirmation that have not started yet; before the end of the search, as many as expected."""
        ...

    @property
    def num_confirmations_reserved(self) -> int:
        """Trials that the confirmation would need if the search started no more."""
        ...

    @property
    def cannot_open(self) -> bool:
        """Whether no worker can open the study, so that none of its trials can continue."""
        ...


class Forecast:
    """Makes the predictions of one session.

    Args:
        runs: The studies.
        ledger: What was spent, and the clock.
        budget: What may be spent, and until when.
        num_lanes: Lanes of a pack, to predict chunks before the first one of this session was measured.
    """

    def __init__(
        self, runs: Sequence[ForecastStudy], *, ledger: Ledger, budget: BudgetSettings, num_lanes: int = 1
    ) -> None:
        self._runs, self._ledger, self._budget = runs, ledger, budget
        self._num_lanes = num_lanes
        self._stop = find_time_limit(budget, ledger.started_at)
        self._chunk_s: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=_RECENT))
        self._lane_s: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=_RECENT))
        self.opened: dict[str, StudyOpened] = {}
        """What workers predicted when they opened a study, by its name, in the order of opening."""
        self.peak_bytes = 0
        """Most memory that a worker has needed so far; 0 before the first chunk."""

    @property
    def is_overdue(self) -> bool:
        """Whether the session's end and the grace period are over, so that running chunks must be abandoned."""
        return self._stop is not None and self._ledger.left_s(self._stop) < -_GRACE_S

    @property
    def is_paused(self) -> bool:
        """Whether only a window or a daily deadline stops the remaining work, so that a later session can continue."""
        if self._stop is None or self._stop.is_final or self.reason() is None:
            return False
        return any(self._why_no_chunk(run) for run in self._runs if _is_unfinished(run))

    def record_opened(self, study: str, reply: StudyOpened) -> None:
        """Record what a worker predicts for a study that it has opened."""
        self.opened.setdefault(study, reply)

    def trial_s(self, study: str) -> float:
        """Return the device seconds of a trial of a study that is not pruned, as measured; 0 before the first chunk."""
        return next((self._trial_s(run) for run in self._runs if run.record.name == study), 0.0)

    def record_chunk(self, study: str, report: ChunkReport) -> None:
        """Record how long a chunk took, and the memory that its worker has needed."""
        self.peak_bytes = max(self.peak_bytes, report.peak_bytes)
        self._chunk_s[study].append(report.elapsed_s)
        if report.costs:
            costs = [cost.device_s for cost in report.costs.values()]
            self._lane_s[study].append(statistics.fmean(costs))

    def may_train(self, run: ForecastStudy) -> bool:
        """Whether another chunk of a study should end in time."""
        return self._why_no_chunk(run) is None

    def may_start(self, run: ForecastStudy) -> bool:
        """Whether a new trial of a study may start, given that a chunk of it fits."""
        return self._why_no_trial(run) is None

    def leaves_confirmation(self, run: ForecastStudy) -> bool:
        """Whether the device hours that are left are needed to confirm what the search of a study has found."""
        return run.num_to_start > 0 and run.num_confirmations_reserved > 0 and self._trial_s(run) > self._free_s(run)

    def reason(self) -> str | None:
        """Return why nothing more may start although work is left; None if something may, or nothing is left."""
        unfinished = [run for run in self._runs if _is_unfinished(run)]
        reasons = [self._why_no_chunk(run) or self._why_no_trial(run) for run in unfinished]
        return reasons[0] if reasons and all(reasons) else None

    def ends_at(self, num_workers: int) -> datetime | None:
        """Return the predicted end of the session; None before the first chunk of the sweep.

        Args:
            num_workers: Workers that share the remaining work.
        """
        left = [self._left_s(run) for run in self._runs]
        if any(seconds is None for seconds in left):
            return None
        device_s = sum(seconds for seconds in left if seconds is not None)
        if self._budget.device_hours:
            device_s = min(device_s, max(0.0, self._budget.device_hours * 3600 - self._ledger.cost.device_s))
        end = self._ledger.now + timedelta(seconds=device_s / num_workers)
        return end if self._stop is None else max(min(end, self._stop.at), self._ledger.now)

    def _why_no_chunk(self, run: ForecastStudy) -> str | None:
        if self._stop is None:
            return None
        left_s, chunk_s = self._ledger.left_s(self._stop), self._longest_chunk_s(run, self._stop.span_s)
        if left_s <= 0:
            return self._stop.reason
        return None if chunk_s <= left_s else f"{self._stop.reason}, and a chunk takes {chunk_s:.0f} s"

    def _why_no_trial(self, run: ForecastStudy) -> str | None:
        """Return why a new trial does not fit. It is assumed to be the longest, and not to be pruned."""
        spent = self._ledger.spent_reason(self._budget)
        if spent is not None:
            return spent
        if self._stop is not None and self._stop.is_final:
            trial_s = run.record.num_chunks * statistics.median(self._chunk_s[run.record.name] or [0.0])
            if trial_s > self._ledger.left_s(self._stop):
                return f"{self._stop.reason}, and a trial takes {trial_s:.0f} s"
        if self._trial_s(run) > self._free_s(run):
            hours = self._budget.device_hours
            return f"budget.device_hours={hours:g} leaves too little for another trial beside the running ones"
        return None

    def _trial_s(self, run: ForecastStudy) -> float:
        """Return the device seconds of the longest trial that is not pruned; 0 before the first chunk."""
        return (self._typical_lane_s(run.record.name) or 0.0) * run.record.num_chunks

    def _free_s(self, run: ForecastStudy) -> float:
        """Return the device seconds for a new trial of a study; a trial of the search leaves some to confirm it."""
        hours = self._budget.device_hours
        if not hours:
            return math.inf
        confirmed = self._runs if run.num_to_start else ()
        kept_s = sum(each.num_confirmations_reserved * self._trial_s(each) for each in confirmed)
        return hours * 3600 - self._ledger.cost.device_s - self._reserved_s() - kept_s

    def _reserved_s(self) -> float:
        """Return the device seconds that running trials need to complete."""
        return sum(
            (self._typical_lane_s(run.record.name) or 0.0)
            * (trial_chunks(run.record, trial.spec.train.epochs) - trial.chunks_done)
            for run in self._runs
            for trial in run.tally.running.values()
        )

    def _longest_chunk_s(self, run: ForecastStudy, span_s: float) -> float:
        """Return the time of the longest recent chunk, or the mean of earlier sessions before the first chunk.

        A mean longer than the window is ignored: otherwise no session after a slow one would start a chunk.
        """
        recent = self._chunk_s[run.record.name]
        past_s = (self._past_lane_s(run) or 0.0) * self._num_lanes
        return max(recent) if recent else past_s if past_s <= span_s else 0.0

    def _typical_lane_s(self, study: str) -> float | None:
        """Return the device seconds that a trial typically needs for a chunk; None if none was measured."""
        recent = self._lane_s[study]
        if recent:
            return statistics.median(recent)
        return next((self._past_lane_s(run) for run in self._runs if run.record.name == study), None)

    @staticmethod
    def _past_lane_s(run: ForecastStudy) -> float | None:
        chunks = run.tally.chunks_done
        return run.tally.cost.device_s / chunks if chunks else None

    def _left_s(self, run: ForecastStudy) -> float | None:
        """Return the device seconds that a study still needs; before its first chunk, by the pace of others."""
        chunks = chunks_left(
            run.record,
            run.tally,
            num_to_start=run.num_to_start,
            num_unpruned=run.num_references_to_start + run.num_confirmations_to_start,
        )
        lane_s = self._typical_lane_s(run.record.name)
        if lane_s is not None or not chunks:
            return chunks * (lane_s or 0.0)
        by_row = [
            known / other.record.rows_per_chunk
            for other in self._runs
            if (known := self._typical_lane_s(other.record.name)) is not None
        ]
        return chunks * run.record.rows_per_chunk * statistics.fmean(by_row) if by_row else None


def chunks_left(study: StudyRecord, tally: TrialTally, *, num_to_start: int, num_unpruned: int = 0) -> float:
    """Return the expected number of chunks that a study still needs, allowing for pruning.

    Args:
        study: The study.
        tally: Counts and sums over its trials.
        num_to_start: Trials of the search that have not started yet.
        num_unpruned: Trials that have not started yet and are never pruned: references, and those of the confirmation.
    """
    length = tally.mean_length
    left = num_to_start * tally.expected_chunks(length) + num_unpruned * length
    for trial in tally.running.values():
        own = trial_chunks(study, trial.spec.train.epochs)
        mean = tally.expected_chunks(own)
        # A trial beyond the mean has passed the early rungs, so it is expected to complete.
        left += (mean if trial.chunks_done < mean else own) - trial.chunks_done
    return left


def _is_unfinished(run: ForecastStudy) -> bool:
    has_new = run.num_to_start + run.num_references_to_start + run.num_confirmations_to_start > 0
    return not run.cannot_open and (has_new or bool(run.tally.running))
