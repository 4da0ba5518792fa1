"""Finds trials that have diverged: their loss is not finite, or far above that of an untrained model.

`worker` calls it after every chunk. The result depends on the trial's own loss and on constants of the study only, not
on the other trials of the pack or on interruptions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from sweeper.types import Failure, FailureKind

__all__ = ["find_diverged", "loss_limit"]

_LOSS_FACTOR = 5.0


def loss_limit(num_choices: int) -> float:
    """Return the mean training loss of a chunk above which a trial has diverged.

    A uniform guess among K labels or tokens has a cross-entropy of ln K. A mean of five times that over hundreds of
    rows means that the model is confident and wrong on most of them: it is far worse than before its first step, and
    does not recover within its budget. For K = 2, where ln K is below 1, the limit is five.

    Args:
        num_choices: Labels of the classification, or size of the vocabulary.
    """
    return _LOSS_FACTOR * max(1.0, math.log(num_choices))


def find_diverged(losses: Mapping[int, float], what: str, limit: float = math.inf) -> dict[int, Failure]:
    """Return the failures of trials whose loss is not finite or above a limit, by trial number.

    Args:
        losses: Loss of each trial, by trial number.
        what: Name of the loss, for messages.
        limit: Result of `loss_limit`.
    """
    failures = {}
    for number, loss in losses.items():
        if not math.isfinite(loss):
            failures[number] = Failure(kind=FailureKind.NON_FINITE, message=f"the {what} became {loss}")
        elif loss > limit:
            message = (
                f"the {what} of a chunk rose to {loss:.3g}; the limit is {limit:.3g}, {_LOSS_FACTOR:g} times the loss "
                f"of uniform guesses"
            )
            failures[number] = Failure(kind=FailureKind.EXPLODED, message=message)
    return failures
