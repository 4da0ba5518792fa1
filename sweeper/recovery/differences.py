"""Compares a study's trials in a view (Optuna or MLflow) with those in the store. Pure; `audit` calls it."""

from __future__ import annotations

import enum
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from sweeper.types import Phase, StudyRecord, TrialRecord, TrialState, ViewedTrial

__all__ = ["Difference", "Place", "Remedy", "compare_view"]


class Place(enum.StrEnum):
    """Where something differs."""

    STORE = "store"
    SEARCH = "Optuna"
    TRACKER = "MLflow"


class Remedy(enum.StrEnum):
    """What `reconcile` does about a difference; its table shows the value."""

    UPDATE = "updated"
    """The view is behind the store."""
    REPLACE = "deleted, then rebuilt from the store"
    """The view contradicts the store."""
    RECOVER = "rebuilt in the store"
    """A record in the store is missing or damaged."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """A difference between a view and the store, or a fault in the store itself."""

    place: Place
    study: str
    what: str
    """Description, to print."""
    remedy: Remedy
    number: int | None = None
    """The trial; None if the difference concerns a study or the sweep."""


def compare_view(
    place: Place, study: StudyRecord, records: Iterable[TrialRecord], viewed: Sequence[ViewedTrial] | None
) -> list[Difference]:
    """Return the differences between a view and the store, by trial.

    Args:
        place: The view: Optuna or MLflow.
        study: The study.
        records: All its trials in the store.
        viewed: Its trials in the view; None if the study is missing there.
    """
    known = {r.spec.number: r for r in records if place is Place.TRACKER or r.spec.phase is Phase.SEARCH}
    if viewed is None:
        what = f"the study is missing ({len(known)} trials)"
        return [Difference(place=place, study=study.name, what=what, remedy=Remedy.UPDATE)] if known else []
    by_number: dict[int, list[ViewedTrial]] = defaultdict(list)
    for each in viewed:
        by_number[each.number].append(each)
    found = []
    for number in sorted({*known, *by_number}):
        for what, remedy in _compare_trial(place, study, known.get(number), by_number.get(number, [])):
            found.append(Difference(place=place, study=study.name, number=number, what=what, remedy=remedy))
    return found


def _compare_trial(
    place: Place, study: StudyRecord, record: TrialRecord | None, views: Sequence[ViewedTrial]
) -> Iterator[tuple[str, Remedy]]:
    if not views:
        yield "missing", Remedy.UPDATE
    elif record is None:
        yield from _missing_in_store(place, views[0])
    elif len(views) > 1:
        yield f"present {len(views)} times", Remedy.REPLACE
    else:
        yield from _contradictions(place, study, record, views[0])


def _missing_in_store(place: Place, view: ViewedTrial) -> Iterator[tuple[str, Remedy]]:
    """Yield the difference of a trial that is missing in the store."""
    if place is Place.SEARCH and not view.params:
        return  # a placeholder for a trial whose configuration was lost, see `Search.sync`
    else:
        yield f"{view.state}, but missing in the store", Remedy.RECOVER


def _contradictions(
    place: Place, study: StudyRecord, record: TrialRecord, view: ViewedTrial
) -> Iterator[tuple[str, Remedy]]:
    expected = record.state.value
    if place is Place.TRACKER and record.state is TrialState.RUNNING:
        expected = "paused"
    if view.state != expected:
        is_behind = view.state in (TrialState.RUNNING, "paused")
        yield f"the state is {view.state}, in the store {expected}", Remedy.UPDATE if is_behind else Remedy.REPLACE
        return
    if place is Place.SEARCH and dict(view.params) != dict(record.spec.params):
        yield "the configuration differs from the store's", Remedy.REPLACE
    value = study.value(record)
    has_value = record.state is TrialState.COMPLETE or (place is Place.TRACKER and record.state is TrialState.PRUNED)
    if has_value and not _are_close(view.value, value):
        yield f"{study.metric} is {view.value}, in the store {value}", Remedy.REPLACE


def _are_close(one: float | None, other: float | None) -> bool:
    if one is None or other is None:
        return one is other
    return math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-12)
