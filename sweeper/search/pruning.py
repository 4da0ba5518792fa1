"""Which trials are pruned, and after which chunks that is decided.

Asynchronous: a decision uses the values reported so far; no trial waits for another. Called by `study`; `rung_chunks`
also by the code that plans a study. Importing this module does not load Optuna.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sweeper.config.settings import SearchSettings

if TYPE_CHECKING:
    import optuna

__all__ = ["make_pruner", "min_peers", "rung_chunks"]

_MEDIAN_STARTUP = 4
"""Complete trials before the median prunes anything; Optuna's 5 would be a fifth of the default budget of 24."""


def rung_chunks(num_chunks: int, *, min_chunks: int, reduction_factor: int) -> tuple[int, ...]:
    """Return the chunks after which trials are scored: a geometric series from ``min_chunks``, then ``num_chunks``.

    There is no rung where pruning would save less than a third of a trial.

    Args:
        num_chunks: Chunks of a full trial.
        min_chunks: Chunks before the first rung.
        reduction_factor: Ratio of successive rungs.

    Returns:
        Ascending chunk counts, e.g. ``(3, 6, 12)`` for 12 chunks, at least 3 of them, and a factor of 2.
    """
    rungs, rung = [], min_chunks
    while 3 * rung <= 2 * num_chunks:
        rungs.append(rung)
        rung *= reduction_factor
    return (*rungs, num_chunks)


def min_peers(settings: SearchSettings) -> int:
    """Return how many other trials must have been scored at a rung before it prunes.

    Optuna's successive halving keeps only the best of the first three, so an average early trial survives with
    probability 1/n rather than 1/factor. Its `bootstrap_count` makes it worse: it *prunes* the first ones. Twice the
    reduction factor is the first count at which two trials pass.
    """
    return 2 * settings.reduction_factor if settings.pruner in ("successive_halving", "hyperband") else 0


def make_pruner(settings: SearchSettings, *, rungs: tuple[int, ...], num_chunks: int) -> optuna.pruners.BasePruner:
    """Return the configured pruner.

    Args:
        settings: Name of the pruner and its reduction factor.
        rungs: What `rung_chunks` returned. The pruner decides at exactly these chunks.
        num_chunks: Chunks of a full trial.
    """
    import optuna

    if settings.pruner == "none" or len(rungs) == 1:
        return optuna.pruners.NopPruner()
    if settings.pruner == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=_MEDIAN_STARTUP)
    if settings.pruner == "hyperband":
        # A trial's bracket is a hash of the study's name and the trial's number, so it is the same after a resume.
        return optuna.pruners.HyperbandPruner(
            min_resource=rungs[0], max_resource=num_chunks, reduction_factor=settings.reduction_factor
        )
    return optuna.pruners.SuccessiveHalvingPruner(min_resource=rungs[0], reduction_factor=settings.reduction_factor)
