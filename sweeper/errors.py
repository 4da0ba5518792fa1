"""The errors that sweeper raises deliberately.

::

    SweeperError
    ├── ConfigError          a setting is wrong: names the key, the value, the rule and the remedy
    │   └── SpaceError       a search dimension is wrong
    ├── DataError            a dataset cannot be read or split, or a label is wrong
    ├── FetchError           a model or dataset could not be downloaded, or has a wrong checksum
    ├── ModelError           a model cannot be loaded, or its LoRA targets are unknown
    ├── ContentChanged       rows or weights on disk are not those that the sweep was planned with
    ├── StoreError           a file of a sweep is damaged, or has another schema version
    │   ├── DamagedFile      a record is missing, torn or edited, so that it cannot be read
    │   ├── DiskError        a file cannot be written; nothing that was saved is lost (exit code 4)
    │   │   └── DiskFull     the disk is full
    │   ├── StorageDown      the study database cannot be reached (exit code 5)
    │   └── SweepMismatch    the sweep on disk was started with other settings
    ├── SweepLocked          another process runs this sweep (exit code 75)
    ├── WorkerError          a worker failed for a reason unrelated to any trial
    │   └── WorkerLost       a worker process exited without answering
    └── TrackerError         the tracker could not be reached (never stops a search)

The command line prints such an error as one paragraph, without a traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from sweeper.urls import redact_urls

__all__ = [
    "ConfigError",
    "ContentChanged",
    "DamagedFile",
    "DataError",
    "DiskError",
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
    """Base class of the errors that sweeper raises deliberately. No message contains a password of a URL."""

    exit_code = 2
    """The exit code of the command line when it stops because of this error."""

    def __init__(self, *args: object) -> None:
        super().__init__(*(redact_urls(arg) if isinstance(arg, str) else arg for arg in args))


class ConfigError(SweeperError):
    """A setting is wrong.

    Args:
        key: Dotted key as the user types it, e.g. ``lora.r``.
        value: The value that was given.
        rule: What is allowed for this key, as a full clause.
        remedy: What to do or type instead, as a sentence.
    """

    def __init__(self, key: str, value: object, rule: str, remedy: str) -> None:
        self.key = key
        self.value = redact_urls(value) if isinstance(value, str) else value
        self.rule = rule
        self.remedy = remedy
        super().__init__(f"{key}={value}: {rule}. {remedy}")

    def __reduce__(self) -> tuple[type[ConfigError], tuple[str, object, str, str]]:
        return type(self), (self.key, self.value, self.rule, self.remedy)


class SpaceError(ConfigError):
    """A search dimension is wrong."""


class DataError(SweeperError):
    """A dataset cannot be read or split, or a label is wrong."""


class FetchError(SweeperError):
    """A model or dataset could not be downloaded, or its checksum is wrong."""


class ModelError(SweeperError):
    """A model cannot be loaded, or its LoRA targets are unknown."""


class ContentChanged(SweeperError):
    """Rows or weights on disk are not those that the sweep was planned with, and cannot be restored."""


class StoreError(SweeperError):
    """A file of a sweep is damaged, or has another schema version."""


class DamagedFile(StoreError):
    """A record of a sweep is missing, torn or edited, so it cannot be read. Another schema version is no damage."""


class DiskError(StoreError):
    """A file cannot be written: the disk fails, is full or is read-only. Everything that was saved is intact."""

    exit_code = 4


class DiskFull(DiskError):
    """The disk that holds the sweep is full."""


class StorageDown(StoreError):
    """The study database is locked or cannot be reached; the trials are safe in the store."""

    exit_code = 5


class SweepMismatch(StoreError):
    """The sweep on disk was started with other values of settings that the trials depend on."""


class SweepLocked(SweeperError):
    """Another process is running this sweep."""

    exit_code = 75
    """EX_TEMPFAIL of sysexits.h: try again later."""


class WorkerError(SweeperError):
    """A worker failed for a reason unrelated to any trial, for example because the model cannot be loaded."""


class WorkerLost(WorkerError):
    """A worker process exited without answering."""


class TrackerError(SweeperError):
    """The tracker could not be reached; the search continues."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ``"Did you mean 'x'?"`` for the most similar known word, or an empty string."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"Did you mean '{near[0]}'?" if near else ""


def first_line(error: Exception) -> str:
    """Return the first line of a library's error message as a sentence, or the name of its class."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(" :")
    return line if line.endswith((".", "!", "?")) else f"{line}."
