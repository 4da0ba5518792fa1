"""When candidates are compared while further seeds are trained, and with which error level. Standard library only."""

from __future__ import annotations

from sweeper.config.settings import ConfirmSettings

__all__ = ["error_level", "looks"]

_SHARE_OF_LAST_LOOK = 0.85
"""With looks after 3, 6 and 12 seeds whose noise is independent, a true null is rejected in 4.9 % at a level of 5 %."""


def looks(settings: ConfirmSettings) -> tuple[int, ...]:
    """Return the numbers of seeds after which candidates are compared: twice as many each time, up to ``max_seeds``."""
    found = [settings.seeds]
    while found[-1] < settings.max_seeds:
        found.append(min(2 * found[-1], settings.max_seeds))
    return tuple(found)


def error_level(settings: ConfirmSettings, num_seeds: int) -> float:
    """Return the error level of comparisons after a number of seeds.

    Every look at the data is another chance of a wrong verdict, so the `looks` share the error level 1 - confidence
    (alpha spending; Lan and DeMets 1983). Early ones get little, so that the last one loses little.
    """
    level = 1 - settings.confidence
    if settings.seeds >= settings.max_seeds:
        return level
    return level * _SHARE_OF_LAST_LOOK * min(1.0, num_seeds / settings.max_seeds) ** 2
