"""Number of rows of each split; called by `splits`.

If there are enough rows, each split gets the number that the settings ask for. If not, the splits get shares of 60, 20
and 20 %, none of them more than was asked for; rows that are left over go to the training split first.

With ``train_rows: 0``, training gets all rows that the others leave. If that are many, a tenth of them is left over for
the confirmation, which compares candidates on rows that no trial has seen.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from sweeper.config.settings import DatasetSettings

__all__ = ["Sizes", "plan_sizes"]

log = logging.getLogger(__name__)

SHARES = {"train": 0.6, "validation": 0.2, "test": 0.2}
VALIDATION_SHARE = 0.2
"""The share that ``validation_rows: 0`` stands for."""
CONFIRM_SHARE = 0.1
"""The most that the confirmation takes of the rows that ``train_rows: 0`` would train on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sizes:
    """Rows of each split."""

    train: int
    validation: int
    test: int


def plan_sizes(num_rows: int, settings: DatasetSettings, *, validation: bool = True, test: bool = True) -> Sizes:
    """Return how many of the rows go to each split.

    Args:
        num_rows: Number of rows, without duplicates.
        settings: Number of rows asked for; `DatasetSettings` documents what 0 means.
        validation: Whether these rows include the validation rows.
        test: Whether these rows include the test rows.
    """
    held_out = {
        "validation": (settings.validation_rows or max(1, round(num_rows * VALIDATION_SHARE))) if validation else 0,
        "test": settings.test_rows if test else 0,
    }
    if not any(held_out.values()):
        return Sizes(train=min(settings.train_rows or num_rows, num_rows), validation=0, test=0)
    # train_rows=0 asks for all that remain; that must be at least half, or validation and test could leave a handful.
    least_train = settings.train_rows or (num_rows + 1) // 2
    if least_train + sum(held_out.values()) <= num_rows:
        left = num_rows - sum(held_out.values())
        return Sizes(train=settings.train_rows or left - _reserve(left, held_out["validation"], settings), **held_out)
    return _shrunk(num_rows, {"train": settings.train_rows or num_rows, **held_out}, settings)


def _reserve(num_rows: int, num_validation: int, settings: DatasetSettings) -> int:
    """Return how many rows training leaves to the confirmation, if it may have all of them.

    Fewer than there are validation rows would decide less than these, which the confirmation uses otherwise. If there
    are none to choose from these rows, the confirmation takes its own from the validation rows of the data.
    """
    reserve = min(settings.confirm_rows, int(num_rows * CONFIRM_SHARE))
    return reserve if reserve >= num_validation > 0 else 0


def _shrunk(num_rows: int, asked: dict[str, int], settings: DatasetSettings) -> Sizes:
    total_share = sum(SHARES[name] for name, rows in asked.items() if rows)
    sizes = {name: min(rows, round(num_rows * SHARES[name] / total_share)) for name, rows in asked.items()}
    left = num_rows - sum(sizes.values())
    for name, rows in asked.items():
        more = min(max(left, -sizes[name]), rows - sizes[name])
        sizes[name] += more
        left -= more
    log.warning(
        "dataset %s: %d unique rows are too few for train/validation/test = %s; the splits get %s",
        settings.name,
        num_rows,
        "/".join(str(rows) for rows in asked.values()),
        "/".join(str(rows) for rows in sizes.values()),
    )
    return Sizes(**sizes)
