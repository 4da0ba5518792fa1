"""Compares a sweep's store with Optuna and MLflow, and lists the differences. Read-only; `reconcile` calls it."""

from __future__ import annotations

from dataclasses import dataclass, field

from sweeper.config.space import SearchSpace
from sweeper.errors import DamagedFile, StoreError
from sweeper.recovery.differences import Difference, Place, Remedy, compare_view
from sweeper.store.damage import Damage, DamageKind, find_damage, find_record_damage, readable_trials
from sweeper.store.ledger import Ledger
from sweeper.store.trials import TrialStore
from sweeper.track import database_fault
from sweeper.track.base import TrackerAudit
from sweeper.types import Cost, StudyRecord, ViewedTrial

__all__ = ["Audit", "SweepViews", "audit_sweep", "total_cost"]


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepViews:
    """Where the views of a sweep are, and the settings that the audit needs."""

    search_url: str
    """URL of Optuna's database."""
    tracker_url: str
    """MLflow's tracking URI; empty without a tracker."""
    tracker: TrackerAudit | None
    """Reads the runs; None without a tracker, or if its database cannot be used."""
    space: SearchSpace
    keep_adapters: int
    """Number of best trials that must have adapters; 0 for all complete ones."""


@dataclass(kw_only=True, slots=True)
class Audit:
    """The result of `audit_sweep`."""

    damage: list[Damage] = field(default_factory=list)
    differences: list[Difference] = field(default_factory=list)
    searched: dict[str, list[ViewedTrial] | None] = field(default_factory=dict)
    """Trials in Optuna, by study; None for a study that is missing in Optuna."""
    runs: dict[str, list[ViewedTrial] | None] = field(default_factory=dict)
    """Runs in MLflow, by study; None for a study that is missing in MLflow."""
    search_fault: str = ""
    """Why Optuna's database cannot be used; empty if it can. The same below for MLflow's and for the ledger."""
    tracker_fault: str = ""
    ledger_fault: str = ""

    @property
    def lost(self) -> list[Damage]:
        """What no copy can restore, only a new training: adapters, and row outcomes of the confirmation."""
        return [damage for damage in self.damage if damage.kind in (DamageKind.ADAPTER, DamageKind.OUTCOMES)]

    @property
    def is_clean(self) -> bool:
        """Whether store, Optuna and MLflow agree and nothing is damaged."""
        return not (self.damage or self.differences)


def audit_sweep(store: TrialStore, views: SweepViews) -> Audit:
    """Compare store, Optuna and MLflow, final trainings included.

    Raises:
        TrackerError: MLflow does not respond.
    """
    from sweeper.search.stored_study import database_fault as search_fault

    audit = Audit(damage=find_record_damage(store))
    audit.search_fault = search_fault(views.search_url)
    audit.tracker_fault = database_fault(views.tracker_url) if views.tracker_url else ""
    faults = ((Place.SEARCH, audit.search_fault), (Place.TRACKER, audit.tracker_fault))
    for place, what in faults:
        if what:
            audit.differences.append(Difference(place=place, study="", what=what, remedy=Remedy.REPLACE))
    for one in (store, store.finals):
        for folder in one.paths.studies():
            try:
                study = one.read_study(folder.name)
            except DamagedFile:
                continue  # listed as damage; its trials can be checked when it is rebuilt
            _audit_study(audit, one, study, views)
    _audit_ledger(audit, store)
    return audit


def total_cost(store: TrialStore) -> Cost:
    """Return the cost of all trials of a sweep whose records can be read, final trainings included."""
    folders = [(one, folder.name) for one in (store, store.finals) for folder in one.paths.studies()]
    return sum((record.cost for one, name in folders for record in readable_trials(one, name)), Cost())


def _audit_study(audit: Audit, store: TrialStore, study: StudyRecord, views: SweepViews) -> None:
    from sweeper.search.stored_study import read_study

    # Every final training keeps its adapter, and Optuna knows nothing of it.
    damage = find_damage(store, study, keep_adapters=0 if store.is_final else views.keep_adapters)
    audit.damage += damage
    records = readable_trials(store, study.name)
    damaged = {each.number for each in damage if each.kind is DamageKind.RECORD}
    compared = []
    if not (audit.search_fault or store.is_final):
        viewed = read_study(views.search_url, f"{store.root.name}/{study.name}", views.space)
        audit.searched[study.name] = viewed
        compared += compare_view(Place.SEARCH, study, records, viewed)
    if views.tracker is not None and not audit.tracker_fault:
        runs = views.tracker.read(study.name, study.metric)
        audit.runs[study.name] = runs
        compared += compare_view(Place.TRACKER, study, records, runs)
    # A damaged record is listed once, not again for each view that has the trial.
    audit.differences += [each for each in compared if each.number not in damaged]


def _audit_ledger(audit: Audit, store: TrialStore) -> None:
    cost = total_cost(store)
    try:
        known = Ledger(store.paths.ledger).cost
    except StoreError:
        audit.ledger_fault = "ledger.json is damaged"
    else:
        if known.device_s < cost.device_s * (1 - 1e-9) or known.rows < cost.rows:
            audit.ledger_fault = (
                f"ledger.json has {known.device_s:.1f} device seconds, but the trials used {cost.device_s:.1f}"
            )
    if audit.ledger_fault:
        what = audit.ledger_fault
        audit.differences.append(Difference(place=Place.STORE, study="", what=what, remedy=Remedy.RECOVER))
