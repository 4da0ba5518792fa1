"""Turns a configuration into studies: fetches model and data, splits, tokenises, and fixes what trials have in common.

Errors in the user's data or model are raised here, before any worker trains.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweeper.config.compose import SweepConfig
from sweeper.config.dimensions import parse_space
from sweeper.config.hyperparameters import Hyperparameters
from sweeper.config.settings import DatasetSettings, Recipe, SweepSettings
from sweeper.config.space import EPOCHS, SearchSpace
from sweeper.config.trial_length import nearest_epochs
from sweeper.config.values import ParamValue
from sweeper.control.lane_limits import choose_limits
from sweeper.errors import ConfigError, DataError, SweepMismatch, did_you_mean
from sweeper.execute.base import OpenStudy
from sweeper.fetch.progress import Progress
from sweeper.figures.final import train_splits
from sweeper.figures.recipes import FIRST_REFERENCE_NUMBER, default_recipe
from sweeper.figures.rungs import rows_to_score
from sweeper.figures.text import plural
from sweeper.figures.training_rows import length_sentence, proposal
from sweeper.search.proposals import fit_recipes
from sweeper.search.pruning import rung_chunks
from sweeper.tasks import make_task
from sweeper.train.chunks import plan_chunks, usual_epochs
from sweeper.types import ModelRef, RowsRef, StudyRecord, TrialTemplate

if TYPE_CHECKING:
    from sweeper.data.base import Prepared, SplitsRecord

__all__ = [
    "StudyPlan",
    "check_content",
    "check_task",
    "fixed_values",
    "most_memory",
    "pinned_plan",
    "plan_model",
    "plan_study",
    "plan_weights",
    "reference_recipes",
    "study_name",
    "trial_template",
]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StudyPlan:
    """A study that is ready to start."""

    record: StudyRecord
    opening: OpenStudy
    """The request that opens it on a worker."""

    def resumed(self, record: StudyRecord) -> StudyPlan:
        """Return the plan of a study that exists on disk: its trials keep the length that they started with.

        The caller has compared rows and model (`check_content`).
        """
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


def plan_weights(settings: SweepSettings, model_dir: Path, progress: Progress | None = None) -> ModelRef:
    """Read the base model's files, and return them by their content; what is damaged is fetched again if possible.

    It reads the whole model, so call it while workers start.

    Raises:
        FetchError: A file is damaged and cannot be fetched again.
        ModelError: A file in a folder of the user's is damaged.
    """
    from sweeper.models import read_model

    return read_model(settings.model, model_dir, cache=_cache(settings), progress=progress)


def plan_study(
    config: SweepConfig,
    dataset: DatasetSettings,
    *,
    model_dir: Path,
    model: ModelRef | None = None,
    lane_limit: int = 0,
    progress: Progress | None = None,
) -> StudyPlan:
    """Fetch, split and tokenise a dataset, and fix what the trials of its study share.

    Args:
        config: The configuration.
        dataset: The dataset.
        model_dir: Folder of the base model.
        model: What `plan_weights` returned; it is called if None.
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
    model = model or plan_weights(settings, model_dir, progress)
    prepared = prepare(
        dataset,
        settings.model,
        model_dir=model_dir,
        cache=_cache(settings),
        completions=task.takes_completions,
        loss_on=settings.task.loss_on,
        progress=progress,
    )
    splits = prepared.splits
    if splits.num_rows["train"] < 2:  # noqa: PLR2004  nothing can be learnt from one row
        rows = plural(splits.num_rows["train"], "training row")
        raise DataError(f"dataset {dataset.name} has {rows} after the split; at least 2 are needed")
    planned = _plan(config, dataset, prepared, model, lane_limit=lane_limit)
    record = planned.record
    log.info("%s: model.max_length=%s. %s", record.name, settings.model.max_length, length_sentence(record))
    if text := proposal(record):
        log.info("%s: %s", record.name, text)
    return planned


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
    """Return what the trials of a study have in common: the settings, with the length that was chosen for the study.

    If epochs are searched, the length is that of a trial which names none, e.g. of a reference.
    """
    epochs = _searched_epochs(settings, record).get(EPOCHS, record.epochs)
    length = {EPOCHS: epochs, "train.chunks_per_epoch": record.chunks_per_epoch}
    return TrialTemplate(record.name, Hyperparameters.of(settings).with_params(length), settings.seed)


def fixed_values(settings: SweepSettings, record: StudyRecord) -> dict[str, ParamValue]:
    """Return every hyperparameter as a configuration has it that does not name it, by dotted key."""
    return Hyperparameters.of(settings).by_key() | _searched_epochs(settings, record)


def _searched_epochs(settings: SweepSettings, record: StudyRecord) -> dict[str, ParamValue]:
    """Return the epochs of a trial that names none, by key; empty if epochs are not searched."""
    if EPOCHS not in record.space:
        return {}
    space, num_rows = parse_space(record.space), record.num_rows["train"]
    return {EPOCHS: usual_epochs(settings, space, num_rows=num_rows, num_labels=len(record.labels))}


def reference_recipes(settings: SweepSettings, space: SearchSpace) -> dict[int, Recipe]:
    """Return the recipes that are trained for comparison, by trial number.

    These are the default recipe, if the search will not try it, and ``search.references``, without those that the
    search tries as recipes. A number is the position in the whole list: it depends on neither the space nor the budget.
    """
    search, fixed = settings.search, Hyperparameters.of(settings)
    values = fixed.by_key()
    if EPOCHS in space.keys:
        # With 0, the number follows from the rows of each study; here, any in the space stands for it.
        values[EPOCHS] = nearest_epochs(space, fixed.train.epochs)
    tried = [] if search.sampler == "grid" else fit_recipes(search.recipes, space, values)
    named = {recipe.name: recipe.params.get(EPOCHS, fixed.train.epochs) for recipe in search.recipes}
    known = [fixed.with_params({**params, EPOCHS: named[name]}) for name, params in tried]
    found: dict[int, Recipe] = {}
    for position, recipe in enumerate((default_recipe(search), *search.references)):
        if recipe is None or (configuration := fixed.with_params(recipe.params)) in known:
            continue
        known.append(configuration)
        found[FIRST_REFERENCE_NUMBER + position] = recipe
    return found


def check_content(before: StudyRecord, now: StudyRecord, *, sweep: str, cache: Path) -> None:
    """Check that rows and model are those that a study of a sweep was started with.

    Args:
        before: The record of the study.
        now: The record that a new plan has.
        sweep: Name of the sweep, for the error.
        cache: Folder of rows.

    Raises:
        SweepMismatch: They have changed.
    """
    from sweeper.data import has_rows
    from sweeper.models.content import first_difference

    what, remedy = "", "Restore them"
    if before.fingerprint != now.fingerprint:
        what = f"the rows of {before.dataset} have changed since sweep {sweep} started"
        remedy = "Restore the dataset's files"
        if before.rows_ref is not None and has_rows(before.rows_ref, cache=cache):
            remedy += " (the cache still has the tokens of the old rows, so `sweeper reproduce` works without them)"
    elif before.rows_ref and now.rows_ref and before.rows_ref.digest != now.rows_ref.digest:
        what = f"the rows of {before.dataset} have other token ids than when sweep {sweep} started"
        remedy = "Install the versions of transformers and tokenizers that sweep.json names"
    elif before.model_ref and now.model_ref and before.model_ref.digest != now.model_ref.digest:
        difference = first_difference(before.model_ref.files, now.model_ref.files)
        what = f"the model {before.model} has changed since sweep {sweep} started ({difference})"
        remedy = "Restore the model's files (those of a hub model stay the same if model.revision names a commit)"
    if what:
        raise SweepMismatch(
            f"{what}, so its trials cannot be compared with new ones. {remedy} to continue this sweep, or give the new "
            "sweep its own name, e.g. name=second"
        )


def pinned_plan(config: SweepConfig, record: StudyRecord, *, model: ModelRef) -> StudyPlan | None:
    """Return the plan of a study on disk from its record alone, without reading the dataset.

    None if the cache does not have its rows any more, so that they must be made again with `plan_study`.
    """
    from sweeper.data import has_rows

    if record.rows_ref is None or not has_rows(record.rows_ref, cache=_cache(config.settings)):
        return None
    opening = _opening(record, config, record.rows_ref, model, lane_limit=0)
    return StudyPlan(dataclasses.replace(record, model_ref=model), opening)


def _plan(
    config: SweepConfig, dataset: DatasetSettings, prepared: Prepared, model: ModelRef, *, lane_limit: int
) -> StudyPlan:
    settings, search, splits = config.settings, config.settings.search, prepared.splits
    metric, direction = _objective(settings, len(splits.labels))
    num_rows = splits.num_rows["train"]
    chunks = plan_chunks(settings, config.space, num_rows=num_rows, num_labels=len(splits.labels))
    rungs = rung_chunks(chunks.num_chunks, min_chunks=search.min_chunks, reduction_factor=search.reduction_factor)
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
        rungs=rungs,
        rows_per_chunk=chunks.rows_per_chunk,
        micro_batch=chunks.micro_batch,
        fingerprint=splits.fingerprint,
        labels=splits.labels,
        num_rows=splits.num_rows,
        space=config.space.texts,
        cut=prepared.cut,
        num_available=splits.num_available,
        rows_ref=prepared.ref,
        model_ref=model,
        majority=_majority(settings, splits, metric, rungs),
    )
    return StudyPlan(record, _opening(record, config, prepared.ref, model, lane_limit=lane_limit))


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


def _majority(settings: SweepSettings, splits: SplitsRecord, metric: str, rungs: tuple[int, ...]) -> tuple[float, ...]:
    """Return the score of always predicting the commonest label at each rung, on the rows that it scores."""
    if not splits.label_counts:
        return ()
    task, num_rows = make_task(settings.task.name), splits.num_rows["validation"]
    scored = [rows_to_score(rung, num_chunks=rungs[-1], num_rows=num_rows) for rung in rungs]
    name = metric.removeprefix("validation/")
    found = [task.majority_score(name, splits.label_counts[str(rows)], len(splits.labels)) for rows in scored]
    return tuple(score for score in found if score is not None)


def _opening(record: StudyRecord, config: SweepConfig, rows: RowsRef, model: ModelRef, *, lane_limit: int) -> OpenStudy:
    settings = config.settings
    template = trial_template(settings, record)
    typical = config.space.point((0.5,) * len(config.space))
    return OpenStudy(
        name=record.name,
        rows=rows,
        model=model,
        task=settings.task,
        micro_batch=record.micro_batch,
        chunks_per_epoch=record.chunks_per_epoch,
        epochs=record.epochs,
        rungs=record.rungs,
        seed=settings.seed,
        probe=False,
        lane_limit=lane_limit,
        lanes=choose_limits(settings, "cpu").lanes,  # on a GPU, the worker knows a better number or the settings fix it
        typical=template.spec(0, typical, "typical"),
        largest=template.spec(0, {**typical, **most_memory(config)}, "largest"),
        train_splits=train_splits(record),
    )


def most_memory(config: SweepConfig) -> dict[str, Any]:
    """Return the values that take the most memory: the largest rank of space and recipes, and their most dropout."""
    found: dict[str, Any] = {}
    for key in ("lora.r", "lora.dropout"):
        values: list[Any] = [d.at(1.0) for d in config.space.dimensions if d.key == key]
        values += [recipe.params[key] for recipe in config.settings.search.recipes if key in recipe.params]
        if values:
            found[key] = max(values)
    return found


def _cache(settings: SweepSettings) -> Path:
    return Path(settings.cache).expanduser()
