"""A tracker that never blocks its caller: a thread, a queue with one entry per trial, and retries.

Independent of MLflow: a `Writer`, created in the thread and used by one thread at a time, does the sending. Only the
latest record of each trial waits, so a slow server means fewer intermediate points in the view, never a slower search.
What could not be sent stays in the queue. `sweeper.track.make_tracker` combines this with the MLflow writer.
"""

from __future__ import annotations

import logging
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from sweeper.types import StudyRecord, TrialRecord
from sweeper.urls import redact_urls

__all__ = ["BackgroundTracker", "Pace", "Writer"]

_LOG = logging.getLogger(__name__)
_MAX_FAILURES_IN_A_ROW = 2
"""After so many a round ends: the server is most likely down, and each further attempt would take seconds."""

_Key = tuple[str, int]


class Writer(Protocol):
    """Sends records; may block, and may raise any exception."""

    def show(self, study: StudyRecord, trial: TrialRecord, files: Sequence[Path]) -> None:
        """Send whatever the view does not have of this trial yet."""
        ...

    def keep_report(self, study: StudyRecord, files: Sequence[Path]) -> None:
        """Replace the sweep's report beside the trials of a study."""
        ...

    def forget(self, study: str) -> None:
        """Drop what is cached of a study, because a call failed and may have been carried out in part."""
        ...

    def pause(self) -> None:
        """Mark trials that are still running as waiting for a later process."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Pace:
    """How often the thread works.

    Args:
        interval_s: Shortest time between two rounds, so that several chunks of a trial are sent together.
        retry_s: Time before the next round after one that failed.
        warn_s: Shortest time between two warnings about failures.
    """

    interval_s: float = 3.0
    retry_s: float = 15.0
    warn_s: float = 60.0


@dataclass(frozen=True, slots=True)
class _Item:
    study: StudyRecord
    trial: TrialRecord
    files: tuple[Path, ...]

    def merge(self, newer: _Item) -> _Item:
        """Return what must be sent when ``newer`` arrives: no file and no finished record is lost."""
        files = newer.files + tuple(path for path in self.files if path not in newer.files)
        keep = self.trial.state.is_finished and not newer.trial.state.is_finished
        return _Item(newer.study, self.trial if keep else newer.trial, files)


class BackgroundTracker:
    """Shows trials through a writer in its own thread.

    Args:
        make_writer: Called in the thread for the first trial, and again while it raises.
        where: Name of the server in messages; a password in it is hidden.
        pace: How often the thread works.
        clock: A monotonic clock, in seconds.
    """

    def __init__(
        self,
        make_writer: Callable[[], Writer],
        *,
        where: str,
        pace: Pace | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._make_writer = make_writer
        self._where = redact_urls(where)
        self._pace = pace or Pace()
        self._clock = clock
        self._writer: Writer | None = None
        self._pending: dict[_Key, _Item] = {}
        self._sending: _Key | None = None
        self._seen: set[_Key] = set()
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._warned_at: float | None = None
        self._problem = ""
        self._thread = threading.Thread(target=self._run, name="sweeper-tracker", daemon=True)

    def show(self, study: StudyRecord, trial: TrialRecord, files: Sequence[Path] = ()) -> None:
        """Queue a record for the thread; a later record of the same trial replaces it."""
        key, item = (trial.spec.study, trial.spec.number), _Item(study, trial, tuple(files))
        with self._changed:
            waiting = self._pending.get(key)
            self._pending[key] = waiting.merge(item) if waiting else item
            self._seen.add(key)
            if self._thread.ident is None and not self._closing.is_set():
                self._thread.start()
            self._changed.notify_all()

    @property
    def problem(self) -> str:
        """Why the view is not up to date; empty once everything was sent."""
        return self._problem

    def close(self, timeout_s: float) -> Mapping[str, int]:
        """Send what is queued; trials that cannot be sent in time count as missed."""
        with self._changed:
            self._closing.set()
            self._changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        with self._changed:
            missed = set(self._pending) | ({self._sending} if self._sending else set())
        if missed:
            _LOG.warning("%d trials are not up to date in %s", len(missed), self._where)
        return {"shown": len(self._seen - missed), "missed": len(missed)}

    def keep_report(self, studies: Sequence[StudyRecord], files: Sequence[Path], timeout_s: float) -> None:
        """Send the report from a thread of its own, unless closing has left something to send."""
        writer = self._writer
        if writer is None or self._thread.is_alive() or self._pending:
            return

        sent = threading.Event()

        def send() -> None:
            for study in studies:
                writer.keep_report(study, files)
            sent.set()

        thread = threading.Thread(target=self._attempt, args=(send,), name="sweeper-tracker-report", daemon=True)
        thread.start()
        thread.join(timeout_s)
        if not sent.is_set():
            _LOG.warning("the latest report is not in %s; the next session sends it", self._where)

    def _run(self) -> None:
        while not self._closing.is_set():
            with self._changed:
                self._changed.wait_for(lambda: self._pending or self._closing.is_set())
            done = self._round()
            self._closing.wait(self._pace.interval_s if done else self._pace.retry_s)
        self._round()
        if self._writer is not None and not self._pending:
            self._attempt(self._writer.pause)

    def _round(self) -> bool:
        """Send each queued trial once, failed ones to the end of the queue; return whether all were sent."""
        with self._changed:
            keys = list(self._pending)
        failures = in_a_row = 0
        for key in keys:
            sent = self._send(key)
            failures += not sent
            in_a_row = 0 if sent else in_a_row + 1
            if in_a_row >= _MAX_FAILURES_IN_A_ROW:
                break
        if not failures:
            self._problem = ""
        return not failures

    def _send(self, key: _Key) -> bool:
        with self._changed:
            item, self._sending = self._pending.pop(key), key
        sent = self._attempt(lambda: self._show(item))
        with self._changed:
            self._sending = None
            if not sent:
                newer = self._pending.pop(key, None)
                self._pending[key] = item.merge(newer) if newer else item
        if not sent and self._writer is not None:
            self._writer.forget(item.study.name)
        return sent

    def _show(self, item: _Item) -> None:
        if self._writer is None:
            self._writer = self._make_writer()
        self._writer.show(item.study, item.trial, item.files)

    def _attempt(self, call: Callable[[], None]) -> bool:
        try:
            call()
        except Exception as error:  # noqa: BLE001  the tracker boundary: no error of a tracker may reach the search
            self._warn(error)
            return False
        return True

    def _warn(self, error: Exception) -> None:
        cause = redact_urls(f"{type(error).__name__}: {error}").splitlines()[0]
        self._problem = f"{self._where}: {cause}"
        now = self._clock()
        if self._warned_at is not None and now - self._warned_at < self._pace.warn_s:
            return
        self._warned_at = now
        _LOG.warning("%s is not up to date (%s); the search continues and sweeper will retry", self._where, cause)
        _LOG.debug("%s", redact_urls(traceback.format_exc()))
