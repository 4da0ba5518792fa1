"""Keeps live view, session record and health.json up to date while the controller runs. `run` creates it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from sweeper.config.settings import SweepSettings
from sweeper.config.space import EPOCHS
from sweeper.control.controller import Controller
from sweeper.control.study_run import StudyRun
from sweeper.display.live_view import LiveView
from sweeper.display.predictions import facts_text, opening_text
from sweeper.display.progress import StudyProgress, progress_of_runs
from sweeper.store.health import Health, HealthFile
from sweeper.store.ledger import Ledger
from sweeper.store.rates import Rate
from sweeper.sweep.session_recorder import SessionRecorder
from sweeper.track.base import Tracker

__all__ = ["SweepMonitor"]


class SweepMonitor:
    """Updates live view, session record and health.json after every change.

    Args:
        view: Shows the progress.
        runs: The running studies.
        settings: Settings of the sweep.
        num_workers: Number of workers, for the predicted end.
        rate: How fast this model trained in an earlier sweep; None if that is unknown.
        tracker: Its problem, if any, is written to health.json.
        recorder: Records the session.
    """

    def __init__(
        self,
        view: LiveView,
        runs: Sequence[StudyRun],
        settings: SweepSettings,
        *,
        num_workers: int,
        rate: Rate | None = None,
        tracker: Tracker,
        recorder: SessionRecorder,
    ) -> None:
        self._view, self._runs, self._settings = view, runs, settings
        self._num_workers, self._tracker, self._recorder = num_workers, tracker, recorder
        self._rate = rate
        self._announced: set[str] = set()
        self._file = HealthFile(recorder.root)
        self._controller: Controller | None = None

    def start(self, controller: Controller, ledger: Ledger) -> None:
        """Start to monitor a controller that is about to run."""
        self._controller = controller
        self._recorder.start(ledger, self.progress())

    @property
    def aborted(self) -> dict[str, str]:
        """Why studies were aborted, by name."""
        return {run.record.name: run.stop_reason for run in self._runs if run.stop_reason}

    def progress(self) -> list[StudyProgress]:
        """Return the progress of the studies."""
        sessions, now = self._recorder.sessions_so_far()
        return progress_of_runs(self._runs, self._settings, sessions=sessions, now=now)

    def __call__(self) -> None:
        """Record and show the current state."""
        progress = self.progress()
        ends_at = self._controller.forecast.ends_at(self._num_workers) if self._controller else None
        self._recorder.update(progress, ends_at)
        self._announce()
        self._view.update(progress, f"{self._recorder.prediction_text(ends_at)} {self._facts()}".strip())
        self._file.write(self._health())

    def _announce(self) -> None:
        """Print what is predicted for a study, once, when a worker has opened it."""
        for name, opened in self._controller.forecast.opened.items() if self._controller else ():
            if name not in self._announced and (opened.need or self._rate):
                self._view.log(f"{name}: {opening_text(opened, self._rate, varies=self._varies(name))}")
            self._announced.add(name)

    def _facts(self) -> str:
        """Return what the latest study takes so far beside what was predicted."""
        forecast = self._controller.forecast if self._controller else None
        if forecast is None or not forecast.opened:
            return ""
        name, opened = next(reversed(forecast.opened.items()))
        facts = facts_text(
            opened,
            self._rate,
            trial_s=forecast.trial_s(name),
            peak_bytes=forecast.peak_bytes,
            varies=self._varies(name),
        )
        return f"{name}: {facts}" if facts and len(self._runs) > 1 else facts

    def _varies(self, study: str) -> bool:
        """Whether the trials of a study differ in their number of epochs."""
        return any(EPOCHS in run.record.space for run in self._runs if run.record.name == study)

    def record_final_health(self, tracker: str) -> None:
        """Record and print the problems at the session's end.

        Args:
            tracker: What the tracker could not send; empty if it sent everything.
        """
        health = replace(self._health(), tracker=tracker)
        self._file.write(health)
        for line in health.lines():
            self._view.log(line)

    def _health(self) -> Health:
        disabled: Mapping[int, str] = self._controller.disabled if self._controller else {}
        devices = {str(index): why for index, why in disabled.items()}
        return Health(devices=devices, studies=self.aborted, tracker=self._tracker.problem)
