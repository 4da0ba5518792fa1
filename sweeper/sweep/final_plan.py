"""Plans a final training: which rows it has, and how they divide. `final` calls it.

Validation and test rows are those of the sweep, or nothing is planned: scores must be comparable, and no test row may
ever be trained on.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from sweeper.config.compose import SweepConfig
from sweeper.config.settings import DatasetSettings, SweepSettings
from sweeper.data.base import Splits
from sweeper.errors import SweeperError
from sweeper.fetch.progress import Progress
from sweeper.figures.final import ALL_ROWS, final_study_name, train_splits
from sweeper.sweep.plan import StudyPlan, check_content, plan_study, plan_weights
from sweeper.tasks import make_task
from sweeper.train.chunks import ChunkPlan, chunks_of_size
from sweeper.types import StudyRecord

__all__ = ["keeping_all_adapters", "plan_final"]

_HELD_OUT = ("validation", "test")


def plan_final(
    config: SweepConfig,
    source: StudyRecord,
    *,
    rows: str,
    with_validation: bool,
    sweep: str,
    model_dir: Path,
    progress: Progress | None = None,
) -> StudyPlan:
    """Return the study in which a configuration of another one is trained on more rows.

    Epochs stay those of the configuration, so there are more steps: the learning rate was chosen for this number of
    passes over the rows. Chunks keep about their size, so a kill costs about as much as in the search, and
    micro-batches are composed in the same way. The trial is scored after each epoch.

    Args:
        config: The configuration of the sweep.
        source: The study of the sweep.
        rows: Number of training rows, or `ALL_ROWS`.
        with_validation: Whether validation rows are trained on, too; then nothing is scored on them.
        sweep: Name of the sweep.
        model_dir: Folder of the base model.
        progress: Shows downloads.

    Raises:
        SweeperError: Rows or model have changed, there are not so many rows, or validation and test rows would not be
            those of the sweep.
    """
    settings = config.settings
    dataset = next(each for each in settings.dataset.values() if each.name == source.dataset)
    if source.rows_ref is not None:  # what model.max_length=auto stood for when the rows were those of the sweep
        settings = dataclasses.replace(
            settings, model=dataclasses.replace(settings.model, max_length=source.rows_ref.max_length)
        )
    config = dataclasses.replace(config, settings=settings)
    model = plan_weights(settings, model_dir, progress)
    before = plan_study(config, dataset, model_dir=model_dir, model=model, progress=progress)
    check_content(source, before.record, sweep=sweep, cache=Path(settings.cache))
    asked = _with_rows(dataset, rows, num_available=before.record.num_available)
    plan = plan_study(config, asked, model_dir=model_dir, model=model, progress=progress)
    held_out = _checked_splits(settings, dataset, asked)
    if rows != ALL_ROWS and plan.record.num_rows["train"] < int(rows):
        raise SweeperError(
            f"--rows {rows}: only {plan.record.num_rows['train']:,} rows of {dataset.name} can be trained on. Give at "
            f"most that many, or --rows {ALL_ROWS}"
        )
    num_rows = dict(plan.record.num_rows)
    if with_validation:
        num_rows["train"] += _num_learnable(held_out, has_head=settings.task.has_head)
        num_rows["validation"] = 0
    chunks = ChunkPlan.of(
        num_rows["train"],
        micro_batch=source.micro_batch,
        chunks_per_epoch=chunks_of_size(
            num_rows["train"],
            micro_batch=min(source.micro_batch, num_rows["train"]),
            rows_per_chunk=source.rows_per_chunk,
        ),
        epochs=source.epochs,
    )
    rungs = tuple(chunks.chunks_per_epoch * epoch for epoch in range(1, chunks.epochs + 1))
    record = dataclasses.replace(
        plan.record,
        name=final_study_name(source.name, rows, with_validation=with_validation),
        source=source.name,
        num_rows=num_rows,
        num_available=plan.record.num_available + (num_rows["train"] - plan.record.num_rows["train"]),
        num_chunks=chunks.num_chunks,
        epochs=chunks.epochs,
        chunks_per_epoch=chunks.chunks_per_epoch,
        micro_batch=chunks.micro_batch,
        rows_per_chunk=chunks.rows_per_chunk,
        rungs=() if with_validation else rungs,
        majority=(),
        metric=source.metric,
        direction=source.direction,
        references=source.references,
    )
    return _opened(plan, record)


def keeping_all_adapters(settings: SweepSettings) -> SweepSettings:
    """Return the settings of a sweep for its final trainings, which all keep their adapters."""
    return dataclasses.replace(settings, store=dataclasses.replace(settings.store, keep_adapters=0))


def _with_rows(dataset: DatasetSettings, rows: str, *, num_available: int) -> DatasetSettings:
    """Return the dataset with more training rows.

    The number is given where the sweep has a cap, because ``train_rows=0`` sizes the other splits by other rules. No
    rows are kept for a confirmation: the configuration is chosen already.
    """
    train_rows = dataset.train_rows and num_available if rows == ALL_ROWS else int(rows)
    return dataclasses.replace(dataset, train_rows=train_rows, confirm_rows=0)


def _checked_splits(settings: SweepSettings, dataset: DatasetSettings, asked: DatasetSettings) -> Splits:
    """Return the splits with more training rows.

    Raises:
        SweeperError: Their validation or test rows are not those of the sweep, or their labels are others.
    """
    from sweeper.data import prepare_splits

    task, cache = make_task(settings.task.name), Path(settings.cache).expanduser()
    before, now = (
        prepare_splits(each, cache=cache, completions=task.takes_completions, loss_on=settings.task.loss_on)
        for each in (dataset, asked)
    )
    changed = [name for name in _HELD_OUT if before.parts[name].to_list() != now.parts[name].to_list()]
    if changed or before.labels != now.labels:
        what = f"the {' and '.join(changed)} rows" if changed else "the labels"
        raise SweeperError(
            f"with {now.num_rows['train']:,} training rows, {what} of {dataset.name} would not be those of the sweep, "
            f"so scores could not be compared. Give --rows a number below {now.num_rows['train']}"
        )
    return now


def _num_learnable(splits: Splits, *, has_head: bool) -> int:
    """Return the number of validation rows that can be trained on; see `OpenStudy.train_splits`."""
    labels = splits.validation["label"]
    return sum(label < len(splits.labels) for label in labels) if has_head else len(labels)


def _opened(plan: StudyPlan, record: StudyRecord) -> StudyPlan:
    """Return the plan of a record, with the request that opens it."""
    opening = dataclasses.replace(plan.opening, name=record.name, train_splits=train_splits(record))
    return StudyPlan(record, opening).resumed(record)
