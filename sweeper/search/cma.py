"""CMA-ES (Hansen 2016, arXiv:1604.00772) on the unit cube of a numeric space, rebuilt from the trials at each draw.

Optuna's own sampler stores its state as a pickle in the database, so unpickling it would run whatever code another user
of a shared database put there; it also ignores constraints. This one stores no state: it replays the finished trials,
so a resumed search draws the same points. CMA-ES only uses ranks, so pruned and infeasible trials simply rank last.
Called by `samplers`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import optuna

from sweeper.config.space import Scale, SearchSpace
from sweeper.config.values import ParamValue
from sweeper.errors import ConfigError
from sweeper.search.mirror import is_infeasible, rung_position
from sweeper.search.proposals import trial_seed

__all__ = ["ATTRIBUTE", "check_space", "draw"]

ATTRIBUTE = "cma"
"""User attribute of a trial, and a note in its record: its generation and its point in the unit cube."""

_SIGMA = 0.3
"""Initial step size, about a third of the cube's width, as Hansen 2016 recommends (section B.5)."""

Unit = npt.NDArray[np.float64]


def check_space(space: SearchSpace) -> None:
    """Check that every dimension is numeric.

    Raises:
        ConfigError: A dimension is categorical: CMA-ES needs distances between values.
    """
    for dimension in space.dimensions:
        if dimension.scale is Scale.CATEGORICAL:
            remedy = f"Fix {dimension.key} to one value, or use search=tpe."
            rule = f"CMA-ES needs numeric dimensions, and {dimension.key} is categorical"
            raise ConfigError("search.sampler", "cmaes", rule, remedy)


def draw(
    space: SearchSpace, trials: Sequence[optuna.trial.FrozenTrial], *, seed: int, number: int, maximize: bool
) -> tuple[dict[str, ParamValue], dict[str, object]]:
    """Draw the configuration of trial ``number``.

    Args:
        space: A numeric space.
        trials: All trials of the study so far.
        seed: The study's seed.
        number: Number of the trial.
        maximize: Whether higher values are better.

    Returns:
        The configuration, and the value of the trial's user attribute `ATTRIBUTE`.
    """
    import cmaes  # imports scipy.stats, which takes a second and 70 MB, in every search

    size = len(space)
    bounds = np.tile([0.0, 1.0], (size, 1))
    optimizer = cmaes.CMA(np.full(size, 0.5), _SIGMA, bounds=bounds, seed=trial_seed(seed, number))
    generations = _scored_by_generation(trials)
    while solutions := _solutions(
        space, generations[optimizer.generation], optimizer.population_size, maximize=maximize
    ):
        optimizer.tell(solutions)
    units: Unit = optimizer.ask()
    note = {"generation": optimizer.generation, "units": [float(unit) for unit in units]}
    return space.point(tuple(float(unit) for unit in units)), note


def _scored_by_generation(
    trials: Sequence[optuna.trial.FrozenTrial],
) -> defaultdict[int, list[optuna.trial.FrozenTrial]]:
    """Return the trials of each generation that are complete, pruned or infeasible."""
    generations: defaultdict[int, list[optuna.trial.FrozenTrial]] = defaultdict(list)
    for trial in trials:
        note = trial.user_attrs.get(ATTRIBUTE)
        if note and trial.state in (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED):
            generations[note["generation"]].append(trial)
    return generations


def _solutions(
    space: SearchSpace, members: list[optuna.trial.FrozenTrial], size: int, *, maximize: bool
) -> list[tuple[Unit, float]]:
    """Return points and ranks of the first ``size`` trials of a generation to finish; empty while there are fewer."""
    if len(members) < size:
        return []
    members.sort(key=lambda t: (t.datetime_complete, t.number))
    ranked = sorted(members[:size], key=lambda t: _badness(space, t, maximize=maximize))
    return [(np.array(t.user_attrs[ATTRIBUTE]["units"]), float(rank)) for rank, t in enumerate(ranked)]


def _badness(space: SearchSpace, trial: optuna.trial.FrozenTrial, *, maximize: bool) -> tuple[bool, bool, float, float]:
    """Return a sort key: complete trials by value, then pruned ones by how far they got, then infeasible ones."""
    infeasible = is_infeasible(trial)
    # The value of an infeasible trial is invented, and depends on the order in which trials were told.
    value = 0.0 if infeasible or trial.value is None else trial.value
    pruned = trial.state is optuna.trial.TrialState.PRUNED
    reached = rung_position(space, trial, trial.last_step or 0) if pruned else 0
    return infeasible, pruned, -reached, -value if maximize else value
