"""This project's own search on a response: the real controller with its defaults, in virtual time."""

from __future__ import annotations

import functools
import time
from dataclasses import replace

from benchmarks.replay.driver import Draw, Log
from sweeper.config.compose import compose
from sweeper.config.settings import SweepSettings
from sweeper.control.lane_limits import choose_limits
from sweeper.simulate.base import ResponseProtocol
from sweeper.simulate.study import SimulatedStudy, simulate_study

__all__ = ["drive_ours", "log_of"]


def drive_ours(
    response: ResponseProtocol,
    sampler: str,
    *,
    num_lanes: int,
    budget_s: float,
    seed: int,
    knows_recipes: bool = True,
    overrides: tuple[str, ...] = (),
) -> Log:
    """Run the search until its device time is spent.

    Args:
        response: What its trials measure.
        sampler: Name of a file in conf/search.
        knows_recipes: Whether it starts with all recipes, or with the default one only, as the searches of others do.
        overrides: Further Hydra overrides.
        num_lanes: ``executor.lanes``.
        budget_s: Device seconds, ``budget.device_hours``.
        seed: ``seed``.
    """
    settings = _settings(sampler, num_lanes, overrides)
    search = settings.search if knows_recipes else replace(settings.search, recipes=settings.search.recipes[:1])
    limits = choose_limits(settings, "cpu")
    begun_s = time.process_time()
    study = simulate_study(
        response,
        search,
        seed=seed,
        lanes=limits.lanes,
        in_flight=limits.in_flight,
        recipe_lanes=limits.recipe_lanes,
        device_s=budget_s,
        stop_s=budget_s,
    )
    log = log_of(study)
    # The controller's and the simulated worker's seconds count, too.
    log.cpu_s = time.process_time() - begun_s
    return log


def log_of(study: SimulatedStudy) -> Log:
    """Return a simulated study as the log that all contenders have."""
    log = Log(chunks=sum(trial.chunks for trial in study.trials))
    log.draws = [Draw(trial.params, trial.is_model_draw) for trial in study.trials]
    log.rungs = sorted(study.rung_scores, key=lambda rung: rung.at_s)
    return log


@functools.cache
def _settings(sampler: str, num_lanes: int, overrides: tuple[str, ...]) -> SweepSettings:
    # Without a portfolio: the shipped ones were made of these tables.
    fixed = [f"search={sampler}", f"executor.lanes={num_lanes}", "search.warm_start=none"]
    return compose([*fixed, *overrides]).settings
