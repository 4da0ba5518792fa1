"""What Optuna's trials say: the worst value, and whether they belong to the study that is being opened.

Called by the rest of `search`; writes nothing but the space of a new study.
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
"""Values of an infeasible trial before any value was seen: no accuracy or F1 is lower, few losses are higher."""


def is_infeasible(trial: optuna.trial.FrozenTrial) -> bool:
    """Whether a finished trial violates its constraint."""
    return any(violation > 0 for violation in trial.constraints.values())


def check_same(study: optuna.Study, space: SearchSpace, direction: str) -> None:
    """Check that a study goes on with what it was begun with; write that down if it is new.

    Raises:
        SweepMismatch: The direction or a dimension of the space differs.
    """
    known = study.user_attrs.get("space")
    if known is None:
        study.set_user_attr("space", json.dumps(space.texts))
        return
    if study.direction.name.lower() != direction:
        raise SweepMismatch(
            f"{study.study_name} was begun to {study.direction.name.lower()}, not to {direction}. Use a new sweep name"
        )
    before = json.loads(known)
    for key in dict.fromkeys([*before, *space.texts]):
        old, new = before.get(key, "fixed"), space.texts.get(key, "fixed")
        if old != new:
            raise SweepMismatch(
                f"{key}={new}: {study.study_name} was begun with {key}={old}, and its trials cannot be compared with "
                f"those of another space. Use a new sweep name, or go back to {key}={old}"
            )


def check_trial(
    study: str, space: SearchSpace, frozen: optuna.trial.FrozenTrial, params: Mapping[str, ParamValue]
) -> None:
    """Check that a trial has the same setting in Optuna as in the store.

    Raises:
        StoreError: It has not: the database is another sweep's.
    """
    if set(frozen.params) != set(space.keys) or from_stored(space, frozen.params) != dict(params):
        raise StoreError(
            f"trial {frozen.number} of {study} has {dict(params)} in the sweep's folder but {frozen.params} in the "
            "database of studies, which therefore belongs to another sweep. Move the database away (it is rebuilt "
            "from the folder), or use a new sweep name"
        )


def worst_value(trials: Sequence[optuna.trial.FrozenTrial], value: float | None, *, maximize: bool) -> float:
    """Return the worst finite value seen, ``value`` and the values at rungs included."""
    seen = [] if value is None else [value]
    for trial in trials:
        seen += trial.intermediate_values.values()
        if trial.state is _COMPLETE and trial.value is not None and not is_infeasible(trial):
            seen.append(trial.value)
    finite = [value for value in seen if math.isfinite(value)]
    if not finite:
        return _UNSEEN_SCORE if maximize else _UNSEEN_LOSS
    return min(finite) if maximize else max(finite)
