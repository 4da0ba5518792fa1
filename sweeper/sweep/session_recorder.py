"""A session from its begin to the morning: waits for the window, keeps the session's account, tells how it was.

`sweep` holds a `SessionRecorder` around everything it does. What is told comes after everything is saved, and whatever goes wrong
with telling is a line in the log.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from sweeper.clock import Clock
from sweeper.config.settings import SweepSettings
from sweeper.config.time_limit import find_time_limit
from sweeper.config.time_windows import parse
from sweeper.display.progress import StudyProgress, progress_from_disk
from sweeper.display.summary import failures_since, since_last_summary, summary_text, summary_title
from sweeper.errors import DiskFull, SweeperError
from sweeper.store.atomic import write_atomic
from sweeper.store.ledger import Ledger
from sweeper.store.sessions import Prediction, SessionLog, SessionRecord, StudyTally, as_bytes
from sweeper.store.trials import TrialStore
from sweeper.sweep.notify import send

__all__ = ["SessionRecorder"]

log = logging.getLogger(__name__)
_SAVE_EVERY_S = 60.0
SUMMARY = "summary.md"


class SessionRecorder:
    """The account of one session, and the message about it.

    Args:
        store: The sweep.
        settings: Its settings.
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
    def watched(self) -> Iterator[None]:
        """Record an error that ends the session, or keeps it from beginning."""
        try:
            yield
        except Exception as error:
            self._fail(str(error) or type(error).__name__)
            raise

    @contextmanager
    def told(self) -> Iterator[None]:
        """Send the message when all is over, by whatever way."""
        try:
            yield
        finally:
            if self._message is not None:
                send(self._settings.notify, *self._message)

    def sessions_so_far(self) -> tuple[list[SessionRecord], datetime | None]:
        """Return all sessions up to this one, and the present time; nothing before this one has begun."""
        if self._record is None:
            return [], None
        return [*self._earlier, self._record], self._clock()

    def begin(self, ledger: Ledger, progress: Sequence[StudyProgress]) -> None:
        """Begin the account."""
        self._earlier = self._sessions.read()
        self._ledger, self._spent_before_s = ledger, ledger.cost.device_s
        tallies = {study.study.name: _tally(study) for study in progress}
        self._save(
            SessionRecord(begun_at=self._now(), saved_at="", number=self._sessions.next_number(), before=tallies)
        )

    def look(self, progress: Sequence[StudyProgress], ends_at: datetime | None) -> None:
        """Note how things are, now and then; predictions at ever longer intervals, a dozen in a night."""
        record = self._begun()
        elapsed_s = self._since_s(record.begun_at)
        is_due = not record.predictions or elapsed_s >= 2 * self._since_s(record.begun_at, record.predictions[-1].at)
        if ends_at is not None and is_due:
            prediction = Prediction(at=self._now(), ends_at=ends_at.isoformat(timespec="seconds"))
            self._keep(dataclasses.replace(record, predictions=(*record.predictions, prediction)), progress)
        elif self._since_s(record.saved_at) >= _SAVE_EVERY_S:
            self._keep(record, progress)

    def note(self, ends_at: datetime | None) -> str:
        """Return when the session is predicted to end, in words; empty if that is not known."""
        if ends_at is None or self._ledger is None:
            return ""
        budget = self._settings.budget
        stop = find_time_limit(budget, self._ledger.begun_at)
        limit = f" ({stop.reason})" if stop is not None else ""
        return f"Predicted to end {parse('', budget.time_zone).local(ends_at):%a %H:%M}{limit}."

    def end(self, reason: str, progress: Sequence[StudyProgress], *, has_failed: bool = False) -> None:
        """End the account, and write the summary to log and files."""
        record = dataclasses.replace(self._begun(), ended_at=self._now(), reason=reason, has_failed=has_failed)
        self._keep(record, progress)
        record = self._begun()
        title = summary_title(self._store.root.name, record)
        text = self._text(record, progress)
        log.info("%s\n%s", title, text)
        for path in (self._store.root / SUMMARY, self._sessions.path(record.number, ".md")):
            _write(path, f"# {title}\n\n{text}".encode())
        self._choose(title, text, is_bad=has_failed or _has_failures(record))

    def _text(self, record: SessionRecord, progress: Sequence[StudyProgress]) -> str:
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

    def _fail(self, reason: str) -> None:
        """Record an error; how far the sweep is, the store knows."""
        if self._record is None:
            self._choose(f"Sweep {self._store.root.name} could not start", reason, is_bad=True)
        elif not self._record.ended_at:
            try:
                progress = progress_from_disk(self._store, budget=self._settings.budget.trials)
                self.end(reason, progress, has_failed=True)
            except SweeperError as unreadable:
                log.warning("no summary, since the sweep cannot be read: %s", unreadable)
                self._choose(
                    f"Sweep {self._store.root.name}: session {self._record.number} failed", reason, is_bad=True
                )

    def _choose(self, title: str, text: str, *, is_bad: bool) -> None:
        when = self._settings.notify.when
        if self._settings.notify.urls and (when == "end" or (when == "failure" and is_bad)):
            self._message = (title, text)

    def _keep(self, record: SessionRecord, progress: Sequence[StudyProgress]) -> None:
        tallies = {study.study.name: _tally(study) for study in progress}
        spent_s = self._ledger.cost.device_s - self._spent_before_s if self._ledger else 0.0
        self._save(dataclasses.replace(record, after=tallies, device_s=spent_s))

    def _save(self, record: SessionRecord) -> None:
        self._record = dataclasses.replace(record, saved_at=self._now())
        _write(self._sessions.path(record.number), as_bytes(self._record))

    def _begun(self) -> SessionRecord:
        if self._record is None:
            raise AssertionError("the session was not begun")
        return self._record

    def _since_s(self, moment: str, until: str = "") -> float:
        end = datetime.fromisoformat(until) if until else self._clock()
        return (end - datetime.fromisoformat(moment)).total_seconds()

    def _now(self) -> str:
        return self._clock().isoformat(timespec="milliseconds")


def _write(path: Path, content: bytes) -> None:
    """Write a file; without it there is less to read in the morning, but the search goes on."""
    try:
        write_atomic(path, content)
    except (OSError, DiskFull) as error:
        log.warning("%s was not written: %s", path, error)


def _tally(progress: StudyProgress) -> StudyTally:
    states = {state.value: number for state, number in progress.counts.items() if number}
    best = progress.best
    return StudyTally(states=states, best=progress.best_value, best_trial=best.spec.number if best else None)


def _has_failures(record: SessionRecord) -> bool:
    before = sum(tally.states.get("failed", 0) for tally in record.before.values())
    return sum(tally.states.get("failed", 0) for tally in record.after.values()) > before
