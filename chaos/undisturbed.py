"""The reference losses: trains each trial of a sweep again, from start to end, without any disturbance."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Sequence
from pathlib import Path

from chaos.workload import Workload
from sweeper.config.compose import compose
from sweeper.execute.base import OpenStudy, StudyOpened, Worker, WorkerSetup
from sweeper.sweep.plan import plan_model, plan_study
from sweeper.train import make_worker
from sweeper.types import Admission, ChunkReport, ChunkRequest, TrialRecord

__all__ = ["Undisturbed", "recorded_losses"]

_LANES = 4


class Undisturbed:
    """A worker in this process that trains trials again; made once for all sweeps of a run."""

    def __init__(self) -> None:
        self._worker: Worker | None = None
        self._openings: dict[tuple[str, str], OpenStudy] = {}
        self._model_dir = Path()
        self._one_at_a_time = threading.Lock()

    def losses(
        self, workload: Workload, study: str, trials: Sequence[TrialRecord], *, seed: int
    ) -> dict[int, list[float]]:
        """Return the training and validation losses by trial number, for as many chunks as each trial has.

        Args:
            workload: The sweep.
            study: The study.
            trials: The trials.
            seed: Seed of their study; those of a confirmation have others.
        """
        found: dict[int, list[float]] = {}
        with self._one_at_a_time:
            opening = dataclasses.replace(self._opening(workload, study), seed=seed)
            for first in range(0, len(trials), _LANES):
                found |= self._pack(trials[first : first + _LANES], opening)
        return found

    def _opening(self, workload: Workload, study: str) -> OpenStudy:
        """Return the request that opens a study, with a worker that has its model."""
        config = compose(workload.overrides, config_dir=workload.config_dir)
        settings = config.settings
        model_dir = plan_model(settings)
        for dataset in settings.dataset.values():
            plan = plan_study(config, dataset, model_dir=model_dir)
            self._openings.setdefault((workload.kind, plan.record.name), plan.opening)
        if self._worker is None or model_dir != self._model_dir:
            cache = Path(settings.cache)
            setup = WorkerSetup(model=settings.model, model_dir=model_dir, cache=cache, device="cpu", threads=1)
            self._worker, self._model_dir = make_worker(setup, 0), model_dir
            self._worker.start()
        return self._openings[workload.kind, study]

    def _pack(self, trials: Sequence[TrialRecord], opening: OpenStudy) -> dict[int, list[float]]:
        assert self._worker is not None
        assert isinstance(self._worker.answer(opening), StudyOpened)
        found: dict[int, list[float]] = {trial.spec.number: [] for trial in trials}
        admit = tuple(Admission(spec=trial.spec) for trial in trials)
        evict: tuple[int, ...] = ()
        for chunk in range(1, max(trial.chunks_done for trial in trials) + 1):
            report = self._worker.answer(ChunkRequest(admit=admit, evict=evict))
            assert isinstance(report, ChunkReport)
            for number, measurement in report.measurements.items():
                found[number] += [value for name, value in sorted(measurement.metrics.items()) if "loss" in name]
            evict = tuple(trial.spec.number for trial in trials if trial.chunks_done == chunk)
            admit = ()
        return found


def recorded_losses(trial: TrialRecord) -> list[float]:
    """Return the losses in a record, in the order of `Undisturbed.losses`."""
    return [value for m in trial.measurements for name, value in sorted(m.metrics.items()) if "loss" in name]
