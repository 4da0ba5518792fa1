"""Every error that sweeper raises on purpose.

::

    SweeperError
    ├── ConfigError          a setting is wrong: names the key, the value, the rule and the remedy
    │   └── SpaceError       a search dimension is wrong
    ├── DataError            a dataset cannot be read, split or labelled
    ├── FetchError           a model or dataset could not be fetched or failed its checksum
    ├── ModelError           a model cannot be loaded, or has no known LoRA targets
    ├── StoreError           something on disk is damaged or of another schema version
    │   ├── DiskFull         no space is left; nothing that was saved is lost (exit code 4)
    │   ├── StorageDown      the database of studies does not answer (exit code 5)
    │   └── SweepMismatch    the sweep on disk was made with other settings
    ├── SweepLocked          another process runs this sweep (exit code 75)
    ├── WorkerError          a worker failed for a cause outside any trial
    │   └── WorkerLost       a worker process ended without answering
    └── TrackerError         the tracker could not be reached (never stops a search)

All of them print as one readable paragraph; the command line shows that paragraph and no traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "ConfigError",
    "DataError",
    "DiskFull",
    "FetchError",
    "ModelError",
    "SpaceError",
    "StorageDown",
    "StoreError",
    "SweepLocked",
    "SweepMismatch",
    "SweeperError",
    "TrackerError",
    "WorkerError",
    "WorkerLost",
    "did_you_mean",
    "first_line",
]


class SweeperError(Exception):
    """Base of every error that sweeper raises on purpose."""

    exit_code = 2
    """Of the command line, when it ends with this error."""


class ConfigError(SweeperError):
    """A setting is wrong.

    Args:
        key: Dotted key as the user types it, e.g. ``lora.r``.
        value: What was given.
        rule: What holds for this key, as a full clause.
        remedy: What to type instead.
    """

    def __init__(self, key: str, value: object, rule: str, remedy: str) -> None:
        self.key = key
        self.value = value
        self.rule = rule
        self.remedy = remedy
        super().__init__(f"{key}={value}: {rule}. {remedy}")

    def __reduce__(self) -> tuple[type[ConfigError], tuple[str, object, str, str]]:
        return type(self), (self.key, self.value, self.rule, self.remedy)


class SpaceError(ConfigError):
    """A search dimension is wrong."""


class DataError(SweeperError):
    """A dataset cannot be read, split or labelled."""


class FetchError(SweeperError):
    """A model or dataset could not be fetched, or its checksum is wrong."""


class ModelError(SweeperError):
    """A model cannot be loaded, or its LoRA targets are unknown."""


class StoreError(SweeperError):
    """A file of a sweep is damaged or of another schema version."""


class DiskFull(StoreError):
    """No space is left where the sweep is kept; what was saved is whole."""

    exit_code = 4


class StorageDown(StoreError):
    """The database of studies is locked or unreachable; trials are safe in the store."""

    exit_code = 5


class SweepMismatch(StoreError):
    """The sweep on disk was made with settings that differ in something trials depend on."""


class SweepLocked(SweeperError):
    """Another controller is running this sweep."""

    exit_code = 75
    """"Try again later", as in sysexits.h."""


class WorkerError(SweeperError):
    """A worker failed for a cause outside any trial."""


class WorkerLost(WorkerError):
    """A worker process ended without answering."""


class TrackerError(SweeperError):
    """The tracker could not be reached; the search goes on."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ``"Did you mean 'x'?"`` for the nearest known word, or an empty string."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"Did you mean '{near[0]}'?" if near else ""


def first_line(error: Exception) -> str:
    """Return the first line of a library's error message as a sentence, or the name of its class."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(" :")
    return line if line.endswith((".", "!", "?")) else f"{line}."
