"""Shows a running sweep after every change, and notes what goes wrong around it; `sweep` makes one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from sweeper.health import Health, HealthFile
from sweeper.progress import study_progress
from sweeper.settings import SweepSettings
from sweeper.study_run import StudyRun
from sweeper.track.base import Tracker
from sweeper.view import LiveView

__all__ = ["Onlooker"]


class Onlooker:
    """Looks on.

    Args:
        view: Where studies are shown.
        runs: The studies.
        settings: Of the sweep.
        num_workers: Workers that earlier sessions are taken to have had.
        tracker: Asked whether it is behind.
        root: The sweep's folder.
    """

    def __init__(
        self,
        view: LiveView,
        runs: Sequence[StudyRun],
        settings: SweepSettings,
        *,
        num_workers: int,
        tracker: Tracker,
        root: Path,
    ) -> None:
        self._view, self._runs, self._num_workers, self._tracker = view, runs, num_workers, tracker
        self._budget = settings.budget.trials
        self._default = settings.search.recipes[0].name if settings.search.recipes else ""
        self._file = HealthFile(root)
        self.taken_out: Mapping[int, str] = {}
        """Of the controller: why workers were taken out."""

    @property
    def given_up(self) -> dict[str, str]:
        """Why studies were given up, by name."""
        return {run.record.name: run.closed for run in self._runs if run.closed}

    def __call__(self) -> None:
        """Show how things are."""
        self._view.update(
            [
                study_progress(
                    run.record,
                    run.trials.values(),
                    budget=self._budget,
                    wall_s=run.wall_s(self._num_workers),
                    default=self._default,
                )
                for run in self._runs
            ]
        )
        self._file.note(self._health())

    def note_end(self, *, tracker: str = "", error: str = "") -> None:
        """Note how the session ended, and show it.

        Args:
            tracker: What the tracker could not send.
            error: What ended the session early.
        """
        health = replace(self._health(), tracker=tracker, ended=error)
        self._file.note(health)
        for line in health.lines():
            self._view.log(line)

    def _health(self) -> Health:
        devices = {str(index): why for index, why in self.taken_out.items()}
        return Health(devices=devices, studies=self.given_up, tracker=self._tracker.problem)
