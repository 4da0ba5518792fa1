"""Trains the packs of `benchmarks.recipes` with sweeper's engine, and what it varies beyond sweeper's own settings.

Those are ideas that sweeper does not have: a rate of its own for B (LoRA+, arXiv:2402.12354), one
gradient norm for adapter and head, label smoothing, an initial head whose strength was chosen on held-out rows.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from sweeper.config.compose import compose
from sweeper.config.hyperparameters import Hyperparameters
from sweeper.config.settings import DatasetSettings
from sweeper.execute.base import WorkerSetup
from sweeper.sweep.plan import plan_model, plan_study
from sweeper.train import bucket
from sweeper.train.initial_head import head_values
from sweeper.train.lane import Lane
from sweeper.train.optim import LaneOptimizer, adamw_step, learning_rate_at
from sweeper.train.probe import fit_probe
from sweeper.train.worker import TrainingWorker
from sweeper.types import Admission, ChunkReport, ChunkRequest, TrialSpec, TrialTemplate

__all__ = ["RecipeWorker"]

_INIT = "train.head_init"
_CHUNKS = 12
"""About how many chunks a trial has."""
_SCORES = 4
"""Times that a trial is scored, after equal parts."""
_EXTRAS = ("b_lr_ratio", "joint_clip", "label_smoothing", "held_out_strength")


class _Optimizer(LaneOptimizer):
    """Updates A, B and head as three groups; clips by one norm if asked."""

    num_a = 0
    b_lr_ratio = 1.0
    joint_clip = False

    def _update(self, lane: int, value: torch.Tensor, grad: torch.Tensor) -> None:
        settings = self._settings[lane]
        rate = learning_rate_at(settings, self.steps[lane])
        self.steps[lane] += 1
        step = torch.full((), float(self.steps[lane]))
        (adapter, everywhere), (head, mask) = self._groups
        parts = (slice(0, None),) if self.joint_clip else (adapter, head)
        for part in parts:
            norm = torch.linalg.vector_norm(grad[part])
            if settings.max_grad_norm:
                grad[part] /= ((norm + 1e-6) / settings.max_grad_norm).clamp(min=1.0)
        settings = dataclasses.replace(settings, max_grad_norm=0.0)
        a, b = slice(0, self.num_a), slice(self.num_a, adapter.stop)
        ratios = (1.0, self.b_lr_ratio, settings.head_lr_ratio)
        for group, decayed, ratio in zip((a, b, head), (everywhere, everywhere, mask), ratios, strict=True):
            moments = self._moment1[lane, group], self._moment2[lane, group]
            decay = settings.weight_decay * decayed if settings.weight_decay else None
            adamw_step(
                value[group], grad[group], *moments, step=step, rate=rate * ratio, decay=decay, settings=settings
            )


class RecipeWorker(TrainingWorker):
    """A worker that scores the test rows, too.

    Args:
        datasets: Settings of every dataset of `variants`, by name.
        cache: Folder of fetched models and datasets.
        experiment: Name of an experiment in conf, whose only dataset replaces those; empty for classification.
    """

    def __init__(self, datasets: Mapping[str, Mapping[str, Any]], cache: Path, experiment: str = "") -> None:
        self._overrides = [f"experiment={experiment}" if experiment else "dataset=trec", f"cache={cache}"]
        settings = compose(self._overrides).settings
        folder = plan_model(settings)
        super().__init__(WorkerSetup(model=settings.model, model_dir=folder, cache=cache, device="cpu", threads=1))
        self._datasets = (
            {experiment: next(iter(settings.dataset.values()))}
            if experiment
            else {name: DatasetSettings(**values) for name, values in datasets.items()}
        )
        self._held_out_strength: set[int] = set()
        self.start()

    def train(self, jobs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Train jobs of one dataset, seed, length, batch size and loss as one pack; return their rows."""
        first, shared = jobs[0], jobs[0]["params"]
        config = compose(
            [
                *self._overrides,
                f"train.epochs={shared['train.epochs']}",
                f"train.chunks_per_epoch={max(1, round(_CHUNKS / shared['train.epochs']))}",
                f"train.batch_size={shared.get('train.batch_size', 16)}",
                f"train.micro_batch={min(16, shared.get('train.batch_size', 16))}",
                f"seed={first['seed']}",
            ]
        )
        settings = config.settings
        plan = plan_study(config, self._datasets[first["dataset"]], model_dir=self._setup.model_dir)
        num_chunks = plan.record.num_chunks
        rungs = tuple(sorted({-(-num_chunks * part // _SCORES) for part in range(1, _SCORES + 1)}))
        self.answer(dataclasses.replace(plan.opening, rungs=rungs))
        self._apply(shared)
        template = TrialTemplate("recipes", Hyperparameters.of(settings), first["seed"])
        specs = [
            template.spec(
                number, {_INIT: "random", **{k: v for k, v in job["params"].items() if k not in _EXTRAS}}, "bench"
            )
            for number, job in enumerate(jobs)
        ]
        self._held_out_strength = {n for n, job in enumerate(jobs) if job["params"].get("held_out_strength")}
        rows = [{**job, "classes": len(plan.record.labels), "rows": plan.record.num_rows["train"]} for job in jobs]
        for row in rows:
            row |= {
                "epochs": settings.train.epochs,
                "rungs": rungs,
                "accuracy": [],
                "loss": [],
                "test": [],
                "cpu_s": [],
            }
        request = ChunkRequest(admit=tuple(Admission(spec=spec) for spec in specs))
        lanes: list[Lane] = []
        started = time.process_time()
        for chunk in range(1, num_chunks + 1):
            report = self.answer(request)
            request = ChunkRequest()
            assert isinstance(report, ChunkReport)
            if report.failures:
                raise RuntimeError(f"the worker failed: {report.failures}")
            lanes = lanes or sorted(self._lanes.values(), key=lambda lane: lane.spec.number)
            if chunk in rungs:
                spent = (time.process_time() - started) / len(rows)
                tests = self._test(lanes) if first["plan"] == "length" or chunk == num_chunks else [None] * len(rows)
                for number, (row, test) in enumerate(zip(rows, tests, strict=True)):
                    metrics = report.measurements[number].metrics
                    row["accuracy"].append(round(metrics["validation/accuracy"], 4))
                    row["loss"].append(round(metrics["validation/loss"], 4))
                    row["test"].append(test)
                    row["cpu_s"].append(round(spent, 2))
        return rows

    def _apply(self, extras: Mapping[str, Any]) -> None:
        """Put in place what sweeper has no setting for."""
        assert self._study is not None
        bucket.LaneOptimizer = _Optimizer  # type: ignore[attr-defined,misc]
        _Optimizer.num_a = self._study.pack.shape.with_rank(8).size_a
        _Optimizer.b_lr_ratio = extras.get("b_lr_ratio", 1.0)
        _Optimizer.joint_clip = extras.get("joint_clip", False)
        smoothing = extras.get("label_smoothing", 0.0)
        if smoothing:
            self._study = dataclasses.replace(self._study, task=_Smoothed(self._study.task, smoothing))

    def _initial_head(
        self, study: Any, spec: TrialSpec, features_NI: torch.Tensor | None = None
    ) -> torch.Tensor | None:
        if spec.number not in self._held_out_strength:
            return super()._initial_head(study, spec, features_NI)
        train, last = self._train_once(study), study.pack.shape.head[-1]
        features = study.pack.features(Lane.start(spec, study.pack.shape, self._device), train)
        return head_values(fit_probe(features.head_inputs, train.targets, study.num_labels), last)

    def _test(self, lanes: Sequence[Lane]) -> list[float]:
        """Return each lane's accuracy on the test rows."""
        study = self._study
        assert study is not None
        rows = self._evaluation_batches(study.task.examples(study.tokens, "test"), study.tokens.pad_token_id)
        outputs_KNF = study.pack.predict(lanes, rows, study.task.outputs)
        return [round(study.task.score(values, rows.targets)["accuracy"], 4) for values in outputs_KNF]


class _Smoothed:
    """A task whose loss has smoothed labels."""

    def __init__(self, task: Any, smoothing: float) -> None:
        self._task, self._smoothing = task, smoothing

    def __getattr__(self, name: str) -> Any:
        return getattr(self._task, name)

    def row_loss(self, model: Any, batch: Any) -> torch.Tensor:
        """Return the cross-entropy of each row with smoothed labels."""
        logits = self._task.outputs(model, batch)
        return F.cross_entropy(logits, batch.targets, reduction="none", label_smoothing=self._smoothing)
