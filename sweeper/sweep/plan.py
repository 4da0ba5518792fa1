"""Turns a configuration into studies: fetches model and data, splits, tokenises, and fixes what trials have in common.

Errors in the user's data or model are raised here, before any worker trains.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sweeper.config.checks import micro_batch
from sweeper.config.compose import SweepConfig
from sweeper.config.hyperparameters import Hyperparameters
from sweeper.config.settings import DatasetSettings, Recipe, SweepSettings
from sweeper.config.space import SearchSpace
from sweeper.config.values import ParamValue
from sweeper.errors import ConfigError, DataError, did_you_mean
from sweeper.execute.base import OpenStudy
from sweeper.fetch.progress import Progress
from sweeper.figures.recipes import default_recipe
from sweeper.figures.text import plural
from sweeper.search.pruning import rung_chunks
from sweeper.tasks import make_task
from sweeper.train.chunks import ChunkPlan
from sweeper.types import StudyRecord, TrialSpec, TrialTemplate

if TYPE_CHECKING:
    from sweeper.data.base import Splits

__all__ = ["StudyPlan", "plan_model", "plan_study", "reference_recipe", "study_name"]

_MOST_LANES = 64
"""Upper limit of ``executor.lanes=auto``. Another is a third of the budget, so that most trials start after results."""


@dataclass(frozen=True, slots=True)
class StudyPlan:
    """A study that is ready to start."""

    record: StudyRecord
    opening: OpenStudy
    """The request that opens it on a worker."""


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
    config: SweepConfig, dataset: DatasetSettings, *, model_dir: Path, progress: Progress | None = None
) -> StudyPlan:
    """Fetch, split and tokenise a dataset, and fix what the trials of its study share.

    Raises:
        DataError: The data cannot be used.
        FetchError: The data cannot be fetched.
        ConfigError: A setting does not fit the data or the task.
    """
    from sweeper.data import prepare_splits
    from sweeper.data.prompt_tokens import chat_use
    from sweeper.data.tokens import tokenise

    settings = config.settings
    completions = make_task(settings.task.name).takes_completions
    splits = prepare_splits(dataset, cache=_cache(settings), completions=completions, progress=progress)
    tokenise(
        splits,
        model_dir=model_dir,
        max_length=settings.model.max_length,
        cache=_cache(settings),
        trust_remote_code=settings.model.trust_remote_code,
        chat=chat_use(settings.model),
    )
    if len(splits.train) < 2:  # noqa: PLR2004  nothing can be learnt from one row
        rows = plural(len(splits.train), "training row")
        raise DataError(f"dataset {dataset.name} has {rows} after the split; at least 2 are needed")
    return _plan(config, dataset, splits)


def reference_recipe(settings: SweepSettings, space: SearchSpace) -> tuple[str, Mapping[str, ParamValue]] | None:
    """Return name and values of the default recipe if the search will not try it, so that it is run as a reference."""
    recipe = default_recipe(settings.search)
    if recipe is None:
        return None
    fixed = Hyperparameters.of(settings).by_key()
    inside = {key: recipe.params.get(key, fixed[key]) for key in space.keys}
    is_same = all(fixed.get(key) == value for key, value in recipe.params.items() if key not in space.keys)
    if is_same and space.contains(inside) and settings.search.sampler != "grid":
        return None
    _check_keys(recipe, fixed)
    return recipe.name, dict(recipe.params)


def _check_keys(recipe: Recipe, fixed: Mapping[str, ParamValue]) -> None:
    for key in recipe.params:
        if key not in fixed:
            remedy = did_you_mean(key, fixed) or "Use keys under lora and train."
            raise ConfigError("search.recipes", key, f"recipe '{recipe.name}' has an unknown key", remedy)


def _plan(config: SweepConfig, dataset: DatasetSettings, splits: Splits) -> StudyPlan:
    settings, search = config.settings, config.settings.search
    metric, direction = _objective(settings, len(splits.labels))
    chunks = ChunkPlan.of(
        splits.num_rows["train"],
        micro_batch=micro_batch(settings, config.space),
        chunks_per_epoch=settings.train.chunks_per_epoch,
        epochs=settings.train.epochs,
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
        rungs=rung_chunks(chunks.num_chunks, min_chunks=search.min_chunks, reduction_factor=search.reduction_factor),
        rows_per_chunk=chunks.rows_per_chunk,
        micro_batch=chunks.micro_batch,
        fingerprint=splits.fingerprint,
        labels=splits.labels,
        num_rows=splits.num_rows,
        space=config.space.texts,
        num_available=splits.num_available,
        epochs=settings.train.epochs,
    )
    template = TrialTemplate(record.name, Hyperparameters.of(settings), settings.seed)
    typical = template.spec(0, config.space.point((0.5,) * len(config.space)), "typical")
    return StudyPlan(record, _opening(record, settings, dataset, chunks, typical))


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
    record: StudyRecord, settings: SweepSettings, dataset: DatasetSettings, chunks: ChunkPlan, typical: TrialSpec
) -> OpenStudy:
    return OpenStudy(
        name=record.name,
        dataset=dataset,
        task=settings.task,
        max_length=settings.model.max_length,
        micro_batch=chunks.micro_batch,
        chunks_per_epoch=chunks.chunks_per_epoch,
        epochs=settings.train.epochs,
        rungs=record.rungs,
        seed=settings.seed,
        probe=False,
        lane_limit=max(1, min(_MOST_LANES, settings.budget.trials // 3)) if settings.executor.lanes == "auto" else 0,
        typical=typical,
    )


def _cache(settings: SweepSettings) -> Path:
    return Path(settings.cache).expanduser()
