"""Compares store, Optuna and MLflow trial by trial, and repairs the two views from the store. `cli` calls it.

Holds the sweep's lock, so no controller can run. Damaged files of the store are moved aside and rebuilt (see `repair`).
What is missing in a view is sent as at any restart. What contradicts the store is deleted from the view and sent again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sweeper.config.compose import SweepConfig
from sweeper.config.dimensions import parse_space
from sweeper.config.hyperparameters import Hyperparameters
from sweeper.config.settings import SweepSettings
from sweeper.disk.atomic import move
from sweeper.errors import StoreError
from sweeper.recovery.audit import Audit, SweepViews, audit_sweep, total_cost
from sweeper.recovery.differences import Place, Remedy
from sweeper.recovery.repair import TrialRepair
from sweeper.store.damage import DamageKind, set_aside
from sweeper.store.ledger import Ledger
from sweeper.store.lock import hold
from sweeper.store.serialization import from_jsonable
from sweeper.store.trials import TrialStore
from sweeper.sweep.factory import keep_report, open_search, open_study_run, open_tracker, storage_url
from sweeper.sweep.plan import plan_model, plan_study
from sweeper.track import database_fault, database_files, open_audit, tracking_uri
from sweeper.types import Cost, TrialState, TrialTemplate, ViewedTrial

__all__ = ["reconcile_sweep"]

_TRACKER_TIMEOUT_S = 600.0
"""Time to bring MLflow up to date, at about 5 ms per point."""
_Row = tuple[str, str, str, str, str]
"""Place, study, trial, difference and repair."""


def reconcile_sweep(
    store: TrialStore, *, console: Console, dry_run: bool = False, settings: SweepSettings | None = None
) -> bool:
    """Print the differences between store, Optuna and MLflow, and repair them.

    Args:
        store: The sweep.
        console: Where to print.
        dry_run: Only print them.
        settings: Settings from the command line, which may contain a database's password; the stored ones if None.

    Returns:
        Whether all three agree now.

    Raises:
        SweepLocked: A controller is running the sweep.
        SweeperError: A record cannot be repaired, or a view is not reachable.
    """
    with hold(store):
        settings = settings or from_jsonable(SweepSettings, store.read_sweep()["settings"])
        # The outputs folder may have been moved since the sweep started.
        reconciler = _Reconciler(store, dataclasses.replace(settings, outputs=str(store.root.parent)))
        audit = reconciler.audit()
        if audit.is_clean:
            console.print(Text(f"Sweep {store.root.name}: store, Optuna and MLflow agree on every trial."))
            return True
        done = [(*row[:4], "") for row in _rows(audit)] if dry_run else reconciler.repair(audit)
        console.print(_table(done, is_repaired=not dry_run))
        if dry_run:
            console.print(Text(f"Differences: {len(done)}. Run without --dry-run to repair them."))
            return False
        left = reconciler.audit()
        if not left.is_clean:
            console.print(_table(_rows(left), is_repaired=False))
            console.print(Text(f"Differences that could not be repaired: {len(_rows(left))}.", style="bold red"))
            return False
        console.print(Text(f"Sweep {store.root.name}: repaired. Store, Optuna and MLflow agree now."))
        return True


class _Reconciler:
    """Audits and repairs one sweep."""

    def __init__(self, store: TrialStore, settings: SweepSettings) -> None:
        self._store = store
        self._config = SweepConfig(settings, parse_space(settings.space.dimensions))
        self._stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")

    @property
    def _settings(self) -> SweepSettings:
        return self._config.settings

    def audit(self) -> Audit:
        """Compare store, Optuna and MLflow as they are now."""
        return audit_sweep(self._store, self._views())

    def repair(self, audit: Audit) -> list[_Row]:
        """Repair what an audit found; return a row for each repair."""
        done = self._repair_studies(audit)
        if done:
            audit = self.audit()  # only now that its record is readable can the trials of a study be checked
        done += self._repair_trials(audit)
        left = self.audit()
        done += _rows(dataclasses.replace(left, damage=[]))  # differences in the views and the ledger
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
            keep_adapters=settings.store.keep_adapters,
        )

    def _repair_studies(self, audit: Audit) -> list[_Row]:
        broken = [damage for damage in audit.damage if damage.kind is DamageKind.STUDY]
        if not broken:
            return []
        model_dir = plan_model(self._settings)
        plans = [plan_study(self._config, data, model_dir=model_dir) for data in self._settings.dataset.values()]
        records = {plan.record.name: plan.record for plan in plans}
        for damage in broken:
            if damage.study not in records:
                why = f"the sweep's settings have no study {damage.study}"
                raise StoreError(f"{damage.path} is damaged ({damage.what}) and cannot be rebuilt: {why}")
            if damage.path.exists():
                set_aside(self._store, damage.path, self._stamp)
            self._store.write_study(records[damage.study])
        return [("store", damage.study, "", damage.what, "rebuilt from the settings") for damage in broken]

    def _repair_trials(self, audit: Audit) -> list[_Row]:
        tracker = self._views().tracker
        done: list[_Row] = []
        for study in self._store.studies():
            trials = TrialRepair(
                store=self._store,
                study=study.name,
                template=TrialTemplate(study.name, Hyperparameters.of(self._settings), self._settings.seed),
                searched=_by_number(audit.searched.get(study.name)),
                runs=_by_number(audit.runs.get(study.name)),
                copies=tracker,
                stamp=self._stamp,
            )
            done += [
                ("store", study.name, str(damage.number), damage.what, trials.repair(damage))
                for damage in audit.damage
                if damage.study == study.name
            ]
            lost = [d for d in audit.differences if d.study == study.name and d.remedy is Remedy.RECOVER]
            for number in sorted({each.number for each in lost if each.number is not None}):
                what = "the trial is missing, but a view has it"
                done.append(("store", study.name, str(number), what, trials.recover(number)))
        return done

    def _delete_contradictions(self, audit: Audit) -> None:
        """Delete data that contradicts the store from the views, and move damaged databases aside."""
        from sweeper.search.stored_study import database_files as search_files
        from sweeper.search.stored_study import delete_study

        views = self._views()
        if audit.search_fault:
            self._set_files_aside(search_files(views.search_url))
        if audit.tracker_fault:
            self._set_files_aside(database_files(views.tracker_url))
        wrong = [each for each in audit.differences if each.remedy in (Remedy.REPLACE, Remedy.RECOVER) and each.study]
        for name in {each.study for each in wrong if each.place is Place.SEARCH}:
            delete_study(views.search_url, f"{self._store.root.name}/{name}")
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
            finally:
                tracker.close(_TRACKER_TIMEOUT_S)
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
            move(path, path.with_name(f"{path.name}.damaged-{self._stamp}"))


def _by_number(trials: Sequence[ViewedTrial] | None) -> dict[int, ViewedTrial]:
    """Return the trials of a view by number; if a trial has several runs, a complete one."""
    found = sorted(trials or [], key=lambda trial: trial.state == TrialState.COMPLETE)
    return {trial.number: trial for trial in found}


def _rows(audit: Audit) -> list[_Row]:
    damage = [(Place.STORE.value, d.study, _number_text(d.number), d.what, Remedy.RECOVER.value) for d in audit.damage]
    return damage + [
        (d.place.value, d.study, _number_text(d.number), d.what, d.remedy.value) for d in audit.differences
    ]


def _number_text(number: int | None) -> str:
    return "" if number is None else str(number)


def _table(rows: Sequence[_Row], *, is_repaired: bool) -> Table:
    columns = ["where", "study", "trial", "difference", *(["repair"] if is_repaired else [])]
    table = Table(*columns, header_style="bold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row[: len(columns)]))
    return table
