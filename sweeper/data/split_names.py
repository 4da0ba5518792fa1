"""Which splits of the data are train, validation and test: by their names, or by the setting ``splits``.

`hub` asks for the splits of a dataset, `splits` for the names in a column.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping, Sequence

from sweeper.config.settings import DatasetSettings
from sweeper.errors import ConfigError, DataError, did_you_mean

__all__ = ["SPLIT_NAMES", "check_splits", "column_splits", "find_splits"]

log = logging.getLogger(__name__)

SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
}
"""Accepted names of splits, in upper or lower case, and the split that each stands for."""

_PARTS = ("train", "validation", "test")


def check_splits(settings: DatasetSettings) -> None:
    """Check the names that the setting ``splits`` uses for its keys.

    Raises:
        ConfigError: One of them is not train, validation or test.
    """
    for name in settings.splits:
        if name not in _PARTS:
            key = f"{settings.section}.splits.{name}"
            rule = f"only {', '.join(_PARTS)} can be named"
            remedy = did_you_mean(name, _PARTS) or f"For example {settings.section}.splits.train=train_sft."
            raise ConfigError(key, settings.splits[name], rule, remedy)
    if len(set(settings.splits.values())) < len(settings.splits):
        rule = "names one split of the data twice, so rows would be trained on and scored"
        raise ConfigError(f"{settings.section}.splits", settings.splits, rule, "Name different ones.")


def find_splits(names: Iterable[str], settings: DatasetSettings) -> Mapping[str, str]:
    """Return which names of splits stand for train, validation and test; the others have no meaning.

    Usual names count first. Where there is none, a longer name that begins with a usual one, such as ``train_sft``,
    counts if it is the only one.

    Args:
        names: The names in the data.
        settings: The dataset; its ``splits`` win.

    Raises:
        DataError: ``splits`` names one that the data do not have, or several could be the training split.
    """
    known = list(dict.fromkeys(names))
    if settings.splits:
        return _asked(known, settings)
    found = {name: SPLIT_NAMES[name.lower()] for name in known if name.lower() in SPLIT_NAMES}
    for part in _PARTS:
        longer = [name for name in known if _begins_like(name, part)]
        if part in found.values() or not longer:
            continue
        if len(longer) == 1:
            found[longer[0]] = part
            log.info("dataset %s: its split %s is taken for %s", settings.name, longer[0], part)
        elif part == "train":
            raise DataError(
                f"dataset {settings.name} has the splits {', '.join(known)}, of which {' or '.join(longer)} could be "
                f"the training rows. Name one: {settings.section}.splits.train={longer[0]}"
            )
        else:
            message = "dataset %s: none of the splits %s is taken for %s; name one with %s.splits.%s"
            log.warning(message, settings.name, ", ".join(longer), part, settings.section, part)
    return found


def column_splits(names: Iterable[str], settings: DatasetSettings) -> Mapping[str, str]:
    """Return the splits that the names in a column stand for.

    Raises:
        DataError: One of them has no meaning, so the column may mean something else.
    """
    known = sorted(names)
    found = find_splits(known, settings)
    others = [name for name in known if name not in found]
    if others and not settings.splits and not any(_begins_like(name, part) for name in others for part in _PARTS):
        raise DataError(
            f"dataset {settings.name}: column '{settings.split}' names a split '{others[0]}', but must name one of "
            f"{', '.join(SPLIT_NAMES)}. {did_you_mean(others[0], SPLIT_NAMES)} Say which is which, e.g. "
            f"{settings.section}.splits.train={others[0]}; or if the column means something else, set "
            f"{settings.section}.split=none."
        )
    return found


def _asked(known: Sequence[str], settings: DatasetSettings) -> Mapping[str, str]:
    for part, name in settings.splits.items():
        if name not in known:
            raise DataError(
                f"dataset {settings.name}: {settings.section}.splits.{part}={name}, but its splits are "
                f"{', '.join(known) or 'not named'}. {did_you_mean(name, known)} Correct the setting."
            )
    return {name: part for part, name in settings.splits.items()}


def _begins_like(name: str, part: str) -> bool:
    """Whether a name is a usual one for a split with something behind it."""
    usual = [usual for usual, meant in SPLIT_NAMES.items() if meant == part]
    return any(re.match(rf"{word}[^a-z0-9].", name.lower()) for word in usual)
