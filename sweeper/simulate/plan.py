"""What budgets of several sizes would find: repeated simulations of a search, summarised for each budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from sweeper.config.settings import MAX_TRIALS, SweepSettings
from sweeper.control.lane_limits import choose_limits
from sweeper.figures.text import plural
from sweeper.simulate.base import ResponseProtocol
from sweeper.simulate.study import SimulatedStudy, simulate_study

__all__ = ["SHARE_OF_RUNS", "BudgetOutcome", "budgets_of", "conclusion", "simulate_budget"]

SHARE_OF_RUNS = 0.95
"""Share of the runs whose regret is at most the one that is stated."""
_LEAST_DIFFERENCE = 0.0005
"""Differences that are smaller are shown as 0.000."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BudgetOutcome:
    """What searches with one budget found, over seeds; seconds and shares are means."""

    trials: int
    """``budget.trials``."""
    num_runs: int
    score: float
    """Mean score, over all seeds, of the configuration that a search ends with: no luck of its own run counts."""
    lowest: float
    highest: float
    """Its 5 % and 95 % quantiles over the runs."""
    regret: float
    """By how much it is below the best of the table."""
    most_regret: float
    """The regret that `SHARE_OF_RUNS` of the runs do not exceed."""
    device_s: float
    wall_s: float
    saved_share: float
    """Share of the chunks that pruning saved."""


def budgets_of(trials: int) -> list[int]:
    """Return the budgets to compare with one: a quarter and half of it, itself, and twice as many trials."""
    return sorted({max(1, trials // 4), max(1, trials // 2), trials, min(2 * trials, MAX_TRIALS)})


def simulate_budget(
    response: ResponseProtocol,
    settings: SweepSettings,
    trials: int,
    *,
    num_runs: int,
    on_run: Callable[[], None] = lambda: None,
) -> BudgetOutcome:
    """Simulate a search several times, each with a seed of its own.

    Args:
        response: What trials measure.
        settings: ``search``, ``executor``, ``budget.device_hours``, and ``seed``, the first of the seeds.
        trials: The budget.
        num_runs: Number of runs.
        on_run: Called after each.
    """
    settings.budget.trials = trials
    limits = choose_limits(settings, "cpu")
    studies: list[SimulatedStudy] = []
    for seed in range(settings.seed, settings.seed + num_runs):
        studies.append(
            simulate_study(
                response,
                settings.search,
                seed=seed,
                num_trials=trials,
                workers=settings.executor.workers or 1,
                lanes=limits.lanes,
                in_flight=limits.in_flight,
                recipe_lanes=limits.recipe_lanes,
                device_s=settings.budget.device_hours * 3600,
            )
        )
        on_run()
    return _summary(response, trials, studies)


def conclusion(outcomes: Sequence[BudgetOutcome], trials: int, name: str) -> str:
    """Return what the outcomes say about a budget, in one sentence.

    Args:
        outcomes: Of several budgets, that of ``trials`` among them.
        trials: The budget in question.
        name: Name of the table.
    """
    own = next(outcome for outcome in outcomes if outcome.trials == trials)
    text = (
        f"{plural(trials, 'trial')} end within {own.most_regret:.3f} of the best of {name} in "
        f"{SHARE_OF_RUNS:.0%} of {own.num_runs} runs"
    )
    more = next((outcome for outcome in outcomes if outcome.trials > trials), None)
    if more is None:
        return f"{text}."
    gain = own.regret - more.regret
    what = f"gain {gain:.3f} on average" if gain >= _LEAST_DIFFERENCE else "gain nothing"
    return f"{text}; {more.trials - trials:,} more {what}."


def _summary(response: ResponseProtocol, trials: int, studies: Sequence[SimulatedStudy]) -> BudgetOutcome:
    regrets = np.array([study.regret_at() for study in studies])
    sign = 1 if response.maximize else -1
    scores = response.best_mean - sign * regrets
    return BudgetOutcome(
        trials=trials,
        num_runs=len(studies),
        score=float(scores.mean()),
        lowest=float(np.quantile(scores, 1 - SHARE_OF_RUNS)),
        highest=float(np.quantile(scores, SHARE_OF_RUNS)),
        regret=float(regrets.mean()),
        most_regret=float(np.quantile(regrets, SHARE_OF_RUNS, method="inverted_cdf")),
        device_s=float(np.mean([study.device_s for study in studies])),
        wall_s=float(np.mean([study.wall_s for study in studies])),
        saved_share=float(np.mean([study.saved_share for study in studies])),
    )
