"""The trials of a study in memory, in the form that Optuna's samplers read; a mirror of the store.

Every change costs the same however many trials there are, and so does what a sampler reads (`for_model`). Called by
`study`; `samplers` and `study_database` read it. It writes nothing.
"""

from __future__ import annotations

import bisect
import copy
import math
from collections.abc import Mapping
from datetime import datetime

import optuna

from sweeper.config.space import EPOCHS, SearchSpace
from sweeper.config.values import ParamValue
from sweeper.figures.pareto import Point, dominates
from sweeper.search.distributions import distributions, drawn_value, to_drawn
from sweeper.types import TrialState

__all__ = ["CONSTRAINT", "STATE", "StudyMirror", "is_infeasible", "rung_attribute", "rung_position", "score_of"]

CONSTRAINT = "infeasible"
"""Name of the constraint that an infeasible trial violates."""
STATE = "state"
"""User attribute with the state in which a trial ended."""
_COMPLETE = optuna.trial.TrialState.COMPLETE
_PRUNED = optuna.trial.TrialState.PRUNED
_STATES = {
    TrialState.COMPLETE: _COMPLETE,
    TrialState.PRUNED: _PRUNED,
    TrialState.INFEASIBLE: _COMPLETE,
    TrialState.FAILED: optuna.trial.TrialState.FAIL,
}
_NUM_BEST = 25
"""Size of the set of good trials of Optuna's TPE from 250 finished trials on."""
_UNSEEN_SCORE = 0.0
_UNSEEN_LOSS = 10.0
"""Values of an infeasible trial when no trial has a value yet: no accuracy or F1 is lower, few losses are higher."""


def is_infeasible(trial: optuna.trial.FrozenTrial) -> bool:
    """Whether a trial violates a constraint."""
    return any(violation > 0 for violation in trial.constraints.values())


def score_of(trial: optuna.trial.FrozenTrial) -> float | None:
    """Return a trial's objective, the first of its values; None if it has none."""
    return trial.values[0] if trial.values else None


def rung_attribute(chunk: int) -> str:
    """Return the user attribute with a trial's score and cost at a rung; only studies with a cost have it."""
    return f"rung {chunk}"


def rung_position(space: SearchSpace, trial: optuna.trial.FrozenTrial, chunk: int) -> float:
    """Return the chunk of the longest trial that is as far in its training as a trial is after ``chunk``.

    Models read scores by it, since a learning curve and its schedule belong to the trial's own length.
    """
    dimension = space.dimension(EPOCHS)
    return chunk if dimension is None else chunk * dimension.highest / float(drawn_value(dimension, trial.params))


class StudyMirror:
    """The trials of one study.

    With a cost, a trial has two values: its objective and its cost, which is minimised.

    Args:
        space: The search space.
        maximize: Whether higher values are better.
        has_cost: Whether trials have a cost.
    """

    def __init__(self, space: SearchSpace, *, maximize: bool, has_cost: bool = False) -> None:
        self.space = space
        self._distributions = distributions(space)
        self._maximize, self._has_cost = maximize, has_cost
        self.trials: list[optuna.trial.FrozenTrial] = []
        """By number. What is assigned to a trial is never changed in place, so a shallow copy is a snapshot."""
        self._running: set[int] = set()
        self._finished: list[int] = []
        """Numbers of complete, pruned and infeasible trials, ascending."""
        self._best: list[tuple[tuple[float, ...], int]] = []
        """Rank and number of the `_NUM_BEST` trials that TPE considers best, in order."""
        self._front: list[tuple[Point, int]] = []
        """Points and numbers of the complete trials that no other one dominates; only with a cost."""
        self._changed: set[int] = set()
        self._worst: float | None = None
        self._worst_cost = 0.0
        self._scored: set[int] = set()

    def __len__(self) -> int:
        return len(self.trials)

    @property
    def num_scored(self) -> int:
        """Feasible trials with a score, running ones included."""
        return len(self._scored)

    def start(
        self, params: Mapping[str, ParamValue], attributes: Mapping[str, object], started_at: datetime | None = None
    ) -> None:
        """Add the next trial, which is running.

        Args:
            params: Its configuration.
            attributes: User attributes to show in the database, and for later draws.
            started_at: When it started, UTC-aware; now if None.
        """
        trial = optuna.trial.create_trial(
            state=optuna.trial.TrialState.RUNNING,
            params=to_drawn(self.space, params),
            distributions=self._distributions,
            user_attrs=dict(attributes),
        )
        trial.distributions = self._distributions  # one dictionary for all trials, not a copy each
        trial.datetime_start = _naive(started_at)
        self._running.add(self._append(trial))

    def add_lost(self) -> int:
        """Add a failed trial without a configuration in place of one that the store has lost; return its number."""
        return self._append(optuna.trial.create_trial(state=optuna.trial.TrialState.FAIL))

    def score(self, number: int, chunk: int, value: float, cost: float = 0.0) -> None:
        """Add the value of a running trial at a rung, and its cost so far."""
        trial = self.trials[number]
        trial.intermediate_values = {**trial.intermediate_values, chunk: value}
        if self._has_cost:
            trial.user_attrs = {**trial.user_attrs, rung_attribute(chunk): [value, cost]}
            self._worst_cost = max(self._worst_cost, cost)
        self._note_value(value)
        self._scored.add(number)
        self._changed.add(number)

    def finish(self, number: int, state: TrialState, value: float | None, finished_at: datetime | None = None) -> None:
        """Finish a running trial.

        An infeasible trial becomes complete with a violated constraint, so that samplers learn from it. Its value is
        the worst one seen so far, so that an invented value does not distort a model of the values. A pruned trial has
        its value at the latest rung.

        Args:
            number: The trial.
            state: How it ended.
            value: Its objective; may be None unless it is complete.
            finished_at: When it ended, UTC-aware; now if None.
        """
        trial = self.trials[number]
        if state is TrialState.INFEASIBLE:
            self._set_value(trial, self._worst_value(value), self._worst_cost)
            trial.system_attrs = dict(trial.system_attrs)
            trial.set_constraint(CONSTRAINT, 1.0)
            self._scored.discard(number)
        elif state is TrialState.COMPLETE:
            self._set_value(trial, value, self._latest_cost(trial))
            self._note_value(value)
        elif state is TrialState.PRUNED and trial.last_step is not None:
            self._set_value(trial, trial.intermediate_values[trial.last_step], self._latest_cost(trial))
        trial.user_attrs = {**trial.user_attrs, STATE: str(state)}
        trial.state = _STATES[state]
        trial.datetime_complete = _naive(finished_at)
        self._running.discard(number)
        self._changed.add(number)
        if state is not TrialState.FAILED:
            self._rank(trial)

    def for_model(self, limit: int) -> list[optuna.trial.FrozenTrial]:
        """Return the trials that a model is fitted to, by number: all that run, and at most ``limit`` that ended.

        Up to the limit, these are all complete, pruned and infeasible trials. Beyond it, they are the best ones (all
        that TPE would consider good; with a cost, those of the front), the latest ones, and every n-th of the others.

        Args:
            limit: Largest number of trials that ended. For TPE at least 275: from 250 on, its set of good trials has
                `_NUM_BEST`, and as many of the chosen ones may coincide.
        """
        num_latest = (limit - _NUM_BEST) // 2
        num_spread = limit - _NUM_BEST - num_latest
        if len(self._finished) <= limit:
            chosen = set(self._finished)
        else:
            early = len(self._finished) - num_latest
            chosen = {number for _, number in (self._front[:_NUM_BEST] or self._best)}
            chosen.update(self._finished[early:], (self._finished[i * early // num_spread] for i in range(num_spread)))
        return [self.trials[number] for number in sorted(chosen | self._running)]

    def take_changes(self) -> list[optuna.trial.FrozenTrial]:
        """Return snapshots of the trials that changed since the last call, by number."""
        changed, self._changed = sorted(self._changed), set()
        return [copy.copy(self.trials[number]) for number in changed]

    def _set_value(self, trial: optuna.trial.FrozenTrial, value: float | None, cost: float) -> None:
        if self._has_cost:
            trial.values = None if value is None else [value, cost]
        else:
            trial.value = value

    def _latest_cost(self, trial: optuna.trial.FrozenTrial) -> float:
        """Return a trial's cost at its latest rung; 0 without one, and in a study without a cost."""
        step = trial.last_step
        found = None if step is None else trial.user_attrs.get(rung_attribute(step))
        return float(found[1]) if found else 0.0

    def _append(self, trial: optuna.trial.FrozenTrial) -> int:
        trial.number = len(self.trials)
        self.trials.append(trial)
        self._changed.add(trial.number)
        return trial.number

    def _rank(self, trial: optuna.trial.FrozenTrial) -> None:
        """Insert a trial that ended into the order of TPE: complete ones, then pruned, then infeasible ones."""
        bisect.insort(self._finished, trial.number)
        sign = -1.0 if self._maximize else 1.0
        if is_infeasible(trial):
            rank: tuple[float, ...] = (2.0,)
        elif trial.state is _COMPLETE:
            rank = (0.0, sign * (score_of(trial) or 0.0))
            if self._has_cost:
                self._extend_front((rank[1], self._latest_cost(trial)), trial.number)
        else:
            # Optuna ranks a pruned trial by how far it got, then by its value there; one without a value comes last.
            step = trial.last_step
            reached = 0.0 if step is None else rung_position(self.space, trial, step)
            rank = (1.0, 1.0, 0.0) if step is None else (1.0, -reached, sign * (score_of(trial) or 0.0))
        bisect.insort(self._best, (rank, trial.number))
        del self._best[_NUM_BEST:]

    def _extend_front(self, point: Point, number: int) -> None:
        """Add a complete trial to the front, best score first, if none in it is as good; remove those it dominates."""
        if not any(other == point or dominates(other, point) for other, _ in self._front):
            kept = [entry for entry in self._front if not dominates(point, entry[0])]
            self._front = sorted([*kept, (point, number)])

    def _note_value(self, value: float | None) -> None:
        if value is not None and math.isfinite(value):
            self._worst = value if self._worst is None else self._worse(self._worst, value)

    def _worst_value(self, value: float | None) -> float:
        """Return the worst finite value so far, ``value`` and the values at rungs included."""
        seen = [each for each in (self._worst, value) if each is not None and math.isfinite(each)]
        if not seen:
            return _UNSEEN_SCORE if self._maximize else _UNSEEN_LOSS
        return self._worse(*seen)

    def _worse(self, *values: float) -> float:
        return min(values) if self._maximize else max(values)


def _naive(moment: datetime | None) -> datetime:
    """Return a moment as Optuna has it: local time without a time zone."""
    return (moment or datetime.now().astimezone()).astimezone().replace(tzinfo=None)
