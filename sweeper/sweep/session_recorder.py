"""Records one session from its start to its end, writes its summary and sends the notification.

`run` wraps a `SessionRecorder` around the session. The notification is sent after everything is saved. If the summary
cannot be written or sent, this is only a warning in the log.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from sweeper.clock import Clock, timestamp
from sweeper.config.settings import SweepSettings
from sweeper.config.time_limit import find_time_limit
from sweeper.config.time_windows import local_time
from sweeper.disk.atomic import write_atomic
from sweeper.display.progress import StudyProgress, progress_from_disk
from sweeper.display.summary import failures_since, since_last_summary, summary_text, summary_title
from sweeper.errors import DiskError, SweeperError
from sweeper.store.ledger import Ledger
from sweeper.store.serialization import to_bytes
from sweeper.store.sessions import Prediction, SessionLog, SessionRecord, StudyTally
from sweeper.store.trials import TrialStore
from sweeper.sweep.notify import send

__all__ = ["SessionRecorder"]

log = logging.getLogger(__name__)
_SAVE_EVERY_S = 60.0


class SessionRecorder:
    """Writes the record of one session, and its notification.

    Args:
        store: The sweep.
        settings: Settings of the sweep.
        clock: The present time.
    """

    def __init__(self, store: TrialStore, settings: SweepSettings, clock: Clock) -> None:
        self._store, self._settings, self._clock = store, settings, clock
        self._sessions = SessionLog(store.root)
        self._record: SessionRecord | None = None
        self._earlier: list[SessionRecord] = []
        self._spent_before_s = 0.0
        self._ledger: Ledger | None = None
        self._message: tuple[str, str] | None = None

    @property
    def root(self) -> Path:
        """The sweep's folder."""
        return self._store.root

    @contextmanager
    def recording_errors(self) -> Iterator[None]:
        """Record an error that ends the session or prevents its start."""
        try:
            yield
        except Exception as error:
            self._record_error(str(error) or type(error).__name__)
            raise

    @contextmanager
    def notifying(self) -> Iterator[None]:
        """At the end of the block, also after an error, send the queued message if there is one."""
        try:
            yield
        finally:
            if self._message is not None:
                send(self._settings.notify, *self._message)

    def sessions_so_far(self) -> tuple[list[SessionRecord], datetime | None]:
        """Return all sessions up to this one, and the present time; an empty list and None before it has started."""
        if self._record is None:
            return [], None
        return [*self._earlier, self._record], self._clock()

    def start(self, ledger: Ledger, progress: Sequence[StudyProgress]) -> None:
        """Start the record.

        Args:
            ledger: Records what the session spends.
            progress: The studies at its start.
        """
        self._earlier = self._sessions.read()
        self._ledger, self._spent_before_s = ledger, ledger.cost.device_s
        tallies = {study.study.name: _tally(study) for study in progress}
        self._save(
            SessionRecord(
                begun_at=timestamp(self._clock),
                saved_at="",
                number=self._sessions.next_number(),
                keep_adapters=self._settings.store.keep_adapters,
                before=tallies,
            )
        )

    def update(self, progress: Sequence[StudyProgress], ends_at: datetime | None) -> None:
        """Write the progress once a minute, and a prediction whenever the session's age has doubled since the last."""
        record = self._started_record()
        elapsed_s = self._since_s(record.begun_at)
        is_due = not record.predictions or elapsed_s >= 2 * self._since_s(record.begun_at, record.predictions[-1].at)
        if ends_at is not None and is_due:
            prediction = Prediction(at=timestamp(self._clock), ends_at=ends_at.isoformat(timespec="seconds"))
            record = dataclasses.replace(record, predictions=(*record.predictions, prediction))
            self._save_progress(record, progress)
        elif not 0 <= self._since_s(record.saved_at) < _SAVE_EVERY_S:  # negative if the clock was set back
            self._save_progress(record, progress)

    def prediction_text(self, ends_at: datetime | None) -> str:
        """Return the predicted end of the session as a sentence; empty if it is unknown."""
        if ends_at is None or self._ledger is None:
            return ""
        budget = self._settings.budget
        limit = find_time_limit(budget, self._ledger.started_at)
        reason = f" ({limit.reason})" if limit is not None else ""
        return f"Predicted to end {local_time(ends_at, budget.time_zone):%a %H:%M}{reason}."

    def end(self, reason: str, progress: Sequence[StudyProgress], *, has_failed: bool = False) -> None:
        """End the record, write the summary to the log and to files, and queue the notification.

        Args:
            reason: Why the session ended.
            progress: The studies at its end.
            has_failed: Whether an error ended it.
        """
        record = self._started_record()
        # A clock that was set back must not end a session before its start: its time would be negative.
        at = max(timestamp(self._clock), record.begun_at)
        record = dataclasses.replace(record, ended_at=at, reason=reason, has_failed=has_failed)
        record = self._save_progress(record, progress)
        title = summary_title(self._store.root.name, record)
        text = self._summary_text(record, progress)
        log.info("%s\n%s", title, text)
        for path in (self._store.paths.summary, self._sessions.path(record.number, ".md")):
            _write(path, f"# {title}\n\n{text}".encode())
        self._queue_message(title, text, is_bad=has_failed or _num_failed(record.after) > _num_failed(record.before))

    def _summary_text(self, record: SessionRecord, progress: Sequence[StudyProgress]) -> str:
        killed = since_last_summary(self._earlier)[1]
        since = killed[0].begun_at if killed else record.begun_at
        failures = {s.study.dataset: failures_since(self._store.trials(s.study.name), since) for s in progress}
        return summary_text(
            record,
            progress,
            failures=failures,
            budget=self._settings.budget,
            device_s=self._ledger.cost.device_s if self._ledger else 0.0,
            earlier=self._earlier,
        )

    def _record_error(self, reason: str) -> None:
        """End the record with an error. The progress is read from disk, since any part may have raised the error."""
        if self._record is None:
            self._queue_message(f"Sweep {self._store.root.name} could not start", reason, is_bad=True)
        elif not self._record.ended_at:
            try:
                settings = self._settings
                progress = progress_from_disk(self._store, budget=settings.budget.trials, confirm=settings.confirm)
                self.end(reason, progress, has_failed=True)
            except SweeperError as unreadable:
                log.warning("no summary was written, since the sweep cannot be read: %s", unreadable)
                title = f"Sweep {self._store.root.name}: session {self._record.number} failed"
                self._queue_message(title, reason, is_bad=True)

    def _queue_message(self, title: str, text: str, *, is_bad: bool) -> None:
        when = self._settings.notify.when
        if self._settings.notify.urls and (when == "end" or (when == "failure" and is_bad)):
            self._message = (title, text)

    def _save_progress(self, record: SessionRecord, progress: Sequence[StudyProgress]) -> SessionRecord:
        tallies = {study.study.name: _tally(study) for study in progress}
        spent_s = self._ledger.cost.device_s - self._spent_before_s if self._ledger else 0.0
        return self._save(dataclasses.replace(record, after=tallies, device_s=spent_s))

    def _save(self, record: SessionRecord) -> SessionRecord:
        self._record = dataclasses.replace(record, saved_at=timestamp(self._clock))
        _write(self._sessions.path(record.number), to_bytes(self._record))
        return self._record

    def _started_record(self) -> SessionRecord:
        if self._record is None:
            raise AssertionError("the session has not started")
        return self._record

    def _since_s(self, moment: str, until: str = "") -> float:
        end = datetime.fromisoformat(until) if until else self._clock()
        return (end - datetime.fromisoformat(moment)).total_seconds()


def _write(path: Path, content: bytes) -> None:
    """Write a file, or log a warning: a session must not end because its record cannot be written."""
    try:
        write_atomic(path, content)
    except DiskError as error:
        log.warning("%s was not written: %s", path, error)


def _tally(progress: StudyProgress) -> StudyTally:
    states = {state.value: number for state, number in progress.counts.items() if number}
    best = progress.best
    return StudyTally(states=states, best=progress.best_value, best_trial=best.spec.number if best else None)


def _num_failed(tallies: Mapping[str, StudyTally]) -> int:
    return sum(tally.states.get("failed", 0) for tally in tallies.values())
