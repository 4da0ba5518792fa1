"""Trains packs of a table with sweeper's engine, and scores every trial on all validation rows after every chunk."""

from __future__ import annotations

import dataclasses
import platform
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.tables.plans import TablePlan
from benchmarks.variants import variants
from sweeper.config.compose import compose
from sweeper.config.hyperparameters import Hyperparameters
from sweeper.config.settings import DatasetSettings
from sweeper.execute.base import WorkerSetup
from sweeper.search.proposals import sobol_point
from sweeper.store.outcomes import RowOutcomes
from sweeper.sweep.plan import plan_model, plan_study
from sweeper.train.batches import EvaluationBatches
from sweeper.train.lane import Lane
from sweeper.train.worker import TrainingWorker
from sweeper.types import Admission, ChunkReport, ChunkRequest, TrialTemplate

__all__ = ["TableWorker"]

_SOBOL_SEED = 0


class TableWorker(TrainingWorker):
    """A worker for one table.

    Args:
        plan: The table.
        cache: Folder of fetched models and datasets.
    """

    def __init__(self, plan: TablePlan, cache: Path) -> None:
        experiment = (f"experiment={plan.experiment}",) if plan.experiment else ("dataset=trec",)
        self._config = compose(
            [
                *experiment,
                *plan.overrides,
                f"train.epochs={plan.epochs}",
                f"train.chunks_per_epoch={plan.num_chunks // plan.epochs}",
                f"cache={cache}",
            ]
        )
        settings = self._config.settings
        dataset = (
            next(iter(settings.dataset.values()))
            if plan.experiment
            else DatasetSettings(**variants(cache)[plan.dataset])
        )
        dataset = dataclasses.replace(dataset, train_rows=plan.train_rows)
        folder = plan_model(settings)
        super().__init__(WorkerSetup(model=settings.model, model_dir=folder, cache=cache, device="cpu", threads=1))
        self.start()
        planned = plan_study(self._config, dataset, model_dir=folder)
        self._record = planned.record
        assert self._record.metric == "validation/accuracy"  # what _half_score returns
        num_chunks = self._record.num_chunks
        self.answer(dataclasses.replace(planned.opening, rungs=tuple(range(1, num_chunks + 1)), probe=False))
        assert self._study is not None
        all_rows = dict.fromkeys(self._study.rung_rows, self._study.validation)
        self._study = dataclasses.replace(self._study, rung_rows=all_rows)
        self._score_s = 0.0
        self.about: Mapping[str, Any] = {
            "dataset": plan.dataset,
            "model": self._record.model,
            "task": settings.task.name,
            "metric": self._record.metric,
            "direction": self._record.direction,
            "labels": len(self._record.labels),
            "rows": dict(self._record.num_rows),
            "rows_per_chunk": self._record.rows_per_chunk,
            "epochs": plan.epochs,
            "num_chunks": num_chunks,
            # On all validation rows, and on the half of them that an early rung scores.
            "majority": [self._record.majority[-1], self._record.majority[0]] if self._record.majority else None,
            "baselines": {name: dict(scores) for name, scores in self._references(self._study).items()},
            "space": self._config.space.texts,
            "fixed": {
                key: value
                for key, value in Hyperparameters.of(settings).by_key().items()
                if key not in self._config.space.keys
            },
            "processor": platform.processor() or platform.machine(),
        }

    def train(self, trials: Sequence[tuple[int, int]]) -> list[dict[str, Any]]:
        """Train a pack to the end; return a row for every trial and chunk.

        Args:
            trials: Setting, an index of the Sobol sequence, and seed of each trial.
        """
        settings, record = self._config.settings, self._record
        space = self._config.space
        points = [sobol_point(space, _SOBOL_SEED, setting) for setting, _ in trials]
        specs = [
            TrialTemplate(record.name, Hyperparameters.of(settings), seed).spec(number, params, "table")
            for number, ((_, seed), params) in enumerate(zip(trials, points, strict=True))
        ]
        request = ChunkRequest(admit=tuple(Admission(spec=spec) for spec in specs))
        rows: list[dict[str, Any]] = []
        sizes: dict[int, int] = {}
        lanes: list[Lane] = []
        train_s = score_s = 0.0
        for chunk in range(1, record.num_chunks + 1):
            self._score_s, started = 0.0, time.process_time()
            report = self.answer(request)
            request = ChunkRequest()
            assert isinstance(report, ChunkReport)
            spent = time.process_time() - started
            # The lanes of a pack share the device equally; one that failed earlier takes no part.
            num_lanes = len(report.measurements) + len(report.failures)
            train_s += (spent - self._score_s) / max(1, num_lanes)
            score_s += self._score_s / max(1, num_lanes)
            sizes |= {number: detail["num_parameters"] for number, detail in report.details.items()}
            lanes = lanes or sorted(self._lanes.values(), key=lambda lane: lane.spec.number)
            tests = self._test(lanes) if chunk == record.num_chunks else {}
            for number, (setting, seed) in enumerate(trials):
                row: dict[str, Any] = {"setting": setting, "seed": seed, "chunk": chunk}
                row |= {key: float(value) for key, value in points[number].items()}
                row |= {"num_parameters": sizes[number], "failure": ""}
                row |= {"train_s": round(train_s, 4), "score_s": round(score_s, 4)}
                found = report.measurements.get(number)
                if found is None:
                    # A trial that failed has one row more, with the reason.
                    if number in report.failures:
                        rows.append({**row, "failure": str(report.failures[number].kind)})
                    continue
                half = RowOutcomes.from_bytes(report.outcomes[number])
                rows.append(
                    {
                        **row,
                        "score": found.metrics[record.metric],
                        "loss": found.metrics["validation/loss"],
                        "half_score": _half_score(half),
                        "half_loss": _half_loss(half),
                        "train_loss": found.metrics["train/loss"],
                        "test_score": tests.get(number),
                    }
                )
        self._lanes.clear()
        return rows

    def _score(self, study: Any, lanes: Sequence[Lane], split: EvaluationBatches) -> Any:
        started = time.process_time()
        scored = super()._score(study, lanes, split)
        self._score_s += time.process_time() - started
        return scored

    def _test(self, lanes: Sequence[Lane]) -> dict[int, float]:
        """Return each lane's score on the test rows."""
        study = self._study
        assert study is not None
        rows = self._evaluation_batches(study.task.examples(study.tokens, "test"), study.tokens.pad_token_id)
        outputs_KNF = study.pack.predict(lanes, rows, study.task.outputs)
        return {
            lane.spec.number: float(study.task.score(values, rows.targets)["accuracy"])
            for lane, values in zip(lanes, outputs_KNF, strict=True)
        }


def _half_score(outcomes: RowOutcomes) -> float:
    """Return the accuracy on the first half of the rows, which is all that an early rung scores."""
    assert outcomes.predicted_N is not None
    assert outcomes.target_N is not None
    half = outcomes.num_rows // 2
    return float((outcomes.predicted_N[:half] == outcomes.target_N[:half]).mean())


def _half_loss(outcomes: RowOutcomes) -> float:
    """Return the loss on the first half of the rows: the mean over rows, or over the tokens of completions."""
    half = outcomes.num_rows // 2
    size = half if outcomes.tokens_N is None else int(outcomes.tokens_N[:half].sum())
    return float(outcomes.loss_N[:half].sum(dtype=float) / size)
