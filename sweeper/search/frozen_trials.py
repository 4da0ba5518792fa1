"""Reads Optuna's frozen trials: are they infeasible, what is the worst value, do they belong to the study being opened.

Called by the other modules of `search`. Writes nothing except the space of a new study.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence

import optuna

from sweeper.config.space import SearchSpace
from sweeper.config.values import ParamValue
from sweeper.errors import StoreError, SweepMismatch
from sweeper.search.distributions import from_stored

__all__ = ["check_same", "check_trial", "is_infeasible", "worst_value"]

_COMPLETE = optuna.trial.TrialState.COMPLETE
_UNSEEN_SCORE = 0.0
_UNSEEN_LOSS = 10.0
"""Values of an infeasible trial when no trial has a value yet: no accuracy or F1 is lower, few losses are higher."""


def is_infeasible(trial: optuna.trial.FrozenTrial) -> bool:
    """Whether a trial violates a constraint."""
    return any(violation > 0 for violation in trial.constraints.values())


def check_same(study: optuna.Study, space: SearchSpace, direction: str) -> None:
    """Check that a study has the space and direction it was started with; record the space if the study is new.

    Raises:
        SweepMismatch: The direction or a dimension of the space differs.
    """
    known = study.user_attrs.get("space")
    if known is None:
        study.set_user_attr("space", json.dumps(space.texts))
        return
    if study.direction.name.lower() != direction:
        raise SweepMismatch(
            f"direction={direction}: {study.study_name} was started with direction={study.direction.name.lower()}. "
            "Use a new sweep name"
        )
    before = json.loads(known)
    for key in dict.fromkeys([*before, *space.texts]):
        old, new = before.get(key, "fixed"), space.texts.get(key, "fixed")
        if old != new:
            raise SweepMismatch(
                f"{key}={new}: {study.study_name} was started with {key}={old}, and trials of different spaces cannot "
                f"be compared. Use a new sweep name, or set {key}={old} again"
            )


def check_trial(
    study: str, space: SearchSpace, frozen: optuna.trial.FrozenTrial, params: Mapping[str, ParamValue]
) -> None:
    """Check that a trial has the same configuration in Optuna as in the store.

    Raises:
        StoreError: The configurations differ, so the database belongs to another sweep.
    """
    if set(frozen.params) != set(space.keys) or from_stored(space, frozen.params) != dict(params):
        raise StoreError(
            f"trial {frozen.number} of {study} has {dict(params)} in the sweep's folder but {frozen.params} in the "
            "study database, so the database belongs to another sweep. Move the database away (it is rebuilt from "
            "the sweep's folder), or use a new sweep name"
        )


def worst_value(trials: Sequence[optuna.trial.FrozenTrial], value: float | None, *, maximize: bool) -> float:
    """Return the worst finite value so far, ``value`` and the values at rungs included."""
    seen = [] if value is None else [value]
    for trial in trials:
        seen += trial.intermediate_values.values()
        if trial.state is _COMPLETE and trial.value is not None and not is_infeasible(trial):
            seen.append(trial.value)
    finite = [value for value in seen if math.isfinite(value)]
    if not finite:
        return _UNSEEN_SCORE if maximize else _UNSEEN_LOSS
    return min(finite) if maximize else max(finite)
