"""Which trials are stopped early, and after which chunks that is decided.

Asynchronous: a decision uses the values that are there, no trial waits for another. Called by `study`, and by whoever
plans a study for `rung_chunks`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sweeper.config.settings import SearchSettings

if TYPE_CHECKING:
    import optuna

__all__ = ["make_pruner", "num_free_passes", "rung_chunks"]

_MEDIAN_STARTUP = 4
"""Complete trials before the median stops anything; Optuna's 5 would be a fifth of the default budget of 24."""


def rung_chunks(num_chunks: int, *, min_chunks: int, reduction_factor: int) -> tuple[int, ...]:
    """Return the chunks after which trials are scored: geometric from ``min_chunks``, the last is ``num_chunks``.

    A rung at which a stop would save less than a third of a trial is left out.

    Args:
        num_chunks: Chunks of a full trial.
        min_chunks: Chunks before the first rung.
        reduction_factor: Ratio of successive rungs.

    Returns:
        Ascending chunk counts, e.g. ``(3, 6, 12)`` of 12 chunks, at least 3, factor 2.
    """
    rungs, rung = [], min_chunks
    while 3 * rung <= 2 * num_chunks:
        rungs.append(rung)
        rung *= reduction_factor
    return (*rungs, num_chunks)


def num_free_passes(settings: SearchSettings) -> int:
    """Return how many trials pass each rung whatever their value, because there is too little to compare with.

    Optuna's rule lets only the best of the first three pass, so an early trial of middling quality survives with
    probability 1/n rather than 1/factor, and its `bootstrap_count` makes it worse: it *stops* the first ones.
    Twice the reduction factor is the first count at which two trials pass.
    """
    return 2 * settings.reduction_factor if settings.pruner in ("successive_halving", "hyperband") else 0


def make_pruner(settings: SearchSettings, *, rungs: tuple[int, ...], num_chunks: int) -> optuna.pruners.BasePruner:
    """Return the pruner that the settings name.

    Args:
        settings: Pruner and its factor.
        rungs: What `rung_chunks` returned; the pruner decides at exactly these.
        num_chunks: Chunks of a full trial.
    """
    import optuna

    if settings.pruner == "none" or len(rungs) == 1:
        return optuna.pruners.NopPruner()
    if settings.pruner == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=_MEDIAN_STARTUP)
    if settings.pruner == "hyperband":
        # The bracket of a trial is a hash of study name and number: both are fixed, so a resume finds the same.
        return optuna.pruners.HyperbandPruner(
            min_resource=rungs[0], max_resource=num_chunks, reduction_factor=settings.reduction_factor
        )
    return optuna.pruners.SuccessiveHalvingPruner(min_resource=rungs[0], reduction_factor=settings.reduction_factor)
