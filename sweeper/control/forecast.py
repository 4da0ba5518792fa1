"""What still fits: predicted from the chunks that were measured. The controller asks before it begins anything.

A chunk is the unit that must fit before a window closes, because every chunk is checkpointed: a trial that the window
cuts goes on the next night where it stopped, and the search proposes what it would have proposed without the cut.
Where nothing goes on afterwards (a deadline with a date, the last device hours) a whole trial must fit.

Predicts and decides nothing else; what was spent and what the clock says is `ledger`'s business.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Protocol

from sweeper.config.settings import BudgetSettings
from sweeper.config.time_limit import find_time_limit
from sweeper.store.ledger import Ledger
from sweeper.types import ChunkReport, StudyRecord, TrialRecord

__all__ = ["Forecast", "StudyLike", "chunks_left"]

_RECENT = 8
"""Chunks that a prediction is made of: a whole trial has 12 by default, so scored chunks are among them."""
_GRACE_S = 15.0
"""A chunk that takes longer than predicted may end so long after the close; then it is lost, its trials are not."""


class StudyLike(Protocol):
    """What is asked of a study (see `sweeper.control.study_run.StudyRun`)."""

    @property
    def record(self) -> StudyRecord:
        """What the trials share."""
        ...

    @property
    def trials(self) -> Mapping[int, TrialRecord]:
        """All trials, by number."""
        ...

    @property
    def num_to_begin(self) -> int:
        """Trials that the budget still allows to begin."""
        ...

    @property
    def cannot_open(self) -> bool:
        """Whether no worker can open it, so that nothing of it goes on."""
        ...


class Forecast:
    """Predicts for one session.

    Args:
        runs: The studies.
        ledger: What is spent, and the time.
        budget: What may be spent, and until when.
        num_lanes: Lanes of a pack, until a chunk of this session was measured.
    """

    def __init__(
        self, runs: Sequence[StudyLike], *, ledger: Ledger, budget: BudgetSettings, num_lanes: int = 1
    ) -> None:
        self._runs, self._ledger, self._budget = runs, ledger, budget
        self._num_lanes = num_lanes
        self._stop = find_time_limit(budget, ledger.begun_at)
        self._chunk_s: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=_RECENT))
        self._lane_s: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=_RECENT))

    @property
    def is_overdue(self) -> bool:
        """Whether the session should have ended some time ago, so that running chunks are given up."""
        return self._stop is not None and self._ledger.left_s(self._stop) < -_GRACE_S

    @property
    def is_paused(self) -> bool:
        """Whether something is left to do that only the clock forbids, and not for ever."""
        if self._stop is None or self._stop.is_final or self.reason() is None:
            return False
        return any(self._why_no_chunk(run) for run in self._runs if _is_unfinished(run))

    def note(self, study: str, report: ChunkReport) -> None:
        """Learn from a chunk of a pack."""
        self._chunk_s[study].append(report.elapsed_s)
        if report.costs:
            costs = [cost.device_s for cost in report.costs.values()]
            self._lane_s[study].append(statistics.fmean(costs))

    def may_train(self, run: StudyLike) -> bool:
        """Whether another chunk of a study is predicted to end in time."""
        return self._why_no_chunk(run) is None

    def may_begin(self, run: StudyLike) -> bool:
        """Whether a new trial of a study may begin, given that a chunk of it fits."""
        return self._why_no_trial(run) is None

    def reason(self) -> str | None:
        """Return why nothing more may be begun though something is left to do; None otherwise."""
        unfinished = [run for run in self._runs if _is_unfinished(run)]
        reasons = [self._why_no_chunk(run) or self._why_no_trial(run) for run in unfinished]
        return reasons[0] if reasons and all(reasons) else None

    def ends_at(self, num_workers: int) -> datetime | None:
        """Return when the session is predicted to end; None before the first chunk of the sweep.

        Args:
            num_workers: Workers that share what is left.
        """
        left = [self._left_s(run) for run in self._runs]
        if any(seconds is None for seconds in left):
            return None
        device_s = sum(seconds for seconds in left if seconds is not None)
        if self._budget.device_hours:
            device_s = min(device_s, max(0.0, self._budget.device_hours * 3600 - self._ledger.cost.device_s))
        end = self._ledger.now + timedelta(seconds=device_s / num_workers)
        return end if self._stop is None else max(min(end, self._stop.at), self._ledger.now)

    def _why_no_chunk(self, run: StudyLike) -> str | None:
        if self._stop is None:
            return None
        left_s, chunk_s = self._ledger.left_s(self._stop), self._longest_chunk_s(run, self._stop.span_s)
        if left_s <= 0:
            return self._stop.reason
        return None if chunk_s <= left_s else f"{self._stop.reason}, and a chunk takes {chunk_s:.0f} s"

    def _why_no_trial(self, run: StudyLike) -> str | None:
        """Return why a trial that is planned to run to its end, since nobody knows which are pruned, does not fit."""
        spent = self._ledger.spent_reason(self._budget)
        if spent is not None:
            return spent
        num_chunks, hours = run.record.num_chunks, self._budget.device_hours
        if self._stop is not None and self._stop.is_final:
            trial_s = num_chunks * statistics.median(self._chunk_s[run.record.name] or [0.0])
            if trial_s > self._ledger.left_s(self._stop):
                return f"{self._stop.reason}, and a whole trial takes {trial_s:.0f} s"
        free_s = hours * 3600 - self._ledger.cost.device_s - self._promised_s() if hours else math.inf
        if (self._typical_lane_s(run.record.name) or 0.0) * num_chunks > free_s:
            return f"what running trials leave of budget.device_hours={hours:g} is too little for a whole one"
        return None

    def _promised_s(self) -> float:
        """Return the device seconds that running trials need to their end."""
        return sum(
            (self._typical_lane_s(run.record.name) or 0.0) * (run.record.num_chunks - trial.chunks_done)
            for run in self._runs
            for trial in run.trials.values()
            if not trial.state.is_finished
        )

    def _longest_chunk_s(self, run: StudyLike, span_s: float) -> float:
        """Return the longest of the recent chunks; of an earlier session only the mean is known.

        Does the window have no room for that mean, it is tried all the same: or a slow night would be the last one.
        """
        recent = self._chunk_s[run.record.name]
        past_s = (self._past_lane_s(run) or 0.0) * self._num_lanes
        return max(recent) if recent else past_s if past_s <= span_s else 0.0

    def _typical_lane_s(self, study: str) -> float | None:
        """Return the device seconds of a chunk of one trial; None if nothing was measured."""
        recent = self._lane_s[study]
        if recent:
            return statistics.median(recent)
        return next((self._past_lane_s(run) for run in self._runs if run.record.name == study), None)

    @staticmethod
    def _past_lane_s(run: StudyLike) -> float | None:
        chunks = sum(trial.chunks_done for trial in run.trials.values())
        return sum(trial.cost.device_s for trial in run.trials.values()) / chunks if chunks else None

    def _left_s(self, run: StudyLike) -> float | None:
        """Return the device seconds that a study needs; one not yet measured is taken for like the others, by rows."""
        chunks = chunks_left(run.record, run.trials.values(), num_to_begin=run.num_to_begin)
        lane_s = self._typical_lane_s(run.record.name)
        if lane_s is not None or not chunks:
            return chunks * (lane_s or 0.0)
        by_row = [
            known / other.record.rows_per_chunk
            for other in self._runs
            if (known := self._typical_lane_s(other.record.name)) is not None
        ]
        return chunks * run.record.rows_per_chunk * statistics.fmean(by_row) if by_row else None


def chunks_left(study: StudyRecord, trials: Iterable[TrialRecord], *, num_to_begin: int) -> float:
    """Return the chunks that a study's trials are expected to need still, those that are stopped early included.

    Args:
        study: The study.
        trials: All its trials.
        num_to_begin: Trials that will be begun.
    """
    known = list(trials)
    finished = [trial.chunks_done for trial in known if trial.state.is_finished]
    mean = statistics.fmean(finished) if finished else float(study.num_chunks)
    running = [trial.chunks_done for trial in known if not trial.state.is_finished]
    # A trial that has outlived the mean has passed the early rungs: expect it to go all the way.
    ends = [mean if done < mean else study.num_chunks for done in running]
    return sum(end - done for end, done in zip(ends, running, strict=True)) + num_to_begin * mean


def _is_unfinished(run: StudyLike) -> bool:
    has_running = any(not trial.state.is_finished for trial in run.trials.values())
    return not run.cannot_open and (run.num_to_begin > 0 or has_running)
