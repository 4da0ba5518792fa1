"""Creates the parts of a session: searches, study runs, tracker, executor. `run` and `reconcile` call it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweeper.clock import Clock, utc_now
from sweeper.config.compose import SweepConfig
from sweeper.config.settings import Recipe, SweepSettings
from sweeper.control.confirmation import Confirmation
from sweeper.control.study_run import StudyRun
from sweeper.control.trial_records import TrialRecords
from sweeper.execute import make_executor
from sweeper.execute.base import CheckpointPolicy, Executor, WorkerSetup
from sweeper.figures.recipes import default_recipe
from sweeper.search.base import SearchProtocol
from sweeper.store.damage import new_stamp, set_aside
from sweeper.store.sqlite import sqlite_damage, sqlite_files
from sweeper.store.trials import TrialStore
from sweeper.sweep.plan import fixed_values, trial_template
from sweeper.track import Tracker, make_tracker
from sweeper.train import make_worker
from sweeper.types import StudyRecord, TrialSpec

if TYPE_CHECKING:
    from sweeper.search.study import Search

__all__ = [
    "keep_report",
    "make_confirmation",
    "open_executor",
    "open_search",
    "open_study_run",
    "open_tracker",
    "storage_url",
]

log = logging.getLogger(__name__)


def open_search(record: StudyRecord, config: SweepConfig, store: TrialStore) -> Search:
    """Open the search of a study, or create it.

    A damaged database in the sweep's own folder is moved aside; `Search.sync` fills the new one from the store. One
    that the user names may have other sweeps, so it is never moved.
    """
    from sweeper.search.study import Search

    settings = config.settings
    if not settings.search.storage:
        _set_damaged_database_aside(store)
    return Search.open(
        f"{store.root.name}/{record.name}",
        config.space,
        settings.search,
        direction=record.direction,
        storage_url=storage_url(settings, store),
        seed=settings.seed,
        rungs=record.rungs,
        num_rows=record.num_rows.get("validation", 0),
        majority=record.majority,
        fixed=fixed_values(settings, record),
        metric=record.metric,
        portfolio=record.portfolio,
    )


def _set_damaged_database_aside(store: TrialStore) -> None:
    path = store.paths.optuna_db
    damage = sqlite_damage(path)
    if damage:
        stamp = new_stamp()
        moved = [set_aside(store, each, stamp) for each in sqlite_files(path)]
        log.warning("%s: %s; it is rebuilt from the sweep's folder, and the old one is %s", path, damage, moved[0])


def storage_url(settings: SweepSettings, store: TrialStore) -> str:
    """Return the SQLAlchemy URL of Optuna's database."""
    return settings.search.storage or f"sqlite:///{store.paths.optuna_db}"


def open_study_run(
    record: StudyRecord,
    search: SearchProtocol,
    settings: SweepSettings,
    *,
    store: TrialStore,
    tracker: Tracker,
    references: Mapping[int, Recipe] | None = None,
    confirmation: Confirmation | None = None,
    finals: Sequence[TrialSpec] = (),
    clock: Clock = utc_now,
) -> StudyRun:
    """Resume a study from the store, and bring search and tracker up to date with it.

    Args:
        record: The record of the study.
        search: Its open search.
        settings: Settings of the sweep.
        store: The sweep.
        tracker: Where trials are shown.
        references: Recipes that are trained for comparison, by trial number.
        confirmation: Trains the best candidates again after the search; None for no such trials.
        finals: Final trainings, of a study without a search.
        clock: The present time.
    """
    records = TrialRecords(
        record, store=store, tracker=tracker, keep_adapters=settings.store.keep_adapters, clock=clock
    )
    run = StudyRun(
        records,
        search,
        trial_template(settings, record),
        num_trials=settings.budget.trials,
        executor=settings.executor,
        references=references,
        confirmation=confirmation,
        finals=finals,
    )
    records.show_all()
    return run


def make_confirmation(settings: SweepSettings, store: TrialStore) -> Confirmation | None:
    """Return the confirmation of a study; None if the settings ask for none."""
    if not settings.confirm.max_share:
        return None
    from sweeper.control.candidate_statistics import OutcomeComparison, probabilities_of_being_best

    recipe = default_recipe(settings.search)
    return Confirmation(
        settings.confirm,
        seed=settings.seed,
        default=recipe.name if recipe else "",
        probability_best=probabilities_of_being_best,
        compare=OutcomeComparison(store, settings.confirm),
    )


def open_executor(settings: SweepSettings, store: TrialStore, *, model_dir: Path, device: str) -> Executor:
    """Return the executor that the settings name; its workers log to the sweep's folder."""
    setup = WorkerSetup(
        model=settings.model,
        model_dir=model_dir,
        cache=Path(settings.cache).expanduser(),
        device=device,
        threads=settings.executor.threads,
        tokens_per_pass=settings.executor.tokens_per_pass,
        checkpoints=CheckpointPolicy(
            file_bytes=settings.executor.checkpoint_file_bytes,
            every_s=settings.store.checkpoint_every_s,
            moments=settings.store.checkpoint_moments,
        ),
    )
    return make_executor(settings.executor, partial(make_worker, setup), logs=store.paths.worker_logs)


def open_tracker(settings: SweepSettings, store: TrialStore) -> Tracker:
    """Return the tracker that the settings name, with the sweep's tags."""
    tags = _tags(store.read_sweep()["provenance"])
    return make_tracker(settings.tracker, outputs=Path(settings.outputs), sweep=store.root.name, tags=tags)


def keep_report(tracker: Tracker, store: TrialStore, timeout_s: float) -> None:
    """Give a closed tracker the sweep's report as it was last written, if it was."""
    paths = store.paths
    files = [path for path in (paths.report_html, paths.report, paths.best) if path.exists()]
    if files:
        tracker.keep_report(store.studies(), files, timeout_s)


def _tags(provenance: Mapping[str, Any]) -> dict[str, str]:
    git = provenance.get("git", {})
    versions = {name: version for name, version in provenance["libraries"].items() if name in ("torch", "peft")}
    return {"git": str(git.get("commit", ""))[:12], "sweeper": str(provenance["version"]), **versions}
