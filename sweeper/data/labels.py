"""Finds the labels of a classification and checks that they are classes. `splits` and `completions` call this.

The labels that a trial learns are those of the training rows. A row of another split may have a label that no training
row has: no trial can be right there, so the row counts as an error, whatever is predicted.
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from sweeper.config.settings import DatasetSettings
from sweeper.data.content import shorten
from sweeper.errors import DataError, did_you_mean
from sweeper.figures.text import plural

__all__ = ["check_classes", "check_labels", "label_index", "learnt_labels", "with_listed_labels"]

log = logging.getLogger(__name__)

MIN_LABELS = 2
MAX_LABELS = 1000
"""Most labels that are not listed. The largest public sets of classes have a few hundred."""
_FEW_LABELS = 20
"""Up to this many labels are classes, however few rows there are."""
_MAX_SHOWN = 10


def with_listed_labels(labels: Sequence[str], settings: DatasetSettings) -> list[str]:
    """Return labels in the spelling of ``labels``, if it lists them; case and blanks make no difference.

    A label that is listed itself stays, so that a list of both ``Spam`` and ``spam`` keeps them apart.
    """
    listed = set(settings.labels)
    by_key = {_key(label): label for label in settings.labels}
    return [label if label in listed else by_key.get(_key(label), label) for label in labels]


def check_classes(labels: Sequence[str], settings: DatasetSettings) -> None:
    """Check that the labels of all rows look like classes, unless they are listed.

    Raises:
        DataError: They are numbers to be estimated, ids or texts, or far too many; or two differ only in case or
            blanks.
    """
    counts = Counter(labels)
    if len(counts) > _FEW_LABELS and not settings.labels:
        _check_number(counts, settings)
    _check_spellings(counts, settings)


def learnt_labels(train: Sequence[str], settings: DatasetSettings) -> tuple[str, ...]:
    """Return the labels that trials learn: those that are listed, or else those of the training rows, in order."""
    if settings.labels:
        return tuple(settings.labels)
    found = set(train)
    is_number = all(label.lstrip("-").isdecimal() for label in found)
    return tuple(sorted(found, key=lambda label: (int(label), label) if is_number else (0, label)))


def label_index(
    found: Mapping[str, Sequence[str]], labels: Sequence[str], settings: DatasetSettings
) -> Mapping[str, int]:
    """Return the index of every label; one that is not learnt gets an index that no model can predict.

    Args:
        found: Labels of the rows of each split.
        labels: The learnt labels, whose indices come first.
        settings: The dataset.
    """
    known = set(labels)
    counts = Counter(label for part in found.values() for label in part if label not in known)
    if counts:
        rows = {split: num for split, part in found.items() if (num := sum(label not in known for label in part))}
        shown = ", ".join(map(repr, [label for label, _ in counts.most_common(_MAX_SHOWN)]))
        shown += ", ..." if len(counts) > _MAX_SHOWN else ""
        message = (
            "dataset %s: no training row has the %s %s, only %s, which count as errors; take more training rows "
            "(%s.train_rows), add some with such a label, or remove these rows"
        )
        noun = "label" if len(counts) == 1 else f"{len(counts)} labels"
        where = " and ".join(f"{plural(num, f'{split} row')}" for split, num in rows.items())
        log.warning(message, settings.name, noun, shown, where, settings.section)
    return {label: number for number, label in enumerate((*labels, *sorted(counts)))}


def check_labels(found: Mapping[str, Sequence[str]], labels: Sequence[str], settings: DatasetSettings) -> None:
    """Check that there are at least two labels, and if they are listed, that every row has one of them.

    Args:
        found: Labels of the rows of each split.
        labels: The labels that trials learn.
        settings: The dataset.

    Raises:
        DataError: There are fewer labels, or a row has one that is not listed.
    """
    section = settings.section
    if len(labels) < MIN_LABELS:
        raise DataError(
            f"dataset {settings.name}: there must be two labels or more, but "
            f"{f'{section}.labels lists only' if settings.labels else 'the training rows have'} {list(labels)}. "
            f"Check that {section}.label={settings.label} is the column with the label, and the filter "
            f"{section}.where={settings.where}."
        )
    for split, part in found.items() if settings.labels else ():
        unknown = Counter(label for label in part if label not in labels)
        if unknown:
            label, count = unknown.most_common(1)[0]
            raise DataError(
                f"dataset {settings.name}: the label '{label}' of {plural(count, f'{split} row')} is not among "
                f"{list(labels)}. {did_you_mean(label, labels)} Correct the rows, or list every label in "
                f"{section}.labels."
            )


def _check_number(counts: Mapping[str, int], settings: DatasetSettings) -> None:
    """Check that many labels are not measurements, ids or texts."""
    section, num_rows = settings.section, sum(counts.values())
    have = (
        f"dataset {settings.name}: the column {section}.label={settings.label} has {len(counts)} different labels in "
        f"{num_rows} rows, e.g. {', '.join(shorten(label) for label in sorted(counts)[:3])}"
    )
    other = f"Set {section}.label to the column with the class"
    listed = f"If they are classes after all, list them in {section}.labels"
    if _are_measurements(counts):
        raise DataError(
            f"{have}. Numbers like these are measurements, which a classification cannot estimate. {other}, or replace "
            f"each number by a class such as low, medium or high. {listed}."
        )
    if 2 * len(counts) > num_rows:
        raise DataError(
            f"{have}. Nearly every row has a label of its own, as if the column held ids or texts. {other}. {listed}."
        )
    if len(counts) > MAX_LABELS:
        raise DataError(
            f"{have}. More than {MAX_LABELS} are too many to learn from a few rows each. {other}, or merge rare "
            f"labels. {listed}."
        )


def _check_spellings(counts: Mapping[str, int], settings: DatasetSettings) -> None:
    spellings: dict[str, list[str]] = defaultdict(list)
    for label in sorted(counts, key=lambda label: -counts[label]):
        spellings[_key(label)].append(label)
    listed = set(settings.labels)
    similar = next((found for found in spellings.values() if len(found) > 1 and not listed.issuperset(found)), None)
    if similar is not None:
        shown = " and ".join(f"{plural(counts[label], 'row')} labelled {label!r}" for label in similar)
        raise DataError(
            f"dataset {settings.name}: {shown} differ only in case or blanks. To make them one label, "
            f"list one spelling: {_listing((found[0] for found in spellings.values()), settings)}. To keep them apart, "
            f"list both: {_listing(counts, settings)}. Or correct the rows."
        )


def _are_measurements(labels: Iterable[str]) -> bool:
    try:
        numbers = [float(label) for label in labels]
    except ValueError:
        return False
    return any(not number.is_integer() for number in numbers)


def _key(label: str) -> str:
    """Return a key that is equal for labels that differ only in case or blanks."""
    return "".join(label.casefold().split())


def _listing(labels: Iterable[str], settings: DatasetSettings) -> str:
    """Return the override that lists labels, as one would type it in a shell."""
    names = sorted(labels)
    shown = names[:_MAX_SHOWN]
    rest = ",..." if len(names) > _MAX_SHOWN else ""
    quoted = [label if label.replace("_", "").replace("-", "").isalnum() else f'"{label}"' for label in shown]
    return f"'{settings.section}.labels=[{','.join(quoted)}{rest}]'"
