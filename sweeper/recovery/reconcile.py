"""Compares store, Optuna and MLflow, trial by trial, and repairs the two views from the store. `cli` calls it.

Holds the sweep meanwhile, so that no controller runs. What is wrong in the store itself goes aside and is rebuilt (see
`mend`); what a view lacks is sent as at any restart; what contradicts the store is taken out of the view and made anew.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sweeper.config.compose import SweepConfig, parse_dimension
from sweeper.config.hyperparameters import Hyperparameters
from sweeper.config.settings import SweepSettings
from sweeper.config.space import SearchSpace
from sweeper.errors import StoreError
from sweeper.recovery.audit import Audit, SweepViews, audit_sweep, spent
from sweeper.recovery.differences import Difference, Place, Remedy
from sweeper.recovery.repair import TrialRepair
from sweeper.store.damage import DamageKind, set_aside
from sweeper.store.ledger import Ledger
from sweeper.store.lock import hold
from sweeper.store.serialization import from_jsonable
from sweeper.store.trials import TrialStore
from sweeper.sweep.factory import open_search, open_study_run, open_tracker, storage_url
from sweeper.sweep.plan import plan_model, plan_study
from sweeper.track import database_fault, database_files, open_audit, tracking_uri
from sweeper.types import Cost, TrialTemplate

__all__ = ["reconcile_sweep"]

_PATIENCE_S = 600.0
"""For MLflow to take in what it lacks: 5 ms a point."""
_Row = tuple[str, str, str, str, str]


def reconcile_sweep(
    store: TrialStore, *, console: Console, dry_run: bool = False, settings: SweepSettings | None = None
) -> bool:
    """Say how the three places differ, and repair them.

    Args:
        store: The sweep.
        console: Where to say it.
        dry_run: Only say it.
        settings: As given on the command line, e.g. with a database's password; those of the sweep if None.

    Returns:
        Whether all agree now.

    Raises:
        SweepLocked: A controller is running the sweep.
        SweeperError: Something needed cannot be read.
    """
    with hold(store):
        settings = settings or from_jsonable(SweepSettings, store.read_sweep()["settings"])
        # A folder of outputs may have been moved since.
        work = _Reconciler(store, dataclasses.replace(settings, outputs=str(store.root.parent)))
        audit = work.audit()
        if audit.is_clean:
            console.print(Text(f"Sweep {store.root.name}: store, Optuna and MLflow agree, trial by trial."))
            return True
        done = [(*row[:4], "") for row in _rows(audit)] if dry_run else work.repair(audit)
        console.print(_table(done, is_repaired=not dry_run))
        if dry_run:
            console.print(Text(f"{len(done)} difference(s); without --dry-run they are repaired."))
            return False
        left = work.audit()
        if not left.is_clean:
            console.print(_table(_rows(left), is_repaired=False))
            console.print(Text(f"{len(_rows(left))} difference(s) are left.", style="bold red"))
            return False
        console.print(Text(f"Sweep {store.root.name}: repaired; store, Optuna and MLflow agree now."))
        return True


class _Reconciler:
    """Audits and repairs one sweep."""

    def __init__(self, store: TrialStore, settings: SweepSettings) -> None:
        self._store = store
        dimensions = settings.space.dimensions.items()
        space = SearchSpace(tuple(parse_dimension(key, text) for key, text in dimensions if text is not None))
        self._config = SweepConfig(settings, space)
        self._stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")

    @property
    def _settings(self) -> SweepSettings:
        return self._config.settings

    def audit(self) -> Audit:
        """Compare the three places as they stand."""
        return audit_sweep(self._store, self._places())

    def repair(self, audit: Audit) -> list[_Row]:
        """Repair what an audit found; return what was done about each difference."""
        done = self._repair_studies(audit)
        if done:
            audit = self.audit()  # trials of a study can be judged only now
        done += [(*row, said) for row, said in self._mend(audit)]
        views = self.audit()
        done += _rows(_without_store(views))
        self._replace(views)
        self._show()
        self._mend_ledger()
        return done

    def _places(self) -> SweepViews:
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
            if damage.path.exists():
                set_aside(self._store, damage.path, self._stamp)
            if damage.study not in records:
                raise StoreError(f"the settings of sweep {self._store.root.name} know no study {damage.study}")
            self._store.write_study(records[damage.study])
        return [("store", damage.study, "", damage.what, "planned again from the settings") for damage in broken]

    def _mend(self, audit: Audit) -> list[tuple[tuple[str, str, str, str], str]]:
        tracker = self._places().tracker
        done = []
        for study in self._store.studies():
            repair = TrialRepair(
                store=self._store,
                study=study.name,
                template=TrialTemplate(study.name, Hyperparameters.of(self._settings), self._settings.seed),
                searched=audit.by_number(audit.searched, study.name),
                runs=audit.by_number(audit.runs, study.name),
                copies=tracker,
                stamp=self._stamp,
            )
            for damage in [each for each in audit.damage if each.study == study.name]:
                row = ("store", study.name, str(damage.number), damage.what)
                done.append((row, repair.mend(damage)))
            lost = [d for d in audit.differences if d.study == study.name and d.remedy is Remedy.RECOVER]
            for number in sorted({each.number for each in lost if each.number is not None}):
                row = ("store", study.name, str(number), "the trial is gone, but a view has it")
                done.append((row, repair.recover(number)))
        return done

    def _replace(self, audit: Audit) -> None:
        """Take out of the views what contradicts the store."""
        from sweeper.search.audit import database_files as search_files
        from sweeper.search.audit import delete_study

        places = self._places()
        if audit.search_fault:
            self._files_aside(search_files(places.search_url))
        if audit.tracker_fault:
            self._files_aside(database_files(places.tracker_url))
        wrong = [each for each in audit.differences if each.remedy in (Remedy.REPLACE, Remedy.RECOVER) and each.study]
        for name in {each.study for each in wrong if each.place is Place.SEARCH}:
            delete_study(places.search_url, f"{self._store.root.name}/{name}")
        for each in wrong:
            if each.place is Place.TRACKER and places.tracker is not None:
                runs = audit.runs.get(each.study) or []
                places.tracker.remove([run for run in runs if run.number == each.number])

    def _show(self) -> None:
        """Bring both views up to date, as any start of the sweep does."""
        with ExitStack() as stack:
            tracker = open_tracker(self._settings, self._store)
            try:
                for study in self._store.studies():
                    search = stack.enter_context(open_search(study, self._config, self._store))
                    open_study_run(study, search, self._settings, store=self._store, tracker=tracker, reference=None)
            finally:
                tracker.close(_PATIENCE_S)

    def _mend_ledger(self) -> None:
        path = self._store.root / "ledger.json"
        try:
            ledger = Ledger(path)
        except StoreError:
            set_aside(self._store, path, self._stamp)
            ledger = Ledger(path)
        least = spent(self._store)
        fields = [field.name for field in dataclasses.fields(Cost)]
        missing = {name: max(0, getattr(least, name) - getattr(ledger.cost, name)) for name in fields}
        if any(missing.values()):
            ledger.charge(Cost(**missing))

    def _files_aside(self, paths: Sequence[Path]) -> None:
        for path in paths:
            os.replace(path, path.with_name(f"{path.name}.damaged-{self._stamp}"))


def _without_store(audit: Audit) -> Audit:
    """Leave only what differs in the views, and the ledger."""
    return dataclasses.replace(audit, damage=[])


def _rows(audit: Audit) -> list[_Row]:
    damage = [("store", each.study, _text(each.number), each.what, Remedy.RECOVER.value) for each in audit.damage]
    return damage + [_row(each) for each in audit.differences]


def _row(each: Difference) -> _Row:
    return each.place.value, each.study, _text(each.number), each.what, each.remedy.value


def _text(number: int | None) -> str:
    return "" if number is None else str(number)


def _table(rows: Sequence[_Row], *, is_repaired: bool) -> Table:
    columns = (
        ["where", "study", "trial", "what differs", "repair"] if is_repaired else ["where", "study", "trial", "what"]
    )
    table = Table(*columns, header_style="bold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row[: len(columns)]))
    return table
