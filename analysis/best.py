"""The content of best.json: the best configuration of each dataset, its comparison with baselines, and its cost.

It depends on the store only, so the same sweep always gives the same file. `sweeper.analysis.report` writes it, and
``sweeper.run`` returns it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from sweeper.analysis.confirmation import confirmation
from sweeper.analysis.effects import StudyAnalysis, analyse_study, folklore_over_studies
from sweeper.analysis.final import final_trainings
from sweeper.analysis.trial_summary import trial_summary
from sweeper.config.dimensions import parse_space
from sweeper.config.space import SearchSpace
from sweeper.config.trial_length import trial_epochs
from sweeper.figures.baselines import (
    baseline_warning,
    baselines,
    beats_baselines,
    best_baseline,
    compare_with_baseline,
)
from sweeper.figures.comparison import (
    Comparison,
    compare,
    compare_with_default,
    selection_optimism,
    standard_error,
)
from sweeper.figures.confirmation import recommended_trial
from sweeper.figures.hyperparameters import differing_params
from sweeper.figures.origins import count_origins
from sweeper.figures.pareto import pareto_trials, recorded_cost
from sweeper.figures.ranking import best_trial, finite_value, rank_trials
from sweeper.figures.recipes import default_trial, recipe_name, recorded_default_recipe
from sweeper.figures.rungs import best_rung_text, rung_optimism
from sweeper.figures.study_time import study_wall_s
from sweeper.store.serialization import SCHEMA_VERSION
from sweeper.store.sessions import SessionLog, SessionRecord
from sweeper.store.trials import TrialStore
from sweeper.types import Cost, Phase, StudyRecord, TrialRecord, TrialState

__all__ = ["best_configurations"]


def best_configurations(store: TrialStore, *, space: SearchSpace | None = None) -> dict[str, Any]:
    """Return the content of best.json.

    Args:
        store: The sweep, finished or not.
        space: The search space, for ``at_bounds``, the best values that lie at its bounds; null without it.
    """
    sweep = store.read_sweep() if store.exists else {}
    name, cost = recorded_default_recipe(sweep), recorded_cost(sweep)
    sessions = SessionLog(store.root).read()
    studies, analyses = [], []
    for study in store.studies():
        content, analysis = _study(store, study, space=space, default=name, cost=cost, sessions=sessions)
        studies.append(content)
        analyses.append(analysis)
    return {
        "schema_version": SCHEMA_VERSION,
        "sweep": store.root.name,
        "default_recipe": name,
        "studies": studies,
        "folklore": folklore_over_studies(analyses),
    }


def _study(
    store: TrialStore,
    study: StudyRecord,
    *,
    space: SearchSpace | None,
    default: str,
    cost: str,
    sessions: Sequence[SessionRecord],
) -> tuple[dict[str, Any], StudyAnalysis]:
    trials = store.trials(study.name)
    best, own_default = best_trial(study, trials), default_trial(trials, default)
    at_bounds = None
    if space is not None and best is not None and space.contains(best.spec.params):
        at_bounds = space.at_bounds(best.spec.params)
    confirmed = confirmation(store, study, trials, default=default)
    chosen = _chosen(trials, confirmed) or best
    analysis = analyse_study(study, trials, parse_space(study.space), default=own_default, best=chosen)
    content = {
        "name": study.name,
        **_baselines(study, best),
        "dataset": study.dataset,
        "model": study.model,
        "method": study.method,
        "task": study.task,
        "metric": study.metric,
        "direction": study.direction,
        "best": trial_summary(store, study, best) if best else None,
        "default": trial_summary(store, study, own_default) if own_default else None,
        "confirmation": confirmed,
        "recommended_adapter": _recommended_adapter(store, study, trials, confirmed, best),
        "final": final_trainings(store, study),
        "effects": analysis.effects,
        "folklore": analysis.folklore,
        "gain_over_default": _jsonable(compare_with_default(study, best, own_default)),
        "references": _references(store, study, trials, own_default),
        "selection_optimism": selection_optimism(study, trials),
        "rung_optimism": rung_optimism(study, trials),
        "num_complete": len(rank_trials(study, trials)),
        "num_within_noise_of_best": _num_within_noise(study, trials),
        "at_bounds": at_bounds,
        "cost": cost,
        "pareto": [trial.spec.number for trial in pareto_trials(study, trials, cost)],
        **_effort(trials, sessions),
        "origins": [dataclasses.asdict(count) for count in count_origins(study, trials)],
        "fingerprint": study.fingerprint,
        "labels": list(study.labels),
        "num_rows": dict(study.num_rows),
        "num_available": study.num_available or None,
        "validation_rows": study.num_rows.get("validation", 0),
        "max_length": study.rows_ref.max_length if study.rows_ref else None,
        "cut": {name: dataclasses.asdict(cut) for name, cut in study.cut.items()},
        "epochs": study.epochs,
        "space": dict(study.space),
    }
    return content, analysis


def _chosen(trials: Sequence[TrialRecord], confirmed: Mapping[str, Any] | None) -> TrialRecord | None:
    """Return the trial whose configuration scores best on fresh seeds; None without a confirmation."""
    candidates = confirmed["candidates"] if confirmed else []
    number = next((each["trial"] for each in candidates if confirmed and each["name"] == confirmed["best"]), None)
    return next((trial for trial in trials if trial.spec.number == number), None)


def _recommended_adapter(
    store: TrialStore,
    study: StudyRecord,
    trials: Sequence[TrialRecord],
    confirmed: Mapping[str, Any] | None,
    best: TrialRecord | None,
) -> dict[str, Any] | None:
    """Return the adapter that is offered, of which trial and epoch it is, and which one scored best.

    It is of the last epoch, since the score of the study is that of the last; the best of several noisy scores would be
    too high. Without a confirmation it is that of the best trial of the search.
    """
    number = recommended_trial(confirmed, {"trial": best.spec.number} if best else None)
    trial = next((each for each in trials if each.spec.number == number), None)
    if trial is None:
        return None
    summary = trial_summary(store, study, trial)
    epochs = trial_epochs(study, trial.spec.train.epochs)
    last, better = f"after epoch {epochs} of {epochs}, the last", best_rung_text(study, trial)
    text = f"{last}; it scored {better}" if better else last
    return {"trial": number, "seed": trial.spec.seed, "epoch": epochs, "text": text} | {
        key: summary[key] for key in ("adapter", "best_rung")
    }


def _baselines(study: StudyRecord, best: TrialRecord | None) -> dict[str, Any]:
    """Return the scores without an adapter, and whether the best trial beats them."""
    best_of_all = best_baseline(study)
    return {
        "baseline_warning": baseline_warning(study, best) or None,
        "beats_baselines": beats_baselines(study, best),
        "best_baseline": best_of_all.kind.name if best_of_all else None,
        "gain_over_best_baseline": _jsonable(compare_with_baseline(study, best, best_of_all)),
        "baselines": {
            baseline.kind.name: {
                "label": baseline.kind.label,
                "value": baseline.value,
                "standard_error": standard_error(study, baseline.value),
                "gain": _jsonable(compare_with_baseline(study, best, baseline)),
            }
            for baseline in baselines(study)
        },
    }


def _references(
    store: TrialStore, study: StudyRecord, trials: Sequence[TrialRecord], default: TrialRecord | None
) -> list[dict[str, Any]]:
    """Return the recipes that were trained outside the search, with what the default recipe gains over each."""
    found = []
    for trial in trials:
        if trial.spec.phase is Phase.REFERENCE and trial is not default:
            differences = differing_params(trial.spec, default.spec) if default else {}
            found.append(
                {
                    "recipe": recipe_name(trial.spec),
                    **trial_summary(store, study, trial),
                    "differs_from_default": {key: list(values) for key, values in differences.items()},
                    "gain_of_default": _jsonable(_gain_of_default(study, default, trial)),
                }
            )
    return found


def _gain_of_default(study: StudyRecord, default: TrialRecord | None, trial: TrialRecord) -> Comparison | None:
    if default is None or default.state is not TrialState.COMPLETE or trial.state is not TrialState.COMPLETE:
        return None
    return compare(study, finite_value(study, default), finite_value(study, trial))


def _effort(trials: Sequence[TrialRecord], sessions: Sequence[SessionRecord]) -> dict[str, Any]:
    search = [trial for trial in trials if trial.spec.phase is Phase.SEARCH]
    cost = sum((trial.cost for trial in trials), Cost())
    return {
        "trials": {state.value: sum(trial.state is state for trial in search) for state in TrialState},
        "num_trials": len(search),
        "num_references": sum(trial.spec.phase is Phase.REFERENCE for trial in trials),
        "rows_trained": cost.rows,
        "tokens": cost.tokens,
        "device_s": round(cost.device_s, 3),
        "wall_s": round(study_wall_s(trials, sessions), 3),
    }


def _jsonable(found: Comparison | None) -> dict[str, Any] | None:
    if found is None:
        return None
    return {"gain": found.gain, "standard_error": found.standard_error, "is_noise": found.is_noise}


def _num_within_noise(study: StudyRecord, trials: Sequence[TrialRecord]) -> int | None:
    ranked = [finite_value(study, trial) for trial in rank_trials(study, trials)]
    if not ranked or standard_error(study, ranked[0]) is None:
        return None
    found = [compare(study, ranked[0], value) for value in ranked]
    return sum(bool(c and c.is_noise) for c in found)
