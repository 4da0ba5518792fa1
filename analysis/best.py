"""The content of best.json: the best settings of each dataset, what they are compared with, and what they cost.

Everything is a function of the store, so that the same sweep always gives the same file. `sweeper.analysis.report` writes it,
and ``sweeper.run`` returns it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from sweeper.analysis.compare import (
    compare,
    probe_value,
    selection_optimism,
    standard_error,
    untuned_value,
)
from sweeper.config.space import SearchSpace
from sweeper.figures.hyperparameters import shown_params
from sweeper.figures.ranking import best_trial, finite_value, rank_trials
from sweeper.figures.recipes import default_trial, recorded_default_recipe
from sweeper.figures.study_time import study_wall_s
from sweeper.store.serialization import SCHEMA_VERSION
from sweeper.store.sessions import SessionLog, SessionRecord
from sweeper.store.trials import TrialStore
from sweeper.types import Cost, Phase, StudyRecord, TrialRecord, TrialState

__all__ = ["best_settings", "trial_summary"]


def best_settings(store: TrialStore, *, space: SearchSpace | None = None) -> dict[str, Any]:
    """Return what best.json holds.

    Args:
        store: The sweep, finished or not.
        space: The space searched, to tell which best values lie at its bounds; ``at_bounds`` is null without it.
    """
    name = recorded_default_recipe(store.read_sweep() if store.exists else {})
    sessions = SessionLog(store.root).read()
    studies = [_study(store, study, space=space, default=name, sessions=sessions) for study in store.studies()]
    return {"schema_version": SCHEMA_VERSION, "sweep": store.root.name, "default_recipe": name, "studies": studies}


def trial_summary(store: TrialStore, study: StudyRecord, record: TrialRecord) -> dict[str, Any]:
    """Return what is told of one trial."""
    value = finite_value(study, record)
    rung = record.last_rung
    adapter = store.adapter_dir(study.name, record.spec.number)
    return {
        "trial": record.spec.number,
        "state": record.state.value,
        "origin": record.spec.origin,
        "phase": record.spec.phase.value,
        "seed": record.spec.seed,
        "params": shown_params(record.spec, study.space),
        "settings": record.spec.by_key(),
        "value": value,
        "standard_error": standard_error(study, value),
        "metrics": {} if rung is None else {name: _finite(rung.metrics[name]) for name in sorted(rung.metrics)},
        "num_parameters": record.num_parameters,
        "rows": record.cost.rows,
        "device_s": round(record.cost.device_s, 3),
        "adapter": str(adapter) if adapter.is_dir() else None,
    }


def _study(
    store: TrialStore,
    study: StudyRecord,
    *,
    space: SearchSpace | None,
    default: str,
    sessions: Sequence[SessionRecord],
) -> dict[str, Any]:
    trials = store.trials(study.name)
    best, shipped = best_trial(study, trials), default_trial(trials, default)
    value = finite_value(study, best) if best else None
    return {
        "name": study.name,
        "dataset": study.dataset,
        "model": study.model,
        "method": study.method,
        "task": study.task,
        "metric": study.metric,
        "direction": study.direction,
        "best": trial_summary(store, study, best) if best else None,
        "default": trial_summary(store, study, shipped) if shipped else None,
        "frozen_probe": probe_value(study),
        "untuned": untuned_value(study),
        "gain_over_default": _gain(study, value, shipped),
        "gain_over_probe": _comparison(study, value, probe_value(study)),
        "gain_over_untuned": _comparison(study, value, untuned_value(study)),
        "selection_optimism": selection_optimism(study, trials),
        "num_complete": len(rank_trials(study, trials)),
        "num_within_noise_of_best": _num_within_noise(study, trials),
        "at_bounds": _at_bounds(space, best),
        **_effort(trials, sessions),
        "fingerprint": study.fingerprint,
        "labels": list(study.labels),
        "num_rows": dict(study.num_rows),
        "num_available": study.num_available or None,
        "validation_rows": study.num_rows.get("validation", 0),
        "space": dict(study.space),
    }


def _effort(trials: Sequence[TrialRecord], sessions: Sequence[SessionRecord]) -> dict[str, Any]:
    search = [trial for trial in trials if trial.spec.phase is Phase.SEARCH]
    cost = sum((trial.cost for trial in trials), Cost())
    return {
        "trials": {state.value: sum(trial.state is state for trial in search) for state in TrialState},
        "num_trials": len(search),
        "num_references": len(trials) - len(search),
        "rows_trained": cost.rows,
        "tokens": cost.tokens,
        "device_s": round(cost.device_s, 3),
        "wall_s": round(study_wall_s(trials, sessions), 3),
    }


def _gain(study: StudyRecord, value: float | None, other: TrialRecord | None) -> dict[str, Any] | None:
    # A trial stopped early was trained on fewer rows: its score is no fair opponent.
    is_fair = other is not None and other.state is TrialState.COMPLETE
    return _comparison(study, value, finite_value(study, other) if other and is_fair else None)


def _comparison(study: StudyRecord, one: float | None, other: float | None) -> dict[str, Any] | None:
    found = compare(study, one, other)
    if found is None:
        return None
    return {"gain": found.gain, "standard_error": found.standard_error, "is_noise": found.is_noise}


def _num_within_noise(study: StudyRecord, trials: Sequence[TrialRecord]) -> int | None:
    ranked = [finite_value(study, trial) for trial in rank_trials(study, trials)]
    if not ranked or standard_error(study, ranked[0]) is None:
        return None
    found = [compare(study, ranked[0], value) for value in ranked]
    return sum(bool(c and c.is_noise) for c in found)


def _at_bounds(space: SearchSpace | None, best: TrialRecord | None) -> dict[str, str] | None:
    if space is None or best is None or not space.contains(best.spec.params):
        return None
    return space.at_bounds(best.spec.params)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
