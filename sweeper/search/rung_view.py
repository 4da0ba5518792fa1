"""The study that TPE sees: trials that run or were stopped count with the score that they have.

Optuna's TPE puts complete trials into its set of good ones, then pruned ones, and every running trial into the bad one.
With rungs this is upside down until the first trials are complete: those that run have survived a rung, and those that
were pruned have not. So trials are shown as complete ones, compared at one rung: the highest at which enough of them
were scored. Called by `tpe`.
"""

from __future__ import annotations

import copy
import statistics
from collections import Counter
from collections.abc import Sequence

import optuna

from sweeper.config.space import EPOCHS, SearchSpace
from sweeper.search.mirror import is_infeasible, rung_attribute, rung_position

__all__ = ["compared_at_one_rung"]

_COMPLETE = optuna.trial.TrialState.COMPLETE
_FAIL = optuna.trial.TrialState.FAIL
_RUNNING = optuna.trial.TrialState.RUNNING


def compared_at_one_rung(
    trials: Sequence[optuna.trial.FrozenTrial],
    space: SearchSpace,
    *,
    maximize: bool,
    has_cost: bool = False,
    rungs: Sequence[int] = (),
) -> list[optuna.trial.FrozenTrial]:
    """Return the trials as TPE should see them, in the same order.

    - The rung is the highest with scores of more trials than the space has dimensions, or else the one with the most.
    - A trial with a score there is complete with it, whether it runs, was stopped later or is complete.
    - A trial on its way there is complete with its latest score plus the median gain of the others since that rung.
    - A trial that was stopped earlier is worse than all of these: by the rung it reached, then by its score there. With
      a cost there is no such order, so it has the score and the cost that it was expected to reach.
    - An infeasible or failed trial, and one without a score, is as it was.

    A rung of a trial that is shorter than the longest counts as the one which the longest reaches by that share of its
    own training.

    Args:
        trials: Trials of a `StudyMirror`.
        space: The search space.
        maximize: Whether higher values are better.
        has_cost: Whether trials have a cost, which is minimised.
        rungs: Rungs of the longest trial; only read if trials have different lengths.
    """
    usable = [trial for trial in trials if not is_infeasible(trial) and trial.state is not _FAIL]
    scored = {
        trial.number: _scores(trial, space, rungs, has_cost=has_cost) for trial in usable if trial.intermediate_values
    }
    if not scored:
        return list(trials)
    rung = _common_rung(list(scored.values()), len(space) + 1)
    expected = {number: _expected(values, rung, list(scored.values())) for number, values in scored.items()}
    if not has_cost:
        expected.update(_stopped_early(trials, scored, expected, rung=rung, maximize=maximize))
    return [_complete(trial, expected[trial.number]) if trial.number in expected else trial for trial in trials]


_Values = tuple[float, ...]
"""A score, and the cost if there is one."""
_Scores = dict[float, _Values]
"""Values by rung of the longest trial."""


def _scores(trial: optuna.trial.FrozenTrial, space: SearchSpace, rungs: Sequence[int], *, has_cost: bool) -> _Scores:
    if space.dimension(EPOCHS) is None:
        rungs = ()
    found: _Scores = {}
    for chunk, value in trial.intermediate_values.items():
        position = rung_position(space, trial, chunk)
        rung = max((each for each in rungs if each <= position), default=position)
        found[rung] = tuple(trial.user_attrs[rung_attribute(chunk)]) if has_cost else (value,)
    return found


def _common_rung(scored: Sequence[_Scores], enough: int) -> float:
    counts = Counter(chunk for values in scored for chunk in values)
    common = [chunk for chunk, count in counts.items() if count >= enough]
    return max(common) if common else max(counts, key=lambda chunk: (counts[chunk], chunk))


def _expected(values: _Scores, rung: float, scored: Sequence[_Scores]) -> _Values:
    """Return the values at a rung; those that a trial is expected to have there if it was not scored at it."""
    if rung in values:
        return values[rung]
    latest = max((chunk for chunk in values if chunk < rung), default=min(values))
    peers = [(others[latest], others[rung]) for others in scored if latest in others and rung in others]
    score, *costs = values[latest]
    gain = statistics.median([later[0] - earlier[0] for earlier, later in peers]) if peers else 0.0
    growth = [later[1] / earlier[1] for earlier, later in peers if costs and earlier[1] > 0]
    return (score + gain, *(cost * (statistics.median(growth) if growth else 1.0) for cost in costs))


def _stopped_early(
    trials: Sequence[optuna.trial.FrozenTrial],
    scored: dict[int, _Scores],
    expected: dict[int, _Values],
    *,
    rung: float,
    maximize: bool,
) -> dict[int, _Values]:
    """Return values of the trials that were stopped before a rung, all of them worse than those of the others.

    TPE only reads the order of values, so the steps between them are of no importance.
    """
    sign = 1.0 if maximize else -1.0
    early = [
        t.number for t in trials if t.number in scored and t.state is not _RUNNING and max(scored[t.number]) < rung
    ]
    others = [sign * expected[number][0] for number in expected if number not in set(early)]
    early.sort(key=lambda number: (max(scored[number]), sign * scored[number][max(scored[number])][0], -number))
    first = min(others, default=0.0) - len(early)
    return {number: (sign * (first + place),) for place, number in enumerate(early)}


def _complete(trial: optuna.trial.FrozenTrial, values: _Values) -> optuna.trial.FrozenTrial:
    found = copy.copy(trial)
    found.state, found.values = _COMPLETE, list(values)
    return found
