"""Compares store, Optuna and MLflow trial by trial, and repairs the two views from the store. `cli` calls it.

Holds the sweep's lock, so no controller can run. Damaged files of the store are moved to ``damaged/`` and rebuilt (see
`repair`). What is missing in a view is sent as at any restart. What contradicts the store is deleted from the view and
sent again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sweeper.config.compose import SweepConfig
from sweeper.config.dimensions import parse_space
from sweeper.config.settings import SweepSettings
from sweeper.disk.atomic import write_atomic
from sweeper.errors import DamagedFile, StoreError
from sweeper.figures.final import final_rows, includes_validation
from sweeper.recovery.audit import Audit, SweepViews, audit_sweep, total_cost
from sweeper.recovery.differences import Difference, Place, Remedy
from sweeper.recovery.repair import Repair, TrialRepair
from sweeper.recovery.retraining import Retraining
from sweeper.recovery.study_fault import study_fault
from sweeper.search.no_search import NoSearch
from sweeper.store.damage import Damage, DamageKind, new_stamp, readable_trials, set_aside
from sweeper.store.ledger import Ledger
from sweeper.store.lock import hold
from sweeper.store.retention import num_adapters_kept
from sweeper.store.serialization import from_jsonable
from sweeper.store.trials import TrialStore
from sweeper.sweep.factory import keep_report, open_search, open_study_run, open_tracker, storage_url
from sweeper.sweep.final_plan import keeping_all_adapters, plan_final
from sweeper.sweep.identity import check_identity
from sweeper.sweep.plan import plan_model, plan_study, trial_template
from sweeper.sweep.reports import write_model_cards, write_report
from sweeper.sweep.sweep_record import restore_sweep
from sweeper.sweep.warm_start import with_portfolios
from sweeper.track import database_fault, database_files, open_audit, tracking_uri
from sweeper.types import Cost, StudyRecord, TrialState, ViewedTrial

__all__ = ["reconcile_sweep"]

_TRACKER_TIMEOUT_S = 600.0
"""Time to bring MLflow up to date, at about 5 ms per point."""
_RECORDS = (DamageKind.SWEEP, DamageKind.STUDY, DamageKind.CONFIRMATION, DamageKind.NOTE)
_Difference = tuple[str, str, str, str]
"""Place, study, trial and difference."""
_Row = tuple[str, str, str, str, str]
"""The same, and the repair."""


def reconcile_sweep(
    store: TrialStore,
    *,
    console: Console,
    dry_run: bool = False,
    retrain: bool = False,
    settings: SweepSettings | None = None,
) -> bool:
    """Print the differences between store, Optuna and MLflow, and repair them.

    Args:
        store: The sweep.
        console: Where to print.
        dry_run: Only print them, and what would be done.
        retrain: Train complete trials again whose adapter or row outcomes have no copy.
        settings: Settings from the command line, which may contain a database's password; the stored ones if None.

    Returns:
        Whether all three agree now, and nothing is damaged or lost.

    Raises:
        SweepLocked: A controller is running the sweep.
        SweepMismatch: The settings are not those of the sweep.
        SweeperError: A record cannot be repaired, or a view is not reachable.
    """
    with hold(store):
        if settings is None:
            settings = from_jsonable(SweepSettings, store.read_sweep()["settings"])
        else:
            check_identity(store, settings)
        # The outputs folder may have been moved since the sweep started.
        settings = dataclasses.replace(settings, outputs=str(store.root.parent))
        reconciler = _Reconciler(store, settings, console=console, retrain=retrain)
        audit = reconciler.audit()
        if audit.is_clean:
            console.print(Text(f"Sweep {store.root.name}: store, Optuna and MLflow agree on every trial."))
            return True
        done = reconciler.plan(audit) if dry_run else reconciler.repair(audit)
        console.print(_table(done, "repair" if dry_run else "done"))
        if dry_run:
            console.print(Text(f"Differences: {len(done)}. Run without --dry-run to repair them."))
            return False
        left = reconciler.audit()
        if left.is_clean:
            console.print(Text(f"Sweep {store.root.name}: repaired. Store, Optuna and MLflow agree now."))
            return True
        _print_left(left, store, console)
        return False


class _Reconciler:
    """Audits and repairs one sweep."""

    def __init__(self, store: TrialStore, settings: SweepSettings, *, console: Console, retrain: bool) -> None:
        self._store, self._console, self._retrain = store, console, retrain
        self._config = SweepConfig(settings, parse_space(settings.space.dimensions))
        self._stamp = new_stamp()

    @property
    def _settings(self) -> SweepSettings:
        return self._config.settings

    def audit(self) -> Audit:
        """Compare store, Optuna and MLflow as they are now."""
        return audit_sweep(self._store, self._views())

    def plan(self, audit: Audit) -> list[_Row]:
        """Return a row for each repair that an audit asks for; change nothing."""
        rows = [_row(damage, self._plan_record(damage)) for damage in audit.damage if damage.kind in _RECORDS]
        rows += [(*row, repair.what) for row, repair in self._plan_trials(audit)]
        # A trial that is only in a view is in these rows already.
        views = [d for d in audit.differences if d.remedy is not Remedy.RECOVER or d.number is None]
        return rows + _difference_rows(views)

    def repair(self, audit: Audit) -> list[_Row]:
        """Repair what an audit found; return a row for each repair."""
        done = self._repair_records(audit)
        if done:
            audit = self.audit()  # only now that its record is readable can the trials of a study be checked
        done += _difference_rows([each for each in audit.differences if each.what == audit.ledger_fault])
        self._repair_ledger()
        done += [(*row, repair.run()) for row, repair in self._plan_trials(audit)]
        left = self.audit()
        done += _difference_rows(left.differences)
        self._delete_contradictions(left)
        self._update_views()
        self._repair_ledger()
        return done

    def _views(self) -> SweepViews:
        settings = self._settings
        url = tracking_uri(settings.tracker.uri, Path(settings.outputs)) if settings.tracker.name == "mlflow" else ""
        usable = bool(url) and not database_fault(url)
        tracker = open_audit(url, sweep=self._store.root.name) if usable else None
        search = storage_url(settings, self._store)
        return SweepViews(
            search_url=search,
            tracker_url=url,
            tracker=tracker,
            space=self._config.space,
            keep_adapters=num_adapters_kept(self._store.root, settings.store.keep_adapters),
        )

    def _plan_record(self, damage: Damage) -> str:
        """Return how the damaged record of the sweep, a session, a study or a confirmation is repaired."""
        if damage.kind is DamageKind.NOTE:
            return f"moved to damaged/{self._stamp}"
        if damage.kind is DamageKind.CONFIRMATION:
            return f"moved to damaged/{self._stamp}; the next session computes it again"
        try:
            self._owner(damage.study).read_study(damage.study) if damage.study else self._store.read_sweep()
        except DamagedFile:
            return "rebuilt from the settings, which agree with the trials"
        return "restored from its copy"

    def _repair_records(self, audit: Audit) -> list[_Row]:
        broken = [damage for damage in audit.damage if damage.kind in _RECORDS]
        done = [_row(damage, self._plan_record(damage)) for damage in broken]
        restore_sweep(self._store, self._settings, self._stamp)
        for damage in broken:
            if damage.kind in (DamageKind.CONFIRMATION, DamageKind.NOTE):
                set_aside(self._store, damage.path, self._stamp)
        lost = [name for name in (d.study for d in broken if d.kind is DamageKind.STUDY) if not self._has_study(name)]
        if lost:
            self._rebuild_studies(lost)
        return done

    def _owner(self, study: str) -> TrialStore:
        """Return where a study is: in the sweep, or among its final trainings."""
        return self._store.finals if self._store.finals.paths.study(study).exists() else self._store

    def _has_study(self, name: str) -> bool:
        try:
            self._owner(name).read_study(name)
        except DamagedFile:
            return False
        return True

    def _rebuild_studies(self, names: Sequence[str]) -> None:
        """Plan studies again whose record and its copy are lost.

        Raises:
            StoreError: The settings have no such study, or its trials cannot have been trained with them.
        """
        model_dir = plan_model(self._settings)
        plans = [plan_study(self._config, data, model_dir=model_dir) for data in self._settings.dataset.values()]
        # The portfolio is chosen again. It may differ from the lost one if other sweeps have changed since.
        planned = with_portfolios(
            [plan.record for plan in plans], self._config, model_dir=model_dir, sweep=self._store.root
        )
        records = {record.name: record for record in planned}
        # Final trainings come last: their rows follow from the record of the study that was searched.
        for name in sorted(names, key=lambda name: self._owner(name).is_final):
            owner = self._owner(name)
            path = owner.paths.study_record(name)
            if owner.is_final and (final := self._plan_final(name, model_dir)):
                records[name] = final
            if name not in records:
                raise StoreError(f"{path} is damaged and cannot be rebuilt: the sweep's settings have no study {name}")
            trials = readable_trials(owner, name)
            if fault := study_fault(records[name], trials, template=trial_template(self._settings, records[name])):
                raise StoreError(
                    f"{path} is damaged and cannot be rebuilt from the settings and the data: {fault}. If the data was "
                    "changed since the sweep started, restore it and run the same command again"
                )
            for damaged in (path, owner.paths.study_backup(name)):
                if damaged.exists():
                    set_aside(owner, damaged, self._stamp)
            owner.write_study(records[name])

    def _plan_final(self, name: str, model_dir: Path) -> StudyRecord | None:
        """Return the record of a study of final trainings, planned again; None if no study of the sweep is its source.

        Raises:
            SweeperError: Its rows or the model have changed.
        """
        for source in self._store.studies():
            if rows := final_rows(name, source.name):
                with_validation = includes_validation(name)
                sweep = self._store.root.name
                return plan_final(
                    self._config, source, rows=rows, with_validation=with_validation, sweep=sweep, model_dir=model_dir
                ).record
        return None

    def _plan_trials(self, audit: Audit) -> Iterator[tuple[_Difference, Repair]]:
        """Yield what is wrong with the trials in the store, and its repair, which is carried out before the next."""
        tracker = self._views().tracker
        for folder in [*self._store.paths.studies(), *self._store.finals.paths.studies()]:
            if not self._has_study(folder.name):
                continue
            store = self._owner(folder.name)
            study = store.read_study(folder.name)
            retraining = Retraining(
                store=store, study=study, settings=self._settings, console=self._console, stamp=self._stamp
            )
            trials = TrialRepair(
                store=store,
                study=study.name,
                template=trial_template(self._settings, study),
                searched=_by_number(audit.searched.get(study.name)),
                runs=_by_number(audit.runs.get(study.name)),
                copies=tracker,
                retrain=retraining if self._retrain else None,
                stamp=self._stamp,
            )
            for damage in audit.damage:
                if damage.study == study.name and damage.kind not in _RECORDS:
                    yield _row(damage, "")[:4], trials.plan(damage)
            lost = [d for d in audit.differences if d.study == study.name and d.remedy is Remedy.RECOVER]
            for number in sorted({each.number for each in lost if each.number is not None}):
                what = "the trial is missing, but a view has it"
                yield (Place.STORE.value, study.name, str(number), what), trials.plan_recovery(number)

    def _delete_contradictions(self, audit: Audit) -> None:
        """Delete data that contradicts the store from the views, and move damaged databases aside.

        What is deleted from Optuna is kept as a JSON file in ``damaged``. MLflow moves deleted runs to its trash.
        """
        from sweeper.search.stored_study import database_files as search_files
        from sweeper.search.stored_study import delete_study, export_study

        views = self._views()
        if audit.search_fault:
            self._set_files_aside(search_files(views.search_url))
        if audit.tracker_fault:
            self._set_files_aside(database_files(views.tracker_url))
        wrong = [each for each in audit.differences if each.remedy in (Remedy.REPLACE, Remedy.RECOVER) and each.study]
        for name in {each.study for each in wrong if each.place is Place.SEARCH}:
            in_optuna = f"{self._store.root.name}/{name}"
            kept = self._store.paths.damaged(self._stamp, self._store.root / f"optuna-{name}.json")
            write_atomic(kept, export_study(views.search_url, in_optuna))
            delete_study(views.search_url, in_optuna)
        for each in wrong:
            if each.place is Place.TRACKER and views.tracker is not None:
                runs = audit.runs.get(each.study) or []
                views.tracker.remove([run for run in runs if run.number == each.number])

    def _update_views(self) -> None:
        """Bring both views up to date, as any start of the sweep does."""
        with ExitStack() as stack:
            tracker = open_tracker(self._settings, self._store)
            try:
                for study in self._store.studies():
                    search = stack.enter_context(open_search(study, self._config, self._store))
                    open_study_run(study, search, self._settings, store=self._store, tracker=tracker)
                finals, settings = self._store.finals, keeping_all_adapters(self._settings)
                for study in finals.studies():
                    open_study_run(study, NoSearch(), settings, store=finals, tracker=tracker)
            finally:
                tracker.close(_TRACKER_TIMEOUT_S)
            for study in self._store.studies():
                write_model_cards(self._store, study, self._settings)
            if self._store.paths.best.exists():
                write_report(self._store, self._config)
            keep_report(tracker, self._store, _TRACKER_TIMEOUT_S)

    def _repair_ledger(self) -> None:
        """Raise each sum of the ledger to that of the trials. It may be higher, since it includes lost chunks."""
        path = self._store.paths.ledger
        try:
            ledger = Ledger(path)
        except StoreError:
            set_aside(self._store, path, self._stamp)
            ledger = Ledger(path)
        least = total_cost(self._store)
        fields = [field.name for field in dataclasses.fields(Cost)]
        missing = {name: max(0, getattr(least, name) - getattr(ledger.cost, name)) for name in fields}
        if any(missing.values()):
            ledger.charge(Cost(**missing))

    def _set_files_aside(self, paths: Sequence[Path]) -> None:
        for path in paths:
            set_aside(self._store, path, self._stamp)


def _by_number(trials: Sequence[ViewedTrial] | None) -> dict[int, ViewedTrial]:
    """Return the trials of a view by number; if a trial has several runs, a complete one."""
    found = sorted(trials or [], key=lambda trial: trial.state == TrialState.COMPLETE)
    return {trial.number: trial for trial in found}


def _row(damage: Damage, repair: str) -> _Row:
    return Place.STORE.value, damage.study, _number_text(damage.number), damage.what, repair


def _difference_rows(differences: Sequence[Difference]) -> list[_Row]:
    """Return a row for each difference of the views and the ledger."""
    return [(d.place.value, d.study, _number_text(d.number), d.what, d.remedy.value) for d in differences]


def _print_left(left: Audit, store: TrialStore, console: Console) -> None:
    """Print what a repair has left: what only a new training restores, and what could not be repaired."""
    lost = [_row(damage, "") for damage in left.lost]
    others = [_row(damage, "") for damage in left.damage if damage not in left.lost]
    others += _difference_rows(left.differences)
    if others:
        console.print(_table(others))
        console.print(Text(f"Differences that could not be repaired: {len(others)}.", style="bold red"))
    if lost:
        console.print(_table(lost))
        console.print(
            Text(
                f"Lost, without a copy: {len(lost)}. The trials keep their scores. To train them again, run: "
                f"sweeper reconcile {store.root.name} --retrain",
                style="bold yellow",
            )
        )


def _number_text(number: int | None) -> str:
    return "" if number is None else str(number)


def _table(rows: Sequence[_Row], repair: str = "") -> Table:
    """Return a table; ``repair`` is the header of its last column, which is left out without one."""
    columns = ["where", "study", "trial", "difference", *([repair] if repair else [])]
    table = Table(*columns, header_style="bold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row[: len(columns)]))
    return table
