"""Reads a sweep's three places (store, Optuna, MLflow) and lists what differs. Writes nothing; `reconcile` calls it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from sweeper.config.space import SearchSpace
from sweeper.errors import StoreError
from sweeper.recovery.differences import Difference, Place, Remedy, compare_view
from sweeper.store.damage import Damage, find_damage, find_study_damage, readable_trials
from sweeper.store.ledger import Ledger
from sweeper.store.trials import TrialStore
from sweeper.track import database_fault
from sweeper.track.base import TrackerAudit
from sweeper.types import Cost, StudyRecord, ViewedTrial

__all__ = ["Audit", "SweepViews", "audit_sweep", "spent"]


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepViews:
    """Where a sweep is, besides its folder."""

    search_url: str
    tracker_url: str
    """Empty without a tracker."""
    tracker: TrackerAudit | None
    """None without a tracker, or as long as its database cannot be used."""
    space: SearchSpace
    keep_adapters: int


@dataclass(kw_only=True, slots=True)
class Audit:
    """What was found."""

    damage: list[Damage] = field(default_factory=list)
    differences: list[Difference] = field(default_factory=list)
    searched: dict[str, list[ViewedTrial] | None] = field(default_factory=dict)
    """By study, what Optuna has."""
    runs: dict[str, list[ViewedTrial] | None] = field(default_factory=dict)
    """By study, what MLflow has."""
    search_fault: str = ""
    tracker_fault: str = ""
    ledger_fault: str = ""

    @property
    def is_clean(self) -> bool:
        """Whether all places agree."""
        return not (self.damage or self.differences)

    def by_number(self, views: Mapping[str, list[ViewedTrial] | None], study: str) -> dict[int, ViewedTrial]:
        """Return the trials of a view by number; of several runs of a trial a finished one."""
        found = sorted(views.get(study) or [], key=lambda view: view.state == "complete")
        return {view.number: view for view in found}


def audit_sweep(store: TrialStore, places: SweepViews) -> Audit:
    """Compare the three places.

    Raises:
        TrackerError: MLflow does not answer.
    """
    audit = Audit(damage=find_study_damage(store))
    audit.search_fault = _search_fault(places.search_url)
    audit.tracker_fault = database_fault(places.tracker_url) if places.tracker_url else ""
    faults = ((Place.SEARCH, audit.search_fault), (Place.TRACKER, audit.tracker_fault))
    for place, what in faults:
        if what:
            audit.differences.append(Difference(place=place, study="", what=what, remedy=Remedy.REPLACE))
    broken = {damage.study for damage in audit.damage}
    for folder in sorted(store.root.glob("studies/*")):
        if folder.name not in broken:
            _study(audit, store, store.read_study(folder.name), places)
    _ledger(audit, store)
    return audit


def spent(store: TrialStore) -> Cost:
    """Return what the trials of a sweep have cost together, as far as their records can be read."""
    folders = sorted(store.root.glob("studies/*"))
    return sum((record.cost for folder in folders for record in readable_trials(store, folder.name)), Cost())


def _study(audit: Audit, store: TrialStore, study: StudyRecord, places: SweepViews) -> None:
    from sweeper.search.audit import read_study

    damage = find_damage(store, study, keep_adapters=places.keep_adapters)
    audit.damage += damage
    records = readable_trials(store, study.name)
    damaged = {each.number for each in damage if each.kind == "record"}
    compared = []
    if not audit.search_fault:
        viewed = read_study(places.search_url, f"{store.root.name}/{study.name}", places.space)
        audit.searched[study.name] = viewed
        compared += compare_view(Place.SEARCH, study, records, viewed)
    if places.tracker is not None and not audit.tracker_fault:
        runs = places.tracker.read(study.name, study.metric)
        audit.runs[study.name] = runs
        compared += compare_view(Place.TRACKER, study, records, runs)
    # A damaged record is said once, not again for each view that has it.
    audit.differences += [each for each in compared if each.number not in damaged]


def _search_fault(url: str) -> str:
    from sweeper.search.audit import database_fault as fault

    return fault(url)


def _ledger(audit: Audit, store: TrialStore) -> None:
    cost = spent(store)
    try:
        known = Ledger(store.root / "ledger.json").cost
    except StoreError:
        audit.ledger_fault = "ledger.json is damaged"
    else:
        if known.device_s < cost.device_s * (1 - 1e-9) or known.rows < cost.rows:
            audit.ledger_fault = f"ledger.json has {known.device_s:.1f} device seconds, the trials {cost.device_s:.1f}"
    if audit.ledger_fault:
        what = audit.ledger_fault
        audit.differences.append(Difference(place=Place.STORE, study="", what=what, remedy=Remedy.RECOVER))
