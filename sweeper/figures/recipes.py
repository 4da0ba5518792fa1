"""Which recipe is the default, the baseline of every study, which trial trained it, and how trials are numbered."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sweeper.config.settings import Recipe, SearchSettings
from sweeper.types import TrialRecord, TrialSpec, TrialState

__all__ = [
    "FIRST_CONFIRMATION_NUMBER",
    "FIRST_REFERENCE_NUMBER",
    "candidate_name",
    "confirmation_origin",
    "default_recipe",
    "default_trial",
    "recipe_name",
    "recipe_origin",
    "recorded_default_recipe",
]

FIRST_REFERENCE_NUMBER = 1_000_000
"""Number of the first reference trial; trials of the search count from 0."""
FIRST_CONFIRMATION_NUMBER = 2_000_000
"""Number of the first trial of a confirmation."""
_PREFIX = "recipe:"
_CONFIRMATION_PREFIX = "confirm:"


def default_recipe(search: SearchSettings) -> Recipe | None:
    """Return the default recipe, the first of ``search.recipes``; None if there is none."""
    return search.recipes[0] if search.recipes else None


def recorded_default_recipe(sweep: Mapping[str, Any]) -> str:
    """Return the name of the `default_recipe` that a sweep recorded; empty if there is none.

    Args:
        sweep: Content of sweep.json; may be empty.
    """
    recipes = ((sweep.get("settings") or {}).get("search") or {}).get("recipes") or []
    return str(recipes[0]["name"]) if recipes else ""


def recipe_origin(name: str) -> str:
    """Return `TrialSpec.origin` of a recipe's trial."""
    return f"{_PREFIX}{name}"


def recipe_name(spec: TrialSpec) -> str:
    """Return the name of a trial's recipe; empty if its configuration is not from a recipe."""
    return spec.origin.removeprefix(_PREFIX) if spec.is_recipe else ""


def confirmation_origin(candidate: str) -> str:
    """Return `TrialSpec.origin` of the trials that confirm a candidate."""
    return f"{_CONFIRMATION_PREFIX}{candidate}"


def candidate_name(spec: TrialSpec) -> str:
    """Return the name of the candidate that a trial confirms, e.g. ``trial 9``; empty if it confirms none."""
    is_confirmation = spec.origin.startswith(_CONFIRMATION_PREFIX)
    return spec.origin.removeprefix(_CONFIRMATION_PREFIX) if is_confirmation else ""


def default_trial(trials: Iterable[TrialRecord], recipe: str) -> TrialRecord | None:
    """Return the trial of a recipe, preferably a complete one; None if it was not run."""
    found = [trial for trial in trials if trial.spec.origin == recipe_origin(recipe)]
    return min(found, key=lambda trial: (trial.state is not TrialState.COMPLETE, trial.spec.number), default=None)
