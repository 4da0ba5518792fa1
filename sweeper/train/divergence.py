"""When a trial's loss says that its setting cannot work: not finite, or blown up though finite. Asked by `worker`.

A trial is judged by its own loss and by constants of the study alone, so that the verdict does not depend on its
neighbours, its pack or an interruption.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from sweeper.types import Failure, FailureKind

__all__ = ["find_diverged", "loss_limit"]

_LOSS_FACTOR = 5.0


def loss_limit(num_choices: int) -> float:
    """Return the mean training loss of a chunk above which a trial has blown up.

    A model that knows nothing and says so has a cross-entropy of ln K for K labels or tokens. Five times that, over
    hundreds of rows, is a model that is confident and wrong on most of them: it is far worse than before its first
    step, and no schedule of the search brings it back within its budget. (ln K counts as 1 at least, for K = 2.)

    Args:
        num_choices: Labels of a classification, or tokens of the vocabulary.
    """
    return _LOSS_FACTOR * max(1.0, math.log(num_choices))


def find_diverged(losses: Mapping[int, float], what: str, limit: float = math.inf) -> dict[int, Failure]:
    """Return the failures of trials whose loss is not finite or above a limit, by trial number.

    Args:
        losses: By trial number.
        what: Name of the loss in messages.
        limit: What `loss_limit` returned.
    """
    failures = {}
    for number, loss in losses.items():
        if not math.isfinite(loss):
            failures[number] = Failure(kind=FailureKind.NON_FINITE, message=f"{what} became {loss}")
        elif loss > limit:
            message = f"{what} of a chunk rose to {loss:.3g}, above {limit:.3g}, five times that of blind guesses"
            failures[number] = Failure(kind=FailureKind.EXPLODED, message=message)
    return failures
