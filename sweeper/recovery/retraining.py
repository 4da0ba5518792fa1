"""Trains complete trials again whose adapter or row outcomes are lost, if the user asks for it. `reconcile` calls it.

The record of the trial keeps its scores, and nothing is written before the new training has given the same losses and
scores: what is added then belongs to them. A kill in between changes nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from sweeper.config.settings import SweepSettings
from sweeper.errors import SweeperError
from sweeper.store.damage import copy_aside, has_checksum, is_adapter_intact, set_aside
from sweeper.store.ledger import Ledger
from sweeper.store.paths import TrialPaths
from sweeper.store.trials import TrialStore
from sweeper.sweep.reproduce import Reproduction, train_again
from sweeper.types import Measurement, StudyRecord, TrialRecord

__all__ = ["Retraining"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Retraining:
    """Trains trials of one study again.

    Attributes:
        store: The sweep, or its final trainings.
        study: The study.
        settings: Settings of the sweep.
        console: Where progress is printed.
        stamp: Name of the folder under ``damaged``.
    """

    store: TrialStore
    study: StudyRecord
    settings: SweepSettings
    console: Console
    stamp: str

    _done: dict[int, str] = field(default_factory=dict)
    """What came of each trial: one that has lost several files is trained once."""

    def __call__(self, number: int) -> str:
        """Train a trial again, and write its adapter and the row outcomes that it lacks; return what came of it.

        If losses or scores differ by more than rounding, nothing is written.
        """
        if number not in self._done:
            try:
                self._done[number] = self._train(self.store.read_trial(self.study.name, number))
            except SweeperError as error:
                self._done[number] = f"not trained again: {error}"
        return self._done[number]

    def _train(self, recorded: TrialRecord) -> str:
        result = train_again(
            self.study, recorded, self.settings, sweep=self.store.sweep.root.name, console=self.console
        )
        Ledger(self.store.sweep.ledger).charge(result.cost)
        scores = f"losses differ by at most {result.loss_difference:.2%}"
        if result.rungs:  # a final training on the validation rows has none
            _, before, now = result.rungs[-1]
            scores = f"{self.study.metric} {before:.4f} before, {now:.4f} now"
        if not result.is_reproduced:
            return f"trained again, but not reproduced, so it was not used ({scores})"
        self._write(recorded, result)
        return f"trained again ({scores})"

    def _write(self, recorded: TrialRecord, result: Reproduction) -> None:
        paths = self.store.paths.trial(self.study.name, recorded.spec.number)
        if not is_adapter_intact(paths.adapter):
            self._set_aside(paths.adapter)
            self.store.write_adapter(self.study.name, recorded.spec.number, result.adapter)
        measurements = tuple(self._with_outcomes(paths, each, result.outcomes) for each in recorded.measurements)
        if measurements != recorded.measurements:
            copy_aside(self.store, paths.record, self.stamp)
            # It compares the outcomes, so it is computed again. First, in case of a kill in between.
            self._set_aside(self.store.paths.confirmation(self.study.name))
            self.store.write_trial(dataclasses.replace(recorded, measurements=measurements))

    def _with_outcomes(self, paths: TrialPaths, measurement: Measurement, outcomes: Mapping[int, bytes]) -> Measurement:
        """Return a measurement whose row outcomes are on disk; those that are intact stay."""
        path, content = paths.outcomes(measurement.chunk), outcomes.get(measurement.chunk)
        if content is None or (measurement.outcomes and has_checksum(path, measurement.outcomes)):
            return measurement
        self._set_aside(path)
        digest = self.store.write_outcomes(self.study.name, paths.number, measurement.chunk, content)
        return dataclasses.replace(measurement, outcomes=digest)

    def _set_aside(self, path: Path) -> None:
        if path.exists():
            set_aside(self.store, path, self.stamp)
