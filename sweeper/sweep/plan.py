"""Turns a configuration into studies: fetches model and data, splits, tokenises, and fixes what trials have in common.

Errors in the user's data or model are raised here, before any worker trains.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sweeper.config.checks import micro_batch
from sweeper.config.compose import SweepConfig
from sweeper.config.hyperparameters import Hyperparameters
from sweeper.config.settings import DatasetSettings, Recipe, SweepSettings
from sweeper.config.space import SearchSpace
from sweeper.errors import ConfigError, DataError, did_you_mean
from sweeper.execute.base import OpenStudy
from sweeper.fetch.progress import Progress
from sweeper.figures.recipes import FIRST_REFERENCE_NUMBER, default_recipe
from sweeper.figures.text import plural
from sweeper.search.proposals import fit_recipes
from sweeper.search.pruning import rung_chunks
from sweeper.tasks import make_task
from sweeper.train.chunks import ChunkPlan, choose_chunks_per_epoch, choose_epochs
from sweeper.types import StudyRecord, TrialSpec, TrialTemplate

if TYPE_CHECKING:
    from sweeper.data.base import SplitsRecord

__all__ = ["StudyPlan", "check_task", "plan_model", "plan_study", "reference_recipes", "study_name", "trial_template"]


@dataclass(frozen=True, slots=True)
class StudyPlan:
    """A study that is ready to start."""

    record: StudyRecord
    opening: OpenStudy
    """The request that opens it on a worker."""

    def resumed(self, record: StudyRecord) -> StudyPlan:
        """Return the plan of a study that exists on disk: its trials keep the length that they started with."""
        opening = dataclasses.replace(
            self.opening,
            micro_batch=record.micro_batch,
            chunks_per_epoch=record.chunks_per_epoch,
            epochs=record.epochs,
            rungs=record.rungs,
        )
        return StudyPlan(record, opening)


def study_name(settings: SweepSettings, dataset: DatasetSettings) -> str:
    """Return a study's name, ``<dataset>-<model>-<method>``."""
    return f"{dataset.name}-{settings.model.name}-{settings.method.name}"


def plan_model(settings: SweepSettings, progress: Progress | None = None) -> Path:
    """Fetch the base model and check that its LoRA targets are known; return its folder.

    Raises:
        FetchError: The model cannot be fetched.
        ModelError: Its architecture is unknown, and ``model.target_modules`` is empty.
    """
    from sweeper.models import fetch_model
    from sweeper.models.targets import targets_for

    folder = fetch_model(settings.model, cache=_cache(settings), progress=progress)
    model_type = json.loads((folder / "config.json").read_text()).get("model_type", "")
    targets_for(model_type, settings.model.target_modules)
    return folder


def plan_study(
    config: SweepConfig,
    dataset: DatasetSettings,
    *,
    model_dir: Path,
    lane_limit: int = 0,
    progress: Progress | None = None,
) -> StudyPlan:
    """Fetch, split and tokenise a dataset, and fix what the trials of its study share.

    Args:
        config: The configuration.
        dataset: The dataset.
        model_dir: Folder of the base model.
        lane_limit: The most lanes that a worker tries when it opens the study; 0 if it need not choose.
        progress: Shows downloads.

    Raises:
        DataError: The data cannot be used.
        FetchError: The data cannot be fetched.
        ConfigError: A setting does not fit the data or the task.
    """
    from sweeper.data import prepare

    settings = config.settings
    check_task(settings)
    task = make_task(settings.task.name)
    splits = prepare(
        dataset,
        settings.model,
        model_dir=model_dir,
        cache=_cache(settings),
        completions=task.takes_completions,
        progress=progress,
    )
    if splits.num_rows["train"] < 2:  # noqa: PLR2004  nothing can be learnt from one row
        rows = plural(splits.num_rows["train"], "training row")
        raise DataError(f"dataset {dataset.name} has {rows} after the split; at least 2 are needed")
    return _plan(config, dataset, splits, lane_limit=lane_limit)


def check_task(settings: SweepSettings) -> None:
    """Check task and metric, as far as that does not depend on the rows.

    Raises:
        ConfigError: The task is unknown, has another head than ``task.has_head`` says, or has no such metric.
    """
    task = make_task(settings.task.name)
    if task.has_head != settings.task.has_head:
        rule = f"{settings.task.name} adds {'a' if task.has_head else 'no'} head to the model"
        raise ConfigError("task.has_head", settings.task.has_head, rule, f"Choose task={settings.task.name}.")
    _objective(settings, num_labels=2)


def trial_template(settings: SweepSettings, record: StudyRecord) -> TrialTemplate:
    """Return what the trials of a study have in common: the settings, with the length that was chosen for the study."""
    length = {"train.epochs": record.epochs, "train.chunks_per_epoch": record.chunks_per_epoch}
    return TrialTemplate(record.name, Hyperparameters.of(settings).with_params(length), settings.seed)


def reference_recipes(settings: SweepSettings, space: SearchSpace) -> dict[int, Recipe]:
    """Return the recipes that are trained for comparison, by trial number.

    These are the default recipe, if the search will not try it, and ``search.references``, without those that the
    search tries as recipes. A number is the position in the whole list: it depends on neither the space nor the budget.
    """
    search, fixed = settings.search, Hyperparameters.of(settings)
    tried = [] if search.sampler == "grid" else fit_recipes(search.recipes, space, fixed.by_key())
    known = [fixed.with_params(params) for _, params in tried]
    found: dict[int, Recipe] = {}
    for position, recipe in enumerate((default_recipe(search), *search.references)):
        if recipe is None or (configuration := fixed.with_params(recipe.params)) in known:
            continue
        known.append(configuration)
        found[FIRST_REFERENCE_NUMBER + position] = recipe
    return found


def _plan(config: SweepConfig, dataset: DatasetSettings, splits: SplitsRecord, *, lane_limit: int) -> StudyPlan:
    settings, search = config.settings, config.settings.search
    metric, direction = _objective(settings, len(splits.labels))
    num_rows = splits.num_rows["train"]
    epochs = settings.train.epochs or choose_epochs(num_rows, len(splits.labels))
    chunks = ChunkPlan.of(
        num_rows,
        micro_batch=micro_batch(settings, config.space),
        chunks_per_epoch=settings.train.chunks_per_epoch or choose_chunks_per_epoch(epochs),
        epochs=epochs,
    )
    record = StudyRecord(
        name=study_name(settings, dataset),
        dataset=dataset.name,
        model=settings.model.name,
        method=settings.method.name,
        task=settings.task.name,
        metric=metric,
        direction=direction,
        num_chunks=chunks.num_chunks,
        epochs=chunks.epochs,
        chunks_per_epoch=chunks.chunks_per_epoch,
        rungs=rung_chunks(chunks.num_chunks, min_chunks=search.min_chunks, reduction_factor=search.reduction_factor),
        rows_per_chunk=chunks.rows_per_chunk,
        micro_batch=chunks.micro_batch,
        fingerprint=splits.fingerprint,
        labels=splits.labels,
        num_rows=splits.num_rows,
        space=config.space.texts,
        num_available=splits.num_available,
    )
    template = trial_template(settings, record)
    typical = template.spec(0, config.space.point((0.5,) * len(config.space)), "typical")
    opening = _opening(record, settings, dataset, chunks, typical=typical, lane_limit=lane_limit)
    return StudyPlan(record, opening)


def _objective(settings: SweepSettings, num_labels: int) -> tuple[str, str]:
    task, metric = make_task(settings.task.name), settings.task.metric
    if metric == "auto":
        metric = task.default_metric(num_labels)
    known = [name for name in task.metrics if num_labels or name != "accuracy"]
    if metric not in known:
        rule = f"{settings.task.name} has no such metric"
        if metric in task.metrics:
            rule = f"every row has its own completion, so {settings.task.name} has no accuracy"
        remedy = did_you_mean(metric, known) or f"Metrics are: {', '.join(known)}."
        raise ConfigError("task.metric", metric, rule, remedy)
    return f"validation/{metric}", task.direction(metric)


def _opening(
    record: StudyRecord,
    settings: SweepSettings,
    dataset: DatasetSettings,
    chunks: ChunkPlan,
    *,
    typical: TrialSpec,
    lane_limit: int,
) -> OpenStudy:
    return OpenStudy(
        name=record.name,
        dataset=dataset,
        task=settings.task,
        max_length=settings.model.max_length,
        micro_batch=chunks.micro_batch,
        chunks_per_epoch=chunks.chunks_per_epoch,
        epochs=chunks.epochs,
        rungs=record.rungs,
        seed=settings.seed,
        probe=False,
        lane_limit=lane_limit,
        typical=typical,
    )


def _cache(settings: SweepSettings) -> Path:
    return Path(settings.cache).expanduser()
